"""Finding the last point of a curve that is still good enough, with few evaluations."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import IntEnum

__all__ = ["AMPSearchAlgo", "find_last"]


class AMPSearchAlgo(IntEnum):
    """How phase 2 of the greedy search looks for the end of the curve; AIMET's names and values."""

    BruteForce = 1
    Interpolation = 2
    Binary = 3


def find_last(
    score: Callable[[int], float], count: int, target: float, algorithm: AMPSearchAlgo
) -> int | None:
    """The last index with a score of at least `target`, if scores fall with the index.

    Where they do not fall steadily, brute force stops in front of the first that is too small; the
    others find one that is good enough and followed by one that is not.

    Args:
        score: of an index, evaluated when it is asked for; ask again as often as you like.
        count: number of indices, at least 1.
        target: what is good enough.
        algorithm: which indices are looked at: all from the start, halves, or where the straight
            line through the ends meets the target.

    Returns:
        None: the first one is not good enough (or, in halves, neither is any one looked at).
    """
    if algorithm == AMPSearchAlgo.BruteForce:
        for i in range(count):
            if score(i) < target:
                return i - 1 if i else None
        return count - 1
    if score(count - 1) >= target:
        return count - 1
    if score(0) < target:
        return None
    good, bad = 0, count - 1
    while bad - good > 1:
        share = 0.5
        if algorithm == AMPSearchAlgo.Interpolation:
            rise = score(good) - score(bad)
            share = (score(good) - target) / rise if math.isfinite(rise) and rise else 0.5
        middle = min(max(good + int(share * (bad - good)), good + 1), bad - 1)
        if score(middle) >= target:
            good = middle
        else:
            bad = middle
    return good
