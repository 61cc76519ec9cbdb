"""Which ratio each layer gets, from a table of scores or of sensitivities."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from aimet_torch.compression.schemes import Candidate, Scheme, Unit
from aimet_torch.ops.ratio_selection import CandidateSelection, select_candidates

__all__ = [
    "Choice",
    "front",
    "limit_of",
    "monotonic",
    "select_exactly",
    "select_greedily",
]

_BUDGETS = 256  # of the curve
_ROUNDS = 4  # of linearizing costs that do not add up


@dataclasses.dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        candidates: By name of the unit; those that keep their shape are not in it.
        ratio: Cost of the model with them over that of the model as it is.
        value: The threshold or the sum of errors that led to it.
        curve: Other budgets: pairs of ratio and value.
        is_exact: No better choice of these candidates exists.
        values: Error or score of each of the candidates, where it has been asked for.
        note: Why the ratio is further from the target than one might expect.
    """

    candidates: dict[str, Candidate]
    ratio: float
    value: float
    curve: list[tuple[float, float]]
    is_exact: bool = False
    values: dict[str, float] = dataclasses.field(default_factory=dict)
    note: str = ""


def monotonic(scores: Tensor) -> Tensor:
    """The closest scores that do not rise from left to right.

    Isotonic regression, the least-squares fit, by its formula of minima and maxima of means
    (Barlow et al. 1972, Statistical Inference under Order Restrictions, theorem 1.9). AIMET fits a
    polynomial of degree 7, which such tables seldom are.

    Args:
        scores: (units, candidates), from the largest ratio to the smallest; NaN behind the last.
    """
    values, count = scores.flip(1), scores.shape[1]  # rising, NaN in front
    sums = torch.nn.functional.pad(values.nan_to_num().cumsum(1), (1, 0))
    first, last = torch.arange(count)[:, None], torch.arange(count)[None]
    means = (sums[:, last + 1] - sums[:, first]) / (last + 1 - first)
    is_range = (first <= last) & values.isfinite()[:, :, None]
    # [unit, first, k]: the least mean of ranges that begin at `first` and end at k or behind.
    least = torch.where(is_range, means, math.inf).flip(2).cummin(2).values.flip(2)
    fitted = torch.where(is_range, least, -math.inf).amax(1).flip(1)
    return torch.where(scores.isfinite(), fitted, scores)


def select_greedily(scheme: Scheme, units: Sequence[Unit], scores: Tensor, target: float) -> Choice:
    """Compress each layer as far as its score allows; the threshold is the highest that suffices.

    AIMET's rule: from the largest ratio on, a layer goes on until the next score is below the
    threshold; if even its smallest ratio is not below, it takes that. AIMET bisects the threshold
    and stops within 0.001 of the target; here all scores are tried, and the target is kept.

    Args:
        scheme: Counts costs.
        units: With candidates from the largest ratio to the smallest.
        scores: (units, candidates), higher is better; NaN: not a candidate.
        target: Cost of the model over that of the model as it is.

    Raises:
        ValueError: No choice is that small.
    """
    scores = scores.nan_to_num(nan=-math.inf)
    thresholds = scores[scores.isfinite()].unique()  # rising
    passes = scores >= thresholds[:, None, None]
    counts = passes.cumprod(-1).sum(-1)  # (thresholds, units): candidates that a layer goes through
    usable = scores.isfinite().sum(1)
    last = torch.where(scores.isfinite(), torch.arange(scores.shape[1]), -1).amax(1)
    reaches_end = passes.gather(2, last.clamp(min=0)[None, :, None].expand(len(passes), -1, 1))
    counts = torch.where(reaches_end[:, :, 0] & (usable > 0), last + 1, counts)
    choices = [_candidates(units, row - 1) for row in counts]
    ratios = [_ratio(scheme, choice) for choice in choices]
    if not ratios or ratios[0] > limit_of(target):
        raise _unreachable(scheme, target, min(ratios, default=1.0))
    best = max(index for index, ratio in enumerate(ratios) if ratio <= limit_of(target))
    curve = list(zip(ratios, thresholds.tolist(), strict=True))
    return Choice(choices[best], ratios[best], float(thresholds[best]), curve)


