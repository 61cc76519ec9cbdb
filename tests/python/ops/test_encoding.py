"""Limits to ranges, ranges to scale and offset."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aimet_torch import ops
from tests.python.ops.cases import same_bits
from tests.reference import encoding as reference

GRIDS = [(-8, 7), (-128, 127), (-127, 127), (0, 15), (0, 255), (0, 65535), (-2, 1), (-1, 0), (0, 1)]
INFINITY = float("inf")
LIMITS = [
    (-1.5, 0.9),
    (0.9, 1.5),
    (-1.5, -0.9),
    (0.0, 0.0),
    (1e-30, 1e-30),
    (-1e-12, 3e-9),
    (-3e38, 3e38),
    (INFINITY, -INFINITY),
    (-INFINITY, INFINITY),
    (float("nan"), 1.0),
    (-1e-40, 1e-40),
]


def limits(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = torch.tensor(LIMITS, dtype=torch.float64).to(dtype)
    return pairs[:, 0].contiguous(), pairs[:, 1].contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_equals_numpy_bit_for_bit(
    grid: tuple[int, int], symmetric: bool, dtype: torch.dtype
) -> None:
    low, high = limits(dtype)
    for strict in (False, True):
        actual = ops.range_from_min_max(low, high, *grid, symmetric, strict)
        expected = reference.range_from_min_max(low.numpy(), high.numpy(), *grid, symmetric, strict)
        for ours, theirs in zip(actual, expected, strict=True):
            assert same_bits(ours + 0.0, torch.from_numpy(np.asarray(theirs)) + 0.0)
    actual = ops.encoding_from_range(*actual, *grid, symmetric)
    expected = reference.encoding_from_range(*expected, *grid, symmetric)
    for ours, theirs in zip(actual, expected, strict=True):
        assert same_bits(ours, torch.from_numpy(np.asarray(theirs, dtype=low.numpy().dtype)))


@pytest.mark.parametrize("symmetric", [False, True])
def test_half_precision_is_computed_in_float32(symmetric: bool) -> None:
    low, high = torch.tensor([-1.5]).half(), torch.tensor([0.9]).half()
    scale, offset = ops.encoding_from_range(low, high, -128, 127, symmetric)
    expected = ops.encoding_from_range(low.float(), high.float(), -128, 127, symmetric)
    assert scale.dtype == offset.dtype == torch.float16
    assert torch.equal(scale, expected[0].half())


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("symmetric", [False, True])
def test_scales_are_always_positive_and_finite(grid: tuple[int, int], symmetric: bool) -> None:
    low, high = limits(torch.float32)
    keep = ~low.isnan()
    ranges = ops.range_from_min_max(low[keep], high[keep], *grid, symmetric)
    scale, offset = ops.encoding_from_range(*ranges, *grid, symmetric)
    assert (scale > 0).all()
    assert scale.isfinite().all()
    assert offset.isfinite().all()
    # Zero is a code of the grid.
    assert ((-offset >= grid[0]) & (-offset <= grid[1])).all() or symmetric


@pytest.mark.parametrize(
    ("low", "high"), [(-1.0, 2.0), (0.5, 2.0), (-2.0, -0.5), (-1e-9, 1e-9), (-1.27, 1.28)]
)
@pytest.mark.parametrize("symmetric", [False, True])
def test_gradients_follow_the_formulas(low: float, high: float, symmetric: bool) -> None:
    qmin, qmax = (-128, 127) if symmetric else (0, 255)
    steps = qmax - qmin
    a = torch.tensor(low, dtype=torch.float64, requires_grad=True)
    b = torch.tensor(high, dtype=torch.float64, requires_grad=True)
    scale, offset = ops.encoding_from_range(a, b, qmin, qmax, symmetric)
    g_scale, g_offset = 1.7, 0.3
    loss = scale * g_scale + (offset * g_offset if not symmetric else 0)
    actual = torch.autograd.grad(loss, (a, b))

    s = scale.item()
    widened = (high - low) / steps < min(2.0**-23, 0.01 / steps)
    d_offset = 0.0 if symmetric or not -qmax <= np.rint(low / s) - qmin <= -qmin else g_offset
    d_scale = 0.0 if widened else g_scale + d_offset * -low / s**2
    assert actual[0].item() == pytest.approx(d_offset / s - d_scale / steps)
    assert actual[1].item() == pytest.approx(d_scale / steps)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_gradient_that_is_not_finite_leaves_the_range_alone(bad: float, symmetric: bool) -> None:
    """Of two channels; the other one learns on."""
    low = torch.tensor([-1.0, -2.0], requires_grad=True)
    high = torch.tensor([1.5, 1.0], requires_grad=True)
    scale, offset = ops.encoding_from_range(low, high, -128, 127, symmetric)
    grads = [torch.tensor([bad, 0.5])] + ([] if symmetric else [torch.tensor([0.25, 0.25])])
    outputs = [scale] if symmetric else [scale, offset]
    found = torch.autograd.grad(outputs, (low, high), grads, retain_graph=True)
    grads[0] = torch.tensor([0.5, 0.5])
    expected = torch.autograd.grad(outputs, (low, high), grads)
    for got, want in zip(found, expected, strict=True):
        assert got[0] == 0
        assert got[1] == want[1] != 0


def test_a_range_far_from_zero_has_a_finite_gradient() -> None:
    """The ratio of limit and scale overflows, where the offset is clamped and learns nothing."""
    low = torch.tensor(-3e37, requires_grad=True)
    high = torch.tensor(-3e37, requires_grad=True)
    scale, offset = ops.encoding_from_range(low, high, 0, 255, False)
    grads = torch.autograd.grad(scale + offset, (low, high))
    assert all(grad.isfinite() for grad in grads)


def test_symmetric_offset_is_a_constant() -> None:
    low = torch.tensor(-1.0, requires_grad=True)
    scale, offset = ops.encoding_from_range(low, torch.tensor(1.0), -128, 127, True)
    assert scale.requires_grad
    assert not offset.requires_grad
    assert offset.item() == 0
    assert not torch.signbit(offset)


def test_ranges_are_constants_for_training() -> None:
    low = torch.tensor(-1.0, requires_grad=True)
    for result in ops.range_from_min_max(low, torch.tensor(1.0), -128, 127, True):
        assert not result.requires_grad
