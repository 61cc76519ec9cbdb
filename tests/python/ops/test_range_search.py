"""Range searches on histograms. Parity with AIMET: tests/python/test_golden.py."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from aimet_torch import ops
from tests.reference import range_search as reference

BINS = 256
SEARCHES: dict[str, Callable] = {
    "percentile": lambda h, a, b, *grid: ops.range_from_percentile(h, a, b, 99.5, *grid),
    "sqnr": ops.range_from_sqnr,
    "mse": ops.range_from_mse,
    "entropy": ops.range_from_entropy,
}
GRIDS = [(-8, 7, True), (0, 15, False), (-128, 127, True), (0, 255, False), (-2, 1, True)]


def data(kind: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(4, 3000, generator=generator)
    if kind == "relu":
        return x.relu()
    if kind == "outliers":
        x[:, 0] = 40
    if kind == "shifted":
        x = x.abs() + 2
    if kind == "constant":
        x = torch.full_like(x, 1.5)
    if kind == "zeros":
        x = torch.zeros_like(x)
    return x


def histogram_of(
    x: torch.Tensor, shape: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    low, high = ops.min_max(x, shape)
    histogram = torch.zeros(*shape, BINS, dtype=torch.int64)
    ops.update_histogram_(histogram, x, low, high)
    return histogram, low, high


KINDS = ["normal", "relu", "outliers", "shifted", "constant", "zeros"]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_percentile_and_sqnr_equal_numpy(kind: str, grid: tuple[int, int, bool]) -> None:
    histogram, low, high = histogram_of(data(kind), (4, 1))
    steps, symmetric = grid[1] - grid[0], grid[2]
    for percentile in (50.0, 99.0, 99.9, 100.0):
        ranges = ops.range_from_percentile(histogram, low, high, percentile, *grid)
        for channel in range(4):
            limits = np.float32(low[channel].item()), np.float32(high[channel].item())
            counts = histogram[channel, 0].numpy()
            expected = reference.percentile(counts, *limits, percentile, steps, symmetric)
            assert [r[channel].item() for r in ranges] == pytest.approx(expected, rel=1e-6)
    ranges = ops.range_from_sqnr(histogram, low, high, *grid)
    for channel in range(4):
        limits = np.float32(low[channel].item()), np.float32(high[channel].item())
        counts = histogram[channel, 0].numpy()
        expected = reference.sqnr(counts, *limits, steps, symmetric)
        assert [r[channel].item() for r in ranges] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("search", SEARCHES)
def test_ranges_hold_zero_and_are_the_same_for_one_and_many_channels(
    search: str, kind: str, grid: tuple[int, int, bool]
) -> None:
    histogram, low, high = histogram_of(data(kind), (4, 1))
    range_min, range_max = SEARCHES[search](histogram, low, high, *grid)
    assert range_min.shape == range_max.shape == (4, 1)
    assert ((range_min <= 0) & (range_max >= 0) & (range_min < range_max)).all()
    for channel in range(4):
        one = SEARCHES[search](histogram[channel, 0], low[channel, 0], high[channel, 0], *grid)
        assert [r.item() for r in one] == [range_min[channel].item(), range_max[channel].item()]


def error_of(x: torch.Tensor, ranges: tuple[torch.Tensor, torch.Tensor], grid: tuple) -> float:
    scale, offset = ops.encoding_from_range(*ranges, *grid)
    return (ops.quantize_dequantize(x, scale, offset, *grid[:2]) - x).square().mean().item()


@pytest.mark.parametrize("grid", [(-8, 7, True), (0, 15, False)], ids=str)
@pytest.mark.parametrize("kind", ["normal", "relu", "outliers", "shifted"])
def test_mse_finds_about_the_best_error_on_the_data(kind: str, grid: tuple[int, int, bool]) -> None:
    x = data(kind)
    histogram, low, high = histogram_of(x, ())
    errors = {
        name: error_of(x, search(histogram, low, high, *grid), grid)
        for name, search in SEARCHES.items()
    }
    whole = error_of(x, ops.range_from_min_max(low, high, *grid), grid)
    # 2 %: the search sees the centers of 256 bins, not the data.
    assert errors["mse"] <= 1.02 * min(*errors.values(), whole)


@pytest.mark.parametrize("search", SEARCHES)
def test_outliers_are_cut_off(search: str) -> None:
    histogram, low, high = histogram_of(data("outliers"), ())
    assert SEARCHES[search](histogram, low, high, 0, 15, False)[1].item() < 30


@pytest.mark.parametrize("search", SEARCHES)
def test_empty_histograms_give_the_minimal_range(search: str) -> None:
    infinity = torch.full((2,), torch.inf)
    empty = torch.zeros(2, BINS, dtype=torch.int64)
    ranges = SEARCHES[search](empty, infinity, -infinity, 0, 255, False)
    expected = ops.range_from_min_max(infinity, -infinity, 0, 255, False)
    assert [r.tolist() for r in ranges] == [e.tolist() for e in expected]


@pytest.mark.parametrize("search", SEARCHES)
def test_ranges_have_the_dtype_of_the_limits(search: str) -> None:
    histogram, low, high = histogram_of(data("normal"), ())
    ranges = SEARCHES[search](histogram, low.double(), high.double(), -8, 7, True)
    assert ranges[0].dtype == torch.float64


def test_sqnr_options_are_used() -> None:
    histogram, low, high = histogram_of(data("outliers"), ())
    default = ops.range_from_sqnr(histogram, low, high, 0, 15, False)
    assert ops.range_from_sqnr(histogram, low, high, 0, 15, False, gamma=1e6)[1] > default[1]
    coarse = ops.range_from_sqnr(histogram, low, high, -8, 7, True, symmetric_delta_candidates=3)
    fine = ops.range_from_sqnr(histogram, low, high, -8, 7, True, symmetric_delta_candidates=501)
    assert fine[1] < coarse[1]


@pytest.mark.parametrize("search", SEARCHES)
def test_values_that_no_cost_can_tell_apart_give_a_range_that_covers_them(search: str) -> None:
    x = torch.tensor([-3e38, 1.0, 3e38])  # squares overflow
    histogram, low, high = histogram_of(x, ())
    range_min, range_max = SEARCHES[search](histogram, low, high, 0, 255, False)
    assert range_min < 0 < range_max
    assert range_min.isfinite()
    assert range_max.isfinite()
