"""Measures of agreement against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from aimet_torch.report import sqnr_db, top1_agreement


def test_sqnr_of_a_tenth_of_the_amplitude_is_20_db() -> None:
    reference = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    assert sqnr_db(reference, reference * 1.1) == pytest.approx(20, abs=1e-5)


def test_sqnr_follows_one_bit_six_db() -> None:
    x = torch.linspace(-1, 1, 100001, dtype=torch.float64)
    coarse, fine = ((x / step).round() * step for step in (2**-6, 2**-7))
    assert sqnr_db(x, fine) - sqnr_db(x, coarse) == pytest.approx(20 * math.log10(2), abs=0.05)


def test_sqnr_is_not_computed_in_half_precision() -> None:
    reference = torch.full(
        (1000,), 300.0, dtype=torch.float16
    )  # the sum of squares overflows float16
    assert sqnr_db(reference, reference * 0.5) == pytest.approx(10 * math.log10(4), abs=1e-6)


def test_sqnr_at_the_edges() -> None:
    zero, one = torch.zeros(3), torch.ones(3)
    assert sqnr_db(one, one) == math.inf
    assert sqnr_db(zero, one) == -math.inf
    assert math.isnan(sqnr_db(one, torch.tensor([1.0, math.nan, 1.0])))


def test_top1_agreement_counts_rows() -> None:
    reference = torch.eye(4)
    actual = reference.clone()
    actual[0] = reference[1]
    assert top1_agreement(reference, actual) == 0.75


@pytest.mark.parametrize("measure", [sqnr_db, top1_agreement])
def test_shapes_that_differ_are_named(measure) -> None:
    with pytest.raises(
        ValueError, match=rf"{measure.__name__}: `actual` must have .* \(2, 3\), got \(3, 2\)"
    ):
        measure(torch.zeros(2, 3), torch.zeros(3, 2))


@pytest.mark.parametrize("measure", [sqnr_db, top1_agreement])
def test_empty_tensors_are_rejected(measure) -> None:
    with pytest.raises(ValueError, match=r"`reference` must not be empty, got shape \(0, 5\)"):
        measure(torch.zeros(0, 5), torch.zeros(0, 5))


def test_top1_agreement_wants_rows_of_classes() -> None:
    with pytest.raises(ValueError, match=r"must have shape \(N, classes\), got \(2, 3, 4\)"):
        top1_agreement(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4))
