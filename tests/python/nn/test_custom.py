"""Functional operations as modules."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from aimet_torch.nn.modules import custom

# The names of AIMET 2.42 (aimet_torch.nn.modules.custom).
AIMET_NAMES = """
Add Subtract Multiply Divide FloorDivide MatMul Bmm Baddbmm Addmm Concat Split Reshape Permute
Pow Exponential Erf Sqrt RSqrt Log Abs Neg Sin Cos Asin Atan Norm Normalize Mean Sum Prod
CumSum Max AMax Maximum Min AMin Minimum Argmax Argmin Where Equal NotEqual Greater
GreaterEqual Less LessEqual LogicalOr LogicalAnd LogicalNot ElementwiseCeil ElementwiseFloor
ElementwiseUnarySign MaskedFill Gather CustomGather GatherNd ScatterND ScatterElements
IndexSelect Select StridedSlice ChannelShuffle Cast DepthToSpaceCRDMode DepthToSpaceDCRMode
Interpolate MaxPool2d AvgPool2d AdaptiveAvgPool2d BatchNorm GroupNorm RmsNorm RotaryEmbedding
HadamardRotation NullRequant CustomSiLU DynamicConv2d DynamicLinear Pad GridSample RoiAlign
NonMaxSuppression OneHot Expand Tile TopK NonZero Shape Square Outer Round Remainder Fmod
ScaledDotProductAttention
""".split()  # noqa: SIM905


@pytest.mark.parametrize("name", AIMET_NAMES)
def test_class_exists_without_state(name):
    cls = getattr(custom, name)
    assert issubclass(cls, nn.Module)
    assert cls.__name__ == name
    assert cls.__doc__


def onnx_result(op: str, inputs: list[np.ndarray], opset: int = 23, **attributes) -> np.ndarray:
    names = [f"x{i}" for i in range(len(inputs))]
    node = onnx.helper.make_node(op, names, ["y"], **attributes)
    kinds = [onnx.helper.np_dtype_to_tensor_dtype(x.dtype) for x in inputs]
    described = [
        onnx.helper.make_tensor_value_info(n, k, x.shape)
        for n, k, x in zip(names, kinds, inputs, strict=True)
    ]
    result = onnx.helper.make_tensor_value_info("y", kinds[0], None)
    graph = onnx.helper.make_graph([node], "one", described, [result])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    return ReferenceEvaluator(model).run(None, dict(zip(names, inputs, strict=True)))[0]


def array(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


ONNX_CASES = [
    (custom.DepthToSpaceDCRMode(2), "DepthToSpace", [array(2, 8, 3, 4)],
     {"blocksize": 2, "mode": "DCR"}),
    (custom.DepthToSpaceCRDMode(2), "DepthToSpace", [array(2, 8, 3, 4)],
     {"blocksize": 2, "mode": "CRD"}),
    (custom.CustomGather(), "Gather", [array(4, 3), np.array([[0, -1], [2, 1]])], {}),
    (custom.GatherNd(), "GatherND", [array(4, 3, 2), np.array([[0, 1], [3, 2]])], {}),
    (custom.ScatterND(), "ScatterND", [array(4, 3), np.array([[1], [3]]), array(2, 3)], {}),
    (custom.ScatterND(1), "ScatterND", [array(4, 3), np.array([[1], [1]]), array(2, 3)],
     {"reduction": "add"}),
    (custom.Erf(), "Erf", [array(5)], {}),
    (custom.Remainder(), "Mod", [np.array([5, -5, 7]), np.array([3, 3, -4])], {}),
    (custom.RotaryEmbedding(), "RotaryEmbedding",
     [array(2, 3, 4, 6), array(2, 4, 3), array(2, 4, 3)], {}),
    (custom.RotaryEmbedding(True), "RotaryEmbedding",
     [array(2, 3, 4, 6), array(2, 4, 3), array(2, 4, 3)],
     {"interleaved": 1}),
    (custom.RotaryEmbedding(), "RotaryEmbedding",
     [array(2, 3, 4, 6), array(9, 3), array(9, 3), np.array([[0, 1, 2, 3], [5, 6, 7, 8]])], {}),
]  # fmt: skip


@pytest.mark.parametrize(("module", "op", "inputs", "attributes"), ONNX_CASES)
def test_module_computes_what_onnx_says(module, op, inputs, attributes):
    expected = onnx_result(op, inputs, **attributes)
    actual = module(*map(torch.from_numpy, inputs)).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


def test_batched_gather_nd():
    x, indices = torch.randn(2, 4, 3), torch.tensor([[[1], [0]], [[3], [2]]])
    assert torch.equal(custom.GatherNd()(x, indices, 1), torch.stack([x[0, [1, 0]], x[1, [3, 2]]]))


def test_one_hot():
    hot = custom.OneHot(3, off_value=-1, on_value=2)(torch.tensor([2, 0]))
    assert hot.tolist() == [[-1, -1, 2], [2, -1, -1]]


def test_strided_slice():
    x = torch.arange(24).view(4, 6)
    assert torch.equal(custom.StridedSlice()(x, (0, 4, 2), (1, 5)), x[0:4:2, 1:5])


def test_concat_takes_tensors_or_a_list():
    a, b = torch.randn(2, 3), torch.randn(2, 1)
    for result in (custom.Concat(1)(a, b), custom.Concat(axis=1)([a, b])):
        assert torch.equal(result, torch.cat([a, b], 1))


def test_hadamard_rotation_is_orthonormal():
    matrix = custom.HadamardRotation(8)(torch.eye(8))
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(8))
    assert matrix.abs().allclose(torch.full((8, 8), 8**-0.5))
    assert torch.equal(matrix[0], matrix[0].abs())
    with pytest.raises(ValueError, match="`size` must be a power of two, got 6"):
        custom.HadamardRotation(6)


def test_non_max_suppression():
    boxes = torch.tensor([[[0, 0, 2, 2], [0, 0, 2, 1.9], [5, 5, 6, 6], [5, 5, 6.1, 6]]])
    scores = torch.tensor([[[0.5, 0.9, 0.8, 0.1]]])
    result = custom.NonMaxSuppression(0.5, 0.2, 10)(boxes, scores)
    assert result.tolist() == [[0, 0, 1], [0, 0, 2]]
    assert custom.NonMaxSuppression(0.5, 0.2, 1)(boxes, scores).tolist() == [[0, 0, 1]]


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (torch.Tensor.__radd__, "Add"),
        (torch.Tensor.mul, "Multiply"),
        (torch.cat, "Concat"),
        (torch.einsum, "FunctionCall"),
    ],
)
def test_module_for_function(function, name):
    module = custom.module_for_function(function)
    assert type(module).__name__ == name
    assert list(module.state_dict()) == []
    assert type(pickle.loads(pickle.dumps(module))) is type(copy.deepcopy(module)) is type(module)


def test_training_function_follows_the_mode():
    module = custom.TrainingFunctionCall(torch.nn.functional.dropout)
    x = torch.ones(100)
    assert torch.equal(module.eval()(x), x)
    assert not torch.equal(module.train()(x), x)


def test_keyword_arguments_of_arithmetic():
    x, y = torch.randn(3), torch.randn(3)
    assert torch.equal(custom.Subtract()(x, y, alpha=2), x - 2 * y)
    assert torch.equal(
        custom.Divide()(x, y, rounding_mode="floor"), torch.div(x, y, rounding_mode="floor")
    )
    assert torch.equal(custom.Subtract()(1, y), 1 - y)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = custom.Nothing
