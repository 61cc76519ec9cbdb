"""Do two results agree? Each rule answers with yes or no and a sentence for the report."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from benchmarks.timing import Results

Verdict = tuple[bool, str]
Rule = Callable[[Results, Results], Verdict]


def equal() -> Rule:
    """Bit for bit."""

    def rule(ours: Results, theirs: Results) -> Verdict:
        different = sum(int((a != b).sum()) for a, b in zip(ours, theirs, strict=True))
        return different == 0, "equal" if different == 0 else f"{different} elements differ"

    return rule


def within_one_step(largest_step: float, share: float = 1e-5) -> Rule:
    """The same code but for ties: dividing by scale or multiplying by 1/scale rounds otherwise.

    Args:
        largest_step: the largest scale, in the unit of the result.
        share: of all elements that may differ; two may in any case.
    """

    def rule(ours: Results, theirs: Results) -> Verdict:
        difference = np.abs(ours[0] - theirs[0])
        # A hundredth of a step is rounding of the product, far below a change of the code.
        different = int((difference > largest_step / 100).sum())
        agrees = different <= max(2, share * difference.size)
        agrees = agrees and float(difference.max()) <= 1.01 * largest_step
        text = "equal codes" if different == 0 else f"{different} codes differ, by one"
        return agrees, text if agrees else f"{different} of {difference.size} elements differ"

    return rule


def gradients(count: int | None = None, share: float = 1e-5, tolerance: float = 2e-3) -> Rule:
    """Gradients of the input equal but for ties; sums over all elements close.

    Args:
        count: how many of the gradients to compare; the others follow other conventions.
        share: of the input's gradients that may differ; two may in any case.
        tolerance: of the sums, relative to their norm: float32 sums depend on their order.
    """

    def rule(ours: Results, theirs: Results) -> Verdict:
        first, second = ours[:count], theirs[:count]
        different = int((first[0] != second[0]).sum())
        agrees = different <= max(2, share * first[0].size)
        largest = 0.0
        for a, b in zip(first[1:], second[1:], strict=True):
            error = np.linalg.norm(a.astype(np.float64).ravel() - b.astype(np.float64).ravel())
            largest = max(largest, error / max(np.linalg.norm(b.astype(np.float64)), 1e-30))
        sums = f", sums within {largest:.0e}" if len(first) > 1 else ""
        return agrees and bool(largest <= tolerance), f"{different} input gradients differ{sums}"

    return rule


def close(tolerance: float) -> Rule:
    """Equal up to a relative tolerance of the largest value."""

    def rule(ours: Results, theirs: Results) -> Verdict:
        errors = [
            float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))
            for a, b in zip(ours, theirs, strict=True)
        ]
        return max(errors) <= tolerance, f"within {max(errors):.1e} of the largest value"

    return rule


def candidates(spacing: float, share: float) -> Rule:
    """The same candidate of a search, but for ties.

    Two candidates whose errors differ by less than rounding are equally good. Which one wins
    depends on the order of the sums (ours: 16 lanes of float32, then float64; aimet-torch: one
    float32 sum) and on whether values are divided by the scale or multiplied by its inverse. On
    weights of 512 channels that concerns 5; all others are equal bit for bit.

    Args:
        spacing: distance of neighboring candidates, as a fraction of the range.
        share: of all ranges that may be a neighbor's.
    """

    def rule(ours: Results, theirs: Results) -> Verdict:
        a, b = (np.concatenate([part.ravel() for part in side]) for side in (ours, theirs))
        error = np.abs(a - b) / np.maximum(np.abs(b), 1e-30)
        different = int((error > 1e-6).sum())
        agrees = bool(error.max() <= 1.05 * spacing) and different <= share * error.size
        text = "the same candidates" if different == 0 else f"{different} of {error.size} neighbors"
        return agrees, text if agrees else f"{text}, {error.max():.1e} apart"

    return rule


def sqnr_at_least(decibels: float) -> Rule:
    """Signal-to-noise ratio of our result, with the rival's as the signal."""

    def rule(ours: Results, theirs: Results) -> Verdict:
        signal = float(np.square(theirs[0].astype(np.float64)).sum())
        noise = float(np.square(ours[0].astype(np.float64) - theirs[0]).sum())
        ratio = math.inf if noise == 0 else 10 * math.log10(signal / noise)
        return ratio >= decibels, f"SQNR {ratio:.1f} dB (at least {decibels:g})"

    return rule


def nothing_to_compare(reason: str) -> Rule:
    """For a rival that marks a bound and computes something else."""
    return lambda ours, theirs: (True, reason)
