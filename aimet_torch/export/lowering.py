"""Encodings become QuantizeLinear and DequantizeLinear nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as ir_passes

from aimet_torch.encodings.tensor_encoding import TensorEncoding
from aimet_torch.export.bias import integer_biases
from aimet_torch.export.encoded_graph import EncodedGraph
from aimet_torch.export.onnx_grid import WIDE_TYPES_OPSET, OnnxGrid, Signedness, onnx_grid

PRODUCER = "aimet_torch"
# Metadata of a DequantizeLinear: dotted name of the simulation's quantizer.
QUANTIZER_KEY = "aimet_torch.quantizer"
_NO_OP_FLOAT_BITS = 16

_NORMALIZATIONS = frozenset(
    {
        "BatchNormalization",
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "RMSNormalization",
    }
)

# Operators for which a target wants every operand on an integer grid, constants too.
_OPERATORS_WITH_CONSTANTS = frozenset({"Add", "Sub", "Mul", "Div", "Concat", "MatMul"})


def lower(
    graph: EncodedGraph,
    export_int32_bias: bool,
    prequantize_constants: bool,
    signedness: Signedness,
) -> None:
    """Put a QuantizeLinear/DequantizeLinear pair behind every tensor on an integer grid, in place.

    Args:
        graph: FP32 graph and encodings; afterwards its model holds the pairs.
        export_int32_bias: biases as int32 constants on the accumulator's grid.
        prequantize_constants: weights as integer constants without QuantizeLinear.
        signedness: type of activations' integers; None keeps each grid's own.
    """
    writer = _Writer(graph, graph.opset, prequantize_constants, signedness)
    # Biases need the encodings of inputs and weights, and may raise the scale of zero weights:
    # first of all.
    biases = integer_biases(graph) if export_int32_bias else []
    constants = _exact_constants(graph)
    for value, encoding in list(graph.encodings.items()):
        # Targets compute in 16-bit floats anyway: those quantizers need no operator.
        if not encoding.is_float or encoding.bitwidth < _NO_OP_FLOAT_BITS:
            writer.insert_pair(value, encoding)
    for bias in biases:
        source = bias.node.inputs[2]
        writer.constant(source, bias.integers, bias.scale, None, 0, [(bias.node, 2)])
    for constant in constants:
        writer.constant(
            constant.value,
            constant.integers,
            constant.scale,
            constant.zero_point,
            None,
            constant.uses,
        )
    ir.passes.Sequential(ir_passes.RemoveUnusedNodesPass(), ir_passes.TopologicalSortPass())(
        graph.model
    )
    graph.model.metadata_props["producer"] = PRODUCER


@dataclass(frozen=True)
class _ExactConstant:
    """A constant operand that has one value throughout: that value is the scale of its grid."""

    value: ir.Value
    integers: np.ndarray
    scale: np.ndarray
    zero_point: np.ndarray
    uses: list[tuple[ir.Node, int]]


def _exact_constants(graph: EncodedGraph) -> list[_ExactConstant]:
    result = []
    for value in list(graph.model.graph.initializers.values()):
        if (
            graph.get(value) is not None
            or value.dtype != ir.DataType.FLOAT
            or value.const_value is None
        ):
            continue
        uses = [(use.node, use.idx) for use in value.uses() if _wants_integers(use.node, graph)]
        if not uses:
            continue
        array = value.const_value.numpy()
        number = array.flat[0] if array.size else np.float32(0)
        if not np.isfinite(number) or np.any(array != number):
            continue
        # (1 - 0) * c, or (0 - 1) * -c for a negative c: exact.
        is_negative = bool(number < 0)
        integers = np.full(array.shape, 0 if is_negative or number == 0 else 1, np.uint8)
        scale = np.abs(number, dtype=np.float32) if number != 0 else np.float32(1)
        result.append(_ExactConstant(value, integers, scale, np.uint8(is_negative), uses))
    return result


def _wants_integers(node: ir.Node, graph: EncodedGraph) -> bool:
    return (
        node.domain == ""
        and node.op_type in _OPERATORS_WITH_CONSTANTS
        and any(graph.integer(value) is not None for value in node.inputs)
    )


class _Writer:
    """Adds nodes and constants to a graph under names that nobody else has."""

    def __init__(
        self, graph: EncodedGraph, opset: int, prequantize_constants: bool, signedness: Signedness
    ) -> None:
        self._encoded = graph
        self._graph = graph.model.graph
        self._opset = opset
        self._prequantize = prequantize_constants
        self._signedness = signedness

    def insert_pair(self, value: ir.Value, encoding: TensorEncoding) -> None:
        """Let all readers of a tensor read it quantized and dequantized."""
        grid = self._grid(value, encoding)
        readers = [use for use in value.uses() if use.node.op_type not in ("Shape", "Size")]
        is_output = value.is_graph_output()
        name = value.name or "tensor"
        rank = value.shape.rank() if value.shape is not None else 0
        scale, zero_point, attributes = self._parameters(name, grid, rank, value)
        is_stored = value.is_initializer() and (self._prequantize or not grid.saturates_alike)
        if is_stored:
            array = np.asarray(value.const_value.numpy(), dtype=np.float32)
            quantized = self._encoded.add_constant(
                f"{name}_quantized", grid.integers(array), grid.dtype
            )
        else:
            source = value if grid.saturates_alike else self._clipped(value, grid)
            quantized = self._node(
                "QuantizeLinear",
                [source, scale, zero_point],
                f"{name}_quantized",
                grid.dtype,
                value.shape,
                attributes,
            )
        result = self._node(
            "DequantizeLinear",
            [quantized, scale, zero_point],
            f"{name}_dequantized",
            value.dtype or ir.DataType.FLOAT,
            value.shape,
            attributes,
        )
        result.producer().metadata_props[QUANTIZER_KEY] = encoding.source
        for use in readers:
            use.node.replace_input_with(use.idx, result)
        if is_output:
            self._take_over_output(value, result)
        factors = [use for use in readers if use.node.op_type == "MatMul" and use.idx == 1]
        if factors and not value.is_initializer() and _is_wide_and_shifted(grid):
            self._sign(result, name, grid, factors)

    def _sign(self, result: ir.Value, name: str, grid: OnnxGrid, factors: list[Any]) -> None:
        """Let matrix products read a wide second factor as signed integers: the same numbers.

        Qualcomm's HTP multiplies uint16 by int16; a second uint16 would be cut to 8 bits.
        """
        signed = onnx_grid(grid.encoding, "signed", self._opset)
        rank = result.shape.rank() if result.shape is not None else 0
        scale, zero_point, attributes = self._parameters(f"{name}_signed", signed, rank, result)
        kind = "QuantizeLinear", "DequantizeLinear"
        for op_type, dtype in zip(kind, (signed.dtype, result.dtype), strict=True):
            suffix = "quantized" if op_type == kind[0] else "dequantized"
            result = self._node(
                op_type, [result, scale, zero_point], f"{name}_signed_{suffix}", dtype,
                result.shape, attributes,
            )  # fmt: skip
        for use in factors:
            use.node.replace_input_with(use.idx, result)

    def _grid(self, value: ir.Value, encoding: TensorEncoding) -> OnnxGrid:
        if not (value.is_initializer() and encoding.is_param):
            return onnx_grid(encoding, self._signedness, self._opset)
        if all(use.node.op_type in _NORMALIZATIONS for use in value.uses()):
            # Targets take their weight as 8 bits or more and in the type of the activations.
            opset = min(self._opset, WIDE_TYPES_OPSET - 1) if encoding.bitwidth < 8 else self._opset
            return onnx_grid(encoding, self._signedness, opset)
        return onnx_grid(encoding, None, self._opset)

    def constant(
        self,
        value: ir.Value,
        integers: np.ndarray,
        scale: np.ndarray,
        zero_point: np.ndarray | None,
        axis: int | None,
        uses: list[tuple[ir.Node, int]],
    ) -> None:
        """Let the given readers of a constant read it from integers."""
        name = value.name or "constant"
        dtype = ir.DataType.INT32 if integers.dtype == np.int32 else ir.DataType.UINT8
        inputs = [
            self._encoded.add_constant(
                f"{name}_quantized", integers.reshape(value.shape.numpy()), dtype
            ),
            self._encoded.add_constant(
                f"{name}_scale", np.asarray(scale, np.float32), ir.DataType.FLOAT
            ),
        ]
        if zero_point is not None:
            inputs.append(self._encoded.add_constant(f"{name}_zero_point", zero_point, dtype))
        attributes = {"axis": axis} if axis is not None and np.ndim(scale) > 0 else {}
        result = self._node(
            "DequantizeLinear",
            inputs,
            f"{name}_dequantized",
            ir.DataType.FLOAT,
            value.shape,
            attributes,
        )
        for node, index in uses:
            node.replace_input_with(index, result)

    def _parameters(
        self, name: str, grid: OnnxGrid, rank: int, value: ir.Value
    ) -> tuple[ir.Value, ir.Value, dict[str, int]]:
        """Scale and zero point in ONNX's form: a scalar, a vector along `axis`, or by block."""
        encoding = grid.encoding
        scale, zero_point = encoding.scale, grid.zero_point
        attributes: dict[str, int] = {}
        axis = encoding.channel_axis(rank)
        if encoding.block_size is not None:
            scale, zero_point, attributes = _by_block(encoding, grid, value)
        elif axis is None:
            scale, zero_point = scale.reshape(()), zero_point.reshape(())
        else:
            scale, zero_point, attributes = (
                scale.reshape(-1),
                zero_point.reshape(-1),
                {"axis": axis},
            )
        return (
            self._encoded.add_constant(f"{name}_scale", scale, value.dtype or ir.DataType.FLOAT),
            self._encoded.add_constant(f"{name}_zero_point", zero_point, grid.dtype),
            attributes,
        )

    def _clipped(self, value: ir.Value, grid: OnnxGrid) -> ir.Value:
        """The tensor limited to a grid that has fewer levels than its integer type."""
        low, high = grid.real_limits()
        if not grid.encoding.is_per_tensor:
            raise NotImplementedError(
                f"onnx_qdq.export: quantizer `{grid.encoding.source}` has {grid.encoding.bitwidth} "
                "bits and a scale for each channel of an activation; ONNX has no integer type with "
                "its limits; use 4, 8 or 16 bits"
            )
        name = value.name or "tensor"
        limits = [
            self._encoded.add_constant(f"{name}_{end}", limit.reshape(()), ir.DataType.FLOAT)
            for end, limit in (("low", low), ("high", high))
        ]
        return self._node(
            "Clip", [value, *limits], f"{name}_clipped", ir.DataType.FLOAT, value.shape, {}
        )

    def _take_over_output(self, value: ir.Value, result: ir.Value) -> None:
        """The dequantized tensor becomes the model's output, under the output's name."""
        name = value.name
        value.name = self._encoded.unique_name(f"{name}_float")
        result.name = name
        for index, output in enumerate(self._graph.outputs):
            if output is value:
                self._graph.outputs[index] = result

    def _node(
        self,
        op_type: str,
        inputs: list[ir.Value],
        name: str,
        dtype: ir.DataType,
        shape: ir.Shape | None,
        attributes: dict[str, int],
    ) -> ir.Value:
        name = self._encoded.unique_name(name)
        node = ir.node(op_type, inputs, attributes=attributes, name=f"node_{name}")
        value = node.outputs[0]
        value.name, value.type, value.shape = name, ir.TensorType(dtype), shape
        self._graph.append(node)  # sorted when all nodes are there
        return value


