"""A QDQ graph run as an integer-only target runs it.

Between two quantized tensors lies a group: one operator that reads codes, activation functions that
a target fuses into it (Relu, Clip), and the QuantizeLinear that ends it. Convolutions, products,
sums, means and concatenations are computed with integers alone. Operators that only move numbers
move codes. Of the rest, functions of one tensor are what a target has in a table of 256 or 65,536
entries, and others (Softmax, normalisations, recurrent cells) are computed in floating point and
rounded: each target has an approximation of its own there, which no reference can predict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from aimet_torch.export.encoded_graph import GRID_PRESERVING
from aimet_torch.ops import integer as integer_ops
from aimet_torch.ops.integer import Rounding
from aimet_torch.verification.integer.codes import Codes, IntegerGrid, integer_tensor
from aimet_torch.verification.integer.layers import Accumulator, NotIntegerError, accumulate

INTEGER, MOVED, TABLE, FLOAT, INPUT = "integer", "moved", "table", "float", "input"
# Functions of one number: a table of the codes gives the same codes.
_TABLES = frozenset(
    {
        *("Abs", "Celu", "Cos", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish"),
        *("LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Selu", "Sigmoid", "Sin"),
        *("Softplus", "Softsign", "Sqrt", "Tanh"),
    }
)
_FUSED = frozenset({"Relu", "Clip"})
# Two codes of `bits` bits, shifted by this much, have room in 32 bits for their sum.
_LARGEST_SHIFT, _OPERAND_BITS = 20, 30

_BIAS = 2  # input of Conv, ConvTranspose and Gemm
_FINE_BITS = 50

Evaluate = Callable[[ir.Node, list[np.ndarray | None]], list[np.ndarray]]


@dataclass(frozen=True)
class Group:
    """What ends in one QuantizeLinear.

    Attributes:
        quantize: that node.
        root: the operator whose result is rounded; None where codes are only requantized.
        source: the tensor that is requantized, where there is no root.
        low: lower limit of the fused activation functions.
        high: upper limit.
    """

    quantize: ir.Node
    root: ir.Node | None
    source: ir.Value | None
    low: float
    high: float


@dataclass(frozen=True)
class GroupResult:
    """What a target computes for a group.

    Attributes:
        codes: integers of the result.
        kind: "integer", "moved", "table", "float", or "input": an input of the model, rounded.
        reason: why not "integer"; empty for those.
        accumulator: the sums before requantization, where there are any.
    """

    codes: Codes
    kind: str
    reason: str = ""
    accumulator: Accumulator | None = None


class IntegerGraph:
    """A QDQ model on an integer-only target.

    Args:
        model: with constants for all scales.
        evaluate: computes one node in floating point.
        rounding: rule of requantization, as for `aimet_torch.ops.integer.requantize`.
        accumulator_bits: 32: accumulators wrap around at 32 bits; 64: they do not.
    """

    def __init__(
        self,
        model: ir.Model,
        evaluate: Evaluate,
        rounding: Rounding = "gemmlowp",
        accumulator_bits: int = 32,
    ) -> None:
        self._graph = model.graph
        self._evaluate = evaluate
        self._rounding = rounding
        self._accumulator_bits = accumulator_bits
        self._constants: dict[ir.Value, Codes | None] = {}
        self.groups = [
            _group(node)
            for node in model.graph
            if node.op_type == "QuantizeLinear" and node.inputs[0].const_value is None
        ]

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        fed_codes: Mapping[str, np.ndarray] | None = None,
        visit: Callable[[Group, GroupResult], None] = lambda group, result: None,
    ) -> list[np.ndarray]:
        """Compute all groups in order.

        Args:
            feeds: the model's inputs by name.
            fed_codes: integers by the name of a QuantizeLinear's result: what later groups read
                instead of the computed ones.
            visit: called with each group and its result.

        Returns:
            The model's outputs, as real numbers.
        """
        state = _State(self, feeds)
        for group in self.groups:
            result = self._compute(group, state)
            visit(group, result)
            name = group.quantize.outputs[0].name or ""
            codes = result.codes
            if fed_codes is not None and name in fed_codes:
                given = torch.from_numpy(fed_codes[name].astype(np.int64))
                codes = Codes(given.reshape(codes.codes.shape), codes.grid)
            state.codes[group.quantize.outputs[0]] = codes
        return [state.array(value) for value in self._graph.outputs]

    def _compute(self, group: Group, state: _State) -> GroupResult:
        grid = _grid_of(group.quantize)
        source = group.quantize.inputs[0]
        if source.producer() is None:
            return GroupResult(grid.quantize(state.tensor(source)), INPUT, "rounded")
        try:
            return self._integers(group, grid, state)
        except NotIntegerError as error:
            kind, reason = FLOAT, str(error)
        if group.root is not None and group.root.op_type in _TABLES:
            operand = state.codes_of(group.root.inputs[0])
            if operand is not None and operand.grid.is_per_tensor:
                kind, reason = TABLE, f"{group.root.op_type} of every code"
        return GroupResult(grid.quantize(state.tensor(source)), kind, reason)

    def _integers(self, group: Group, grid: IntegerGrid, state: _State) -> GroupResult:
        if not grid.is_per_tensor:
            raise NotIntegerError("the result has several scales")
        limits = _code_limits(group, grid)
        if group.root is None:
            assert group.source is not None
            return self._moved(state.codes_of(group.source), grid, limits)
        root = group.root
        if root.op_type in GRID_PRESERVING or root.op_type in ("Pad", "Resize"):
            return self._moved(self._move(root, state), grid, limits)
        inputs = [state.operand(root, position) for position in range(len(root.inputs))]
        if root.op_type == "Concat":
            return self._concatenated(root, inputs, grid, limits)
        if root.op_type in ("Add", "Sub"):
            return self._added(root, inputs, grid, limits)
        sums = accumulate(root, inputs)
        return GroupResult(self._requantized(sums, grid, limits), INTEGER, "", sums)

    def _requantized(self, sums: Accumulator, grid: IntegerGrid, limits: tuple[int, int]) -> Codes:
        unit = 2**sums.spare_bits
        held = sums.sums * unit
        if self._accumulator_bits == 32:
            held = held.to(torch.int32)
        multiplier, shift = integer_ops.requantization_multiplier(sums.step / unit / grid.step)
        codes = integer_ops.requantize(held, multiplier, shift, grid.zero, *limits, self._rounding)
        return Codes(codes.long(), grid)

    def _moved(
        self, source: Codes | None, grid: IntegerGrid, limits: tuple[int, int]
    ) -> GroupResult:
        if source is None or not source.grid.is_per_tensor:
            raise NotIntegerError("it moves a tensor in floating point or with several scales")
        is_same_step = source.grid.step == grid.step
        if is_same_step:
            codes = (source.centered() + grid.zero).clamp(*limits)
            return GroupResult(Codes(codes, grid), MOVED, "codes as they are")
        step = torch.tensor(source.grid.step, dtype=torch.float64)
        sums = Accumulator(source.centered(), step, *source.grid.limits)
        return GroupResult(self._requantized(sums, grid, limits), INTEGER, "", sums)

    def _move(self, node: ir.Node, state: _State) -> Codes:
        """Codes moved by an operator: it runs on (code - zero point), which float32 holds."""
        source = state.codes_of(node.inputs[0])
        if source is None or not source.grid.is_per_tensor or not _only_moves(node):
            raise NotIntegerError(
                f"{node.op_type} of a tensor in floating point, or in its own mode"
            )
        rest = [None if value is None else state.array(value) for value in node.inputs[1:]]
        moved = self._evaluate(node, [source.centered().float().numpy(), *rest])[0]
        return Codes(torch.from_numpy(moved).long() + source.grid.zero, source.grid)

    def _concatenated(
        self,
        node: ir.Node,
        inputs: list[Codes | None],
        grid: IntegerGrid,
        limits: tuple[int, int],
    ) -> GroupResult:
        parts = [self._moved(part, grid, limits) for part in inputs]
        axis = node.attributes["axis"].as_int()
        codes = Codes(torch.cat([part.codes.codes for part in parts], axis), grid)
        if all(part.kind == MOVED for part in parts):
            return GroupResult(codes, MOVED, "codes as they are")
        sums = [part.accumulator for part in parts if part.accumulator is not None]
        widest = max(sums, key=lambda s: max(-s.least, s.largest))
        return GroupResult(codes, INTEGER, "", widest)

    def _added(
        self,
        node: ir.Node,
        inputs: list[Codes | None],
        grid: IntegerGrid,
        limits: tuple[int, int],
    ) -> GroupResult:
        first, second = inputs[0], inputs[1]
        if first is None or second is None:
            raise NotIntegerError("an operand is in floating point")
        if not (first.grid.is_per_tensor and second.grid.is_per_tensor):
            raise NotIntegerError("an operand has several scales")
        a, b = first.centered(), second.centered()
        if node.op_type == "Sub":
            b = -b
        magnitude = max(abs(x) for g in (first.grid, second.grid) for x in g.limits)
        left_shift = min(_LARGEST_SHIFT, _OPERAND_BITS - (magnitude - 1).bit_length())
        codes = integer_ops.integer_add(
            a,
            b,
            input_scale=first.grid.step,
            input_zero_point=0,
            other_scale=second.grid.step,
            other_zero_point=0,
            output_scale=grid.step,
            output_zero_point=grid.zero,
            qmin=limits[0],
            qmax=limits[1],
            rounding=self._rounding,
            left_shift=max(0, left_shift),
        )
        return GroupResult(Codes(codes.long(), grid), INTEGER, "")


def _group(quantize: ir.Node) -> Group:
    low, high = -np.inf, np.inf
    value = quantize.inputs[0]
    node = value.producer()
    while node is not None and node.op_type in _FUSED and _is_private(value):
        limits = _clip_limits(node)
        if limits is None:
            break
        # The function that is applied last has the last word.
        low, high = min(max(low, limits[0]), high), max(min(high, limits[1]), low)
        value = node.inputs[0]
        node = value.producer()
    is_grid = node is None or node.op_type == "DequantizeLinear"
    if is_grid or not _is_private(value):
        return Group(quantize, None, value, low, high)
    return Group(quantize, node, None, low, high)


def _is_private(value: ir.Value) -> bool:
    return len(list(value.uses())) == 1 and not value.is_graph_output()


def _clip_limits(node: ir.Node) -> tuple[float, float] | None:
    if node.op_type == "Relu":
        return 0.0, float(np.inf)
    limits = [float(-np.inf), float(np.inf)]
    for position in (1, 2):
        value = node.inputs[position] if len(node.inputs) > position else None
        if value is None:
            continue
        tensor = ir.convenience.get_const_tensor(value)
        if tensor is None:
            return None
        limits[position - 1] = float(tensor.numpy().reshape(-1)[0])
    return limits[0], limits[1]


def _code_limits(group: Group, grid: IntegerGrid) -> tuple[int, int]:
    """The grid's limits, and those of fused activation functions as its codes."""
    bounds = torch.tensor([group.low, group.high], dtype=torch.float32)
    low, high = grid.quantize(bounds).codes.tolist()
    if low == high:  # all of the result is one code; requantization wants two
        return (low, low + 1) if low < grid.qmax else (low - 1, low)
    return low, high


