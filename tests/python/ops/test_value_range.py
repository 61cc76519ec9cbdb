"""The range with the least squared error on the values themselves."""

from __future__ import annotations

import pytest
import torch

from aimet_torch import ops
from aimet_torch.quantization.affine import QuantizeDequantize
from aimet_torch.quantization.encoding_analyzer import ValuesMseEncodingAnalyzer
from tests.python.ops.cases import CASES, same_bits

GRIDS = [(-2, 1, True), (-8, 7, True), (-128, 127, True), (0, 15, False), (0, 255, False)]


def error(x, limits, qmin, qmax, symmetric):
    scale, offset = ops.encoding_from_range(*limits, qmin, qmax, symmetric)
    return (ops.quantize_dequantize(x, scale, offset, qmin, qmax) - x).double().square().sum()


def values(kind, count=700):
    x = torch.randn(count, generator=torch.Generator().manual_seed(3))
    return {"normal": x, "positive": x.abs(), "outlier": torch.cat([x, torch.tensor([30.0])])}[kind]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("kind", ["normal", "positive", "outlier"])
def test_no_other_range_is_much_better(kind, grid):
    x = values(kind)
    found = error(x, ops.range_from_values(x, (), *grid), *grid)
    low, high = x.min().clamp(max=0), x.max().clamp(min=0)
    others = []
    for a in torch.linspace(0.01, 1, 60):
        if grid[2]:
            others.append(error(x, ops.range_from_min_max(a * low, a * high, *grid), *grid))
        for b in torch.linspace(0.05, 1, 30) if not grid[2] else ():
            others.append(error(x, ops.range_from_min_max(a * low, b * high, *grid), *grid))
    # A raster, not every pair of limits: one part in fifty.
    assert found <= 1.02 * min(others)


def test_a_symmetric_scale_is_the_best_for_its_codes():
    x = values("normal")
    scale, offset = ops.encoding_from_range(*ops.range_from_values(x, (), -8, 7, True), -8, 7, True)
    code = ops.quantize(x, scale, offset, -8, 7)
    best = (x * code).sum() / code.square().sum()
    # Steps of the refinement end where they gain less than float32 resolves.
    torch.testing.assert_close(scale, best, rtol=2e-3, atol=0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_granularities_and_layouts_see_the_same_values(case):
    x = case.input(finite=True)
    low, high = ops.range_from_values(x, case.scale_shape, -8, 7, True, case.block_size)
    assert low.shape == high.shape == case.scale_shape
    plain = ops.range_from_values(x.contiguous(), case.scale_shape, -8, 7, True, case.block_size)
    assert same_bits(low, plain[0])
    assert same_bits(high, plain[1])
    if low.numel():
        assert ((low <= 0) & (high >= 0) & (low < high)).all()


def test_channels_are_searched_one_by_one_whatever_the_number_of_threads():
    x = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    together = ops.range_from_values(x, (5, 1, 1, 1), -8, 7, True)
    for channel in range(5):
        alone = ops.range_from_values(x[channel], (), -8, 7, True)
        assert [a.item() for a in alone] == [t[channel].item() for t in together]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert all(map(same_bits, ops.range_from_values(x, (5, 1, 1, 1), -8, 7, True), together))
    finally:
        torch.set_num_threads(threads)


def test_what_is_no_number_does_not_count():
    x = values("normal")
    spoiled = torch.cat([x, torch.tensor([torch.nan, torch.inf, -torch.inf])])
    assert all(
        map(same_bits, ops.range_from_values(spoiled, (), -8, 7, True),
            ops.range_from_values(x, (), -8, 7, True))
    )  # fmt: skip
    nothing = ops.range_from_values(torch.full((3,), torch.nan), (), 0, 255, False)
    infinity = torch.tensor(torch.inf)
    expected = ops.range_from_min_max(infinity, -infinity, 0, 255, False)
    assert [n.item() for n in nothing] == [e.item() for e in expected]


def test_registration_and_errors():
    operator = torch.ops.aimet.range_from_values.default
    for x in (torch.randn(6, 4), torch.randn(6, 4, dtype=torch.float64).requires_grad_()):
        torch.library.opcheck(operator, (x, [6, 1], -8, 7, True))
        torch.library.opcheck(operator, (x, [6, 2], -8, 7, True, [1, 2]))
    with pytest.raises(TypeError, match="range_from_values: `input`"):
        ops.range_from_values(torch.arange(3), (), -8, 7, True)
    with pytest.raises(ValueError, match="range_from_values: `shape`"):
        ops.range_from_values(torch.randn(3), (2,), -8, 7, True)
    with pytest.raises(ValueError, match=r"range_from_values: .*qmin"):
        ops.range_from_values(torch.randn(3), (), 7, 7, True)


def test_the_analyzer_sets_the_range_of_a_quantizer():
    x = torch.randn(4, 200, generator=torch.Generator().manual_seed(0))
    analyzer = ValuesMseEncodingAnalyzer((4, 1))
    quantizer = QuantizeDequantize((4, 1), 4, True, encoding_analyzer=analyzer)
    with quantizer.compute_encodings():
        quantizer(x)
    minimum, maximum = ops.range_from_values(x, (4, 1), -8, 7, True)
    torch.testing.assert_close(quantizer.get_min(), minimum)
    torch.testing.assert_close(quantizer.get_max(), maximum)
    assert analyzer._values == []  # weights are not held on to