def _is_wide_and_shifted(grid: OnnxGrid) -> bool:
    """Whether a grid symmetric about zero is stored as uint16."""
    is_symmetric = grid.encoding.qmin < 0 and not np.any(grid.encoding.offset)
    return is_symmetric and grid.dtype == ir.DataType.UINT16


def _by_block(
    encoding: TensorEncoding, grid: OnnxGrid, value: ir.Value
) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """ONNX blocks: one axis has blocks, along all others there is one scale for each element."""
    sizes = list(value.shape.numpy())
    blocks = [
        size // count if block == -1 else block
        for size, count, block in zip(
            sizes, encoding.scale.shape, encoding.block_size or (), strict=True
        )
    ]
    blocked = [
        axis for axis, block in enumerate(blocks) if block > 1 and encoding.scale.shape[axis] > 1
    ]
    blocked = blocked or [axis for axis, block in enumerate(blocks) if block > 1][:1] or [0]
    if len(blocked) > 1:
        raise NotImplementedError(
            f"onnx_qdq.export: quantizer `{encoding.source}` has blocks along axes {blocked}; ONNX "
            "has them along one axis"
        )
    axis = blocked[0]
    shape = [encoding.scale.shape[i] if i == axis else size for i, size in enumerate(sizes)]
    return (
        np.broadcast_to(encoding.scale, shape),
        np.broadcast_to(grid.zero_point, shape),
        {"axis": axis, "block_size": blocks[axis]},
    )
