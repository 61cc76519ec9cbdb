"""Running sums over several calls: how much two tensors agree."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass
class Agreement:
    """What has been compared so far: a reference with what should be equal to it."""

    elements: int = 0
    equal_elements: int = 0
    largest: float = 0.0
    signal: float = 0.0
    noise: float = 0.0
    rows: int = 0
    equal_rows: int = 0

    def add_codes(self, reference: np.ndarray, actual: np.ndarray) -> None:
        """Compare integers of at most 16 bits; the largest difference is one of steps."""
        self.elements += reference.size
        difference = reference.astype(np.int32) - actual.reshape(reference.shape)
        self.equal_elements += reference.size - int(np.count_nonzero(difference))
        self.largest = max(self.largest, float(np.abs(difference).max(initial=0)))

    def add(self, reference: np.ndarray, actual: np.ndarray) -> None:
        """Compare two arrays of one size; NaN equals NaN."""
        first = reference.astype(np.float64)
        second = actual.reshape(reference.shape).astype(np.float64)
        is_equal = (first == second) | (np.isnan(first) & np.isnan(second))
        self.elements += first.size
        self.equal_elements += int(is_equal.sum())
        with np.errstate(invalid="ignore"):
            difference = np.where(is_equal, 0.0, first - second)
        self.largest = max(self.largest, float(np.abs(difference).max(initial=0.0)))
        self.noise += float((difference**2).sum())
        # Infinities (a mask) say nothing about the power of what is computed.
        self.signal += float((np.where(np.isfinite(first), first, 0.0) ** 2).sum())

    def add_ranks(self, reference: np.ndarray, actual: np.ndarray) -> None:
        """Compare where the rows of two arrays have their largest entry."""
        self.rows += reference.size // reference.shape[-1]
        same = reference.argmax(-1) == actual.reshape(reference.shape).argmax(-1)
        self.equal_rows += int(same.sum())

    @property
    def equal(self) -> float:
        """Share of equal values, 0 to 1."""
        return self.equal_elements / self.elements if self.elements else 1.0

    @property
    def top1(self) -> float | None:
        """Share of rows with the same largest entry; None where rows were not compared."""
        return self.equal_rows / self.rows if self.rows else None

    @property
    def sqnr_db(self) -> float:
        """Signal-to-noise ratio in dB; infinite when all is equal."""
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.signal / self.noise) if self.signal > 0 else -math.inf


def is_scores(array: np.ndarray) -> bool:
    """Whether the last axis may hold scores of classes: (N, classes) or (N, tokens, classes)."""
    return array.ndim in (2, 3) and array.shape[-1] > 1 and np.issubdtype(array.dtype, np.floating)
