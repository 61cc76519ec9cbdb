"""Quantizing in place by a range, and fingerprints of tensors."""

from __future__ import annotations

import pytest
import torch

from aimet_torch import ops
from tests.python.ops.cases import CASES, DTYPES, Case, same_bits

PER_TENSOR = [case for case in CASES if not case.scale_shape and case.layout != "expanded"]
BOUNDS = [(None, None), (0.0, None), (0.0, 6.0), (-1.0, 0.3)]


def expected(x, low, high, grid, bounds):
    """The separate operators."""
    if bounds != (None, None):
        x = x.clamp(*bounds)
    scale, offset = ops.encoding_from_range(low, high, *grid)
    return ops.quantize_dequantize(x, scale, offset, *grid[:2])


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", PER_TENSOR, ids=lambda case: case.name)
def test_same_bits_as_the_separate_operators(case: Case, dtype, bounds):
    x = case.input(dtype)
    for low, high, grid in (
        (torch.tensor(-1.3), torch.tensor(2.1), (0, 255, False)),
        (torch.tensor(0.0), torch.tensor(5.7), (0, 255, False)),
        (torch.tensor([-2.0]), torch.tensor([1.9]), (-8, 7, True)),
        (torch.tensor(-1.3).double(), torch.tensor(2.1).double(), (0, 65535, False)),
    ):
        if low.dim() > x.dim():
            continue
        want = expected(x, low, high, grid, bounds)
        got = x.clone()
        ops.quantize_dequantize_by_range_(got, low, high, *grid, *bounds)
        assert same_bits(got, want)
        assert got.stride() == x.clone().stride()


@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", PER_TENSOR, ids=lambda case: case.name)
def test_same_bits_with_scale_and_offset(case: Case, dtype, bounds):
    x = case.input(dtype)
    for scale, offset, grid in (
        (torch.tensor(0.013), torch.tensor(-7.0), (0, 255)),
        (torch.tensor(0.3).double(), torch.tensor(0.0), (-8, 7)),
        (torch.tensor([0.3]).half(), torch.tensor([0.0]), (-8, 7)),
    ):
        if scale.dim() > x.dim():
            continue
        want = x.clamp(*bounds) if bounds != (None, None) else x
        want = ops.quantize_dequantize(want, scale, offset, *grid)
        got = x.clone()
        ops.quantize_dequantize_(got, scale, offset, *grid, *bounds)
        assert same_bits(got, want)
        assert got.stride() == x.clone().stride()


def test_longer_than_a_block_and_with_threads():
    x = torch.randn(3, 70_001, generator=torch.Generator().manual_seed(0))
    low, high = torch.tensor(-1.0), torch.tensor(2.0)
    want = expected(x, low, high, (0, 255, False), (0.0, 1.5))
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            got = x.clone()
            ops.quantize_dequantize_by_range_(got, low, high, 0, 255, False, 0.0, 1.5)
            assert same_bits(got, want)
    finally:
        torch.set_num_threads(threads)


def test_writes_into_views_with_gaps_and_per_channel_ranges():
    x = torch.randn(4, 6, 5)
    low, high = -torch.rand(6, 1) - 0.1, torch.rand(6, 1) + 0.1
    want = expected(x[:, :, 1:4], low, high, (-8, 7, True), (0.0, None))
    rest = x[:, :, 4].clone()
    ops.quantize_dequantize_by_range_(x[:, :, 1:4], low, high, -8, 7, True, 0.0)
    assert same_bits(x[:, :, 1:4].contiguous(), want.contiguous())
    assert torch.equal(x[:, :, 4], rest)


def test_bumps_the_version():
    x = torch.randn(3)
    before = x._version
    ops.quantize_dequantize_by_range_(x, torch.tensor(-1.0), torch.tensor(1.0), 0, 255, False)
    between = x._version
    assert between > before
    ops.quantize_dequantize_(x, torch.tensor(0.1), torch.tensor(0.0), 0, 255)
    assert x._version > between


