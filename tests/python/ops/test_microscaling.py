"""MX and NVFP4: values, scales and masks against NumPy, bit for bit, on every axis and layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aimet_torch import ops
from tests.python.ops.cases import DTYPES, arrange, same_bits, to_numpy
from tests.reference import microscaling as reference

ELEMENTS = [*reference.ELEMENTS, "int8"]
# Shape, axis, layout: whole and partial blocks; neighbors, few and many columns; odd lengths.
LAYOUTS = [
    ((96,), -1, "contiguous"),
    ((5, 7, 64), 2, "contiguous"),
    ((3, 45), 1, "contiguous"),
    ((70, 3), 0, "contiguous"),
    ((2, 40, 3, 3), 1, "contiguous"),
    ((2, 40, 3, 3), 1, "channels_last"),
    ((2, 5, 6, 33), 3, "channels_last"),
    ((33, 300), 0, "contiguous"),
    ((2, 65, 130), 1, "contiguous"),
    ((4, 9, 40), 2, "transposed"),
    ((3, 64), 1, "sliced"),
    ((4, 64), 1, "expanded"),
    ((1, 1, 1), 0, "contiguous"),
    ((0, 32), 1, "contiguous"),
    ((3, 0), 1, "contiguous"),
]


def values(shape: tuple[int, ...], dtype: torch.dtype, layout: str = "contiguous") -> torch.Tensor:
    """Magnitudes of many orders, ties, both zeros, blocks of zeros, and what is not a number."""
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    x *= 2.0 ** torch.randint(-9, 9, shape, generator=generator)
    flat = x.view(-1)
    specials = [0.0, -0.0, 0.25, -1.75, 5.0, torch.nan, torch.inf, -torch.inf, 1e-40, 3e38]
    for position, value in zip(range(0, flat.numel(), 11), specials, strict=False):
        flat[position] = value
    flat[flat.numel() // 2 : flat.numel() // 2 + 33] = 0.0
    return arrange(x.to(dtype), layout)


def check(x: torch.Tensor, element: str, axis: int, block: int, tensor: float | None) -> None:
    t = None if tensor is None else torch.tensor(tensor, dtype=torch.float32)
    actual, scale, mask = torch.ops.aimet._quantize_dequantize_microscaling_mask(
        x, element, axis, block, t
    )
    plain, plain_scale = torch.ops.aimet.quantize_dequantize_microscaling(
        x, element, axis, block, t
    )
    assert same_bits(plain, actual)
    assert same_bits(plain_scale, scale)
    numbers = to_numpy(x)
    t32 = None if t is None else t.to(scale.dtype).item()
    expected, scales, inside = reference.quantize_dequantize(numbers, element, axis, block, t32)
    assert same_bits(scale, torch.from_numpy(scales))
    assert same_bits(actual, torch.from_numpy(np.ascontiguousarray(expected)).to(x.dtype))
    assert actual.stride() == torch.empty_like(x).stride()
    grad = torch.ones_like(actual)
    passed = torch.ops.aimet._quantize_dequantize_mask_backward(grad, mask)
    assert torch.equal(passed.bool(), torch.from_numpy(np.ascontiguousarray(inside)))
    assert mask.numel() == (x.numel() + 7) // 8
    if x.numel() % 8:
        assert int(mask[-1]) >> (x.numel() % 8) == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize(("shape", "axis", "layout"), LAYOUTS, ids=str)
def test_mx(
    shape: tuple[int, ...], axis: int, layout: str, element: str, dtype: torch.dtype
) -> None:
    check(values(shape, dtype, layout), element, axis, 32, None)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tensor_scale", [1.0, 0.0123, 1e-30, 1e30])
@pytest.mark.parametrize(("shape", "axis", "layout"), LAYOUTS, ids=str)
def test_nvfp4(
    shape: tuple[int, ...], axis: int, layout: str, tensor_scale: float, dtype: torch.dtype
) -> None:
    check(values(shape, dtype, layout), "float4e2m1", axis, 16, tensor_scale)


@pytest.mark.parametrize("block_size", [1, 2, 7, 16, 31, 33, 128, 1024])
@pytest.mark.parametrize(("shape", "axis"), [((3, 2100), 1), ((70, 20), 0), ((9, 140), 0)])
def test_block_sizes(shape: tuple[int, ...], axis: int, block_size: int) -> None:
    check(values(shape, torch.float32), "float8e4m3fn", axis, block_size, None)


@pytest.mark.parametrize("element", ELEMENTS)
def test_every_float16_and_bfloat16(element: str) -> None:
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        x = patterns.view(dtype)
        check(x, element, 0, 1, None)  # each number is its own block
        check(x, element, 0, 32, None)  # neighbors of similar size


@pytest.mark.parametrize("element", ELEMENTS)
def test_every_element_and_every_midpoint(element: str) -> None:
    numbers = np.arange(128) / 64 if element == "int8" else reference.ELEMENTS[element].numbers
    points = np.concatenate([numbers, (numbers[1:] + numbers[:-1]) / 2]).astype(np.float32)
    points = np.concatenate([points, np.nextafter(points, np.float32(9e9)), -points])
    # The first element of each block has the largest exponent, hence the scale is `power`.
    largest = np.float32(2.0 ** np.floor(np.log2(numbers[-1])))
    for power in (1.0, 2.0**-100, 2.0**90):
        rows = np.stack([np.full_like(points, largest), points], axis=1) * np.float32(power)
        x = torch.from_numpy(rows.astype(np.float32))
        _, scale = ops.quantize_dequantize_mx(x, element, axis=1, block_size=2)
        assert bool((scale == power).all())
        check(x, element, 1, 2, None)


def test_zeros_and_what_is_no_number() -> None:
    x = torch.tensor([[0.0, -0.0, 0.0], [torch.nan, torch.inf, -torch.inf], [1.0, torch.inf, -2.0]])
    y, scale = ops.quantize_dequantize_mx(x, "float4e2m1")
    assert same_bits(y[0], x[0])
    assert y[1].isnan().tolist() == [True, False, False]
    assert y[2].tolist() == [1.0, 3.0, -2.0]  # infinity becomes 6 * scale
    assert scale.flatten().tolist() == [2.0**-127, 2.0**-127, 0.5]


def test_worked_examples() -> None:
    # 20 = 1.25 * 2^4, emax of E2M1 is 2: the scale is 2^2; 0.1 / 4 rounds to 0, 3 / 4 to 1 (a tie).
    y, scale = ops.quantize_dequantize_mx(torch.tensor([0.1, -3.0, 20.0]), "float4e2m1")
    assert y.tolist() == [0.0, -4.0, 16.0]
    assert scale.tolist() == [4.0]
    y, scale = ops.quantize_dequantize_mx(torch.tensor([1.0, 127 / 64, 1.993]), "int8")
    assert y.tolist() == [1.0, 127 / 64, 127 / 64]
    x = torch.tensor([6.0, 3.0, 0.5])
    y, scale = ops.quantize_dequantize_nvfp4(x, torch.tensor(1 / 448))
    assert scale.tolist() == [1.0]
    assert torch.equal(y, x)


def test_gradient_stops_where_values_saturate() -> None:
    x = torch.tensor([0.3, 6.0, 6.5, -7.9, torch.nan, torch.inf], requires_grad=True)
    y, scale = ops.quantize_dequantize_mx(x, "float4e2m1")  # scale 1
    assert not scale.requires_grad
    y.sum().backward()
    assert x.grad.tolist() == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]


def test_saves_a_bit_per_element() -> None:
    saved: list[torch.Tensor] = []
    x = torch.randn(64, 64, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        ops.quantize_dequantize_mx(x, "float8e4m3fn")
    assert sum(t.numel() * t.element_size() for t in saved) == 64 * 64 // 8


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=80),
    st.sampled_from(ELEMENTS),
    st.integers(1, 40),
)
def test_properties(numbers: list[float], element: str, block_size: int) -> None:
    x = torch.tensor(numbers, dtype=torch.float32)
    y, scale = ops.quantize_dequantize_mx(x, element, block_size=block_size)
    assert bool((scale > 0).all())
    assert bool((torch.frexp(scale)[0] == 0.5).all())
    per_element = scale.repeat_interleave(block_size)[: x.numel()]
    limit = reference.largest_element(element) * per_element.double()
    assert bool((y.double().abs() <= limit).all())
    # What was rounded needs no more rounding, unless saturation or a carry changed the exponent.
    again, scale_again = ops.quantize_dequantize_mx(y, element, block_size=block_size)
    same = (scale_again == scale).repeat_interleave(block_size)[: x.numel()]
    assert same_bits(again[same], y[same])