def _grid_of(node: ir.Node) -> IntegerGrid:
    return IntegerGrid.of_node(node, _integer_type(node))


def _integer_type(node: ir.Node) -> ir.DataType:
    zero_point = node.inputs[2] if len(node.inputs) > 2 else None
    if zero_point is not None and zero_point.const_value is not None:
        return zero_point.const_value.dtype
    if node.op_type == "DequantizeLinear" and node.inputs[0].const_value is not None:
        return node.inputs[0].const_value.dtype
    return ir.DataType.UINT8


def _only_moves(node: ir.Node) -> bool:
    if node.op_type == "Resize":
        mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "nearest"
        return mode == "nearest"
    if node.op_type == "Pad" and len(node.inputs) > 2 and node.inputs[2] is not None:
        filler = ir.convenience.get_const_tensor(node.inputs[2])
        return filler is not None and not np.any(filler.numpy())
    return True


class _State:
    """Values of one run: codes of quantized tensors, and arrays of what is computed in floats."""

    def __init__(self, graph: IntegerGraph, feeds: Mapping[str, np.ndarray]) -> None:
        self._owner = graph
        self.codes: dict[ir.Value, Codes] = {}
        self._arrays: dict[ir.Value, np.ndarray] = {
            value: feeds[value.name] for value in graph._graph.inputs if value.name in feeds
        }

    def codes_of(self, value: ir.Value) -> Codes | None:
        """The codes of a dequantized tensor or constant; None for one in floating point."""
        node = value.producer()
        if node is None or node.op_type != "DequantizeLinear":
            return None
        if value not in self._owner._constants:
            self._owner._constants[value] = _constant_codes(node)
        constant = self._owner._constants[value]
        return constant if constant is not None else self.codes.get(node.inputs[0])

    def operand(self, node: ir.Node, position: int) -> Codes | None:
        """The codes of an input; None when it is absent or no tensor of numbers.

        Raises:
            NotIntegerError: the input is in floating point.
        """
        value = node.inputs[position]
        if value is None or value.dtype == ir.DataType.INT64:
            return None
        codes = self.codes_of(value)
        if codes is None and position == _BIAS and value.const_value is not None:
            return _finely(value.const_value.numpy())
        if codes is None:
            raise NotIntegerError(f"`{value.name}` is in floating point")
        return codes

    def array(self, value: ir.Value) -> np.ndarray:
        """A tensor as real numbers (or whatever it holds), computed when it is not there yet."""
        if value.const_value is not None:
            return value.const_value.numpy()
        if value not in self._arrays:
            codes = self.codes_of(value)
            if codes is not None:
                self._arrays[value] = codes.dequantized().numpy()
            else:
                self._run(value)
        return self._arrays[value]

    def tensor(self, value: ir.Value) -> Tensor:
        """A tensor of real numbers, float32."""
        return torch.from_numpy(np.array(self.array(value), np.float32))

    def _run(self, value: ir.Value) -> None:
        node = value.producer()
        if node is None:
            raise ValueError(f"verify: there is no input `{value.name}`")
        inputs = [None if v is None else self.array(v) for v in node.inputs]
        results = self._owner._evaluate(node, inputs)
        for output, array in zip(node.outputs, results, strict=True):
            self._arrays[output] = array


def _finely(values: np.ndarray) -> Codes:
    """Real constants on a grid so fine that rounding to any other one hides it."""
    numbers = torch.from_numpy(np.array(values, np.float64))
    scale = torch.ldexp(numbers.abs().max().clamp(min=1e-30), torch.tensor(-_FINE_BITS))
    grid = IntegerGrid(scale, torch.tensor(0), None, -(2**_FINE_BITS), 2**_FINE_BITS)
    return Codes((numbers / scale).round().long(), grid, is_constant=True)


def _constant_codes(node: ir.Node) -> Codes | None:
    """The codes of a weight or bias: stored, or rounded by a QuantizeLinear."""
    source = node.inputs[0]
    if source.const_value is not None:
        return Codes(integer_tensor(source.const_value), _grid_of(node), is_constant=True)
    maker = source.producer()
    if maker is None or maker.op_type != "QuantizeLinear":
        return None
    stored = maker.inputs[0].const_value
    if stored is None:
        return None
    values = torch.from_numpy(np.array(stored.numpy(), np.float32))
    return _grid_of(maker).quantize(values).as_constant()
