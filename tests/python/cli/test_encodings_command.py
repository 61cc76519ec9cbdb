"""`aimet encodings`: output, exit codes, and what the terminal of a user shows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from aimet_torch import encodings
from aimet_torch.cli import main
from tests.python.encodings.test_model_facts import entry, path  # noqa: F401 - a fixture

OLD = {
    "version": "1.0.0",
    "producer": {"package": "aimet-torch", "version": "2.42.0"},
    "activation_encodings": [
        {"name": "x", "enc_type": "PER_TENSOR", "dtype": "INT", "bw": 8, "is_sym": False,
         "scale": [0.5], "offset": [-10]},
        {"name": "h", "enc_type": "PER_TENSOR", "dtype": "FLOAT", "bw": 16},
    ],
    "param_encodings": [
        {"name": "conv.weight", "enc_type": "PER_CHANNEL", "dtype": "INT", "bw": 4, "is_sym": True,
         "scale": [0.5, 0.25, 1.0, 2.0], "offset": [-8, -8, -8, -8]},
        {"name": "proj.weight", "enc_type": "LPBQ", "dtype": "INT", "bw": 8, "compressed_bw": 4,
         "is_sym": True, "block_size": 3, "scale": [0.001] * 5, "offset": [-128] * 5,
         "per_block_int_scale": [3, 16] * 5},
    ],
    "excluded_layers": ["fc"],
    "quantizer_args": {"param_bitwidth": 4},
}  # fmt: skip


@pytest.fixture
def old(tmp_path: Path) -> Path:
    file = tmp_path / "old.encodings"
    file.write_text(json.dumps(OLD))
    return file


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_show(capsys, old) -> None:
    code, out, err = run(capsys, "encodings", "show", old)
    assert (code, err) == (0, "")
    lines = [line for line in out.splitlines() if line]
    assert lines[0] == (f"{old}: version 1.0.0 by aimet-torch 2.42.0, 2 activations, 2 parameters")
    assert lines[1].split() == ["tensor", "role", "type", "granularity", "scale", "offset", "range"]
    rows = {line.split()[0]: line.split()[1:] for line in lines[3:7]}
    assert rows["x"] == ["activation", "uint8", "per", "tensor", "0.5", "-10", "[-5,", "122.5]"]
    assert rows["h"] == ["activation", "float16"]
    assert " ".join(rows["conv.weight"]) == "parameter int4 4 channels 0.25 .. 2 0 [-16, 14]"
    assert "LPBQ, 5 channels, blocks of 3" in lines[6]
    assert lines[7:] == ["excluded_layers: fc", "quantizer_args: param_bitwidth 4"]


def test_show_some_as_json(capsys, old) -> None:
    code, out, _ = run(capsys, "encodings", "show", old, "--json", "--name", "*.weight")
    document = json.loads(out)
    assert code == 0
    assert [e["name"] for e in document["param_encodings"]] == ["conv.weight", "proj.weight"]
    assert document["activation_encodings"] == []
    other = old.with_name("other.encodings")
    other.write_text(json.dumps(OLD))
    _, out, _ = run(capsys, "encodings", "show", old, other, "--json")
    assert list(json.loads(out)) == [str(old), str(other)]


def test_check(capsys, old, path, tmp_path) -> None:  # noqa: F811
    assert run(capsys, "encodings", "check", old)[:2] == (0, f"{old}: 0 errors, 0 warnings\n")
    code, out, _ = run(capsys, "encodings", "check", old, path)
    assert code == 1
    assert out.splitlines()[0] == f"{old} beside {path}: 5 errors, 0 warnings"
    assert "missing" in out
    assert "ConvTranspose reads it, and it has no encoding" in out
    code, out, _ = run(capsys, "encodings", "check", old, "--model", path, "--json")
    found = json.loads(out)[str(old)]
    assert {f["name"] for f in found} == {"r", "f", "y", "up.weight", "fc.weight"}
    assert {f["rule"] for f in found} == {"missing"}
    tiny = tmp_path / "tiny.encodings"
    tiny.write_text(json.dumps({"version": "2.0.0", "encodings": [entry("a", y_scale=1e-40)]}))
    assert run(capsys, "encodings", "check", tiny)[0] == 0  # a warning
    assert run(capsys, "encodings", "check", tiny, "--strict")[0] == 1


def test_convert(capsys, old, path, tmp_path) -> None:  # noqa: F811
    new = tmp_path / "new.encodings"
    new.write_text("old content")
    code, _, err = run(capsys, "encodings", "convert", old, new, "--to", "2.0.0")
    assert code == 2
    assert "$.activation_encodings.h: version 2.0.0 has no entries without a scale" in err
    assert new.read_text() == "old content"
    model = ["--model", path, "--drop-unscaled"]
    code, out, err = run(capsys, "encodings", "convert", old, new, "--to", "2.0.0", *model)
    assert (code, out) == (0, "")
    assert "left out, as version 2.0.0 has no place for it: excluded_layers, quantizer_args" in err
    assert [e["name"] for e in json.loads(new.read_text())["encodings"]] == [
        *("x", "conv.weight", "proj.weight"),
    ]
    code, out, err = run(capsys, "encodings", "convert", new, "--to", "1.0.0", *model)
    assert (code, err) == (0, "")
    assert json.loads(out)["param_encodings"] == OLD["param_encodings"]
    names = ["--params", "conv.weight", "proj.weight"]
    assert run(capsys, "encodings", "convert", new, "--to", "1.0.0", *names)[1] == out
    assert run(capsys, "encodings", "convert", old, "--to", "3.0.0")[0] == 2


def test_diff(capsys, old, tmp_path) -> None:
    assert run(capsys, "encodings", "diff", old, old) == (0, "", "")
    other = tmp_path / "other.encodings"
    document = json.loads(json.dumps(OLD))
    document["param_encodings"][0]["scale"][1] = 0.25001
    other.write_text(json.dumps(document))
    code, out, _ = run(capsys, "encodings", "diff", old, other)
    assert code == 1
    assert "0.25 at 1 (1 of 4 differ)" in out
    assert "0.25001" in out
    assert run(capsys, "encodings", "diff", old, other, "--tolerance", "1e-3")[0] == 0
    _, out, _ = run(capsys, "encodings", "diff", old, other, "--json")
    assert [d["field"] for d in json.loads(out)] == ["scale"]


@pytest.mark.parametrize("action", ["show", "check", "convert", "diff"])
def test_help_has_an_example_that_parses(capsys, action: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["encodings", action, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert f"example:\n  aimet encodings {action} " in out


def test_trouble_has_exit_code_2(capsys, tmp_path) -> None:
    code, out, err = run(capsys, "encodings", "show", tmp_path / "missing")
    assert (code, out, err) == (2, "", f"aimet: {tmp_path}/missing: No such file or directory\n")
    broken = tmp_path / "broken"
    broken.write_text('{"version": "2.0.0", "encodings": [{"name": "x"}]}')
    code, _, err = run(capsys, "encodings", "check", broken)
    assert code == 2
    assert f"{broken}: $.encodings[0]: has no key `output_dtype`" in err
    assert len(err.splitlines()) == 1
    assert run(capsys, "encodings", "check", tmp_path / "only.onnx")[0] == 2
    with pytest.raises(SystemExit) as ended:
        main(["encodings"])
    assert ended.value.code == 2


def test_tables_need_no_rich(capsys, old, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.table", None)
    lines = run(capsys, "encodings", "show", old)[1].splitlines()
    assert lines[1].startswith("tensor       role")
    assert lines[2].startswith("-----------  ----")
    monkeypatch.undo()
    assert "conv.weight" in run(capsys, "encodings", "show", old)[1]


def test_as_a_program(old) -> None:
    command = [sys.executable, "-m", "aimet_torch"]
    run = subprocess.run([*command, "encodings", "diff", old, old], check=False)
    assert run.returncode == 0
    for option, end in (("--cmake-dir", "cmake/aimet"), ("--cmake-prefix-path", "share/cmake")):
        out = subprocess.run([*command, option], check=True, capture_output=True, text=True).stdout
        assert out.splitlines()[0].split(";")[0].endswith(end)


def test_files_written_by_the_command_are_read_by_the_library(capsys, old, tmp_path) -> None:
    new = tmp_path / "new.encodings"
    document = {**OLD, "param_encodings": OLD["param_encodings"][:1]}
    old.write_text(json.dumps(document))
    assert run(capsys, "encodings", "convert", old, new, "--to", "0.6.1")[0] == 0
    assert encodings.diff(encodings.read(new), encodings.read(old)) == []
