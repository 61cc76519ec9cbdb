"""int32 biases for integer targets: scale exactly input scale times weight scale, zero point 0."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from aimet_torch import ops
from aimet_torch.export.encoded_graph import EncodedGraph
from aimet_torch.nn.bias_grid import accumulator_scale

# Operators that add input 2, a bias, to products of input 0 and input 1; the axis of input 1 along
# the bias.
_CHANNEL_AXIS = {
    "Conv": 0,
    "ConvTranspose": 1,
    "Gemm": 1,
    "LayerNormalization": -1,
    "InstanceNormalization": 0,
    "BatchNormalization": 0,
}
_INT32_MAX = 2**31 - 1


@dataclass(frozen=True)
class IntegerBias:
    """A bias on the accumulator's grid: `bias = integers * scale`, one scale or one a channel."""

    node: ir.Node
    integers: np.ndarray
    scale: np.ndarray

    def to_entry(self) -> dict[str, Any]:
        """The neutral form of the bias's encoding, under the name of its tensor."""
        scales = [float(s) for s in np.reshape(self.scale, -1)]
        return {
            "name": self.node.inputs[2].name,
            "dtype": "int",
            "bitwidth": 32,
            "signed": True,
            "symmetric": True,
            "scale": scales,
            "offset": [0] * len(scales),
            "shape": list(np.shape(self.scale)),
            "block_size": None,
            "channel_axis": 0 if np.ndim(self.scale) else None,
        }


def integer_biases(graph: EncodedGraph) -> list[IntegerBias]:
    """Round every constant bias whose operator reads quantized input and weight to int32.

    A channel whose weights are all zero may have so small a scale that its bias does not fit; as
    any scale means the same for zeros, such a channel's weight scale is raised in
    `graph.encodings`.
    """
    found = [
        (node, _values(node.inputs[2]))
        for node in graph.model.graph
        if _has_integer_bias(node, graph)
    ]
    for node, values in found:
        _raise_scale_of_zeros(graph, node, values)
    result = []
    for node, values in found:
        scale = _scale(graph, node)
        result.append(IntegerBias(node, _to_int32(values, scale, node), scale))
    return result


def _has_integer_bias(node: ir.Node, graph: EncodedGraph) -> bool:
    if node.op_type not in _CHANNEL_AXIS or node.domain != "" or len(node.inputs) < 3:
        return False
    source, weight, bias = node.inputs[:3]
    encoding = graph.integer(source)
    return (
        bias is not None
        and bias.const_value is not None
        and graph.get(bias) is None
        and encoding is not None
        and encoding.is_per_tensor
        and graph.integer(weight) is not None
        and _is_plain_sum(node)
    )


def _values(bias: ir.Value) -> np.ndarray:
    return np.asarray(bias.const_value.numpy(), dtype=np.float32).reshape(-1)


def _is_plain_sum(node: ir.Node) -> bool:
    """Whether the bias is added as it is (Gemm could scale it)."""
    return all(
        node.attributes[n].as_float() == 1.0 for n in ("alpha", "beta") if n in node.attributes
    )


def _channel_axis(node: ir.Node) -> int:
    if (
        node.op_type == "Gemm"
        and "transB" in node.attributes
        and node.attributes["transB"].as_int()
    ):
        return 0
    return _CHANNEL_AXIS[node.op_type]


def _groups(node: ir.Node) -> int:
    is_grouped = node.op_type == "ConvTranspose" and "group" in node.attributes
    return node.attributes["group"].as_int() if is_grouped else 1


def _scale(graph: EncodedGraph, node: ir.Node) -> np.ndarray:
    source, weight = graph.encodings[node.inputs[0]], graph.encodings[node.inputs[1]]
    weight_scale = weight.scale.reshape(()) if weight.is_per_tensor else weight.scale
    scale = accumulator_scale(
        torch.tensor(source.scale), torch.tensor(weight_scale), _channel_axis(node), _groups(node)
    )
    return scale.numpy()


def _to_int32(values: np.ndarray, scale: np.ndarray, node: ir.Node) -> np.ndarray:
    # The simulation's own operator: a bias near the middle of two steps must go the same way.
    step = torch.tensor(scale)
    quantized = ops.quantize(
        torch.tensor(values), step, torch.zeros_like(step), -_INT32_MAX - 1, _INT32_MAX
    )
    integers = quantized.double().numpy()
    if np.abs(integers).max(initial=0) > _INT32_MAX:
        warnings.warn(
            f"onnx_qdq.export: bias `{node.inputs[2].name}` of {node.op_type} does not fit int32 "
            "at the scale of its input times its weight and is clamped, for the weights of its "
            "channel are tiny; equalize the model first, or pass `export_int32_bias=False`",
            stacklevel=2,
        )
    return np.clip(integers, -_INT32_MAX - 1, _INT32_MAX).astype(np.int32)


def _raise_scale_of_zeros(graph: EncodedGraph, node: ir.Node, values: np.ndarray) -> None:
    weight = node.inputs[1]
    encoding = graph.encodings[weight]
    scale = _scale(graph, node)
    too_large = np.abs(values.astype(np.float64)) > scale.astype(np.float64) * _INT32_MAX
    if not too_large.any() or weight.const_value is None or encoding.block_size is not None:
        return
    array = np.asarray(weight.const_value.numpy(), dtype=np.float32)
    if encoding.is_per_tensor:
        is_zero = np.full(encoding.scale.shape, not array.any())
        needed = np.full(encoding.scale.shape, np.abs(values).max())
    else:
        axis = _channel_axis(node) % array.ndim
        others = tuple(i for i in range(array.ndim) if i != axis)
        shape = [1] * encoding.scale.ndim
        shape[axis] = -1
        is_zero = ~array.any(axis=others).reshape(shape)
        needed = np.abs(values).reshape(_groups(node), -1).max(axis=0).reshape(shape)
    source_scale = graph.encodings[node.inputs[0]].scale.reshape(-1)[0]
    # A factor of two keeps clear of the limit after rounding.
    raised = np.maximum(
        encoding.scale, np.float32(2.0) * needed / (source_scale * np.float32(_INT32_MAX))
    )
    scale = np.where(is_zero, raised, encoding.scale).astype(np.float32)
    graph.encodings[weight] = replace(encoding, scale=scale)
