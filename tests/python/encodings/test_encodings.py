"""Encodings files through the operators: what Python adds to the C++ library and its tests."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aimet_torch import encodings

GRID = {"signed": True, "symmetric": True, "block_size": None, "channel_axis": None}
DOCUMENT: dict[str, Any] = {
    "version": None,
    "producer": {"package": "aimet_torch", "version": "0.1.0"},
    "activation_encodings": [
        {
            "name": "input",
            "dtype": "int",
            "bitwidth": 8,
            **GRID,
            "signed": False,
            "symmetric": False,
            "scale": [0.011764705882352941],
            "offset": [-85],
            "shape": [],
        },
        {"name": "gelu", "dtype": "float", "bitwidth": 16},
    ],
    "param_encodings": [
        {
            "name": "conv.weight",
            "dtype": "int",
            "bitwidth": 4,
            **GRID,
            "scale": [0.25, 0.5, 1.5],
            "offset": [0, 0, 0],
            "shape": [3],
        },
    ],
    "excluded_layers": ["fc"],
    "quantizer_args": {"param_bitwidth": 4, "quant_scheme": "min_max", "is_symmetric": True},
}


def one_activation(**changes: object) -> dict[str, Any]:
    document = copy.deepcopy(DOCUMENT)
    document["activation_encodings"][0].update(changes)
    return document


@pytest.mark.parametrize("version", ["0.6.1", "1.0.0"])
def test_written_document_is_read_back(tmp_path: Path, version: str) -> None:
    path = tmp_path / "model.encodings"
    encodings.write(path, DOCUMENT, version)
    assert encodings.read(path) == {**DOCUMENT, "version": version}
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.encodings"]


def test_version_1_0_0_has_the_fields_of_the_format(tmp_path: Path) -> None:
    path = tmp_path / "model.encodings"
    encodings.write(path, DOCUMENT)
    text = json.loads(path.read_text())
    assert list(text) == [
        "version",
        "producer",
        "activation_encodings",
        "param_encodings",
        "excluded_layers",
        "quantizer_args",
    ]
    assert text["activation_encodings"] == [
        {
            "name": "input",
            "enc_type": "PER_TENSOR",
            "dtype": "INT",
            "bw": 8,
            "is_sym": False,
            "scale": [0.011764705882352941],
            "offset": [-85],
        },
        {"name": "gelu", "enc_type": "PER_TENSOR", "dtype": "FLOAT", "bw": 16},
    ]
    assert text["param_encodings"][0]["enc_type"] == "PER_CHANNEL"
    assert text["param_encodings"][0]["offset"] == [-8, -8, -8]


def test_version_0_6_1_has_the_fields_of_the_format(tmp_path: Path) -> None:
    path = tmp_path / "model.encodings"
    encodings.write(path, DOCUMENT, "0.6.1")
    text = json.loads(path.read_text())
    assert text["activation_encodings"]["gelu"] == [{"bitwidth": 16, "dtype": "float"}]
    assert text["param_encodings"]["conv.weight"][1] == {
        "bitwidth": 4,
        "dtype": "int",
        "is_symmetric": "True",
        "min": -4.0,
        "max": 3.5,
        "scale": 0.5,
        "offset": -8,
    }


def test_adaround_file_has_parameters_only(tmp_path: Path) -> None:
    path = tmp_path / "adaround.encodings"
    encodings.write(path, {**DOCUMENT, "activation_encodings": []}, version=None)
    assert list(json.loads(path.read_text())) == ["param_encodings"]
    assert encodings.read(path)["param_encodings"] == DOCUMENT["param_encodings"]


def test_layout_by_modules_is_read_and_written(tmp_path: Path) -> None:
    slot = {"kind": "output", "index": 0}
    document = one_activation(name="conv", module_slot=slot)
    del document["activation_encodings"][1]
    path = tmp_path / "model_torch.encodings"
    encodings.write(path, document, "0.6.1")
    layout = json.loads(path.read_text())["activation_encodings"]
    assert list(layout) == ["conv"]
    assert list(layout["conv"]) == ["output"]
    assert encodings.read(path)["activation_encodings"] == document["activation_encodings"]


def test_lpbq_is_read_back(tmp_path: Path) -> None:
    lpbq = {
        **DOCUMENT["param_encodings"][0],
        "scale": [0.001, 0.002],
        "offset": [0, 0],
        "shape": [2, 2],
        "block_size": 16,
        "decompressed_bitwidth": 8,
        "per_block_int_scale": [3, 16, 9, 12],
    }
    path = tmp_path / "model.encodings"
    encodings.write(path, {**DOCUMENT, "param_encodings": [lpbq]})
    entry = json.loads(path.read_text())["param_encodings"][0]
    assert (entry["bw"], entry["compressed_bw"], entry["offset"]) == (8, 4, [-128, -128])
    assert encodings.read(path)["param_encodings"] == [lpbq]
    with pytest.raises(NotImplementedError, match=r"fc|conv\.weight.*LPBQ.*write version 1\.0\.0"):
        encodings.write(path, {**DOCUMENT, "param_encodings": [lpbq]}, "0.6.1")


def test_versions_2_have_one_list(tmp_path: Path) -> None:
    path = tmp_path / "model.encodings"
    document = copy.deepcopy(DOCUMENT)
    document["param_encodings"][0] |= {"shape": [3, 1, 1], "channel_axis": 0}
    with pytest.raises(
        NotImplementedError, match=r"activation_encodings\.gelu: version 2\.0\.0 has"
    ):
        encodings.write(path, document, "2.0.0")
    del document["activation_encodings"][1]
    encodings.write(path, document, "2.0.0")
    text = json.loads(path.read_text())
    assert list(text) == ["version", "producer", "encodings"]
    assert text["encodings"] == [
        {"name": "input", "output_dtype": "uint8", "y_scale": 0.011764705882352941,
         "y_zero_point": 85},
        {"name": "conv.weight", "output_dtype": "int4", "y_scale": [0.25, 0.5, 1.5], "axis": 0},
    ]  # fmt: skip
    read = encodings.read(path)
    assert [(role, entry["name"]) for role, entry in encodings.entries(read)] == [
        ("", "input"),
        ("", "conv.weight"),
    ]
    assert read["encodings"][1]["channel_axis"] == 0
    assert encodings.diff(read, document) == []


def test_floats_and_scales_of_two_levels(tmp_path: Path) -> None:
    blocks = {"shape": [2, 2], "block_size": 16, "block_axis": 1, "channel_axis": 0}
    entries = [
        {"name": "fp8", "dtype": "float", "bitwidth": 8, "scale": [0.5], "shape": [],
         "block_size": None, "channel_axis": None, "format": "float8e5m2"},
        {"name": "nvfp4", "dtype": "float", "bitwidth": 4, "scale": [0.001], **blocks,
         "format": "float4e2m1", "block_scale_format": "float8e4m3fn",
         "per_block_float_scale": [1.0, 448.0, 0.5, 2.0]},
        {"name": "lpbq", "dtype": "int", "bitwidth": 4, "signed": True, "symmetric": True,
         "scale": [0.001, 0.002], "offset": [0, 0], **blocks, "decompressed_bitwidth": 8,
         "per_block_int_scale": [1, 16, 3, 4]},
    ]  # fmt: skip
    path = tmp_path / "m"
    document = {"activation_encodings": [], "param_encodings": entries}
    encodings.write(path, document, "2.1.0")
    found = {entry["name"]: entry for entry in encodings.read(path)["encodings"]}
    assert found == {entry["name"]: entry for entry in entries}
    with pytest.raises(NotImplementedError, match=r"nvfp4: .* write version 2\.1\.0"):
        encodings.write(path, document, "2.0.0")
    entries[1]["per_block_float_scale"][1] = 449.0  # type: ignore[index]
    with pytest.raises(ValueError, match="no negative number of float8e4m3fn, got 449"):
        encodings.write(path, document, "2.1.0")


def test_conversion_needs_what_the_old_version_lacks() -> None:
    old = encodings.parse(json.dumps({
        "version": "1.0.0",
        "activation_encodings": [],
        "param_encodings": [{"name": "w", "enc_type": "PER_CHANNEL", "dtype": "INT", "bw": 8,
                             "is_sym": True, "scale": [0.5, 0.25], "offset": [-128, -128]}],
        "excluded_layers": ["fc"],
        "quantizer_args": {},
    }))  # fmt: skip
    with pytest.raises(
        NotImplementedError, match=r"param_encodings\.w: version 2\.0\.0 needs the axis"
    ):
        encodings.convert(old, "2.0.0")
    model = {"w": encodings.TensorFacts((2, 4), is_param=True, channel_axis=0, block_axis=1)}
    new = encodings.convert(old, "2.0.0", model=model)
    assert new["param_encodings"][0]["channel_axis"] == 0
    assert new["version"] == "2.0.0"
    one_list = {**new, "param_encodings": [], "encodings": new["param_encodings"]}
    with pytest.raises(
        NotImplementedError, match=r"encodings\.w: .* the model or the names of its p"
    ):
        encodings.convert(one_list, "1.0.0")
    for known in ({"model": model}, {"params": ["w"]}):
        back = encodings.convert(one_list, "1.0.0", **known)
        assert encodings.diff(back, old) == []
        assert [entry["name"] for entry in back["param_encodings"]] == ["w"]
    wrong = {"w": encodings.TensorFacts((3, 4), is_param=True, channel_axis=0, block_axis=1)}
    (finding,) = encodings.check(old, wrong)
    assert (finding.rule, finding.severity) == ("impossible", "error")
    assert "2 scales along axis 0; the tensor has shape [3, 4]" in finding.message


def test_differences_have_both_sides() -> None:
    other = one_activation(scale=[0.0125])
    (found,) = encodings.diff(DOCUMENT, other)
    assert found == encodings.Difference("input", "scale", "0.011764705882352941", "0.0125")
    assert encodings.diff(DOCUMENT, other, tolerance=0.1) == []


@pytest.mark.parametrize("version", ["0.6.1", "1.0.0"])
def test_content_is_parsed_like_its_file(tmp_path: Path, version: str) -> None:
    path = tmp_path / "model.encodings"
    encodings.write(path, DOCUMENT, version)
    text = path.read_text()
    assert encodings.parse(text) == encodings.read(path)
    assert encodings.parse(json.loads(text)) == encodings.read(path)


def test_malformed_content_names_its_source() -> None:
    with pytest.raises(ValueError, match=r"parse_encodings: given: \$: must be an object"):
        encodings.parse("[]", "given")
    bad = {"param_encodings": {"w": [{"bitwidth": 8, "scale": float("nan")}]}}
    with pytest.raises(ValueError, match=r"given: \$\.param_encodings\.w\[0\]\.scale: Out"):
        encodings.parse(bad, "given")


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(min_value=2.0**-149, max_value=2.0**127, width=32), min_size=1, max_size=20)
)
def test_float32_scales_keep_every_bit(
    tmp_path_factory: pytest.TempPathFactory, scales: list[float]
) -> None:
    path = tmp_path_factory.getbasetemp() / "exact.encodings"
    weight = {
        **DOCUMENT["param_encodings"][0],
        "scale": scales,
        "offset": [0] * len(scales),
        "shape": [len(scales), 1, 1],
        "channel_axis": 0,
    }
    for version in ("0.6.1", "1.0.0"):
        encodings.write(path, {**DOCUMENT, "param_encodings": [weight]}, version)
        read = encodings.read(path)["param_encodings"][0]["scale"]
        np.testing.assert_array_equal(
            np.array(read, np.float32).view(np.uint32), np.array(scales, np.float32).view(np.uint32)
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": [float("nan")]}, r"\$\.activation_encodings\[0\]\.scale\[0\]: Out of range"),
        ({"scale": [-1.0]}, r"\$\.activation_encodings\[0\]\.scale\[0\]: .*positive.*got -1\.0"),
        ({"scale": []}, r"\$\.activation_encodings\[0\]\.scale: must not be empty"),
        ({"offset": [1]}, r"`offset` must be between -255 and 0 for 8 unsigned bits, got 1"),
        ({"offset": [-85.0]}, r"offset\[0\]: must be an integer, got -85\.0"),
        ({"bitwidth": 64}, r"bitwidth: must be between 2 and 32, got 64"),
        ({"shape": [3]}, r"`shape` \[3\] does not hold 1 values"),
        ({"colour": "red"}, r"\$\.activation_encodings\[0\]\.colour: unknown key"),
        ({"name": "gelu"}, r"\$\.activation_encodings\[1\]: a second encoding of `gelu`"),
    ],
)
def test_malformed_document_is_not_written(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = tmp_path / "model.encodings"
    path.write_text("old")
    with pytest.raises(ValueError, match="write_encodings: encodings document: .*" + message):
        encodings.write(path, one_activation(**change))
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.encodings"]


def test_value_that_json_cannot_express_is_a_type_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Tensor"):
        encodings.write(tmp_path / "m", one_activation(scale=torch.ones(1)))


def test_unknown_versions_are_not_implemented(tmp_path: Path) -> None:
    path = tmp_path / "m"
    with pytest.raises(
        NotImplementedError, match=r'version "9" cannot be written; writable: 0\.6\.1'
    ):
        encodings.write(path, DOCUMENT, "9")
    path.write_text('{"version": "9"}')
    with pytest.raises(NotImplementedError, match=r'\$\.version: version "9" is not supported'):
        encodings.read(path)


def test_system_errors_are_os_errors(tmp_path: Path) -> None:
    missing = tmp_path / "missing.encodings"
    with pytest.raises(FileNotFoundError) as caught:
        encodings.read(missing)
    assert caught.value.filename == str(missing)
    assert "read_encodings: " in str(caught.value)
    with pytest.raises(IsADirectoryError):
        encodings.write(tmp_path, DOCUMENT)
    with pytest.raises(FileNotFoundError):
        encodings.write(tmp_path / "no" / "folder", DOCUMENT)
    assert list(tmp_path.iterdir()) == []


def test_malformed_file_names_file_path_and_reason(tmp_path: Path) -> None:
    path = tmp_path / "model.encodings"
    encodings.write(path, DOCUMENT)
    path.write_text(path.read_text().replace('"bw":16', '"bw":12'))
    with pytest.raises(
        ValueError, match=r"read_encodings: .*model\.encodings: \$\.activation_encodings\[1\]\.bw: "
    ):
        encodings.read(path)


def test_operators_are_scriptable(tmp_path: Path) -> None:
    path = tmp_path / "model.encodings"
    encodings.write(path, DOCUMENT)

    def load(file: str) -> str:
        return torch.ops.aimet.read_encodings(file)

    assert json.loads(torch.jit.script(load)(str(path))) == encodings.read(path)


def test_mutated_files_end_in_the_typed_error(tmp_path: Path) -> None:
    """Thousands of random edits: a document that can be written again, or ValueError."""
    generator = random.Random(20261123)
    path = tmp_path / "fuzz.encodings"
    originals = []
    for version in ("0.6.1", "1.0.0"):
        encodings.write(path, DOCUMENT, version)
        originals.append(path.read_bytes())
    accepted = 0
    messages = []
    for _ in range(2000):
        data = bytearray(generator.choice(originals))
        for _ in range(generator.randint(1, 3)):
            position = generator.randrange(len(data))
            length = generator.randint(1, 12)
            match generator.randrange(4):
                case 0:
                    data[position] = generator.randrange(256)
                case 1:
                    del data[position : position + length]
                case 2:
                    start = generator.randrange(len(data))
                    data[position:position] = data[start : start + length]
                case _:
                    data[position : position + 1] = generator.choice(
                        [b"null", b"-1", b"1e400", b"[", b"}", b'"', b"\xff", b"true", b"0.5"]
                    )
        path.write_bytes(data)
        try:
            document = encodings.read(path)
        except (ValueError, NotImplementedError) as error:
            messages.append(str(error))
        else:
            accepted += 1
            encodings.write(tmp_path / "again.encodings", document, document["version"])
            assert encodings.read(tmp_path / "again.encodings") == document
    assert accepted > 0
    assert len(messages) > 1000
    assert all(str(path) in message for message in messages)
