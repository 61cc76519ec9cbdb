"""Operators on encodings files, as TorchScript and C++ call them: text in, text out."""

from __future__ import annotations

import json

import pytest
import torch

from aimet_torch.ops import encodings as ops


@pytest.fixture
def document(tmp_path):
    path = tmp_path / "net.encodings"
    entries = [
        {"name": name, "enc_type": "PER_TENSOR", "dtype": "INT", "bw": 8, "is_sym": False,
         "scale": [scale], "offset": [-3]}
        for name, scale in (("x", 0.5), ("y", 0.25))
    ]  # fmt: skip
    text = {"version": "1.0.0", "activation_encodings": entries, "param_encodings": []}
    path.write_text(json.dumps(text))
    return ops.read_encodings(path)


OPTIONS = '{"model": {}, "param_names": [], "drops_unscaled": false}'


@torch.jit.script
def compared(left: str, right: str) -> str:
    return torch.ops.aimet.diff_encodings(left, right, 1e-3)


@torch.jit.script
def checked(document: str) -> str:
    return torch.ops.aimet.check_encodings(document, "")


@torch.jit.script
def converted(document: str, version: str, options: str) -> str:
    return torch.ops.aimet.convert_encodings(document, version, options)


def test_scripts_check_convert_and_compare(document):
    assert json.loads(checked(document)) == []
    newer = converted(document, "2.0.0", OPTIONS)
    assert newer == ops.convert_encodings(document, "2.0.0", OPTIONS)
    assert json.loads(compared(document, newer)) == []
    other = newer.replace("0.25", "0.125")
    assert other != newer
    found = json.loads(compared(newer, other))
    assert [(item["name"], item["field"]) for item in found] == [("y", "scale")]
    assert json.loads(ops.diff_encodings(newer, other)) == found
    assert json.loads(ops.check_encodings(newer)) == []


def test_errors_name_operator_and_place(document):
    with pytest.raises(NotImplementedError, match=r"3\.0\.0"):
        ops.convert_encodings(document, "3.0.0", OPTIONS)
    with pytest.raises(ValueError, match="check_encodings"):
        ops.check_encodings("{")
    with pytest.raises(ValueError, match="diff_encodings"):
        ops.diff_encodings(document, "[1]")
