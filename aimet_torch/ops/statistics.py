"""What calibration and analysis collect of tensors: limits, histograms, errors of quantizing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["min_max", "quantization_errors", "rebin_histogram", "update_histogram_"]


def min_max(
    input: Tensor, shape: Sequence[int], block_size: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Smallest and largest finite value of ``input``, reduced to ``shape``.

    Args:
        input: float16, bfloat16, float32 or float64, any shape and strides.
        shape: broadcasts against ``input``: ``()`` per tensor, ``(C, 1, 1)`` per channel.
        block_size: one entry per dimension of ``shape``, as in :func:`aimet_torch.ops.quantize`.

    Returns:
        ``(min, max)`` of ``shape``, float32 (float64 for float64 input). NaN and infinities do not
        count; where nothing counts, the results are ``+inf`` and ``-inf``. Not differentiable.

    Raises:
        TypeError: ``input`` is not floating.
        ValueError: ``shape`` does not fit.

    >>> min_max(torch.tensor([[1.0, -2.0], [0.5, float("inf")]]), (2, 1))
    (tensor([[-2.0000],
            [ 0.5000]]), tensor([[1.0000],
            [0.5000]]))
    """
    return torch.ops.aimet.min_max(input, shape, block_size)


def update_histogram_(
    histogram: Tensor,
    input: Tensor,
    min: Tensor,
    max: Tensor,
    block_size: Sequence[int] | None = None,
) -> None:
    """Adds the finite values of ``input`` to ``histogram``, in place.

    The bins divide ``[min, max]`` equally, by the formula of ``torch.histc``; values outside count
    in the first or last bin. Where ``min == max`` the bins divide ``[min - 0.5, max + 0.5]``; where
    ``min > max`` nothing is counted.

    Args:
        histogram: int64, shape ``(*min.shape, bins)``; changed.
        input: float16, bfloat16, float32 or float64, any shape and strides.
        min: floating; broadcasts against ``input`` or tiles it with blocks.
        max: same shape and dtype as ``min``.
        block_size: one entry per dimension of ``min``, as in :func:`aimet_torch.ops.quantize`.

    Raises:
        TypeError: ``input``, ``min`` or ``max`` is not floating, or ``histogram`` not int64.
        ValueError: shapes do not fit.

    >>> histogram = torch.zeros(4, dtype=torch.int64)
    >>> zero, one = torch.tensor(0.0), torch.tensor(1.0)
    >>> update_histogram_(histogram, torch.tensor([0.0, 0.1, 0.9, 5.0]), zero, one)
    >>> histogram
    tensor([2, 0, 0, 2])
    """
    torch.ops.aimet.update_histogram_(histogram, input, min, max, block_size)


def rebin_histogram(
    histogram: Tensor, old_min: Tensor, old_max: Tensor, new_min: Tensor, new_max: Tensor
) -> Tensor:
    """Moves the counts of ``histogram`` from ``[old_min, old_max]`` to bins over a wider range.

    A bin that crosses a border of the new bins is divided in proportion, rounded to whole counts;
    no count is lost.

    Args:
        histogram: int64, shape ``(*old_min.shape, bins)``.
        old_min: floating, any shape.
        old_max: same shape and dtype.
        new_min: same shape and dtype, not above ``old_min``.
        new_max: same shape and dtype, not below ``old_max``.

    Returns:
        The counts in the new bins, same shape and dtype as ``histogram``.

    Raises:
        TypeError: a limit is not floating, or ``histogram`` not int64.
        ValueError: shapes do not fit.

    >>> one = torch.tensor(1.0)
    >>> rebin_histogram(torch.tensor([4, 2]), 0 * one, one, 0 * one, 2 * one)
    tensor([6, 0])
    """
    return torch.ops.aimet.rebin_histogram(histogram, old_min, old_max, new_min, new_max)


def quantization_errors(
    input: Tensor,
    grad: Tensor | None,
    scale: Sequence[Tensor],
    offset: Sequence[Tensor],
    qmin: Sequence[int],
    qmax: Sequence[int],
    by_sample: bool = False,
    block_size: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor]:
    """What rounding a tensor to each of several grids does to it and, to first order, to a loss.

    With e = quantize_dequantize(input) - input and g = grad, for each grid: the sum of e^2 (noise);
    the sum of (g e)^2 (expected squared change of the loss if errors are independent); the sum over
    samples of (sum of g e)^2 (squared change); the number of elements beyond the limits. One pass
    over ``input`` and ``grad``, whatever the number of grids.

    Args:
        input: float16, bfloat16, float32 or float64, any shape and strides.
        grad: of a loss, same shape; None: zeros.
        scale: one tensor a grid, all of the same shape, as for :func:`aimet_torch.ops.quantize`.
        offset: one a grid, of that shape or with one element.
        qmin: lowest code of each grid.
        qmax: highest code of each grid.
        by_sample: samples lie along the first dimension; False: all of ``input`` is one.
        block_size: as in :func:`aimet_torch.ops.quantize`.

    Returns:
        ``(errors, power)``, float64: (grids, 4), the sums above in this order, and (), the sum of
        ``input`` squared. Not differentiable.

    Raises:
        TypeError: a tensor is not floating.
        ValueError: shapes, the numbers of entries or a grid do not fit.

    >>> one, zero = torch.tensor(1.0), torch.tensor(0.0)
    >>> x, g = torch.tensor([0.25, 9.0]), torch.tensor([2.0, 1.0])
    >>> errors, power = quantization_errors(x, g, [one], [zero], [-8], [7])
    >>> errors.tolist(), power.item()
    ([[4.0625, 4.25, 6.25, 1.0]], 81.0625)
    """
    return torch.ops.aimet.quantization_errors(
        input, grad, list(scale), list(offset), list(qmin), list(qmax), by_sample, block_size
    )
