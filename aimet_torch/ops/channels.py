"""Which channels of a network to keep: typed functions over the operators of channel selection.

Channels come in units that stay or go as one. A reader is a layer that multiplies them by its
weights. Formulas: ``docs/pruning.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "ChannelReader",
    "channel_errors",
    "channel_lasso",
    "channel_lasso_order",
    "channel_magnitude",
    "channel_quadratic",
    "eliminate_channels",
]


class ChannelReader(NamedTuple):
    """A layer, or one group of it, that reads channels."""

    weight: Tensor
    """(o, d): floating-point."""
    gram: Tensor
    """(d, d): second moments of its inputs, positive definite."""
    unit: Tensor
    """(d,) int64: the unit of each input; -1 for what always stays."""
    scale: float = 1.0
    """What an error of its outputs counts."""


def _flat(readers: Sequence[ChannelReader]) -> tuple[list[Tensor], ...]:
    columns = tuple(list(column) for column in zip(*readers, strict=True)) if readers else ()
    return columns or ([], [], [], [])


def channel_magnitude(weight: Tensor, unit: Tensor, units: int) -> Tensor:
    """Sum of the squared weights of each unit.

    Args:
        weight: (o, d), floating-point.
        unit: (d,) int64, the unit of each input or -1.
        units: How many there are.

    Returns:
        (units,) float64.

    Raises:
        TypeError: ``weight`` is not floating-point.
        ValueError: Shapes do not fit, or a unit is out of range.
    """
    return torch.ops.aimet.channel_magnitude(weight, unit, units)


def channel_quadratic(readers: Sequence[ChannelReader], units: int) -> Tensor:
    """The error of the readers' outputs without some units, as a quadratic form.

    Args:
        readers: Who reads the units.
        units: How many there are.

    Returns:
        Q, (units, units) float64: with the other weights as they are, units R cost the sum of Q
        over R x R.

    Raises:
        TypeError: Not floating-point.
        ValueError: Shapes do not fit, or a unit is out of range.
    """
    return torch.ops.aimet.channel_quadratic(*_flat(readers), units)


def eliminate_channels(
    readers: Sequence[ChannelReader],
    base: Tensor,
    fixed: Tensor,
    least: int = 1,
    *,
    refits: bool = True,
) -> tuple[Tensor, Tensor]:
    """Give up units greedily: every time the one that adds least to the readers' error.

    Args:
        readers: Who reads the units.
        base: What each costs besides, (units,).
        fixed: Units that stay, (units,) bool.
        least: How many stay.
        refits: The weights of the others are solved for again; otherwise they stay as they are.

    Returns:
        ``(order, error)``: units, the first to go first, (n,) int64; what the first k of them cost
        together, (n + 1,) float64. The same bits with any number of threads.

    Raises:
        TypeError: Not floating-point.
        ValueError: Shapes do not fit, or a number is out of range.

    Source: Hassibi and Stork 1993 (optimal brain surgeon), with blocks of weights.
    """
    return torch.ops.aimet.eliminate_channels(*_flat(readers), base, fixed, least, refits)


def channel_errors(
    readers: Sequence[ChannelReader], base: Tensor, order: Tensor, *, refits: bool = True
) -> Tensor:
    """What it costs to give up units in an order that is given.

    Args:
        readers: Who reads the units.
        base: What each costs besides, (units,).
        order: Units, the first to go first, (n,) int64.
        refits: The weights of the others are solved for again.

    Returns:
        What the first k of them cost together, (n + 1,) float64.

    Raises:
        TypeError: Not floating-point.
        ValueError: Shapes do not fit, or a number is out of range.
    """
    return torch.ops.aimet.channel_errors(*_flat(readers), base, order, refits)


def channel_lasso(
    quadratic: Tensor, norm: Tensor, fixed: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """The LASSO over channels, with the penalty that leaves ``count`` of them.

    Minimizes ``1/2 (1 - beta) quadratic (1 - beta)^T + penalty sum norm |beta|``.

    Args:
        quadratic: (units, units), from :func:`channel_quadratic`.
        norm: Norm of each unit's weights, (units,), positive.
        fixed: Units that stay, without a penalty, (units,) bool.
        count: How many stay.

    Returns:
        ``(coefficient, penalty)``: (units,) float64, 0 for what goes; () float64.

    Raises:
        TypeError: Not floating-point.
        ValueError: Shapes do not fit, or a number is out of range.

    Source: He et al. 2017 (arXiv 1707.06168), section 3.1.
    """
    return torch.ops.aimet.channel_lasso(quadratic, norm, fixed, count)


def channel_lasso_order(quadratic: Tensor, norm: Tensor, fixed: Tensor, steps: int = 200) -> Tensor:
    """Units in the order in which the LASSO drops them as its penalty grows.

    Args:
        quadratic: As for :func:`channel_lasso`.
        norm: See there.
        fixed: See there; they are not in the order.
        steps: Penalties that are tried, in a geometric progression.

    Returns:
        (units - fixed ones,) int64.

    Raises:
        TypeError: Not floating-point.
        ValueError: Shapes do not fit, or a number is out of range.
    """
    return torch.ops.aimet.channel_lasso_order(quadratic, norm, fixed, steps)
