"""The last step of both searches: ratios between those that were tried, until the budget is used.

Candidates are some hundredths apart. What one between two of them adds to the error (or takes from
the score) follows from what it loses of the layer itself, which is known for every rank and every
number of channels: between neighbors the rest of the model amplifies that alike.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from aimet_torch.compression.schemes import Candidate, Scheme, Unit
from aimet_torch.compression.selection import (
    Choice,
    front,
    limit_of,
    monotonic,
    select_exactly,
    select_greedily,
)

__all__ = ["choose_by_time", "choose_exactly", "choose_greedily"]

_BETWEEN = 24  # ratios that are tried around the one that was chosen
_CLOSE = 0.99  # of the ratio that was asked for: less than that is explained
_NOISE = 0.02  # of a measured time
_TRIES = 4  # choices whose time is measured
_WORTH = 10.0  # one percent nearer is worth as many percent of the error


def choose_exactly(
    scheme: Scheme, units: Sequence[Unit], errors: Tensor, target: float, *, refines: bool = True
) -> Choice:
    """The choice with the least sum of errors, from candidates and ratios between them.

    Args:
        scheme: Counts costs, and makes candidates.
        units: With candidates from the largest ratio to the smallest.
        errors: (units, candidates), not negative; NaN: not a candidate.
        target: Cost of the model over that of the model as it is.
        refines: Whether ratios between the candidates are tried, too.

    Raises:
        ValueError: No choice is that small.
    """
    first = select_exactly(scheme, units, errors, target)
    if refines:
        finer, table = _refined(scheme, units, errors, first.candidates)
        second = select_exactly(scheme, finer, table, target, around=first.candidates)
        if second.value < first.value:
            curve = front({*first.curve, *second.curve})
            first = dataclasses.replace(second, curve=curve, is_exact=first.is_exact)
        units, errors = finer, table
    best = _filled(scheme, units, errors, first, target)
    if best.ratio >= _CLOSE * target:
        return best
    # Errors are estimates: a choice that comes nearer may lose a little more.
    price = _WORTH * best.value / (target * scheme.total)
    saved = torch.full_like(errors, math.nan)
    for row, unit in zip(saved, units, strict=True):
        savings = [unit.cost - candidate.cost for candidate in unit.candidates]
        row[: len(savings)] = torch.tensor(savings, dtype=errors.dtype)
    priced = errors + price * saved
    nearer = select_exactly(scheme, units, priced, target, around=best.candidates)
    nearer = _filled(scheme, units, errors, nearer, target)
    if nearer.ratio <= best.ratio:
        return best
    return dataclasses.replace(nearer, curve=best.curve, is_exact=best.is_exact)


def choose_greedily(
    scheme: Scheme, units: Sequence[Unit], scores: Tensor, target: float, *, refines: bool = True
) -> Choice:
    """AIMET's choice; what it leaves of the budget goes back to the layers.

    The threshold is found as AIMET finds it, on the candidates alone. Then layers get larger ratios
    while the target is kept, those first whose scores rise most.

    Arguments and exceptions are those of :func:`choose_exactly`, with scores (units, candidates).
    """
    choice = select_greedily(scheme, units, scores, target)
    top = float(scores[scores.isfinite()].max())
    lost = -monotonic(scores - top)  # a larger ratio whose score is lower by chance is no worse
    finer = units
    if refines:
        finer, lost = _refined(scheme, units, lost, choice.candidates)
    found = _filled(scheme, finer, lost, choice, target)
    values = {name: top - value for name, value in found.values.items()}
    for unit, row in zip(units, scores.tolist(), strict=True):
        scored = {c.lost: s for c, s in zip(unit.candidates, row, strict=False)}
        if unit.name in values:
            own = found.candidates[unit.name].lost
            values[unit.name] = scored.get(own, values[unit.name])
    return dataclasses.replace(found, value=choice.value, values=values)


def choose_by_time(
    choose: Callable[[float], Choice], measure: Callable[[Choice], float], target: float
) -> Choice:
    """A choice whose model, as a whole, takes the time that was asked for.

    What layers take alone does not add up to what the model takes. So the model of a choice is
    measured, and the next one is for what that was off by.

    Args:
        choose: Makes the choice for a ratio of the times that add up.
        measure: Time of the model with a choice over that of the model as it is.
        target: What that has to be.

    Returns:
        The best of some choices, with the ratio that was measured.

    Raises:
        ValueError: No choice is that small.
    """
    best: tuple[tuple[bool, float], Choice] | None = None
    aim = target
    for _ in range(_TRIES):
        try:
            choice = choose(aim)
        except ValueError:
            if best is None:
                raise
            break
        real = measure(choice)
        key = real > (1 + _NOISE) * target, abs(real - target)
        if best is None or key < best[0]:
            best = key, dataclasses.replace(choice, ratio=real, note="")
        if abs(real - target) <= _NOISE * target:
            break
        aim = min(aim * target / real, 1.0)
    assert best is not None
    found = best[1]
    if abs(found.ratio - target) > _NOISE * target:
        note = f"{found.ratio:.4g} of the time instead of {target:g}, the nearest that was found"
        found = dataclasses.replace(found, note=note)
    return found


# -- ratios between candidates ---------------------------------------------------------------------


def _refined(
    scheme: Scheme, units: Sequence[Unit], errors: Tensor, chosen: Mapping[str, Candidate]
) -> tuple[list[Unit], Tensor]:
    """Units with more candidates on either side of the chosen ones, and their errors."""
    made, rows = [], []
    for unit, row in zip(units, errors, strict=True):
        own = [candidate.ratio for candidate in unit.candidates]
        found = chosen.get(unit.name)
        index = -1 if found is None else own.index(found.ratio)
        high = own[index - 1] if index > 0 else 1.0
        low = own[min(index + 1, len(own) - 1)]
        steps = torch.linspace(low, high, _BETWEEN + 2, dtype=torch.float64).tolist()[1:-1]
        between = {round(ratio, 4) for ratio in steps}
        candidates = scheme.candidates(unit.name, sorted({*own, *between}, reverse=True))
        made.append(dataclasses.replace(unit, candidates=candidates))
        rows.append(_interpolated(unit.candidates, row.tolist(), candidates))
    width = max(len(row) for row in rows)
    table = [row + [math.nan] * (width - len(row)) for row in rows]
    return made, torch.tensor(table, dtype=torch.float64)


def _interpolated(
    known: Sequence[Candidate], values: Sequence[float], wanted: Sequence[Candidate]
) -> list[float]:
    """Errors of candidates from those of their neighbors, as powers of what the layer loses.

    Up to the first known one they are in proportion to it. Where one neighbor has no value, there
    is none in between either.
    """
    points = [(0.0, 0.0), *((c.lost, v) for c, v in zip(known, values, strict=False))]
    results = []
    for candidate in wanted:
        x = candidate.lost
        after = next((i for i, point in enumerate(points) if point[0] >= x and i > 0), None)
        if after is None:
            results.append(math.nan)
            continue
        (x0, y0), (x1, y1) = points[after - 1], points[after]
        if x1 <= x:
            share = 1.0
        elif x0 > 0 and y0 > 0 and y1 > 0:
            share = math.log(x / x0) / math.log(x1 / x0)
            results.append(y0 ** (1 - share) * y1**share)
            continue
        else:
            share = (x - x0) / (x1 - x0)
        results.append(y1 if share == 1 else y0 + share * (y1 - y0))
    return results


# -- what is left of the budget --------------------------------------------------------------------


def _filled(
    scheme: Scheme, units: Sequence[Unit], errors: Tensor, choice: Choice, target: float
) -> Choice:
    """Larger ratios for some layers, those first that lose least then, while the target is kept."""
    rows = {unit.name: row.tolist() for unit, row in zip(units, errors, strict=True)}
    chosen = dict(choice.candidates)
    budget = limit_of(target) * scheme.total
    while True:
        best: tuple[float, float, str, Candidate | None] | None = None
        for unit in units:
            if unit.name not in chosen:
                continue
            found = _largest_fitting(scheme, unit, rows[unit.name], chosen, budget)
            if found is None:
                continue
            candidate, cost = found
            error = 0.0 if candidate is None else _value(unit, rows[unit.name], candidate)
            gain = _value(unit, rows[unit.name], chosen[unit.name]) - error
            if best is None or (gain, cost) > best[:2]:
                best = gain, cost, unit.name, candidate
        if best is None:
            break
        if best[3] is None:
            del chosen[best[2]]
        else:
            chosen[best[2]] = best[3]
    values = {
        unit.name: _value(unit, rows[unit.name], chosen[unit.name])
        for unit in units
        if unit.name in chosen
    }
    ratio = scheme.cost(chosen) / scheme.total
    note = ""
    if ratio < _CLOSE * target:
        note = (
            f"{ratio:.4g} instead of {target:g}: the next larger size of any layer costs more than "
            "what is left"
        )
    value = sum(values.values())
    return dataclasses.replace(
        choice, candidates=chosen, ratio=ratio, value=value, values=values, note=note
    )


def _largest_fitting(
    scheme: Scheme,
    unit: Unit,
    errors: Sequence[float],
    chosen: Mapping[str, Candidate],
    budget: float,
) -> tuple[Candidate | None, float] | None:
    """A unit's largest candidate that keeps the budget and loses no more, and the model's cost.

    None for the candidate: the unit as it is. None for all: there is none.
    """
    own = chosen[unit.name]
    most = _value(unit, errors, own)
    rest = {name: candidate for name, candidate in chosen.items() if name != unit.name}
    larger = [
        candidate
        for candidate, error in zip(unit.candidates, errors, strict=False)
        if candidate.ratio > own.ratio and error <= most
    ]
    for candidate in (None, *larger):
        cost = scheme.cost(rest if candidate is None else {**rest, unit.name: candidate})
        if cost <= budget:
            return candidate, cost
    return None


def _value(unit: Unit, errors: Sequence[float], candidate: Candidate) -> float:
    """The error of a candidate: that of the unit's candidate that loses as much of the layer."""
    for own, error in zip(unit.candidates, errors, strict=False):
        if own.lost == candidate.lost:
            return error
    raise KeyError(f"{unit.name} has no candidate of ratio {candidate.ratio}")  # pragma: no cover