def select_exactly(
    scheme: Scheme,
    units: Sequence[Unit],
    errors: Tensor,
    target: float,
    *,
    around: Mapping[str, Candidate] | None = None,
) -> Choice:
    """The choice with the least sum of errors among those that cost at most the target.

    Args:
        scheme: Counts costs. Where those of units do not add up (pruned channels make two layers
            smaller), they are linearized around the last choice, some times; what is returned keeps
            the target in any case.
        units: With candidates from the largest ratio to the smallest.
        errors: (units, candidates), not negative; NaN: not a candidate.
        target: Cost of the model over that of the model as it is.
        around: The choice that such costs are linearized around at first; None: no candidates.

    Raises:
        ValueError: No choice is that small.
    """
    best, curve, smallest = None, set(), 1.0
    around = around or {}
    for _ in range(1 if scheme.adds_up else _ROUNDS):
        found = _select_around(scheme, units, errors, target, around)
        choices = [_candidates(units, row - 1) for row in found.choices]
        ratios = [_ratio(scheme, choice) for choice in choices]
        smallest = min(smallest, *ratios)
        points = list(zip(ratios, found.errors.tolist(), strict=True))
        fitting = [index for index, ratio in enumerate(ratios) if ratio <= limit_of(target)]
        if not fitting:
            break
        index = min(fitting, key=lambda i: points[i][::-1])
        if best is not None and points[index][1] >= best.value:
            break
        is_exact = found.is_exact and scheme.adds_up
        best = Choice(choices[index], *points[index], [], is_exact)
        curve |= set(points)
        around = best.candidates
    if best is None:
        raise _unreachable(scheme, target, smallest)
    return dataclasses.replace(best, curve=front(curve))


def _select_around(
    scheme: Scheme,
    units: Sequence[Unit],
    errors: Tensor,
    target: float,
    around: Mapping[str, Candidate],
) -> CandidateSelection:
    """The best choices for budgets from the smallest to the whole, and last for the target.

    What a candidate costs is what it changes when all other units are as in ``around``.
    """
    base = scheme.cost(around)
    # Column 0: the layer as it is.
    costs = torch.full((len(units), 1 + errors.shape[1]), math.inf, dtype=torch.float64)
    for row, unit in zip(costs, units, strict=True):
        rest = {name: found for name, found in around.items() if name != unit.name}
        options = [rest, *({**rest, unit.name: candidate} for candidate in unit.candidates)]
        changes = [scheme.cost(option) - base for option in options]
        row[: len(changes)] = torch.tensor(changes, dtype=torch.float64)
    table = torch.nn.functional.pad(errors.double(), (1, 0))
    exists = costs.isfinite() & table.isfinite()
    lowest = torch.where(exists, costs, math.inf).amin(1, keepdim=True)
    costs = costs - lowest  # not negative
    wanted = target * scheme.total - base - float(lowest.sum())
    grid = torch.linspace(0, float(costs[:, 0].sum()), _BUDGETS, dtype=torch.float64)
    budgets = torch.cat([grid, torch.tensor([max(wanted, 0.0)], dtype=torch.float64)])
    return select_candidates(costs, table, budgets)


def front(points: set[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (ratio, value) that no other beats in both, by ratio."""
    front: list[tuple[float, float]] = []
    for ratio, value in sorted(points):
        if not front or value < front[-1][1]:
            front.append((ratio, value))
    return front


def _candidates(units: Sequence[Unit], indices: Tensor) -> dict[str, Candidate]:
    return {
        unit.name: unit.candidates[index]
        for unit, index in zip(units, indices.tolist(), strict=True)
        if index >= 0
    }


def _ratio(scheme: Scheme, choice: Mapping[str, Candidate]) -> float:
    return scheme.cost(choice) / scheme.total


def limit_of(target: float) -> float:
    """The target and what rounding may add."""
    return target * (1 + 1e-9)


def _unreachable(scheme: Scheme, target: float, least: float) -> ValueError:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in list(scheme.left.items())[:5])
    kept = f" Layers that keep their shape: {reasons}." if reasons else ""
    return ValueError(
        f"compress_model: `target_comp_ratio` must be one that candidates can reach, got {target:g}"
        f"; the smallest with them is {least:.4g}.{kept} More candidates reach further down"
    )
