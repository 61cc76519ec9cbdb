"""Floating-point formats in NumPy, by enumerating their numbers: no torch, nothing of ours.

Rounding looks the two neighbors of a value up in the list of all numbers and takes the nearer one.
Distances are computed in float64, which is exact: both neighbors and the value have few bits.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Format:
    """A format as IEEE 754 or the OCP specifications describe it."""

    exponent_bits: int
    mantissa_bits: int
    finite: bool = False
    unsigned_zero: bool = False

    @property
    def has_infinity(self) -> bool:
        return not self.finite and not self.unsigned_zero

    @property
    def has_nan(self) -> bool:
        bits = 1 + self.exponent_bits + self.mantissa_bits
        return self.has_infinity or self.unsigned_zero or bits >= 8

    @functools.cached_property
    def numbers(self) -> Array:
        """All numbers from 0 up; the parity of the index is the last bit of the mantissa."""
        bias = 2 ** (self.exponent_bits - 1) - 1 + self.unsigned_zero
        exponents = 2**self.exponent_bits - self.has_infinity
        fractions = np.arange(2**self.mantissa_bits) / 2**self.mantissa_bits
        rows = [fractions * 2.0 ** (1 - bias)]
        rows += [(1 + fractions) * 2.0 ** (e - bias) for e in range(1, exponents)]
        numbers = np.concatenate(rows)
        if self.has_nan and not self.has_infinity and not self.unsigned_zero:
            numbers = numbers[:-1]  # the pattern of all ones is NaN
        return numbers

    @property
    def largest(self) -> float:
        return float(self.numbers[-1])


def round_to(x: Array, format: Format, saturate: bool = True) -> Array:
    """The nearest number of the format, ties to even; in the dtype of ``x``."""
    with np.errstate(invalid="ignore"):  # signaling NaN
        return _round_to(x, format, saturate)


def _round_to(x: Array, format: Format, saturate: bool) -> Array:
    numbers = format.numbers
    # What would come next decides what is beyond.
    beyond = numbers[-1] + (numbers[-1] - numbers[-2])
    table = np.append(numbers, beyond)
    magnitude = np.abs(x.astype(np.float64))
    clipped = np.where(magnitude < beyond, magnitude, beyond)  # NaN, too; replaced below
    upper = np.searchsorted(table, clipped)  # the first that is not below
    lower = np.maximum(upper - 1, 0)
    above = table[upper] - clipped
    below = clipped - table[lower]
    takes_upper = (above < below) | ((above == below) & (upper % 2 == 0))
    nearest = np.where(takes_upper, upper, lower)
    rounded = table[nearest]
    is_beyond = nearest == len(numbers)
    if saturate or not format.has_nan:
        rounded = np.where(is_beyond, format.largest, rounded)
    else:
        rounded = np.where(is_beyond, np.inf if format.has_infinity else np.nan, rounded)
    rounded = np.copysign(rounded, x)
    if format.unsigned_zero:
        rounded = np.where(rounded == 0, 0.0, rounded)
    return np.where(np.isnan(x), np.nan, rounded).astype(x.dtype)


def quantize_dequantize(x: Array, scale: Array, format: Format, saturate: bool = True) -> Array:
    """``scale`` broadcasts and has the dtype of ``x``."""
    with np.errstate(over="ignore", invalid="ignore"):
        return round_to(x / scale, format, saturate) * scale
