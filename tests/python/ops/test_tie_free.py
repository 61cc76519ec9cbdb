"""Multipliers that no accumulator can bring next to a rounding boundary."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aimet_torch.ops.algorithms import tie_free_multiplier


def reference(multiplier: float, tolerance: float) -> float:
    for q in range(1, 20_002, 2):
        p = np.rint(multiplier * q)
        if p > 0 and abs(p / q / multiplier - 1) <= tolerance:
            return p / q
    return multiplier


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.floats(1e-6, 100), st.sampled_from([1e-2, 1e-3, 1e-4, 1e-6]))
def test_equals_the_reference(multiplier, tolerance):
    got = tie_free_multiplier(torch.tensor(multiplier, dtype=torch.float64), tolerance)
    assert got.item() == reference(multiplier, tolerance)


@settings(max_examples=60, derandomize=True, deadline=None)
@given(st.floats(1e-3, 10))
def test_denominators_are_odd_and_multiples_keep_away_from_halves(multiplier):
    got = tie_free_multiplier(torch.tensor([multiplier], dtype=torch.float64), 1e-4).item()
    assert abs(got / multiplier - 1) <= 1e-4
    fraction = Fraction(got).limit_denominator(20_001)
    assert fraction.denominator % 2 == 1
    halves = (np.arange(2000) * fraction.numerator % fraction.denominator) / fraction.denominator
    assert np.abs(halves - 0.5).min() >= 0.5 / fraction.denominator - 1e-12


def test_shapes_and_dtypes():
    got = tie_free_multiplier(torch.rand(3, 4) + 0.1, 1e-3)
    assert got.shape == (3, 4)
    assert got.dtype == torch.float64
    assert tie_free_multiplier(torch.empty(0), 1e-3).shape == (0,)


def test_numbers_without_a_neighbor_stay():
    numbers = torch.tensor([0.0, -1.0, 1e-9, float("inf")], dtype=torch.float64)
    assert torch.equal(tie_free_multiplier(numbers, 1e-4), numbers)


def test_errors():
    with pytest.raises(ValueError, match="`tolerance` must be between 0 and 1, got 2"):
        tie_free_multiplier(torch.ones(1), 2.0)
    with pytest.raises(TypeError, match="`multiplier` must have a floating-point dtype, got Int"):
        tie_free_multiplier(torch.ones(1, dtype=torch.int32), 0.1)
