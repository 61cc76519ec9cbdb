"""quantize_dequantize_float: every number and every midpoint of a format, bit for bit."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aimet_torch import ops
from tests.python.ops.cases import CASES, DTYPES, NAMES, Case, same_bits, to_numpy
from tests.reference import affine
from tests.reference.float_format import Format, quantize_dequantize, round_to

ONE = torch.tensor(1.0)
FORMATS: dict[str, tuple[Format, Any]] = {
    "float16": (Format(5, 10), np.float16),
    "bfloat16": (Format(8, 7), ml_dtypes.bfloat16),
    "float8_e4m3fn": (Format(4, 3, finite=True), ml_dtypes.float8_e4m3fn),
    "float8_e4m3fnuz": (Format(4, 3, finite=True, unsigned_zero=True), ml_dtypes.float8_e4m3fnuz),
    "float8_e4m3": (Format(4, 3), ml_dtypes.float8_e4m3),
    "float8_e3m4": (Format(3, 4), ml_dtypes.float8_e3m4),
    "float8_e5m2": (Format(5, 2), ml_dtypes.float8_e5m2),
    "float8_e5m2fnuz": (Format(5, 2, finite=True, unsigned_zero=True), ml_dtypes.float8_e5m2fnuz),
    "float6_e3m2fn": (Format(3, 2, finite=True), ml_dtypes.float6_e3m2fn),
    "float6_e2m3fn": (Format(2, 3, finite=True), ml_dtypes.float6_e2m3fn),
    "float4_e2m1fn": (Format(2, 1, finite=True), ml_dtypes.float4_e2m1fn),
}


def bits_of(format: Format) -> tuple[int, int, bool, bool]:
    return (format.exponent_bits, format.mantissa_bits, format.finite, format.unsigned_zero)


def inputs(format: Format) -> np.ndarray:
    """Every float16 and bfloat16, and around the format's numbers and the midpoints of them."""
    patterns = np.arange(2**16, dtype=np.uint16)
    with np.errstate(invalid="ignore", over="ignore"):
        everything = [patterns.view(t).astype(np.float32) for t in (np.float16, ml_dtypes.bfloat16)]
        numbers = format.numbers
        step = numbers[-1] - numbers[-2]
        numbers = np.concatenate([numbers, numbers[-1] + [step, 2 * step]])
        midpoints = (numbers[1:] + numbers[:-1]) / 2
        points = np.concatenate([numbers, midpoints]).astype(np.float32)
        up = np.nextafter(points, np.float32(np.inf))
        down = np.nextafter(points, np.float32(0))
    x = np.concatenate([*everything, points, up, down])
    return np.concatenate([x, -x])


@pytest.mark.parametrize("saturate", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FORMATS)
def test_every_number_and_every_midpoint(name: str, dtype: torch.dtype, saturate: bool) -> None:
    format, numpy_type = FORMATS[name]
    x = torch.from_numpy(inputs(format)).to(dtype)
    actual = ops.quantize_dequantize_float(x, ONE, *bits_of(format), saturate=saturate)
    values = to_numpy(x)
    assert same_bits(actual, torch.from_numpy(round_to(values, format, saturate)).to(dtype))
    if saturate:
        return
    with np.errstate(invalid="ignore", over="ignore"):
        cast = values.astype(numpy_type).astype(values.dtype)
    if not format.has_nan:  # ml_dtypes turns NaN into zero where the format has none
        cast = np.where(np.isnan(values), values, cast)
    assert same_bits(actual, torch.from_numpy(cast).to(dtype))


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2], ids=str
)
def test_equals_the_cast_of_torch(dtype: torch.dtype) -> None:
    format, _ = FORMATS[str(dtype).removeprefix("torch.")]
    x = torch.from_numpy(inputs(format))
    x = x[~(x.abs() > format.largest)]  # beyond, torch's versions differ
    actual = ops.quantize_dequantize_float(x, ONE, *bits_of(format), saturate=False)
    assert same_bits(actual, x.to(dtype).float())


@pytest.mark.parametrize("exponent_bits", range(2, 9))
@pytest.mark.parametrize("mantissa_bits", [1, 2, 6, 9])
def test_any_format(exponent_bits: int, mantissa_bits: int) -> None:
    format = Format(exponent_bits, mantissa_bits)
    x = inputs(format)
    expected = torch.from_numpy(round_to(x, format))
    actual = ops.quantize_dequantize_float(torch.from_numpy(x), ONE, exponent_bits, mantissa_bits)
    assert same_bits(actual, expected)


