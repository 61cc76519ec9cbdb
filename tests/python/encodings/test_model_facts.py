"""What an ONNX model says about its tensors, and the lint beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from aimet_torch import encodings

F = TensorProto.FLOAT


def constant(name: str, *shape: int, dtype: type = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.zeros(shape, dtype), name)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A convolution with batch norm, a transposed one, matrices in three layouts, a shape."""
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("ConvTranspose", ["r", "up.weight"], ["u"]),
        helper.make_node("Flatten", ["u"], ["f"]),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["h"], transB=1),
        helper.make_node("Transpose", ["proj.weight"], ["proj.t"], perm=[1, 0]),
        helper.make_node("MatMul", ["h", "proj.t"], ["p"]),
        helper.make_node("Add", ["p", "proj.bias"], ["y"]),
        helper.make_node("Shape", ["y"], ["size"]),
    ]
    initializers = [
        constant("conv.weight", 4, 3, 1, 1),
        constant("conv.bias", 4),
        *(constant(name, 4) for name in "gbmv"),
        constant("up.weight", 4, 2, 1, 1),
        constant("fc.weight", 6, 32),
        constant("fc.bias", 6),
        constant("proj.weight", 5, 6),
        constant("proj.bias", 5),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", F, ["batch", 3, 4, 4])],
        [
            helper.make_tensor_value_info("y", F, ["batch", 5]),
            helper.make_tensor_value_info("size", TensorProto.INT64, [2]),
        ],
        initializers,
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def test_facts(path: Path) -> None:
    facts = encodings.model_facts(path)
    readers = {name: fact.reader for name, fact in facts.items() if fact.reader}
    # Not `c`, which the batch norm takes; not `p`, to which a bias is added; not constants alone.
    assert readers == {
        "x": "Conv",
        "conv.weight": "Conv",
        "r": "ConvTranspose",
        "up.weight": "ConvTranspose",
        "f": "Gemm",
        "fc.weight": "Gemm",
        "h": "MatMul",
        "proj.weight": "MatMul",
        "y": "the caller of the model",
    }
    axes = {
        n: (f.channel_axis, f.block_axis) for n, f in facts.items() if f.channel_axis is not None
    }
    assert axes == {
        "conv.weight": (0, 1),
        "up.weight": (1, 0),
        "fc.weight": (0, 1),
        "proj.weight": (0, 1),
    }
    assert facts["x"].shape == (-1, 3, 4, 4)
    assert facts["n"].shape == (-1, 4, 4, 4)  # by shape inference
    assert not facts["size"].is_float
    assert {n for n, f in facts.items() if f.is_param} == {
        *("conv.weight", "conv.bias", "g", "b", "m", "v", "up.weight", "fc.weight", "fc.bias"),
        *("proj.weight", "proj.bias", "proj.t"),
    }
    assert facts["conv.bias"].product_of == ("x", "conv.weight")
    assert facts["fc.bias"].product_of == ("f", "fc.weight")


def entry(name: str, **changes: object) -> dict[str, object]:
    return {"name": name, "output_dtype": "uint8", "y_scale": 0.5, **changes}


def test_the_lint_finds_each_mistake(path: Path) -> None:
    good = [entry(name) for name in ("x", "r", "f", "h", "y", "up.weight", "fc.weight")]
    good += [entry("conv.weight", y_scale=[0.5] * 4, axis=0)]
    good += [entry("proj.weight", y_scale=[[0.5, 1]] * 5, axis=1, block_size=3)]
    bias = entry("conv.bias", output_dtype="int32", y_scale=[0.25] * 4, axis=0)

    def rules(entries: list[dict[str, object]]) -> dict[str, str]:
        document = encodings.parse({"version": "2.0.0", "encodings": entries})
        return {finding.name: finding.rule for finding in encodings.check(document, path)}

    assert rules([*good, bias]) == {}
    assert rules([*good[1:], bias]) == {"x": "missing"}
    assert rules([*good, entry("relu")]) == {"relu": "surplus"}
    assert rules([*good, entry("size")]) == {"size": "impossible"}
    assert rules([*good, bias | {"y_scale": [0.25, 0.25, 0.5, 0.25]}]) == {"conv.bias": "bias"}
    assert rules([*good, bias | {"y_scale": [0.25] * 3}]) == {"conv.bias": "impossible"}
    assert rules([*good[:-1], good[-1] | {"block_size": 2}]) == {"proj.weight": "impossible"}
    moved = entry("conv.weight", y_scale=[0.5] * 3, axis=1)
    assert rules([*good[:-2], moved, good[-1]]) == {"conv.weight": "impossible"}


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        encodings.model_facts(tmp_path / "missing.onnx")
    for content in (b"", b"\x00garbage", b"{}"):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(ValueError, match=r"model_facts: .*bad\.onnx: no ONNX file"):
            encodings.model_facts(tmp_path / "bad.onnx")
