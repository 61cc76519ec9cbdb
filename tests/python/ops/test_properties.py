"""What holds for every input: found, not listed (hypothesis, without randomness between runs)."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aimet_torch import ops

settings.register_profile("aimet", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("aimet")

scales = st.floats(2.0**-20, 2.0**10, width=32)
grids = st.sampled_from([(-8, 7), (-128, 127), (0, 15), (0, 255), (-2, 1), (-32768, 32767)])
arrays = hnp.arrays(
    "float32",
    hnp.array_shapes(min_dims=0, max_dims=3, max_side=9),
    elements=st.floats(-1e6, 1e6, width=32),
)


def tensors(scale: float, grid: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    offset = 0.0 if grid[0] < 0 else -float((grid[1] + 1) // 3)
    return torch.tensor(scale), torch.tensor(offset)


@given(arrays, scales, grids)
def test_is_idempotent(x, scale, grid) -> None:
    s, o = tensors(scale, grid)
    once = ops.quantize_dequantize(torch.from_numpy(x), s, o, *grid)
    assert torch.equal(ops.quantize_dequantize(once, s, o, *grid), once)


@given(arrays, scales, grids)
def test_codes_lie_on_the_grid(x, scale, grid) -> None:
    q = ops.quantize(torch.from_numpy(x), *tensors(scale, grid), *grid)
    assert torch.equal(q, q.round())
    assert ((q >= grid[0]) & (q <= grid[1])).all()


@given(arrays, scales, grids)
def test_is_monotonic(x, scale, grid) -> None:
    ordered = torch.from_numpy(x).flatten().sort().values
    y = ops.quantize_dequantize(ordered, *tensors(scale, grid), *grid)
    assert (y.diff() >= 0).all()


@given(arrays, scales, grids)
def test_values_inside_move_by_half_a_step_at_most(x, scale, grid) -> None:
    s, o = tensors(scale, grid)
    x = torch.from_numpy(x)
    y = ops.quantize_dequantize(x, s, o, *grid)
    inside = (x >= (grid[0] + o) * s) & (x <= (grid[1] + o) * s)
    # One division, one product: 2^-23 of the value itself beyond the half step.
    assert ((y - x).abs() <= s / 2 + x.abs() * 2**-22)[inside].all()


@given(arrays, scales, grids, st.integers(-20, 20))
def test_scaling_by_powers_of_two_changes_nothing(x, scale, grid, exponent) -> None:
    s, o = tensors(scale, grid)
    factor = 2.0**exponent
    y = ops.quantize_dequantize(torch.from_numpy(x), s, o, *grid)
    scaled = ops.quantize_dequantize(torch.from_numpy(x) * factor, s * factor, o, *grid)
    assert torch.equal(scaled, y * factor)


@given(arrays, scales, grids)
def test_both_in_one_equals_one_after_the_other(x, scale, grid) -> None:
    s, o = tensors(scale, grid)
    q = ops.quantize(torch.from_numpy(x), s, o, *grid)
    in_one = ops.quantize_dequantize(torch.from_numpy(x), s, o, *grid)
    assert torch.equal(ops.dequantize(q, s, o), in_one)


@given(st.floats(-1e6, 1e6, width=32), st.floats(-1e6, 1e6, width=32), grids, st.booleans())
def test_ranges_hold_the_data_and_zero(a, b, grid, symmetric) -> None:
    low, high = torch.tensor(min(a, b)), torch.tensor(max(a, b))
    range_min, range_max = ops.range_from_min_max(low, high, *grid, symmetric)
    scale, offset = ops.encoding_from_range(range_min, range_max, *grid, symmetric)
    assert range_min <= 0 <= range_max
    assert scale > 0
    zero = ops.quantize_dequantize(torch.tensor(0.0), scale, offset, *grid)
    assert zero == 0
    reached = ops.quantize_dequantize(torch.stack([low, high]), scale, offset, *grid)
    # A limit is at most half a step outside, or one step at the positive end of a symmetric grid of
    # 2 bits.
    slack = 1.01 if symmetric and grid[1] - grid[0] == 3 else 0.51
    assert ((reached - torch.stack([low, high])).abs() <= slack * scale + 1e-6 * high.abs()).all()


@given(
    hnp.arrays("int64", 16, elements=st.integers(0, 1000)),
    st.floats(0, 5, width=32),
    st.floats(0, 5, width=32),
)
def test_rebinning_loses_nothing(counts, below, above) -> None:
    low, high = torch.tensor(-1.0), torch.tensor(1.0)
    rebinned = ops.rebin_histogram(torch.from_numpy(counts), low, high, low - below, high + above)
    assert rebinned.sum() == counts.sum()
    assert (rebinned >= 0).all()
