"""The range of what a normalization reads that changes its result least."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from aimet_torch import ops
from tests.python.ops.cases import same_bits

GRIDS = [(-8, 7, True), (0, 15, False), (-128, 127, True), (0, 255, False)]
WEIGHT = torch.linspace(0.5, 2, 24)


def rows(count=30):
    """Values of like size, and in a few rows one that is far larger, always in one channel."""
    x = torch.randn(count, 24, generator=torch.Generator().manual_seed(2))
    x[::7, 5] = 90.0
    return x


def normalized(x, rms):
    if rms:
        return functional.rms_norm(x, (24,), WEIGHT, 1e-5)
    return functional.layer_norm(x, (24,), WEIGHT, None, 1e-5)


def error(x, limits, qmin, qmax, symmetric, rms=False):
    scale, offset = ops.encoding_from_range(*limits, qmin, qmax, symmetric)
    quantized = ops.quantize_dequantize(x, scale, offset, qmin, qmax)
    return float((normalized(quantized, rms) - normalized(x, rms)).double().square().sum())


@pytest.mark.parametrize("rms", [False, True])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_no_other_range_is_much_better(grid, rms):
    x = rows()
    limits = ops.range_before_norm(x, WEIGHT, 1e-5, *grid, rms)
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    others = []
    for a in torch.linspace(0.03, 1, 40):
        for b in torch.linspace(0.03, 1, 40) if not grid[2] else (a,):
            others.append(error(x, ops.range_from_min_max(a * low, b * high, *grid), *grid, rms))
    # A raster, not every pair of limits: one part in ten.
    assert error(x, limits, *grid, rms) <= 1.1 * min(others)
    assert limits[1] < 0.8 * high
    squares = ops.range_from_values(x, (), *grid)
    assert error(x, limits, *grid, rms) <= error(x, squares, *grid, rms)


def test_layouts_threads_and_what_does_not_count():
    x = rows()
    arguments = (WEIGHT, 1e-5, 0, 255, False)
    expected = ops.range_before_norm(x, *arguments)
    folded = x.reshape(2, 3, 5, 24).permute(2, 1, 0, 3)
    assert all(map(same_bits, ops.range_before_norm(folded, *arguments), expected))
    spoiled = torch.cat([x, x[:2]])
    spoiled[-1, 3], spoiled[-2, 4] = torch.nan, torch.inf
    assert all(map(same_bits, ops.range_before_norm(spoiled, *arguments), expected))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = ops.range_before_norm(x, *arguments)
    finally:
        torch.set_num_threads(threads)
    assert all(map(same_bits, alone, expected))
    low, high = ops.range_before_norm(torch.full((2, 24), torch.nan), *arguments)
    assert low == 0 < high < 1e-3
    ones = ops.range_before_norm(x, torch.ones(24), 1e-5, 0, 255, False)
    assert all(map(same_bits, ops.range_before_norm(x, None, 1e-5, 0, 255, False), ones))


def test_registration_and_errors():
    operator = torch.ops.aimet.range_before_norm.default
    torch.library.opcheck(operator, (rows(3), WEIGHT, 1e-5, 0, 255, False))
    torch.library.opcheck(operator, (rows(3).requires_grad_(), None, 0.0, -8, 7, True, True))
    name = "range_before_norm: "
    with pytest.raises(TypeError, match=name + "`input`"):
        ops.range_before_norm(torch.arange(3), None, 0.0, 0, 255, False)
    with pytest.raises(ValueError, match=name + "`input` must have a dimension"):
        ops.range_before_norm(torch.tensor(1.0), None, 0.0, 0, 255, False)
    with pytest.raises(ValueError, match=name + "`eps` must not be negative, got -1"):
        ops.range_before_norm(rows(3), None, -1.0, 0, 255, False)
    with pytest.raises(ValueError, match=name + "`weight` must have the 24 channels"):
        ops.range_before_norm(rows(3), torch.ones(3), 0.0, 0, 255, False)
    with pytest.raises(ValueError, match=name + ".*qmin"):
        ops.range_before_norm(rows(3), None, 0.0, 7, 7, True)
