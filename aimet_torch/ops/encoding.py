"""From observed limits to the range of a grid, and from a range to scale and offset."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["encoding_from_range", "grouped_scale", "range_from_min_max"]


def range_from_min_max(
    min: Tensor, max: Tensor, qmin: int, qmax: int, symmetric: bool, strict: bool = False
) -> tuple[Tensor, Tensor]:
    """The smallest range of the grid ``[qmin, qmax]`` that holds ``[min, max]`` and zero.

    A symmetric range consists of whole steps on both sides of zero, ``ceil(n / 2)`` of them below
    for ``n = qmax - qmin``; the lowest code is used. The range is at least float32's epsilon wide
    per step, so constant and all-zero data are fine.

    Args:
        min: smallest observed values, floating, any shape; ``+inf`` where nothing was observed.
        max: largest observed values, same shape and dtype; ``-inf`` where nothing was observed.
        qmin: lowest code.
        qmax: highest code.
        symmetric: zero lies in the middle of the grid.
        strict: leave the lowest code of a symmetric grid out, so that both sides are equal; pass
            ``qmin + 1`` on to :func:`encoding_from_range`.

    Returns:
        ``(min, max)`` of the range, same shape and dtype. Not differentiable. NaN gives NaN.

    Raises:
        TypeError: ``min`` and ``max`` are not floating or of different dtypes.
        ValueError: their shapes differ, or ``qmin >= qmax``.

    >>> range_from_min_max(torch.tensor(-1.5), torch.tensor(0.9), -128, 127, symmetric=True)
    (tensor(-1.5000), tensor(1.4883))
    """
    return torch.ops.aimet.range_from_min_max(min, max, qmin, qmax, symmetric, strict)


def encoding_from_range(
    min: Tensor, max: Tensor, qmin: int, qmax: int, symmetric: bool
) -> tuple[Tensor, Tensor]:
    """Scale and offset of the grid ``[qmin, qmax]`` over the range ``[min, max]``.

    ``scale = (max - min) / (qmax - qmin)``, at least the minimal scale. ``offset = clamp(round(min
    / scale) - qmin, -qmax, -qmin)``, or, symmetric, ``-round((qmin + qmax) / 2)``, which is 0 for a
    signed grid.

    Args:
        min: lower limits, floating, any shape.
        max: upper limits, same shape and dtype.
        qmin: lowest code.
        qmax: highest code.
        symmetric: zero lies in the middle of the grid.

    Returns:
        ``(scale, offset)``, same shape and dtype. Differentiable with respect to ``min`` and
        ``max``; rounding counts as the identity.

    Raises:
        TypeError: ``min`` and ``max`` are not floating or of different dtypes.
        ValueError: their shapes differ, or ``qmin >= qmax``.

    >>> encoding_from_range(torch.tensor(-1.0), torch.tensor(2.0), 0, 255, symmetric=False)
    (tensor(0.0118), tensor(-85.))
    """
    return torch.ops.aimet.encoding_from_range(min, max, qmin, qmax, symmetric)


def grouped_scale(scale: Tensor, group_size: Sequence[int], steps: int) -> Tensor:
    """Two levels of scales (LPBQ): scales of blocks as whole numbers times a unit of their group.

    ``unit = max(scale) / steps`` of each group, ``result = clamp(round(scale / unit), 1, steps) *
    unit``.

    Args:
        scale: positive scales of blocks, floating, any shape.
        group_size: scales of a group, one entry per dimension; -1: the rest of the dimension.
        steps: largest whole number, at least 1.

    Returns:
        Same shape and dtype. Differentiable: rounding counts as the identity, and the gradient of
        each unit goes to the largest scales of its group.

    Raises:
        TypeError: ``scale`` is not floating.
        ValueError: groups that do not tile ``scale``, ``steps < 1``, or scales of which the largest
            of a group is not positive and finite.

    >>> grouped_scale(torch.tensor([1.0, 0.52, 0.01]), [-1], 4)
    tensor([1.0000, 0.5000, 0.2500])
    """
    return torch.ops.aimet.grouped_scale(scale, group_size, steps)
