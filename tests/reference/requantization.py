"""Requantization in Python's own integers, which never overflow.

Written from the descriptions of gemmlowp's fixedpoint.h and of CMSIS-NN's single rounding, by exact
fractions rather than by shifts and masks.
"""

from __future__ import annotations

import math
from fractions import Fraction


def fixed_point(ratio: float) -> tuple[int, int]:
    """Multiplier of 31 bits and shift: ratio is about multiplier * 2**(shift - 31)."""
    if ratio == 0:
        return 0, 0
    mantissa, shift = math.frexp(ratio)
    scaled = Fraction(mantissa) * 2**31
    multiplier = math.floor(scaled + Fraction(1, 2))
    if multiplier == 2**31:
        return 2**30, shift + 1
    return (0, 0) if shift < -31 else (multiplier, shift)


def half_up(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def half_away(value: Fraction) -> int:
    return half_up(value) if value >= 0 else -half_up(-value)


def half_even(value: Fraction) -> int:
    return round(value)


def requantized(value: int, multiplier: int, shift: int, rounding: str) -> int:
    exact = Fraction(value * multiplier) * Fraction(2) ** (shift - 31)
    if rounding == "single":
        return half_up(exact)
    if rounding == "half_even":
        return half_even(exact)
    left, right = max(shift, 0), max(-shift, 0)
    high = half_up(Fraction(value * 2**left * multiplier, 2**31))
    return half_away(Fraction(high, 2**right))


def added(a: int, b: int, scales: tuple[float, float, float], shift: int, rounding: str) -> int:
    """Codes less zero points, brought to a grid 2**shift as fine as twice the coarser step."""
    twice = 2 * max(scales[:2])
    parts = [
        requantized(code << shift, *fixed_point(scale / twice), rounding)
        for code, scale in zip((a, b), scales[:2], strict=True)
    ]
    return requantized(sum(parts), *fixed_point(twice / (2**shift * scales[2])), rounding)
