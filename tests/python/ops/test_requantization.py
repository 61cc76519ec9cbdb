"""Integer arithmetic behind accumulators: against exact fractions, and every error."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aimet_torch.ops.integer import integer_add, requantization_multiplier, requantize
from tests.reference import requantization as reference

OPERATORS = torch.ops.aimet
ROUNDINGS = ("gemmlowp", "single", "half_even")


def ratio_of(*values: float) -> tuple[torch.Tensor, torch.Tensor]:
    return requantization_multiplier(torch.tensor(values, dtype=torch.float64))


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.floats(2.0**-40, 2.0**29))
def test_multipliers_are_those_of_the_description(ratio):
    multiplier, shift = ratio_of(ratio)
    assert (multiplier.item(), shift.item()) == reference.fixed_point(ratio)
    if ratio >= 2.0**-32:
        assert 2**30 <= multiplier.item() < 2**31
        real = multiplier.item() * 2.0 ** (shift.item() - 31)
        assert abs(real / ratio - 1) <= 2.0**-31


@pytest.mark.parametrize("rounding", ROUNDINGS)
@settings(max_examples=150, derandomize=True, deadline=None)
@given(st.integers(-(2**40), 2**40), st.floats(2.0**-31, 2.0**20))
def test_requantization_against_fractions(rounding, value, ratio):
    multiplier, shift = ratio_of(ratio)
    got = requantize(torch.tensor([value]), multiplier, shift, 3, -(2**31), 2**31 - 1, rounding)
    expected = reference.requantized(value, multiplier.item(), shift.item(), rounding) + 3
    assert got.item() == min(max(expected, -(2**31)), 2**31 - 1)
    assert got.dtype == torch.int32


@pytest.mark.parametrize(
    ("rounding", "halves"),
    [
        # -5/2, -3/2, -1/2, 1/2, 3/2, 5/2 with a ratio of exactly a half; a quarter below.
        ("gemmlowp", [-2, -1, 0, 1, 2, 3]),
        ("single", [-2, -1, 0, 1, 2, 3]),
        ("half_even", [-2, -2, 0, 0, 2, 2]),
    ],
)
def test_ties(rounding, halves):
    odd = torch.tensor([-5, -3, -1, 1, 3, 5])
    assert requantize(odd, *ratio_of(0.5), 0, -99, 99, rounding).tolist() == halves
    # A quarter has a shift of its own: gemmlowp's second rounding takes ties away from zero.
    even = requantize(odd * 2, *ratio_of(0.25), 0, -99, 99, rounding).tolist()
    assert even == ([-3, -2, -1, 1, 2, 3] if rounding == "gemmlowp" else halves)


def test_roundings_differ_by_one_at_most_and_rarely():
    sums = torch.arange(-200_000, 200_000)
    codes = {r: requantize(sums, *ratio_of(0.000437), 0, -128, 127, r) for r in ROUNDINGS}
    assert (codes["gemmlowp"] - codes["half_even"]).abs().max() <= 1
    assert (codes["gemmlowp"] != codes["half_even"]).float().mean() < 1e-3


def test_channels_and_limits():
    sums = torch.tensor([[100, 100], [-100, 4000]])
    multiplier, shift = ratio_of(0.1, 0.5)
    got = requantize(sums, multiplier, shift, 10, 0, 255)
    assert got.tolist() == [[20, 60], [0, 255]]
    by_row = requantize(sums, multiplier[:, None], shift[:, None], 10, 0, 255)
    assert by_row.tolist() == [[20, 20], [0, 255]]


@pytest.mark.parametrize("rounding", ROUNDINGS)
@settings(max_examples=100, derandomize=True, deadline=None)
@given(
    st.integers(0, 255),
    st.integers(-128, 127),
    st.tuples(*[st.floats(1e-4, 10.0)] * 3),
    st.sampled_from([20, 15]),
)
def test_addition_against_fractions(rounding, a, b, scales, shift):
    got = integer_add(
        torch.tensor([a]),
        torch.tensor([b], dtype=torch.int8),
        input_scale=scales[0],
        input_zero_point=7,
        other_scale=scales[1],
        other_zero_point=-5,
        output_scale=scales[2],
        output_zero_point=11,
        qmin=0,
        qmax=255,
        rounding=rounding,
        left_shift=shift,
    )
    expected = reference.added(a - 7, b + 5, scales, shift, rounding) + 11
    assert got.item() == min(max(expected, 0), 255)


def test_addition_is_that_of_real_numbers_within_one_step():
    generator = torch.Generator().manual_seed(0)
    a = torch.randint(0, 256, (64, 64), generator=generator)
    b = torch.randint(0, 256, (64,), generator=generator)
    got = integer_add(
        a, b, input_scale=0.02, input_zero_point=128, other_scale=0.05, other_zero_point=3,
        output_scale=0.0613, output_zero_point=90, qmin=0, qmax=255,
    )  # fmt: skip
    real = (a - 128) * 0.02 + (b - 3) * 0.05
    expected = ((real / 0.0613).round() + 90).clamp(0, 255)
    assert got.shape == (64, 64)
    assert (got - expected).abs().max() <= 1
    assert (got == expected).float().mean() > 0.99


ADD = (torch.arange(5), torch.arange(5), 0.1, 0, 0.2, 3, 0.3, 10, 0, 255, "single", 20)
SAMPLES = {
    "requantization_multiplier": (torch.rand(4, 3, dtype=torch.float64),),
    "requantize": (torch.randint(-999, 999, (4, 3)), *ratio_of(0.1, 0.2, 0.3), 1, 0, 255),
    "integer_add": ADD,
}


@pytest.mark.parametrize("operator", SAMPLES)
def test_registration(operator):
    torch.library.opcheck(getattr(OPERATORS, operator).default, SAMPLES[operator])
    for key in ("CPU", "Meta", "CompositeExplicitAutograd"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"aimet::{operator}", key), key


ONE = ratio_of(0.5)
SUMS = torch.arange(6).reshape(2, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((SUMS.float(), *ONE, 0, 0, 9), TypeError, "`accumulator` must have an integer dtype, got"),
        (
            (SUMS, ONE[0].long(), ONE[1], 0, 0, 9),
            TypeError,
            "`multiplier` and `shift` must be int3",
        ),
        ((SUMS, *ratio_of(1, 1), 0, 0, 9), ValueError, "`multiplier` must broadcast against `inp"),
        ((SUMS, ONE[0], ratio_of(1, 1)[1], 0, 0, 9), ValueError, "`shift` must have the shape of"),
        ((SUMS, *ONE, 0, 9, 9), ValueError, "`qmin` must be less than `qmax`, got qmin=9"),
        ((SUMS, *ONE, 0, 0, 2**32 - 1), ValueError, "`qmax` must fit the result's int32"),
        ((SUMS, *ONE, 0, 0, 9, "up"), ValueError, "`rounding` must be gemmlowp, single or half_e"),
        ((SUMS, -ONE[0], ONE[1], 0, 0, 9), ValueError, "`multiplier` must not be negative and `s"),
        ((SUMS, ONE[0], ONE[1] + 31, 0, 0, 9), ValueError, r"`shift` lie in \[-31, 30\], got .*31"),
    ],
)
def test_errors_of_requantization(arguments, error, message):
    with pytest.raises(error, match=f"requantize: .*{message}"):
        OPERATORS.requantize(*arguments)


@pytest.mark.parametrize("ratio", [-0.5, float("nan"), float("inf"), 2.0**30])
def test_errors_of_multipliers(ratio):
    with pytest.raises(ValueError, match="`ratio` must not be negative and be less than"):
        ratio_of(ratio)
    with pytest.raises(TypeError, match="`ratio` must be float16"):
        requantization_multiplier(torch.ones(1, dtype=torch.int32))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({0: torch.ones(5)}, TypeError, "`input` must have an integer dtype"),
        ({1: torch.ones(5)}, TypeError, "`other` must have an integer dtype"),
        ({2: 0.0}, ValueError, "`input_scale` must be positive and finite, got 0"),
        ({4: float("inf")}, ValueError, "`other_scale` must be positive and finite, got inf"),
        ({6: -1.0}, ValueError, "`output_scale` must be positive and finite, got -1"),
        ({6: 1e-30}, ValueError, "`output_scale` is too small beside those of the operands"),
        ({9: 0}, ValueError, "`qmin` must be less than `qmax`"),
        ({10: "up"}, ValueError, "`rounding` must be"),
        ({11: 31}, ValueError, r"`left_shift` must lie in \[0, 30\], got 31"),
    ],
)
def test_errors_of_addition(change, error, message):
    arguments = [change.get(i, value) for i, value in enumerate(ADD)]
    with pytest.raises(error, match=f"integer_add: .*{message}"):
        OPERATORS.integer_add(*arguments)