def test_a_scale_for_each_channel_and_views_with_gaps():
    x = torch.randn(4, 6, 5)
    scale, offset = torch.rand(6, 1) + 0.1, torch.zeros(1)
    want = ops.quantize_dequantize(x[:, :, 1:4].clamp(min=0), scale, offset, -8, 7)
    rest = x[:, :, 4].clone()
    ops.quantize_dequantize_(x[:, :, 1:4], scale, offset, -8, 7, 0.0)
    assert same_bits(x[:, :, 1:4].contiguous(), want.contiguous())
    assert torch.equal(x[:, :, 4], rest)


def test_refuses_what_it_cannot_do():
    x, low, high = torch.randn(3), torch.tensor(-1.0), torch.tensor(1.0)
    call = ops.quantize_dequantize_by_range_
    learning = torch.tensor(1.0, requires_grad=True)
    with pytest.raises(NotImplementedError, match=r"quantize_dequantize_by_range_: .*no_grad"):
        call(x, low, learning, 0, 255, False)
    with torch.no_grad():
        call(x, low, learning, 0, 255, False)
    with pytest.raises(ValueError, match=r"`scale` must be positive and finite, got nan"):
        call(x, low * torch.nan, high, 0, 255, False)
    with pytest.raises(ValueError, match=r"`qmin` must be less than `qmax`"):
        call(x, low, high, 3, 3, False)
    with pytest.raises(ValueError, match=r"`min` and `max` must have the same shape"):
        call(x, low, high.expand(3), 0, 255, False)
    with pytest.raises(ValueError, match=r"`min` must broadcast against `input`"):
        call(x, low.expand(2), high.expand(2), 0, 255, False)
    with pytest.raises(TypeError, match=r"`input` must be float16"):
        call(x.int(), low, high, 0, 255, False)


def test_in_place_by_scale_refuses_what_it_cannot_do():
    x, scale, offset = torch.randn(3), torch.tensor(0.1), torch.tensor(0.0)
    call = ops.quantize_dequantize_
    with pytest.raises(NotImplementedError, match=r"quantize_dequantize_: .*no_grad"):
        call(x, scale.clone().requires_grad_(), offset, 0, 255)
    with pytest.raises(ValueError, match=r"quantize_dequantize_: `scale` must be .*, got -0.1"):
        call(x, -scale, offset, 0, 255)
    with pytest.raises(ValueError, match=r"quantize_dequantize_: `qmin` must be less"):
        call(x, scale, offset, 3, 3)
    with pytest.raises(ValueError, match=r"quantize_dequantize_: `scale` must broadcast"):
        call(x, scale.expand(2), offset, 0, 255)
    with pytest.raises(TypeError, match=r"quantize_dequantize_: `input` must be float16"):
        call(x.int(), scale, offset, 0, 255)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.int8, torch.int64, torch.bool], ids=str)
@pytest.mark.parametrize("count", [1, 3, 1024])
def test_fingerprint_sees_every_element_of_short_tensors(dtype, count):
    x = torch.zeros(count).to(dtype)
    known = ops.fingerprint([x])
    assert known == ops.fingerprint([x.clone()])
    for index in {0, count // 2, count - 1}:
        changed = x.clone()
        changed[index] = 1
        assert ops.fingerprint([changed]) != known


def test_fingerprint_sees_what_changes_long_tensors_throughout():
    x = torch.randn(100, 301, generator=torch.Generator().manual_seed(1))
    known = ops.fingerprint([x])
    others = (x * 1.0001, x + 1e-3, x.flip(0), -x, x[:99], x.roll(1))
    assert len({known, *(ops.fingerprint([other]) for other in others)}) == len(others) + 1


def test_fingerprint_of_several_tensors():
    a, b = torch.ones(2), torch.zeros(2)
    assert ops.fingerprint([a, b]) != ops.fingerprint([b, a])
    assert ops.fingerprint([a]) != ops.fingerprint([a, torch.ones(0)])
    assert ops.fingerprint([a.t(), b]) == ops.fingerprint([a, b])
    with pytest.raises(NotImplementedError, match="fingerprint: `tensors` must hold data"):
        ops.fingerprint([torch.ones(2, device="meta")])