def test_float32_itself_changes_nothing() -> None:
    x = torch.from_numpy(inputs(Format(5, 2)))
    assert same_bits(ops.quantize_dequantize_float(x, ONE, 8, 23, saturate=False), x)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_scales_of_every_granularity(case: Case, dtype: torch.dtype) -> None:
    x = case.input(dtype)
    scale, _ = case.parameters(dtype)
    for format in (Format(4, 3, finite=True), Format(5, 10)):
        values = to_numpy(x)
        s = affine.expand(to_numpy(scale).astype(values.dtype), x.shape, case.block_size)
        expected = quantize_dequantize(values, s, format)
        bits = bits_of(format)
        actual = ops.quantize_dequantize_float(x, scale, *bits, block_size=case.block_size)
        assert same_bits(actual, torch.from_numpy(np.asarray(expected)).to(dtype))
        assert actual.stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_gradients_follow_the_formulas(case: Case) -> None:
    x = case.input(torch.float64, finite=True).requires_grad_()
    scale, _ = case.parameters(torch.float64)
    scale = scale.div(100).requires_grad_()  # so that some values are beyond 6 * scale
    y = ops.quantize_dequantize_float(x, scale, 2, 1, finite=True, block_size=case.block_size)
    grad = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    actual = torch.autograd.grad(y, (x, scale), grad)
    s = torch.from_numpy(affine.expand(to_numpy(scale), x.shape, case.block_size).copy())
    ratio = x.detach() / s
    inside = ratio.abs() <= 6
    rounded = torch.from_numpy(round_to(to_numpy(ratio), Format(2, 1, finite=True)))
    assert same_bits(actual[0], torch.where(inside, grad, 0))
    products = grad * (rounded - torch.where(inside, ratio, 0))
    ones = torch.ones_like(scale, requires_grad=True)
    spread = ops.dequantize(torch.ones_like(x), ones, torch.tensor(0.0), case.block_size)
    (expected,) = torch.autograd.grad(spread, ones, products)
    # Sums in another order: error below n * eps * sum of magnitudes.
    torch.testing.assert_close(actual[1], expected, rtol=1e-10, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_mask_gives_the_gradient_of_the_full_backward(case: Case, dtype: torch.dtype) -> None:
    x = case.input(dtype).requires_grad_()
    scale, _ = case.parameters(dtype)
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    format = {"finite": True, "block_size": case.block_size}
    by_mask = ops.quantize_dequantize_float(x, scale, 2, 1, **format)
    in_full = ops.quantize_dequantize_float(x, scale.requires_grad_(), 2, 1, **format)
    assert same_bits(by_mask, in_full)
    (a,) = torch.autograd.grad(by_mask, x, grad)
    (b,) = torch.autograd.grad(in_full, x, grad)
    assert same_bits(a, b)


def test_gradient_stops_beyond_the_largest_number() -> None:
    x = torch.tensor([0.3, 6.0, 6.001, -7.0, torch.inf, torch.nan], requires_grad=True)
    ops.quantize_dequantize_float(x, ONE, 2, 1, finite=True).sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize(("learns", "expected"), [(False, 64 * 64 // 8), (True, 64 * 64 * 4 + 4)])
def test_saves_a_bit_per_element_unless_the_scale_learns(learns: bool, expected: int) -> None:
    saved: list[torch.Tensor] = []
    x = torch.randn(64, 64, requires_grad=True)
    scale = torch.tensor(0.1, requires_grad=learns)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        ops.quantize_dequantize_float(x, scale, 4, 3, finite=True)
    assert sum(t.numel() * t.element_size() for t in saved) == expected


def test_second_derivatives() -> None:
    x = torch.tensor([0.3, 9.0], requires_grad=True)
    y = ops.quantize_dequantize_float(x, ONE, 2, 1, finite=True)
    (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    assert second.tolist() == [2.0, 0.0]  # d(2 y m)/dx = 2 m
    scale = torch.tensor(1.0, requires_grad=True)
    y = ops.quantize_dequantize_float(x, scale, 2, 1, finite=True)
    (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives need a `scale`"):
        torch.autograd.grad(first.sum(), x)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=40),
    st.integers(2, 7),
    st.integers(1, 8),
    st.booleans(),
    st.floats(2**-20, 2**20, width=32),
)
def test_properties(
    values: list[float], exponent_bits: int, mantissa_bits: int, finite: bool, scale: float
) -> None:
    x = torch.tensor(values, dtype=torch.float32)
    s = torch.tensor(scale)
    y = ops.quantize_dequantize_float(x, s, exponent_bits, mantissa_bits, finite)
    format = Format(exponent_bits, mantissa_bits, finite)
    assert bool((y.abs() <= torch.tensor(format.largest) * s).all())
    assert same_bits(ops.quantize_dequantize_float(-x, s, exponent_bits, mantissa_bits, finite), -y)
    order = x.argsort()
    assert bool((y[order].diff().nan_to_num() >= 0).all())  # monotonous
    on_grid = ops.quantize_dequantize_float(x, ONE, exponent_bits, mantissa_bits, finite)
    again = ops.quantize_dequantize_float(on_grid, ONE, exponent_bits, mantissa_bits, finite)
    assert same_bits(again, on_grid)
