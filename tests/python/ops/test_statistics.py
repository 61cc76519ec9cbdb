"""min_max, update_histogram_, rebin_histogram."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aimet_torch import ops
from tests.python.ops.cases import CASES, DTYPES, NAMES, Case, same_bits, to_numpy
from tests.reference import histogram as reference


def groups(x: torch.Tensor, case: Case) -> np.ndarray:
    """(parameters, elements of each), in NumPy."""
    values = to_numpy(x)
    skipped = values.ndim - len(case.scale_shape)
    split, kept = list(values.shape[:skipped]), []
    for axis, count in enumerate(case.scale_shape):
        kept.append(len(split))
        split += [count, values.shape[skipped + axis] // count]
    shared = [axis for axis in range(len(split)) if axis not in kept]
    count = int(np.prod(case.scale_shape))
    return values.reshape(split).transpose(kept + shared).reshape(count, values.size // count)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_min_max_counts_finite_values_only(case: Case, dtype: torch.dtype) -> None:
    x = case.input(dtype)
    low, high = ops.min_max(x, case.scale_shape, case.block_size)
    rows = groups(x, case)
    finite = np.isfinite(rows)
    expected_low = np.where(finite, rows, np.inf).min(axis=1, initial=np.inf) + 0.0
    expected_high = np.where(finite, rows, -np.inf).max(axis=1, initial=-np.inf) + 0.0
    assert same_bits(low, torch.from_numpy(expected_low).reshape(case.scale_shape).to(low.dtype))
    assert same_bits(high, torch.from_numpy(expected_high).reshape(case.scale_shape).to(low.dtype))
    assert low.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


def test_min_max_of_nothing() -> None:
    for x in (torch.empty(0), torch.tensor([torch.nan, torch.inf, -torch.inf])):
        low, high = ops.min_max(x, ())
        assert (low.item(), high.item()) == (torch.inf, -torch.inf)


def test_min_max_has_no_negative_zero() -> None:
    for x in (torch.tensor([-0.0, 0.0]), torch.tensor([0.0, -0.0]), torch.tensor([-0.0])):
        assert not any(torch.signbit(limit) for limit in ops.min_max(x, ()))


def test_min_max_is_a_constant_for_training() -> None:
    assert not ops.min_max(torch.randn(3, requires_grad=True), ())[0].requires_grad


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_histogram_equals_numpy(case: Case, dtype: torch.dtype) -> None:
    bins = 37
    x = case.input(dtype)
    shape = case.scale_shape
    low = torch.linspace(-2, -1, max(int(np.prod(shape)), 1)).reshape(shape)
    high = low + 2.5
    histogram = torch.zeros(*shape, bins, dtype=torch.int64)
    for _ in range(2):  # adds to what is there
        ops.update_histogram_(histogram, x, low, high, case.block_size)
    rows = groups(x, case)
    limit_type = rows.dtype.type
    for row, (a, b, counts) in enumerate(
        zip(low.reshape(-1), high.reshape(-1), histogram.reshape(-1, bins), strict=True)
    ):
        limits = limit_type(a.item()), limit_type(b.item())
        expected = 2 * reference.histogram(rows[row], *limits, bins)
        assert counts.tolist() == expected.tolist()


def test_histogram_equals_histc() -> None:
    x = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    low, high = ops.min_max(x, ())
    histogram = torch.zeros(2048, dtype=torch.int64)
    ops.update_histogram_(histogram, x, low, high)
    assert torch.equal(histogram.float(), torch.histc(x, 2048, low.item(), high.item()))


def test_histogram_of_constant_data() -> None:
    histogram = torch.zeros(4, dtype=torch.int64)
    ops.update_histogram_(histogram, torch.full((10,), 3.0), torch.tensor(3.0), torch.tensor(3.0))
    assert histogram.tolist() == [0, 0, 10, 0]


def test_histogram_counts_nothing_where_nothing_was_observed() -> None:
    histogram = torch.zeros(4, dtype=torch.int64)
    infinity = torch.tensor(torch.inf)
    ops.update_histogram_(histogram, torch.randn(10), infinity, -infinity)
    assert histogram.sum() == 0


def test_histogram_may_have_gaps() -> None:
    storage = torch.zeros(3, 8, dtype=torch.int64)
    view = storage.T[:4].T  # (3, 4), not contiguous
    ops.update_histogram_(view.unsqueeze(1), torch.rand(3, 50), torch.zeros(3, 1), torch.ones(3, 1))
    assert view.sum(1).tolist() == [50, 50, 50]
    assert storage[:, 4:].sum() == 0


@pytest.mark.parametrize("new", [(-1.0, 1.0), (-1.0, 3.0), (-1.7, 1.3), (-9.0, 11.0)])
@pytest.mark.parametrize("old", [(-1.0, 1.0), (0.25, 0.25)])
def test_rebin_equals_numpy(old: tuple[float, float], new: tuple[float, float]) -> None:
    counts = torch.randint(0, 50, (64,), generator=torch.Generator().manual_seed(3))
    limits = [torch.tensor(value) for value in (*old, *new)]
    actual = ops.rebin_histogram(counts, *limits)
    as_numpy = [np.float32(value) for value in (*old, *new)]
    expected = reference.rebin(counts.numpy(), tuple(as_numpy[:2]), tuple(as_numpy[2:]))
    assert actual.tolist() == expected.tolist()
    assert actual.sum() == counts.sum()


def test_rebin_keeps_histograms_of_nothing() -> None:
    infinity = torch.tensor(torch.inf)
    zeros = torch.zeros(8, dtype=torch.int64)
    rebinned = ops.rebin_histogram(zeros, infinity, -infinity, torch.tensor(0.0), torch.tensor(1.0))
    assert torch.equal(rebinned, zeros)
