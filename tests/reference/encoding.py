"""Ranges, scales and offsets in NumPy, from the formulas of docs/numerics.md."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]

LARGEST_LIMIT = float(np.finfo(np.float32).max) / 4


def minimal_scale(steps: int, dtype: type) -> np.floating:
    return min(dtype(2.0**-23), dtype(0.01) / dtype(steps))


def range_from_min_max(
    low: Array, high: Array, qmin: int, qmax: int, symmetric: bool, strict: bool = False
) -> tuple[Array, Array]:
    dtype = low.dtype.type
    steps = qmax - qmin
    if symmetric and strict and steps > 1:
        steps -= steps % 2
    negative, positive = dtype(steps - steps // 2), dtype(steps // 2)
    with np.errstate(invalid="ignore"):
        unknown = np.where(np.isnan(low) | np.isnan(high), dtype(np.nan), dtype(0))
        low = np.clip(low, -dtype(LARGEST_LIMIT), dtype(0)) + unknown
        high = np.clip(high, dtype(0), dtype(LARGEST_LIMIT)) + unknown
        smallest = minimal_scale(steps, dtype)
        narrow = (high - low) / dtype(steps) < smallest
        if not symmetric:
            return low, np.where(narrow, high + smallest * dtype(steps), high)
        low = np.where(narrow, low - smallest * negative, low)
        high = np.where(narrow, high + smallest * positive, high)
        covering = positive + 1 if steps in (1, 3) else positive
        scale = np.maximum(high / covering, -low / negative)
    return -negative * scale, positive * scale


def encoding_from_range(
    low: Array, high: Array, qmin: int, qmax: int, symmetric: bool
) -> tuple[Array, Array]:
    dtype = low.dtype.type
    steps = dtype(qmax - qmin)
    scale = np.maximum((high - low) / steps, minimal_scale(qmax - qmin, dtype))
    if symmetric:
        return scale, np.full_like(scale, 0 - np.rint((qmin + qmax) / 2))
    offset = np.clip(np.rint(low / scale) - dtype(qmin), dtype(-qmax), dtype(-qmin))
    return scale, offset + dtype(0)
