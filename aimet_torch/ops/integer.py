"""Arithmetic of integer-only targets: accumulators, and how they become codes of the next grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "Rounding",
    "accumulator_limits",
    "integer_add",
    "integer_convolution",
    "integer_matmul",
    "requantization_multiplier",
    "requantize",
]

Rounding = Literal["gemmlowp", "single", "half_even"]


def requantization_multiplier(ratio: Tensor) -> tuple[Tensor, Tensor]:
    """Ratios of steps as targets hold them: ``ratio = multiplier * 2**(shift - 31)``.

    Args:
        ratio: Floating-point, any shape, from 0 to below 2**30: (input scale * weight scale /
            output scale), in float64 for all its bits.

    Returns:
        ``(multiplier, shift)``, int32, shape of ``ratio``; 2**30 <= multiplier < 2**31. Ratios
        below 2**-32 become (0, 0).

    Raises:
        TypeError: Not floating-point.
        ValueError: A ratio outside of the above, or NaN.

    Source: Jacob et al. 2018 (arXiv 1712.05877), section 2.2.

    >>> requantization_multiplier(torch.tensor(0.75, dtype=torch.float64))
    (tensor(1610612736, dtype=torch.int32), tensor(0, dtype=torch.int32))
    """
    return torch.ops.aimet.requantization_multiplier(ratio)


def requantize(
    accumulator: Tensor,
    multiplier: Tensor,
    shift: Tensor,
    zero_point: int,
    qmin: int,
    qmax: int,
    rounding: Rounding = "gemmlowp",
) -> Tensor:
    """Codes of an accumulator: ``clamp(round(accumulator * ratio) + zero_point, qmin, qmax)``.

    Integer arithmetic only.

    Args:
        accumulator: Integer dtype, any shape.
        multiplier: int32, of `requantization_multiplier`; broadcasts against ``accumulator``.
        shift: int32, shape of ``multiplier``.
        zero_point: The code of zero.
        qmin: Least code: of the grid, or of an activation function (ReLU: the zero point).
        qmax: Largest code, below 2**31.
        rounding: ``"gemmlowp"``: rounded twice, as gemmlowp, TensorFlow Lite and CMSIS-NN do;
            ``"single"``: once, ties upwards, as the latter two do with single rounding;
            ``"half_even"``: once, ties to even, as QuantizeLinear rounds.

    Returns:
        int32, shape of ``accumulator``.

    Raises:
        TypeError: Dtypes.
        ValueError: Shapes, the grid, a multiplier below 0, a shift outside -31 to 30, or an
            unknown rounding.

    >>> multiplier, shift = requantization_multiplier(torch.tensor(0.5, dtype=torch.float64))
    >>> requantize(torch.tensor([3, 4, 900]), multiplier, shift, 10, 0, 255)
    tensor([ 12,  12, 255], dtype=torch.int32)
    """
    return torch.ops.aimet.requantize(
        accumulator, multiplier, shift, zero_point, qmin, qmax, rounding
    )


def integer_add(
    input: Tensor,
    other: Tensor,
    *,
    input_scale: float,
    input_zero_point: int,
    other_scale: float,
    other_zero_point: int,
    output_scale: float,
    output_zero_point: int,
    qmin: int,
    qmax: int,
    rounding: Rounding = "gemmlowp",
    left_shift: int = 20,
) -> Tensor:
    """The sum of two tensors of codes on grids of their own, as codes of a third grid.

    Both are brought to a common grid, ``2**left_shift`` times as fine as twice the coarser step,
    added there, and requantized.

    Args:
        input: Integer dtype.
        other: Integer dtype, broadcasts against ``input``.
        input_scale: Step of ``input``.
        input_zero_point: Code of zero.
        other_scale: Step of ``other``.
        other_zero_point: Code of zero.
        output_scale: Step of the result.
        output_zero_point: Code of zero.
        qmin: Least code.
        qmax: Largest code, below 2**31.
        rounding: As for `requantize`.
        left_shift: 0 to 30. 20 for 8-bit codes and 15 for 16-bit ones leave room in 32 bits.

    Returns:
        int32, the broadcast shape.

    Raises:
        TypeError: Dtypes.
        ValueError: Shapes, a scale, the grid, ``left_shift`` or an unknown rounding.

    Source: Jacob et al. 2018 (arXiv 1712.05877), appendix A.2.
    """
    return torch.ops.aimet.integer_add(
        input, other, input_scale, input_zero_point, other_scale, other_zero_point, output_scale,
        output_zero_point, qmin, qmax, rounding, left_shift,
    )  # fmt: skip


def integer_convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    input_zero_point: int,
    weight_zero_point: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int = 1,
    transposed: bool = False,
    output_padding: Sequence[int] = (),
) -> Tensor:
    """The accumulators of a convolution, exactly; the border is the input's zero point.

    Args:
        input: Integer dtype, codes, (N, in, *size) with one to three dimensions of size.
        weight: Integer dtype, codes, (out, in / groups, *kernel); transposed: (in, out / groups,
            *kernel).
        bias: Integer dtype, (out), in steps of (input scale * weight scale).
        input_zero_point: Code of zero.
        weight_zero_point: Integer dtype, broadcasts against ``weight``.
        stride: One for each dimension of size.
        padding: Two for each: first all that come before, then all that come after, as in ONNX;
            of a transposed convolution, what they cut off.
        dilation: One for each dimension of size.
        groups: Of the channels.
        transposed: A transposed convolution.
        output_padding: Of a transposed convolution.

    Returns:
        int64, (N, out, *size). ``.to(torch.int32)`` is what a 32-bit register would hold.

    Raises:
        TypeError: Dtypes.
        ValueError: Shapes, or codes so large that sums could reach 2**53.
    """
    return torch.ops.aimet.integer_convolution(
        input, weight, bias, input_zero_point, weight_zero_point, list(stride), list(padding),
        list(dilation), groups, transposed, list(output_padding),
    )  # fmt: skip


def integer_matmul(
    input: Tensor,
    other: Tensor,
    bias: Tensor | None,
    *,
    input_zero_point: int,
    other_zero_point: Tensor,
) -> Tensor:
    """The accumulators of a matrix product, exactly.

    Args:
        input: Integer dtype, codes, (..., m, k).
        other: Integer dtype, codes, (..., k, n).
        bias: Integer dtype, broadcasts against the product.
        input_zero_point: Code of zero.
        other_zero_point: Integer dtype, broadcasts against ``other``.

    Returns:
        int64, shape of ``input @ other``.

    Raises:
        TypeError: Dtypes.
        ValueError: Shapes, or codes so large that sums could reach 2**53.
    """
    return torch.ops.aimet.integer_matmul(input, other, bias, input_zero_point, other_zero_point)


def accumulator_limits(
    weight: Tensor, bias: Tensor | None, input_min: int, input_max: int
) -> tuple[Tensor, Tensor]:
    """How far the accumulators of a layer can go, whatever its input holds.

    Args:
        weight: Integer dtype, (out, *), codes less their zero point.
        bias: Integer dtype, (out).
        input_min: Least code of the input less its zero point.
        input_max: Largest one.

    Returns:
        ``(min, max)``, int64, (out). Where ``input_min <= 0 <= input_max``, partial sums that start
        with the bias lie within them, too, in whatever order they grow.

    Raises:
        TypeError: Dtypes.
        ValueError: Shapes, or ``input_min > input_max``.

    >>> accumulator_limits(torch.tensor([[3, -2]]), torch.tensor([10]), -1, 4)
    (tensor([-1]), tensor([24]))
    """
    return torch.ops.aimet.accumulator_limits(weight, bias, input_min, input_max)
