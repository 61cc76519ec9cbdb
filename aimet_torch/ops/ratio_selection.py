"""Which candidate each layer takes within a budget: a typed function over its operator."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["CandidateSelection", "select_candidates"]


class CandidateSelection(NamedTuple):
    """The best choice for each budget."""

    choices: Tensor
    """(budgets, layers) int64: index of each layer's candidate."""
    errors: Tensor
    """(budgets,) float64: the sum of their errors."""
    is_exact: bool
    """No better choice exists; False where lists had to be thinned."""


def select_candidates(
    costs: Tensor, errors: Tensor, budgets: Tensor, *, max_states: int = 20_000
) -> CandidateSelection:
    """One candidate for each layer, with the least sum of errors whose costs fit into a budget.

    Args:
        costs: (layers, candidates) floating-point, not negative. A candidate whose cost or error is
            infinity or NaN does not exist.
        errors: (layers, candidates) floating-point.
        budgets: (budgets,) floating-point; one run answers all.
        max_states: Partial choices that are kept behind each layer. Where there are more, the best
            one in each of this many intervals of cost stays.

    Returns:
        On the CPU. Among choices of the same error, the cheapest.

    Raises:
        TypeError: Not floating-point.
        ValueError: Shapes do not fit, a cost is negative, a layer has no candidate, or the cheapest
            choice is above a budget.

    Source: Nemhauser and Ullmann 1969, Management Science 15/9.
    """
    return CandidateSelection(
        *torch.ops.aimet.select_candidates(costs, errors, budgets, max_states)
    )
