"""Files that AIMET 2.42 wrote (tests/golden/make_encodings.py): four versions of one network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aimet_torch import encodings

FOLDER = Path(__file__).parents[2] / "golden" / "encodings"
VERSIONS = ["0.6.1", "1.0.0", "2.0.0", "2.1.0"]


def golden(version: str) -> Path:
    return FOLDER / f"aimet_2_42_{version}.encodings"


def weight(*shape: int) -> encodings.TensorFacts:
    return encodings.TensorFacts(shape, is_param=True, channel_axis=0, block_axis=1, reader="Conv")


def network() -> dict[str, encodings.TensorFacts]:
    weights = {"0": weight(8, 3, 3, 3), "4": weight(32, 8), "6": weight(64, 32), "8": weight(4, 64)}
    inputs = {
        "0": "x",
        "4": "/3/Flatten_output_0",
        "6": "/5/Relu_output_0",
        "8": "/7/Relu_output_0",
    }
    names = ["/1/Relu_output_0", "/2/GlobalAveragePool_output_0", "y", *inputs.values()]
    facts = {name: encodings.TensorFacts(reader="Gemm") for name in names}
    for name, fact in weights.items():
        facts[f"{name}.weight"] = fact
        product = (inputs[name], f"{name}.weight")
        facts[f"{name}.bias"] = encodings.TensorFacts(fact.shape[:1], True, product_of=product)
    return facts


@pytest.mark.parametrize("version", VERSIONS)
def test_are_read_and_written_with_nothing_changed(tmp_path: Path, version: str) -> None:
    document = encodings.read(golden(version))
    assert len(encodings.entries(document)) == (15 if version >= "2" else 11)
    encodings.write(tmp_path / "again", document, version)
    assert encodings.diff(encodings.read(tmp_path / "again"), document) == []
    # AIMET's 0.6.1 has limits that were rounded to float32, its 2.1.0 an axis counted from the end.
    if version in ("1.0.0", "2.0.0"):
        again = json.loads((tmp_path / "again").read_text())
        assert again == json.loads(golden(version).read_text())


@pytest.mark.parametrize("version", VERSIONS[1:])
def test_pass_the_lint(version: str) -> None:
    assert encodings.check(encodings.read(golden(version)), network()) == []


@pytest.mark.parametrize(
    ("old", "new"), [("1.0.0", "2.0.0"), ("1.0.0", "2.1.0"), ("2.0.0", "2.1.0"), ("2.1.0", "2.0.0")]
)
def test_convert_into_what_aimet_writes_itself(old: str, new: str) -> None:
    converted = encodings.convert(encodings.read(golden(old)), new, model=network())
    found = encodings.diff(converted, encodings.read(golden(new)))
    # AIMET lists biases from 2.0.0 on.
    biases = [f"{name}.bias" for name in ("0", "4", "6", "8")] if old < "2" else []
    assert [(d.name, d.field, d.left) for d in found] == [(name, "entry", "") for name in biases]
