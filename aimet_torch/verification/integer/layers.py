"""The accumulators of single operators, from codes and attributes of an ONNX node.

Each function takes the node and its inputs (codes; None where an optional input is absent) and
returns what a target sums up, and how large a step of that sum is. What has no such form raises
`NotIntegerError` with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor

from aimet_torch.ops import integer as integer_ops
from aimet_torch.verification.integer.codes import Codes

_INT32_MAX = 2**31 - 1
_SPARE_LIMIT = 30
# A bias counts as one of the accumulator when its step is that of input times weight, up to the
# rounding of a product of two float32.
_SAME_STEP = 1e-6


class NotIntegerError(Exception):
    """An operator that an integer target computes in another way; the text says why."""


@dataclass(frozen=True)
class Accumulator:
    """Sums before requantization.

    Attributes:
        sums: int64, exact.
        step: float64, real size of 1, broadcasts against `sums`.
        least: the least value that any input could bring about.
        largest: the largest one.
        spare_bits: by how much sums are shifted to the left before they are multiplied. A rule that
            rounds twice needs it where sums are small beside their ratio, as those of pooling are;
            TensorFlow Lite divides these by the count as they are, to the same effect.
    """

    sums: Tensor
    step: Tensor
    least: int
    largest: int
    spare_bits: int = 0


Inputs = Sequence[Codes | None]


def accumulate(node: ir.Node, inputs: Inputs) -> Accumulator:
    """What an integer target sums up for a node.

    Raises:
        NotIntegerError: the node has no integer form, or not with these grids.
    """
    if node.op_type not in ACCUMULATORS:
        raise NotIntegerError(f"{node.op_type} is computed from a table or in floating point")
    return ACCUMULATORS[node.op_type](node, inputs)


# -- layers with weights ---------------------------------------------------------------------------


def _convolution(node: ir.Node, inputs: Inputs) -> Accumulator:
    source, weight = _per_tensor(inputs[0], "the input"), _weight(inputs[1])
    is_transposed = node.op_type == "ConvTranspose"
    groups = _int(node, "group", 1)
    channel_axis = 1 if is_transposed else 0
    channels = weight.codes.shape[channel_axis] * (groups if is_transposed else 1)
    step = _product_step(source, weight, channel_axis, groups if is_transposed else 1)
    bias = _bias(inputs[2] if len(inputs) > 2 else None, step, channels)
    dims = source.codes.dim() - 2
    kernel = list(weight.codes.shape[2:])
    stride = _ints(node, "strides", [1] * dims)
    dilation = _ints(node, "dilations", [1] * dims)
    sums = integer_ops.integer_convolution(
        source.codes,
        weight.codes,
        bias,
        input_zero_point=source.grid.zero,
        weight_zero_point=weight.grid.along(weight.grid.zero_point, weight.codes.dim()),
        stride=stride,
        padding=_pads(node, source.codes.shape[2:], kernel, stride, dilation, is_transposed),
        dilation=dilation,
        groups=groups,
        transposed=is_transposed,
        output_padding=_ints(node, "output_padding", [0] * dims) if is_transposed else (),
    )
    rows = weight.centered()
    if is_transposed:  # (in, out / groups, ...) to (out, in / groups, ...)
        rows = rows.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    return _with_limits(sums, step.reshape(-1, *[1] * dims), rows, bias, source)


def _gemm(node: ir.Node, inputs: Inputs) -> Accumulator:
    if _float(node, "alpha") != 1.0 or _float(node, "beta") != 1.0 or _int(node, "transA", 0):
        raise NotIntegerError("Gemm with alpha, beta or transA")
    source, weight = _per_tensor(inputs[0], "the input"), _weight(inputs[1])
    is_turned = bool(_int(node, "transB", 0))
    step = _product_step(source, weight, 0 if is_turned else 1, 1)
    columns = weight.centered().t() if is_turned else weight.centered()
    bias = _bias(inputs[2] if len(inputs) > 2 else None, step, columns.shape[1])
    return _product(source, columns, bias, step)


def _matmul(node: ir.Node, inputs: Inputs) -> Accumulator:
    source, other = _per_tensor(inputs[0], "the first operand"), _given(inputs[1])
    if other.is_constant and other.codes.dim() == 2:
        weight = _weight(other)
        return _product(source, weight.centered(), None, _product_step(source, weight, 1, 1))
    other = _per_tensor(other, "the second operand")
    sums = integer_ops.integer_matmul(
        source.codes,
        other.codes,
        None,
        input_zero_point=source.grid.zero,
        other_zero_point=torch.tensor(other.grid.zero),
    )
    least, largest = _corners(source, other)
    depth = source.codes.shape[-1]
    step = torch.tensor(source.grid.step * other.grid.step, dtype=torch.float64)
    return Accumulator(sums, step, depth * least, depth * largest)


def _product(source: Codes, columns: Tensor, bias: Tensor | None, step: Tensor) -> Accumulator:
    sums = integer_ops.integer_matmul(
        source.codes,
        columns,
        bias,
        input_zero_point=source.grid.zero,
        other_zero_point=torch.tensor(0),
    )
    return _with_limits(sums, step, columns.t(), bias, source)


def _with_limits(
    sums: Tensor, step: Tensor, rows: Tensor, bias: Tensor | None, source: Codes
) -> Accumulator:
    least, largest = integer_ops.accumulator_limits(rows, bias, *source.grid.limits)
    return Accumulator(sums, step, int(least.min()), int(largest.max()))


# -- sums over positions ---------------------------------------------------------------------------


def _average_pool(node: ir.Node, inputs: Inputs) -> Accumulator:
    source = _per_tensor(inputs[0], "the input")
    kernel = _ints(node, "kernel_shape", [])
    dims = len(kernel)
    stride = _ints(node, "strides", [1] * dims)
    dilation = _ints(node, "dilations", [1] * dims)
    sizes = list(source.codes.shape[2:])
    pads = _pads(node, sizes, kernel, stride, dilation, False)
    extra = _ceil_extra(node, sizes, kernel, stride, dilation, pads)
    ends = [p + e for p, e in zip(pads[dims:], extra, strict=True)]
    ones = torch.ones([1, 1, *kernel], dtype=torch.int64)

    def windows(planes: Tensor, zero: int, padding: list[int]) -> Tensor:
        return integer_ops.integer_convolution(
            planes,
            ones,
            None,
            input_zero_point=zero,
            weight_zero_point=torch.tensor(0),
            stride=stride,
            padding=padding,
            dilation=dilation,
        )

    planes = source.codes.flatten(0, 1).unsqueeze(1)
    sums = windows(planes, source.grid.zero, [*pads[:dims], *ends])
    sums = sums.squeeze(1).unflatten(0, source.codes.shape[:2])
    real = torch.ones([1, 1, *sizes], dtype=torch.int64)
    if _int(node, "count_include_pad", 0):
        around = [p for i in reversed(range(dims)) for p in (pads[i], pads[dims + i])]
        counts = windows(torch.nn.functional.pad(real, around, value=1), 0, [*[0] * dims, *extra])
    else:
        counts = windows(real, 0, [*pads[:dims], *ends])
    return _mean(source, sums, counts, math.prod(kernel))


def _global_average_pool(node: ir.Node, inputs: Inputs) -> Accumulator:
    source = _per_tensor(inputs[0], "the input")
    return _mean_over(source, list(range(2, source.codes.dim())), True)


def _reduce_mean(node: ir.Node, inputs: Inputs) -> Accumulator:
    source = _per_tensor(inputs[0], "the input")
    return _mean_over(source, _axes(node, source.codes.dim()), bool(_int(node, "keepdims", 1)))


def _reduce_sum(node: ir.Node, inputs: Inputs) -> Accumulator:
    source = _per_tensor(inputs[0], "the input")
    axes = _axes(node, source.codes.dim())
    count = math.prod(source.codes.shape[axis] for axis in axes)
    sums = source.centered().sum(axes, keepdim=bool(_int(node, "keepdims", 1)))
    least, largest = source.grid.limits
    step = torch.tensor(source.grid.step, dtype=torch.float64)
    return Accumulator(sums, step, least * count, largest * count)


def _mean_over(source: Codes, axes: list[int], keep: bool) -> Accumulator:
    count = math.prod(source.codes.shape[axis] for axis in axes)
    return _mean(source, source.centered().sum(axes, keepdim=keep), torch.tensor(count), count)


def _mean(source: Codes, sums: Tensor, counts: Tensor, most: int) -> Accumulator:
    least, largest = (limit * most for limit in source.grid.limits)
    # A window that lies in the padding altogether has the sum 0.
    step = source.grid.step / counts.clamp(min=1).double()
    used = max(-least, largest).bit_length()
    return Accumulator(sums, step, least, largest, max(0, _SPARE_LIMIT - used))


# -- element by element ----------------------------------------------------------------------------


def _multiply(node: ir.Node, inputs: Inputs) -> Accumulator:
    first = _per_tensor(inputs[0], "the first operand")
    second = _per_tensor(inputs[1], "the second operand")
    step = torch.tensor(first.grid.step * second.grid.step, dtype=torch.float64)
    return Accumulator(first.centered() * second.centered(), step, *_corners(first, second))


ACCUMULATORS: dict[str, Callable[[ir.Node, Inputs], Accumulator]] = {
    "AveragePool": _average_pool,
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_average_pool,
    "MatMul": _matmul,
    "Mul": _multiply,
    "ReduceMean": _reduce_mean,
    "ReduceSum": _reduce_sum,
}


# -- what an operator needs of its inputs ----------------------------------------------------------


def _given(codes: Codes | None) -> Codes:
    if codes is None:
        raise NotIntegerError("an operand in floating point")
    return codes


def _per_tensor(codes: Codes | None, what: str) -> Codes:
    if codes is None:
        raise NotIntegerError(f"{what} is in floating point")
    if not codes.grid.is_per_tensor:
        raise NotIntegerError(f"{what} has several scales")
    return codes


def _weight(codes: Codes | None) -> Codes:
    if codes is None:
        raise NotIntegerError("the weight is in floating point")
    if codes.grid.block_size:
        raise NotIntegerError("the weight has blocks: its sums need a requantization each")
    return codes


def _product_step(source: Codes, weight: Codes, channel_axis: int, groups: int) -> Tensor:
    scale = weight.grid.scale.reshape(-1)
    axis = weight.grid.axis
    if axis is not None and axis % weight.codes.dim() != channel_axis:
        raise NotIntegerError(f"the weight has a scale for each position of axis {axis}")
    return scale.repeat(groups if axis is not None else 1) * source.grid.step


def _bias(codes: Codes | None, step: Tensor, channels: int) -> Tensor | None:
    """The bias in steps of the accumulator, int64; a float one is rounded to them."""
    if codes is None:
        return None
    steps = step.expand(channels)
    scale = codes.grid.scale.reshape(-1).expand(channels)
    integers = codes.centered().reshape(-1).expand(channels)
    if torch.allclose(scale, steps, rtol=_SAME_STEP, atol=0.0):
        return integers.contiguous()
    rounded = (integers.double() * scale / steps).round()
    return rounded.clamp(-_INT32_MAX - 1, _INT32_MAX).long()


def _corners(first: Codes, second: Codes) -> tuple[int, int]:
    """Least and largest product of two codes less their zero points."""
    products = [a * b for a in first.grid.limits for b in second.grid.limits]
    return min(products), max(products)


# -- attributes ------------------------------------------------------------------------------------


def _int(node: ir.Node, name: str, default: int) -> int:
    return int(node.attributes[name].as_int()) if name in node.attributes else default


def _float(node: ir.Node, name: str) -> float:
    return float(node.attributes[name].as_float()) if name in node.attributes else 1.0


def _ints(node: ir.Node, name: str, default: list[int]) -> list[int]:
    return list(node.attributes[name].as_ints()) if name in node.attributes else default


def _axes(node: ir.Node, rank: int) -> list[int]:
    axes = _ints(node, "axes", [])
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        tensor = ir.convenience.get_const_tensor(node.inputs[1])
        if tensor is None:
            raise NotIntegerError("the axes are computed at run time")
        axes = [int(axis) for axis in tensor.numpy().reshape(-1)]
    return sorted(axis % rank for axis in axes) or list(range(rank))


def _pads(
    node: ir.Node,
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    is_transposed: bool,
) -> list[int]:
    """Padding before and after each dimension, also where the node says "same"."""
    dims = len(kernel)
    mode = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    if mode in ("NOTSET", "VALID"):
        return _ints(node, "pads", [0] * 2 * dims)
    if is_transposed:
        raise NotIntegerError(f"auto_pad {mode} of a transposed convolution")
    begins, ends = [], []
    for size, taps, step, gap in zip(sizes, kernel, stride, dilation, strict=True):
        total = max(0, (math.ceil(size / step) - 1) * step + (taps - 1) * gap + 1 - size)
        small, large = total // 2, total - total // 2
        begins.append(small if mode == "SAME_UPPER" else large)
        ends.append(large if mode == "SAME_UPPER" else small)
    return begins + ends


def _ceil_extra(
    node: ir.Node,
    sizes: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    pads: Sequence[int],
) -> list[int]:
    """Positions behind the padding that the last window of a rounded-up size reaches."""
    dims = len(kernel)
    if not _int(node, "ceil_mode", 0):
        return [0] * dims
    result = []
    for i in range(dims):
        length = sizes[i] + pads[i] + pads[dims + i]
        reach = (kernel[i] - 1) * dilation[i] + 1
        windows = math.ceil((length - reach) / stride[i]) + 1
        # No window starts behind the input and the padding before it.
        if (windows - 1) * stride[i] >= sizes[i] + pads[i]:
            windows -= 1
        result.append(max(0, (windows - 1) * stride[i] + reach - length))
    return result
