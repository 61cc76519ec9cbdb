"""Range searches on one histogram in NumPy, from the formulas of docs/numerics.md."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tests.reference.encoding import minimal_scale, range_from_min_max
from tests.reference.histogram import bin_range

F = np.float32
Range = tuple[np.floating, np.floating]
Counts = NDArray[np.int64]


def occupied_bins(counts: Counts, low: F, high: F) -> tuple[NDArray, NDArray]:
    """Centers and counts of the bins that hold something."""
    low, high = bin_range(low, high)
    width = (high - low) / F(len(counts))
    index = np.flatnonzero(counts)
    return (low + width * index.astype(F)) + width / F(2), counts[index].astype(F)


def percentile(counts: Counts, low: F, high: F, p: float, steps: int, symmetric: bool) -> Range:
    if p < 100:
        start, end = bin_range(low, high)
        width = (end - start) / F(len(counts))
        cumulative = np.cumsum(counts)
        last = len(counts) - 1
        below = cumulative[-1] * (p / 100)
        edges = [np.searchsorted(cumulative, target) for target in (cumulative[-1] - below, below)]
        low, high = (start + width * F(min(edge, last)) for edge in edges)
    limits = range_from_min_max(np.array(low), np.array(high), 0, steps, symmetric)
    return limits[0][()], limits[1][()]


def square_error(
    center: NDArray, count: NDArray, scale: F, offset: F, steps: int, gamma: float
) -> float:
    code = np.rint(center / scale) - offset
    clipped = (code < 0) | (code > steps)
    error = (np.clip(code, 0, steps) + offset) * scale - center
    weighted = error * error * np.where(clipped, F(gamma), F(1))
    return float(np.sum(count.astype(np.float64) * weighted))


def sqnr_candidates(low: F, high: F, steps: int, symmetric: bool) -> list[tuple[F, F]]:
    """(scale, offset) of every candidate, in the order of the search, with the default counts."""
    smallest = minimal_scale(steps, F)
    if symmetric:
        largest = F(2) * max(high, -low) / F(steps)
        offset = F(-(steps - steps // 2))
        return [(max(largest * F(k) / F(100), smallest), offset) for k in range(1, 102)]
    largest = max((high - low) / F(steps), smallest)
    data_offset = np.rint(low / largest)
    limit_low = data_offset * largest
    limit_high = limit_low + F(steps) * largest
    count = min(21, steps + 2)
    offsets = [F(np.rint(-steps + j * (steps / (count - 2)))) for j in range(count - 1)]
    candidates = []
    for k in range(1, 18):
        scale = largest * F(k) / F(16)
        for offset in [*offsets, data_offset]:
            start = max(limit_low, offset * scale)
            end = min(limit_high, offset * scale + F(steps) * scale)
            cut = max((end - start) / F(steps), smallest)
            candidates.append((cut, np.rint(start / cut)))
    return candidates


def sqnr(counts: Counts, low: F, high: F, steps: int, symmetric: bool, gamma: float = 3.0) -> Range:
    center, count = occupied_bins(counts, low, high)
    start, end = bin_range(low, high)
    candidates = sqnr_candidates(min(start, F(0)), max(end, F(0)), steps, symmetric)
    costs = [square_error(center, count, s, o, steps, gamma) for s, o in candidates]
    scale, offset = candidates[int(np.argmin(costs))]
    return offset * scale, offset * scale + F(steps) * scale
