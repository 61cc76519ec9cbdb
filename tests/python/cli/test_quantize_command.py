"""`aimet quantize`, `export`, `verify`: files, exit codes, recipes, Ctrl-C, bad input."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from aimet_torch import encodings
from aimet_torch.cli import main

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ARRAYS = ("quantize", "my_model:load", "--data", "x.npy", "--output", "out")
FAST = ("--method", "calibrate")


def test_quantize_export_verify(aimet, workplace: Path) -> None:
    code, out, err = aimet(*ARRAYS, "--samples", 12, "--measure-samples", 8, "--json")
    assert code == 0, err
    document = json.loads(out)
    names = [step["name"] for step in document["steps"]]
    assert names == ["FP32", "W8A8, repair"]
    assert document["steps"][0]["sqnr_db"] == "inf"
    assert document["steps"][1]["sqnr_db"] > 20
    files = {Path(file).name for file in document["files"]}
    assert files == {
        *("recipe.toml", "simulation.pt", "report.html", "report.json"),
        *("model.onnx", "model.encodings"),
    }
    assert all((workplace / file).is_file() for file in document["files"])
    onnx.checker.check_model(workplace / "out" / "model.onnx")
    entries = encodings.entries(encodings.read(workplace / "out" / "model.encodings"))
    assert "conv1.weight" in {entry["name"] for _, entry in entries}
    assert "<script src" not in (workplace / "out" / "report.html").read_text()

    # The simulation that was kept is the one that was measured.
    content = torch.load(workplace / "out" / "simulation.pt", weights_only=False)
    x = torch.from_numpy(np.load("x.npy")).float()
    assert content["sim"].model(x).shape == (20, 10)

    code, out, _ = aimet(
        "export", "out", "--formats", "qdq", "torchscript", "pt2", "--dynamic-batch"
    )
    assert code == 0
    assert [Path(line.split()[0]).name for line in out.splitlines()] == [
        *("model_qdq.onnx", "model.torchscript.pt", "model.pt2"),
    ]
    scripted = torch.jit.load("out/model.torchscript.pt")(x[:1])
    assert torch.equal(scripted, content["sim"].model(x[:1]))

    session = onnxruntime.InferenceSession("out/model_qdq.onnx")
    assert session.run(None, {"x": x.numpy()})[0].shape == (20, 10)

    code, out, err = aimet("verify", "out", "--samples", 3, "--json")
    result = json.loads(out)
    assert (code, result["ok"], result["samples"]) == (0, True, 3)
    assert result["file"] == "model_qdq.onnx"
    assert (workplace / "out" / "verification.html").is_file()
    # model.onnx with its encodings, on other data
    code, out, _ = aimet(
        *("verify", "out", "--onnx", "out/model.onnx", "--data", "my_model:batches"),
        *("--samples", 2, "--no-nodes", "--output", "elsewhere"),
    )
    assert code == 0
    assert "within the limits" in out
    assert (workplace / "elsewhere" / "verification.json").is_file()

    # Another calibration is not what the file holds.
    other = (*ARRAYS[:-1], "other", *FAST, "--formats", "simulation", "--scheme", "min_max")
    assert aimet(*other)[0] == 0
    assert not (workplace / "other" / "model.onnx").exists()
    code, out, _ = aimet("verify", "other", "--onnx", "out/model_qdq.onnx", "--samples", 2)
    assert code == 1
    assert "problem: " in out
    code, _, err = aimet("verify", "other", "--samples", 1)  # nothing is exported there yet
    assert code == 0
    assert "exporting: qdq" in err


def test_a_recipe_repeats_a_run(aimet, workplace: Path) -> None:
    cheap = ("--formats", "simulation", "--json")
    code, first, _ = aimet(*ARRAYS, *FAST, "--param-bits", 4, "--exclude", "fc", *cheap)
    assert code == 0
    recipe = workplace / "out" / "recipe.toml"
    document = tomllib.loads(recipe.read_text())
    assert document["command"] == "quantize"
    assert document["options"]["param_bits"] == 4
    assert document["options"]["exclude"] == ["fc"]
    assert document["options"]["mean"] == [0.485, 0.456, 0.406]
    before = json.loads((workplace / "out" / "report.json").read_text())["quantizers"]
    assert not any(row["layer"] == "fc" for row in before)

    code, second, err = aimet("quantize", "--recipe", recipe, "--output", "again", "--json")
    assert code == 0
    assert "earlier run" not in err  # another folder: everything anew
    assert json.loads((workplace / "again" / "report.json").read_text())["quantizers"] == before
    repeated = tomllib.loads((workplace / "again" / "recipe.toml").read_text())
    repeated["options"]["output"] = "out"
    assert repeated == document
    sqnr = [json.loads(text)["steps"][1]["sqnr_db"] for text in (first, second)]
    assert sqnr[0] == sqnr[1]

    # What stands on the command line wins; another job is not taken for a finished one.
    _, out, err = aimet("quantize", "--recipe", recipe, "--param-bits", 8, "--json")
    assert json.loads(out)["steps"][1]["name"] == "W8A8, calibrate"
    assert "earlier run" not in err
    _, _, err = aimet("quantize", "--recipe", recipe, "--measure-samples", 0)
    assert "earlier run" not in err  # other samples calibrate
    _, _, err = aimet("quantize", "--recipe", "out/recipe.toml", "--formats", "torchscript")
    assert "earlier run" in err
    assert (workplace / "out" / "model.torchscript.pt").is_file()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method = ", "not a TOML file"),
        ('command = "compress"', "a recipe of `aimet compress`, not of `aimet quantize`"),
        ("[options]\nbits = 8", "unknown option `bits`; known are model, data"),
        ("[options]\nparam_bits = '8'", "`param_bits` must be an integer, got '8'"),
        ("[options]\nparam_bits = true", "`param_bits` must be an integer, got True"),
        ("[options]\nmethod = 'best'", "`method` must be one of repair, calibrate, data-free"),
        ("[options]\nexclude = 'fc'", "`exclude` must be a list, got 'fc'"),
        ("param_bits = 8", "unknown key `param_bits`; options stand under [options]"),
    ],
)
def test_recipes_that_do_not_fit(aimet, workplace: Path, text: str, message: str) -> None:
    Path("bad.toml").write_text(text)
    code, out, err = aimet("quantize", "--recipe", "bad.toml")
    assert (code, out) == (2, "")
    assert err.startswith("aimet: bad.toml: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_ctrl_c_keeps_what_is_finished(aimet, workplace: Path, monkeypatch) -> None:
    from aimet_torch.cli import _exports

    def stop(*_: object) -> list[Path]:
        raise KeyboardInterrupt

    name, what, writer = _exports.FORMATS["pt2"]
    monkeypatch.setitem(_exports.FORMATS, "pt2", (name, what, stop))
    code, out, err = aimet(*ARRAYS, *FAST, "--formats", "torchscript_encodings", "pt2")
    assert (code, out) == (130, "")
    told = err.splitlines()[-2:]
    stem = "model_fp32.torchscript"
    for file in ("recipe.toml", "simulation.pt", "report.html", f"{stem}.pt", f"{stem}.encodings"):
        assert f"out/{file}" in told[0]
        assert (workplace / "out" / file).is_file()
    assert told[1] == "`aimet quantize --recipe out/recipe.toml` goes on from there"
    monkeypatch.setitem(_exports.FORMATS, "pt2", (name, what, writer))
    code, _, err = aimet("quantize", "--recipe", "out/recipe.toml")
    assert code == 0
    assert "quantizing: finished by an earlier run of the same recipe" in err
    assert (workplace / "out" / "model.pt2").is_file()


def test_ctrl_c_before_anything_is_finished(aimet, workplace: Path) -> None:
    data = ("--data", "my_model:interrupted", "--samples", 100)
    code, out, err = aimet("quantize", "my_model:load", *data, "--output", "out")
    assert (code, out) == (130, "")
    assert err.endswith("aimet quantize: interrupted; finished and kept: nothing yet\n")


def test_data_of_every_kind(aimet, workplace: Path) -> None:
    run = ("quantize", "my_model:load", *FAST, "--formats", "simulation", "--json", "--data")
    code, out, _ = aimet(*run, "photographs", "--image-size", 16, "--output", "a")
    assert code == 0
    assert json.loads(out)["note"] == "only 6 samples: 4 calibrate, 2 measure"
    # Labels behind the inputs are for measuring.
    code, out, _ = aimet(*run, "my_model:batches", "--samples", 16, "--output", "b")
    assert code == 0
    assert json.loads(out)["steps"][0]["detail"].startswith("accuracy ")
    np.savez("x.npz", x=np.load("x.npy"))
    code, out, _ = aimet(*run, "x.npz", "--measure-samples", 0, "--output", "c")
    assert code == 0
    assert json.loads(out)["steps"][1]["sqnr_db"] is None
    code, out, err = aimet(
        *("quantize", "my_model:load", "--method", "data-free", "--example", "1x3x16x16"),
        *("--formats", "simulation", "--output", "d"),
    )
    assert code == 0, err
    assert Path("d/simulation.pt").is_file()


def test_models_of_every_kind(aimet, workplace: Path) -> None:
    import my_model  # type: ignore[import-not-found]

    model, x = my_model.load(), torch.randn(2, 3, 16, 16)
    batch = {"x": {0: torch.export.Dim.DYNAMIC}}
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=batch), "net.pt2")
    torch.jit.save(torch.jit.trace(model, x), "net.pt")
    found = {}
    for source in ("my_model:load", "net.pt2", "net.pt"):
        code, _, err = aimet(
            *("quantize", source, "--data", "x.npy", *FAST, "--output", f"out_{source}"),
            *("--formats", "simulation"),
        )
        assert code == 0, err
        report = json.loads(Path(f"out_{source}/report.json").read_text())
        weights = {row["layer"] for row in report["quantizers"] if row["tensor"] == "weight"}
        assert {"conv1", "conv2", "fc"} <= weights
        found[source] = report["steps"][1]["sqnr_db"]
    # The same layers with the same quantizers, whatever the file was.
    assert found["net.pt2"] == pytest.approx(found["my_model:load"], abs=1.0)
    assert found["net.pt"] == pytest.approx(found["my_model:load"], abs=1.0)


def test_limits_decide_the_exit_code(aimet, workplace: Path) -> None:
    run = (*ARRAYS, *FAST, "--formats", "simulation")
    assert aimet(*run, "--min-sqnr", 5, "--min-agreement", 0.1)[0] == 0
    code, _, err = aimet(*run, "--min-sqnr", 200)
    assert code == 1
    assert "SQNR" in err.splitlines()[-1]
    assert "is below 200" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["quantize"], "quantize: MODEL is missing"),
        (["quantize", "my_model:load"], "quantize: --data is missing"),
        (["quantize", "my_model"], "model 'my_model': write package.module:function"),
        (["quantize", "net.pt2", "--data", "x.npy"], "model 'net.pt2': no such file"),
        (["quantize", "x.npy", "--data", "x.npy"], "neither a .pt2 nor a TorchScript file"),
        (["quantize", "other:load", "--data", "x.npy"], "model 'other:load': no module 'other'"),
        (["quantize", "my_model:lod", "--data", "x.npy"], "my_model has no 'lod'"),
        (["quantize", "my_model:NUMBER", "--data", "x.npy"], "expected an nn.Module, got int"),
        (["quantize", "my_model:broken", "--data", "x.npy"], "the weights are not there"),
        (["quantize", "my_model:load", "--data", "nowhere"], "--data 'nowhere': no such folder"),
        (["quantize", "my_model:load", "--data", "y.npy"], "y.npy: No such file or directory"),
        (
            ["quantize", "my_model:load", "--data", "empty"],
            "--data empty: no images in this folder",
        ),
        (["quantize", "my_model:load", "--data", "bad.npy"], "--data bad.npy: not a NumPy file"),
        (["quantize", "my_model:load", "--data", "rows.npy"], "the model fails on float32[1, 7]"),
        (["quantize", "my_model:load", "--data", "my_model:NUMBER"], "must give an iterable of"),
        ([*ARRAYS, "--param-bits", "1"], "`default_param_bw` must be an integer from 2 to 32"),
        ([*ARRAYS, "--config", "nope"], "nope"),
        ([*ARRAYS, "--samples", "0"], "--samples must be positive, got 0"),
        ([*ARRAYS, "--exclude", "fc9", "--method", "calibrate"], "'fc9'"),
        ([*ARRAYS, "--mean", "0", "--std", "1", "2"], "--mean and --std must have one value each"),
        ([*ARRAYS, "--device", "cuda"], "this torch sees no GPU"),
        (["export", "nowhere", "--formats", "qdq"], "no simulation.pt there; `aimet quantize"),
        (["export", "photographs"], "export: --formats is missing"),
        (["export", "bad.npy", "--formats", "qdq"], "cannot be loaded"),
        (["verify", "nowhere"], "no simulation.pt there"),
    ],
)
def test_bad_input_is_one_line(aimet, workplace: Path, arguments: list[str], message: str) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("a GPU is there")
    Path("empty").mkdir()
    Path("bad.npy").write_bytes(b"nothing of the kind")
    np.save("rows.npy", np.zeros((4, 7), np.float32))
    code, out, err = aimet(*arguments)
    assert (code, out) == (2, "")
    last = err.splitlines()[-1]
    assert last.startswith("aimet: ")
    assert message in last
    assert "Traceback" not in err


def test_debug_shows_where(aimet, workplace: Path, monkeypatch) -> None:
    arguments = ("quantize", "my_model:broken", "--data", "x.npy")
    assert "in broken" in aimet(*arguments, "--debug")[2]
    code, _, err = aimet(*arguments)
    assert code == 2
    assert err.splitlines()[-1].endswith("(--debug shows where)")
    monkeypatch.setenv("AIMET_DEBUG", "1")
    assert "Traceback" in aimet(*arguments)[2]


def test_main_takes_none_for_the_words_of_the_process(workplace: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["aimet", "verify", "nowhere"])
    assert main() == 2
