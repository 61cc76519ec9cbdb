"""Exact choice of one option for each group under budgets: a multiple-choice knapsack.

    minimize sum_g loss[g, x_g]   subject to   sum_g cost_k[g, x_g] <= budget_k   for every k

Solved by branch and bound, breadth first: group by group all partial choices are extended by all
options at once. Multipliers of the budgets (Lagrange) bound from below what a partial choice can
still become; what cannot beat the best choice known, is over a budget, or is no better than another
partial choice in everything, is dropped. Nothing else is: the result is optimal, to within the
tolerance of sums in float64. (Nemhauser and Ullmann 1969 for dominance; Fisher 1981 for the bound.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Solution", "solve"]

_Array = NDArray[np.float64]
_EPSILON = 1e-9  # of the range of the losses: sums in another order differ by less
_MOST_STATES = 400_000
_CHAMPIONS = (
    48  # partial choices that all others are compared with, where there are several budgets
)


@dataclass(frozen=True)
class Solution:
    """A choice and what it amounts to.

    Attributes:
        choice: index of the option of each group.
        loss: sum over the groups.
        costs: sums by budget.
        is_optimal: whether it is proven; False only where more than 400,000 partial choices had to
            be kept.
        bound: no choice within the budgets has a smaller loss.
    """

    choice: tuple[int, ...]
    loss: float
    costs: tuple[float, ...]
    is_optimal: bool
    bound: float


def solve(
    losses: Sequence[Sequence[float]],
    costs: Sequence[Sequence[Sequence[float]]],
    budgets: Sequence[float],
) -> Solution | None:
    """Choose one option for each group such that the loss is least within the budgets.

    Args:
        losses: by group and option.
        costs: by budget, group and option; not negative.
        budgets: upper limits, one or more.

    Returns:
        The best choice; of equal losses one of the least first cost. None: nothing fits.

    >>> solve([[0, 5], [0, 1]], [[[4, 1], [4, 1]]], [5]).choice
    (0, 1)
    """
    problem = _Problem(losses, costs, budgets)
    if not problem.losses:
        return Solution((), 0.0, tuple(0.0 for _ in budgets), True, 0.0)
    if any(problem.least_rest[0] > 1 + _EPSILON):
        return None
    return problem.search()


class _Problem:
    """The arrays: losses from 0, costs in units of their budgets, groups by their spread."""

    def __init__(
        self,
        losses: Sequence[Sequence[float]],
        costs: Sequence[Sequence[Sequence[float]]],
        budgets: Sequence[float],
    ) -> None:
        scale = [1.0 / budget if budget > 0 else 1e300 for budget in budgets]
        own = [np.asarray(group, np.float64) for group in losses]
        self.floor = float(sum(group.min() for group in own)) if own else 0.0
        # Those that matter most come first, so that bounds are tight early.
        self.order = sorted(
            range(len(own)), key=lambda g: own[g].max() - own[g].min(), reverse=True
        )
        self.losses: list[_Array] = [own[g] - own[g].min() for g in self.order]
        self.costs: list[_Array] = [
            np.stack([np.asarray(c[g], np.float64) * s for c, s in zip(costs, scale, strict=True)])
            for g in self.order
        ]
        # The same in one array each; options that a group does not have are never the best.
        most = max((len(group) for group in self.losses), default=0)
        self.rows = np.arange(len(own))
        self.all_losses: _Array = np.full((len(own), most), np.inf)
        self.all_costs: _Array = np.zeros((len(budgets), len(own), most))
        for g, (loss, cost) in enumerate(zip(self.losses, self.costs, strict=True)):
            self.all_losses[g, : len(loss)] = loss
            self.all_costs[:, g, : len(loss)] = cost
        self.unit = max((float(group.max()) for group in self.losses), default=0.0) or 1.0
        self.original = losses, costs
        count = len(budgets)
        least = [group.min(1) for group in self.costs]
        self.least_rest = _suffix_sums(least, count)

    # -- bounds ------------------------------------------------------------------------------------

    def dual(self, multipliers: _Array) -> tuple[float, NDArray[np.int64]]:
        """Lower bound of the loss by these multipliers, and the options that attain it."""
        value = self.all_losses + np.tensordot(multipliers, self.all_costs, 1)
        best = value.argmin(1)
        return float(value[self.rows, best].sum() - multipliers.sum()), best

    def totals(self, choice: NDArray[np.int64]) -> tuple[float, _Array]:
        """Loss and costs of a whole choice."""
        return (
            float(self.all_losses[self.rows, choice].sum()),
            self.all_costs[:, self.rows, choice].sum(1),
        )

    def multipliers(self) -> tuple[_Array, NDArray[np.int64] | None]:
        """Good multipliers, and the best choice within the budgets that was met on the way."""
        count = len(self.all_costs)
        current = np.zeros(count)
        incumbent: tuple[float, NDArray[np.int64]] | None = None
        for _ in range(1 if count == 1 else 12):
            for k in range(count):
                low, high = 0.0, self.unit * 1e9
                for _ in range(80):
                    is_settled = high <= self.unit * 1e-12
                    current[k] = 0 if is_settled else (low + high) / 2 if low else high / 1e3
                    _, choice = self.dual(current)
                    loss, cost = self.totals(choice)
                    fits = bool((cost <= 1 + _EPSILON).all())
                    if fits and (incumbent is None or loss < incumbent[0]):
                        incumbent = loss, choice
                    if cost[k] > 1 + _EPSILON:
                        low = float(current[k])
                    else:
                        high = float(current[k])
                    if is_settled or high - low <= 1e-12 * high:
                        break
        return current, None if incumbent is None else incumbent[1]

    def improved(self, choice: NDArray[np.int64]) -> NDArray[np.int64]:
        """Change single groups for the better while the budgets allow it."""
        choice = choice.copy()
        while True:
            _, cost = self.totals(choice)
            now = self.all_costs[:, self.rows, choice]
            fits = (cost[:, None, None] - now[:, :, None] + self.all_costs <= 1 + _EPSILON).all(0)
            gains = self.all_losses - self.all_losses[self.rows, choice][:, None]
            gains = np.where(fits, gains, 0.0)
            g, i = np.unravel_index(int(gains.argmin()), gains.shape)
            if gains[g, i] >= -_EPSILON * self.unit:
                return choice
            choice[g] = i

    # -- search ------------------------------------------------------------------------------------

    def search(self) -> Solution | None:
        multipliers, incumbent = self.multipliers()
        root, _ = self.dual(multipliers)
        upper, best = np.inf, None
        if incumbent is not None:
            best = self.improved(incumbent)
            upper = self.totals(best)[0]
        tolerance = _EPSILON * self.unit
        reduced = []
        for loss, cost in zip(self.losses, self.costs, strict=True):
            value = loss + multipliers @ cost
            reduced.append(value - value.min())
        count = len(self.costs[0])
        loss_now, gap_now = np.zeros(1), np.zeros(1)
        cost_now = np.zeros((count, 1))
        history: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        lost = np.inf  # least bound of what had to be dropped for its number
        for g, (losses, costs) in enumerate(zip(self.losses, self.costs, strict=True)):
            options = len(losses)
            parents = np.repeat(np.arange(len(loss_now)), options)
            picks = np.tile(np.arange(options), len(loss_now))
            loss = (loss_now[:, None] + losses).ravel()
            gap = (gap_now[:, None] + reduced[g]).ravel()
            cost = (cost_now[:, :, None] + costs[:, None, :]).reshape(count, -1)
            fits = (cost + self.least_rest[g + 1][:, None] <= 1 + _EPSILON).all(0)
            keep = np.flatnonzero(fits & (root + gap <= upper + tolerance))
            if not len(keep):
                break
            keep = keep[_undominated(loss[keep], cost[:, keep])]
            if len(keep) > _MOST_STATES:
                keep = keep[np.argsort(gap[keep], kind="stable")]
                lost = min(lost, root + float(gap[keep[_MOST_STATES]]))
                keep = keep[:_MOST_STATES]
            history.append((parents[keep], picks[keep]))
            loss_now, gap_now, cost_now = loss[keep], gap[keep], cost[:, keep]
        else:
            state = int(np.lexsort((cost_now[0], loss_now))[0])
            if loss_now[state] <= upper + tolerance:
                best = np.asarray(_trace_back(history, state))
        if best is None:
            return None
        return self._solution(best, lost)

    def _solution(self, best: NDArray[np.int64], lost: float) -> Solution:
        choice = [0] * len(self.order)
        for g, i in zip(self.order, best, strict=True):
            choice[g] = int(i)
        losses, costs = self.original
        loss = float(sum(group[i] for group, i in zip(losses, choice, strict=True)))
        totals = tuple(
            float(sum(group[i] for group, i in zip(cost, choice, strict=True))) for cost in costs
        )
        bound = min(loss, lost + self.floor)
        is_optimal = bound >= loss - _EPSILON * self.unit
        return Solution(tuple(choice), loss, totals, is_optimal, bound)


def _suffix_sums(rows: list[_Array], width: int) -> list[_Array]:
    sums = [np.zeros(width)]
    for row in reversed(rows):
        sums.append(sums[-1] + row)
    return sums[::-1]


def _undominated(loss: _Array, cost: _Array) -> NDArray[np.int64]:
    """Indices without those that another partial choice matches or beats in loss and all costs."""
    order = np.lexsort((*cost[::-1], loss))
    if len(cost) == 1:
        sorted_cost = cost[0, order]
        before = np.concatenate([[np.inf], np.minimum.accumulate(sorted_cost)[:-1]])
        return order[sorted_cost < before]
    # Several costs: comparing all with all takes too long; a sample of good ones drops most.
    alive: NDArray[np.bool_] = np.ones(len(order), np.bool_)
    ranked = cost[:, order]
    for i in np.linspace(0, len(order) - 1, min(_CHAMPIONS, len(order))).astype(int):
        if alive[i]:
            beaten = np.all(ranked[:, i + 1 :] >= ranked[:, [i]], axis=0)  # and have no less loss
            alive[i + 1 :] &= ~beaten
    return order[alive]


def _trace_back(
    history: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], state: int
) -> list[int]:
    picks = []
    for parents, chosen in reversed(history):
        picks.append(int(chosen[state]))
        state = int(parents[state])
    return picks[::-1]
