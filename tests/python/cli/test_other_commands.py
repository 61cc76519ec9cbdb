"""`aimet doctor` and `compress`; every example in a `--help` runs."""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from aimet_torch import _native
from aimet_torch.cli import _checks, _parser


def test_doctor_finds_nothing_wrong(aimet) -> None:
    code, out, err = aimet("doctor", "--json")
    found = {check["name"]: check for check in json.loads(out)}
    assert (code, err) == (0, "")
    assert {check["status"] for check in found.values()} <= {"ok", "note"}
    assert found["torch"]["found"] == torch.__version__
    assert found["numbers"]["status"] == found["simulation"]["status"] == "ok"
    code, out, _ = aimet("doctor")
    assert code == 0
    assert "C++ library" in out


def test_doctor_says_what_to_do(aimet, monkeypatch) -> None:
    monkeypatch.setenv("AIMET_CPU_CAPABILITY", "avx2")
    monkeypatch.setattr(_checks, "_OPTIONAL", (("rich", "no_such_module", "tables", "cli"),))
    monkeypatch.setattr(
        _native,
        "PROBLEM",
        "aimet_torch: /lib/libaimet.so was built for torch 2.12, but torch 2.13.0 is running. "
        "Build it again for this torch, in the folder of the sources: pip install .",
    )
    code, out, _ = aimet("doctor")
    assert code == 1
    assert "/lib/libaimet.so was built for torch 2.12, but torch 2.13.0 is running" in out
    assert "C++ library: build it again for this torch, in the folder of the sources: pip" in out
    assert "rich: for tables: pip install rich, or aimet-torch[cli]" in out
    monkeypatch.setattr(_native, "PROBLEM", None)
    code, out, _ = aimet("doctor")
    assert code == 0
    assert "CPU kernels: AIMET_CPU_CAPABILITY=avx2 chooses them; unset it" in out
    monkeypatch.setattr(torch, "__version__", "2.9.1")
    assert "torch: the library needs 2.11 to 2.13" in aimet("doctor")[1]


