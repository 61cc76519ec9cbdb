"""Batch norms right behind a convolution or linear layer become part of it.

The simulation leaves the tensor between the two unrounded because a target folds the batch norm.
Scaling a channel of a weight on a symmetric grid scales its step, so the folded weight is on the
same integers: nothing is rounded anew.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import torch

from aimet_torch.encodings.tensor_encoding import TensorEncoding
from aimet_torch.export.encoded_graph import EncodedGraph
from aimet_torch.export.onnx_grid import OnnxGrid
from aimet_torch.nn.bias_grid import folded_batch_norm, folded_scale

_DEFAULT_EPSILON = 1e-5  # ONNX's default of BatchNormalization


def fold_batch_norms(graph: EncodedGraph) -> None:
    """Fold each batch norm whose input is the unrounded result of a layer with constant weights."""
    for node in list(graph.model.graph):
        if node.op_type == "BatchNormalization" and node.domain == "":
            layer = _foldable_layer(node, graph)
            if layer is not None:
                _fold(layer, node, graph)


def _foldable_layer(node: ir.Node, graph: EncodedGraph) -> ir.Node | None:
    value = node.inputs[0]
    layer = value.producer() if value is not None else None
    if (
        layer is None
        or layer.op_type not in ("Conv", "ConvTranspose", "Gemm")
        or layer.domain != ""
    ):
        return None
    constants = [*node.inputs[1:5], layer.inputs[1], *layer.inputs[2:3]]
    is_constant = all(c is None or c.const_value is not None for c in constants)
    is_private = (
        len(list(value.uses())) == 1 and not value.is_graph_output() and graph.get(value) is None
    )
    is_rounded = any(graph.get(c) is not None for c in [*node.inputs[1:5], *layer.inputs[2:3]])
    encoding = graph.get(layer.inputs[1])
    is_grouped = (
        layer.op_type == "ConvTranspose"
        and "group" in layer.attributes
        and layer.attributes["group"].as_int() > 1
    )
    has_blocks = encoding is not None and encoding.block_size is not None
    return (
        layer
        if is_constant and is_private and not (is_rounded or is_grouped or has_blocks)
        else None
    )


def _fold(layer: ir.Node, norm: ir.Node, graph: EncodedGraph) -> None:
    factor, folded = _folded(layer, norm)
    weight = layer.inputs[1]
    array = weight.const_value.numpy().astype(np.float32)
    factors = _along_channels(factor, layer, array.ndim)
    encoding = graph.get(weight)
    if encoding is not None and not encoding.is_plain_float:
        values, encoding = _scaled(encoding, array, factors)
    else:
        values = (array * factors).astype(np.float32)
    if len(list(weight.uses())) == 1:
        weight.const_value = ir.tensor(np.ascontiguousarray(values), name=weight.name)
    else:  # other layers read it as it is
        layer.replace_input_with(
            1, graph.add_constant(f"{layer.outputs[0].name}_folded_weight", values)
        )
    if encoding is not None:
        graph.encodings[layer.inputs[1]] = encoding
    name = f"{norm.outputs[0].name}_folded_bias"
    value = graph.add_constant(name, folded.astype(np.float32))
    layer.resize_inputs(3)
    layer.replace_input_with(2, value)
    norm.outputs[0].replace_all_uses_with(layer.outputs[0], replace_graph_outputs=True)
    layer.outputs[0].name, norm.outputs[0].name = norm.outputs[0].name, None
    if norm.outputs[0] in graph.encodings:
        graph.encodings[layer.outputs[0]] = graph.encodings.pop(norm.outputs[0])
    layer.graph.remove(norm, safe=True)


def _folded(layer: ir.Node, norm: ir.Node) -> tuple[np.ndarray, np.ndarray]:
    """Factor and bias of each channel, float64."""
    gamma, beta, mean, variance = (torch.tensor(v.const_value.numpy()) for v in norm.inputs[1:5])
    epsilon = _DEFAULT_EPSILON
    if "epsilon" in norm.attributes:
        epsilon = norm.attributes["epsilon"].as_float()
    statistics = SimpleNamespace(
        weight=gamma, bias=beta, running_mean=mean, running_var=variance, eps=epsilon
    )
    bias = layer.inputs[2] if len(layer.inputs) > 2 else None
    values = None if bias is None else torch.tensor(bias.const_value.numpy())
    factor, folded = folded_batch_norm(statistics, values)
    return factor.numpy(), folded.numpy()


def _along_channels(factor: np.ndarray, layer: ir.Node, rank: int) -> np.ndarray:
    """The factors, one for each output channel, in a shape that broadcasts against the weight."""
    is_transposed = layer.op_type == "ConvTranspose" or (
        layer.op_type == "Gemm"
        and not ("transB" in layer.attributes and layer.attributes["transB"].as_int())
    )
    shape = [1] * rank
    shape[1 if is_transposed else 0] = -1
    return factor.reshape(shape)


def _scaled(
    encoding: TensorEncoding, weight: np.ndarray, factor: np.ndarray
) -> tuple[np.ndarray, TensorEncoding]:
    """The same integers or float8 numbers (mirrored by negative factors) with scaled steps."""
    grid = OnnxGrid(encoding, ir.DataType.INT32, 0)
    scale = folded_scale(torch.tensor(encoding.scale), torch.tensor(factor)).numpy()
    if encoding.is_float:  # its numbers lie symmetric about zero
        numbers = grid.integers(weight) * np.sign(factor).astype(np.float32)
        return numbers * scale, replace(encoding, scale=scale)
    levels = grid.integers(weight) + encoding.offset  # multiples of the step
    levels = levels * np.sign(factor).astype(np.int64)
    others = tuple(axis for axis in range(levels.ndim) if factor.shape[axis] == 1)
    offset = np.broadcast_to(encoding.offset, scale.shape)
    # The mirrored grid is another one where the grid has more levels on one side; it is needed only
    # if they are used.
    fits = (levels.min(axis=others, keepdims=True) >= encoding.qmin + offset) & (
        levels.max(axis=others, keepdims=True) <= encoding.qmax + offset
    )
    offset = np.where(fits, offset, -offset - encoding.qmin - encoding.qmax)
    return levels.astype(np.float32) * scale, replace(encoding, scale=scale, offset=offset)
