"""Histograms in NumPy, from the formulas of docs/numerics.md."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.reference.encoding import LARGEST_LIMIT

Array = NDArray[np.floating]
Counts = NDArray[np.int64]


def bin_range(low: np.floating, high: np.floating) -> tuple[np.floating, np.floating]:
    half = type(low)(0.5 if low == high else 0.0)
    limit = type(low)(LARGEST_LIMIT)
    return np.clip(low - half, -limit, limit), np.clip(high + half, -limit, limit)


def histogram(x: Array, low: np.floating, high: np.floating, bins: int) -> Counts:
    """Counts of the finite values of ``x``; outside values belong to the first or last bin."""
    if not low <= high:
        return np.zeros(bins, dtype=np.int64)
    low, high = bin_range(low, high)
    x = x[np.isfinite(x)]
    with np.errstate(over="ignore"):
        position = (x - low) * x.dtype.type(bins) / (high - low)
    index = np.clip(position, 0, bins - 1).astype(np.int64)
    return np.bincount(index, minlength=bins)


def rebin(
    counts: Counts, old: tuple[np.floating, np.floating], new: tuple[np.floating, np.floating]
) -> Counts:
    """Moves the counts to the bins of a wider range."""
    if old == new:
        return counts.copy()
    dtype = type(old[0])
    bins = len(counts)
    new = bin_range(*new)
    result = np.zeros_like(counts)
    is_point = old[0] == old[1]
    if is_point:
        result += histogram(np.repeat(old[0], counts.sum()), *new, bins)
        return result
    old = bin_range(*old)
    old_width = (old[1] - old[0]) / dtype(bins)
    new_width = (new[1] - new[0]) / dtype(bins)
    for index, count in enumerate(counts):
        start = old[0] + old_width * dtype(index)
        target = int(np.clip(np.floor((start - new[0]) / new_width), 0, bins - 1))
        end = new[0] + new_width * dtype(target + 1)
        share = np.clip((end - start) / old_width, dtype(0), dtype(1))
        first = min(int(np.rint(share * dtype(count))), int(count))
        result[target] += first
        result[min(target + 1, bins - 1)] += count - first
    return result