def test_doctor_runs_where_the_library_does_not_load() -> None:
    # A library that is not there, as after an installation that went wrong.
    code = (
        "import sys, runpy, pathlib\n"
        "real = pathlib.Path.is_file\n"
        "pathlib.Path.is_file = lambda p: p.name != 'libaimet.so' and real(p)\n"
        "sys.argv = ['aimet', *sys.argv[1:]]\n"
        "from aimet_torch.cli import main\n"
        "sys.exit(main())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, "doctor"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 1, run.stderr
    assert "libaimet.so is missing" in run.stdout
    assert "Traceback" not in run.stderr


def test_compress(aimet, workplace: Path) -> None:
    code, out, err = aimet(
        *("compress", "my_model:load", "--data", "x.npy", "--ratio", 0.6, "--keep", "fc"),
        *("--output", "small", "--json", "--choose", "same"),
    )
    assert code == 0, err
    document = json.loads(out)
    assert document["mac_ratio"] < 0.7
    assert "fc" not in {row["name"] for row in document["layers"] if row["rank"]}
    assert document["agreement"]["sqnr_db"] > 0
    x = torch.randn(4, 3, 16, 16)
    program = torch.export.load("small/model.pt2").module()
    module = torch.load("small/model.pt", weights_only=False)
    torch.testing.assert_close(program(x), module(x))
    assert json.loads(Path("small/compression.json").read_text())["layers"] == document["layers"]
    # What it wrote goes on into the next command, with any number of samples in a batch.
    code, _, err = aimet(
        *("quantize", "small/model.pt2", "--data", "x.npy", "--method", "calibrate"),
        *("--formats", "simulation", "--output", "small_q"),
    )
    assert code == 0, err
    code, _, err = aimet(
        *("compress", "--recipe", "small/recipe.toml", "--min-agreement", 1.01),
    )
    assert code == 1
    assert "top-1 agreement is below 1.01" in err
    code, _, err = aimet("compress", "my_model:load", "--data", "x.npy", "--keep", "nothing")
    assert code == 2
    assert "--keep names 'nothing', which is no layer of the model" in err
    assert aimet("compress", "my_model:load", "--example", "1x3x16x16", "--ratio", 2)[0] == 2


@pytest.mark.parametrize(
    ("scheme", "choose"),
    [("prune", "same"), ("spatial", "exact"), ("weight", "greedy"), ("prune", "auto")],
)
def test_compress_by_every_scheme(aimet, workplace: Path, monkeypatch, scheme, choose) -> None:
    from aimet_torch.cli import compress

    # The program is written in the test above; exporting takes longer than all the rest.
    monkeypatch.setattr(compress, "_save", lambda *_: None)
    code, out, err = aimet(
        *("compress", "my_model:load", "--data", "x.npy", "--ratio", 0.8, "--json"),
        *("--scheme", scheme, "--choose", choose),
    )
    assert code == 0, err
    document = json.loads(out)
    ratio = document.get("mac_ratio", document.get("mac_compression_ratio"))
    assert 0.5 < ratio <= 0.8
    assert json.loads(Path("compressed/compression.json").read_text()).keys() <= document.keys()


def test_compress_chooses_ratios_where_it_has_data(aimet, workplace: Path, monkeypatch) -> None:
    from aimet_torch.cli import compress

    monkeypatch.setattr(compress, "_save", lambda *_: None)
    run = ("compress", "my_model:load", "--ratio", 0.5)
    code, out, err = aimet(*run, "--data", "x.npy")
    assert code == 0, err
    assert "compression.html" in out
    assert "error added to the outputs" not in out  # of every candidate: in the files
    page = Path("compressed/compression.html").read_text()
    assert "http" not in page.replace("http://www.w3.org", "")
    document = json.loads(Path("compressed/compression.json").read_text())
    assert document["scheme"] == "auto"
    assert document["compression_ratio_selection_stats"]["method"] == "exact"
    ratios = {row["compression_ratio"] for row in document["per_layer_stats"]}
    assert len(ratios - {None}) > 1
    assert 0.4 < document["mac_compression_ratio"] <= 0.5
    # Without samples that measure there is no score, and without data nothing to choose by.
    for rest in (("--data", "x.npy", "--measure-samples", 0), ("--example", "1x3x16x16")):
        code, out, err = aimet(*run, *rest, "--json")
        assert code == 0, err
        assert "compression_ratio_selection_stats" not in json.loads(out)


def test_compress_by_the_users_own_score(aimet, workplace: Path, monkeypatch) -> None:
    from aimet_torch.cli import compress

    monkeypatch.setattr(compress, "_save", lambda *_: None)
    run = ("compress", "my_model:load", "--example", "1x3x16x16", "--choose", "greedy")
    code, _, err = aimet(*run)
    assert code == 2
    assert err.splitlines()[-1].endswith("--choose greedy needs --data, or --evaluate")
    code, out, err = aimet(*run, "--evaluate", "my_model:score", "--ratio", 0.7)
    assert code == 0, err
    assert "accuracy 3" in out


def test_analyze_a_model_and_a_simulation(aimet, workplace: Path) -> None:
    small = ("--bitwidths", 4, 8, "--samples", 8)
    code, out, err = aimet("analyze", "my_model:load", "--data", "x.npy", *small, "--json")
    assert code == 0, err
    document = json.loads(out)
    names = {tensor["quantizer"] for tensor in document["tensors"]}
    assert {f"{layer}.param_quantizers.weight" for layer in ("conv1", "conv2", "fc")} <= names
    assert json.loads(Path("analysis/analysis.json").read_text()) == document
    assert "my_model:load" in Path("analysis/analysis.html").read_text()

    quantized = ("--method", "calibrate", "--formats", "simulation", "--param-bits", 4)
    assert (
        aimet("quantize", "my_model:load", "--data", "x.npy", "--output", "q", *quantized)[0] == 0
    )
    code, out, err = aimet(
        *("analyze", "q", *small, "--evaluate", "my_model:score", "--output", "of_q"),
    )
    assert code == 0, err
    assert "of_q/analysis.html" in out
    bits = {
        (tensor["quantizer"], tensor["bitwidth"])
        for tensor in json.loads(Path("of_q/analysis.json").read_text())["tensors"]
    }
    assert ("fc.param_quantizers.weight", 4) in bits
    # Its recipe repeats it; of other data, too.
    code, _, err = aimet("analyze", "--recipe", "of_q/recipe.toml", "--data", "my_model:batches")
    assert code == 0, err
    for arguments, message in (
        (("analyze", "q", "--per-layer"), "--per-layer needs --evaluate"),
        (("analyze", "photographs"), "photographs: no simulation.pt there"),
        (("analyze", "my_model:load"), "analyze: --data is missing"),
        (("analyze", "q", "--evaluate", "my_model:nothing"), "my_model has no 'nothing'"),
    ):
        code, _, err = aimet(*arguments)
        assert code == 2
        assert message in err.splitlines()[-1]


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield child
                yield from parsers(child)


def examples() -> list[str]:
    found = [_parser(), *parsers(_parser())]
    texts = [(child.epilog or "").removeprefix("example:\n  ") for child in found]
    assert all(text.startswith("aimet ") for text in texts), [c.prog for c in found]
    return sorted(texts, key=lambda text: (not text.startswith("aimet quantize "), text))


def test_every_command_has_an_example_that_runs(aimet, workplace: Path) -> None:
    for text in examples():
        if "net.encodings" in text and not Path("net.encodings").exists():
            for suffix in ("encodings", "onnx"):
                content = Path(f"quantized/model.{suffix}").read_bytes()
                Path(f"net.{suffix}").write_bytes(content)
            for name in ("before", "after"):
                Path(f"{name}.encodings").write_bytes(Path("net.encodings").read_bytes())
        code, _, err = aimet(*shlex.split(text)[1:])
        assert code == 0, f"{text}: {err}"


@pytest.mark.parametrize("words", [["--help"], ["quantize", "--help"], ["doctor", "--help"]])
def test_help(aimet, words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        aimet(*words)
    assert ended.value.code == 0
