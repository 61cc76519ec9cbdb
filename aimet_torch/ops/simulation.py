"""What a simulated layer does with tensors of its own: quantizing in place, noticing changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["fingerprint", "quantize_dequantize_", "quantize_dequantize_by_range_"]


def quantize_dequantize_by_range_(
    input: Tensor,
    min: Tensor,
    max: Tensor,
    qmin: int,
    qmax: int,
    symmetric: bool,
    clamp_min: float | None = None,
    clamp_max: float | None = None,
) -> None:
    """Clamps ``input`` and rounds it to the grid of a range, in place and in one pass.

    The same bits as ``clamp``, :func:`aimet_torch.ops.encoding_from_range` and
    :func:`aimet_torch.ops.quantize_dequantize` one after the other, without a second tensor.

    Args:
        input: float16, bfloat16, float32 or float64, any shape and strides; changed.
        min: lower end of the range, floating; broadcasts against ``input``.
        max: upper end, same shape and dtype.
        qmin: lowest code.
        qmax: highest code.
        symmetric: zero lies in the middle of the grid.
        clamp_min: lower bound of an activation function to apply first, such as 0 for ReLU.
        clamp_max: upper bound, such as 6 for ReLU6.

    Raises:
        NotImplementedError: a gradient would be needed, which an operation in place cannot keep.
        TypeError: ``input``, ``min`` or ``max`` is not floating.
        ValueError: shapes do not fit, ``qmin >= qmax``, or the range is NaN.

    >>> x = torch.tensor([-1.0, 0.26, 9.0])
    >>> quantize_dequantize_by_range_(x, torch.tensor(0.0), torch.tensor(7.5), 0, 15, False, 0.0)
    >>> x
    tensor([0.0000, 0.5000, 7.5000])
    """
    torch.ops.aimet.quantize_dequantize_by_range_(
        input, min, max, qmin, qmax, symmetric, clamp_min, clamp_max
    )


def quantize_dequantize_(
    input: Tensor,
    scale: Tensor,
    offset: Tensor,
    qmin: int,
    qmax: int,
    clamp_min: float | None = None,
    clamp_max: float | None = None,
) -> None:
    """Clamps ``input`` and rounds it to a grid, in place and in one pass.

    The same bits as ``clamp`` and :func:`aimet_torch.ops.quantize_dequantize` one after the other,
    without a second tensor.

    Args:
        input: float16, bfloat16, float32 or float64, any shape and strides; changed.
        scale: size of one step, positive, floating; broadcasts against ``input``.
        offset: floating, the same shape or one element.
        qmin: lowest code.
        qmax: highest code.
        clamp_min: lower bound of an activation function to apply first, such as 0 for ReLU.
        clamp_max: upper bound, such as 6 for ReLU6.

    Raises:
        NotImplementedError: a gradient would be needed, which an operation in place cannot keep.
        TypeError: a tensor is not floating.
        ValueError: shapes do not fit, ``qmin >= qmax``, or a scale is not positive and finite.

    >>> x = torch.tensor([-1.0, 0.26, 9.0])
    >>> quantize_dequantize_(x, torch.tensor(0.5), torch.tensor(0.0), 0, 15, 0.0)
    >>> x
    tensor([0.0000, 0.5000, 7.5000])
    """
    torch.ops.aimet.quantize_dequantize_(input, scale, offset, qmin, qmax, clamp_min, clamp_max)


def fingerprint(tensors: Sequence[Tensor]) -> int:
    """A hash that tells whether tensors have changed, at a cost that does not grow with them.

    Args:
        tensors: any dtypes and shapes. All elements of those with up to 1,024 count, and 256 spread
            evenly over longer ones: for writes that the version counters do not see, such as
            ``parameter.data.mul_(2)``.

    Returns:
        A 64-bit integer, the same in every process.

    >>> x = torch.ones(3)
    >>> before = fingerprint([x])
    >>> x.data[1] = 2.0
    >>> fingerprint([x]) == before
    False
    """
    return torch.ops.aimet.fingerprint(tensors)
