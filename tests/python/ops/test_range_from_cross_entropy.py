"""The range of a classifier's outputs that changes its probabilities least."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from aimet_torch import ops
from tests.python.ops.cases import same_bits

GRIDS = [(-8, 7, True), (0, 15, False), (-128, 127, True), (0, 255, False)]


def logits(rows=40, classes=30):
    """A few likely classes, a bulk far below zero, as classifiers have it."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(rows, classes, generator=generator) * 4 - 20
    likely = torch.randint(0, classes, (rows, 3), generator=generator)
    return x.scatter(1, likely, 8 + 3 * torch.randn(rows, 3, generator=generator))


def cross_entropy(x, limits, qmin, qmax, symmetric, reference=None):
    scale, offset = ops.encoding_from_range(*limits, qmin, qmax, symmetric)
    quantized = ops.quantize_dequantize(x, scale, offset, qmin, qmax).double()
    wanted = torch.softmax((x if reference is None else reference).double(), 1)
    return float(-(wanted * torch.log_softmax(quantized, 1)).sum())


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_no_other_range_is_much_better(grid):
    x = logits()
    found = cross_entropy(x, ops.range_from_cross_entropy(x, *grid), *grid)
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    others = []
    for a in torch.linspace(0.03, 1, 40):
        for b in torch.linspace(0.03, 1, 40) if not grid[2] else (a,):
            others.append(cross_entropy(x, ops.range_from_min_max(a * low, b * high, *grid), *grid))
    # A raster, not every pair of limits: one part in fifty.
    assert found <= 1.02 * min(others)


def test_classes_without_probability_are_clipped():
    x = logits()
    low, high = ops.range_from_cross_entropy(x, 0, 15, False)
    squares = ops.range_from_values(x, (), 0, 15, False)
    assert low > squares[0] + 5
    assert high >= 0.8 * x.max()
    grid = (0, 15, False)
    own = cross_entropy(x, (x.min(), x.max()), -(2**23), 2**23 - 1, True)  # hardly quantized
    gain = cross_entropy(x, squares, *grid) - own
    assert 0 <= cross_entropy(x, (low, high), *grid) - own < 0.2 * gain


def test_the_reference_decides():
    x = logits()
    reference = x.clone()
    reference[:, 0] = 12.0  # classes that the quantized network has got wrong
    x[:, 0] = 11.0
    x[:, 1] = 30.0
    own = ops.range_from_cross_entropy(x, 0, 255, False)
    theirs = ops.range_from_cross_entropy(x, 0, 255, False, reference)
    assert own[1] > 25
    assert theirs[1] < 15  # clipping makes the wrong class as likely as the right one
    assert cross_entropy(x, theirs, 0, 255, False, reference) < cross_entropy(
        x, own, 0, 255, False, reference
    )


def test_layouts_threads_and_what_does_not_count():
    x = logits()
    expected = ops.range_from_cross_entropy(x, -128, 127, True)
    assert all(
        map(same_bits, ops.range_from_cross_entropy(x.t(), -128, 127, True, None, 0), expected)
    )
    images = x.reshape(4, 10, 30).permute(0, 2, 1)  # a class for each position
    assert all(
        map(same_bits, ops.range_from_cross_entropy(images, -128, 127, True, None, 1), expected)
    )
    spoiled = torch.cat([x, x[:2]])
    spoiled[-1, 3], spoiled[-2, 4] = torch.nan, torch.inf
    assert all(map(same_bits, ops.range_from_cross_entropy(spoiled, -128, 127, True), expected))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = ops.range_from_cross_entropy(x, -128, 127, True)
    finally:
        torch.set_num_threads(threads)
    assert all(map(same_bits, alone, expected))
    low, high = ops.range_from_cross_entropy(torch.full((2, 3), torch.nan), 0, 255, False)
    assert low == 0 < high < 1e-3


def test_registration_and_errors():
    operator = torch.ops.aimet.range_from_cross_entropy.default
    torch.library.opcheck(operator, (logits(3, 4), 0, 255, False))
    differentiable = logits(3, 4).requires_grad_()
    torch.library.opcheck(operator, (differentiable, -8, 7, True, differentiable, 0))
    name = "range_from_cross_entropy: "
    with pytest.raises(TypeError, match=name + "`logits`"):
        ops.range_from_cross_entropy(torch.arange(3), 0, 255, False)
    with pytest.raises(ValueError, match=name + "`logits` must have a dimension"):
        ops.range_from_cross_entropy(torch.tensor(1.0), 0, 255, False)
    with pytest.raises(ValueError, match=name + "`class_axis` must be a dimension .* got 2"):
        ops.range_from_cross_entropy(torch.ones(2, 3), 0, 255, False, None, 2)
    with pytest.raises(ValueError, match=name + r"`reference` must have the shape \[2, 3\]"):
        ops.range_from_cross_entropy(torch.ones(2, 3), 0, 255, False, torch.ones(3))
    with pytest.raises(ValueError, match=name + ".*qmin"):
        ops.range_from_cross_entropy(torch.ones(2, 3), 7, 7, True)


def test_uniform_probabilities_need_no_range():
    """All candidates are equal: the first, the widest, is taken."""
    x = torch.full((3, 5), 2.0)
    low, high = ops.range_from_cross_entropy(x, 0, 255, False)
    assert (float(low), float(high)) == (0.0, 2.0)
    assert functional.softmax(x, 1).eq(0.2).all()
