"""quantize, dequantize, quantize_dequantize: equal to NumPy; gradients against the formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aimet_torch import ops
from tests.python.ops.cases import CASES, DTYPES, NAMES, Case, same_bits, to_numpy
from tests.reference import affine as reference

GRIDS = [(-8, 7), (0, 255), (-32768, 32767), (-1, 0)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_equals_numpy_bit_for_bit(case: Case, dtype: torch.dtype) -> None:
    x = case.input(dtype)
    scale, offset = case.parameters(dtype)
    arguments = (to_numpy(x), to_numpy(scale), to_numpy(offset))
    for qmin, qmax in GRIDS:
        for name in ("quantize", "quantize_dequantize"):
            actual = getattr(ops, name)(x, scale, offset, qmin, qmax, case.block_size)
            expected = getattr(reference, name)(*arguments, qmin, qmax, case.block_size)
            assert same_bits(actual, torch.from_numpy(np.asarray(expected)).to(dtype)), name
    actual = ops.dequantize(x, scale, offset, case.block_size)
    expected = reference.dequantize(*arguments, case.block_size)
    assert same_bits(actual, torch.from_numpy(np.asarray(expected)).to(dtype))


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_keeps_the_memory_format(case: Case) -> None:
    x = case.input()
    scale, offset = case.parameters()
    y = ops.quantize_dequantize(x, scale, offset, -8, 7, case.block_size)
    assert y.stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_gradients_follow_the_formulas(case: Case) -> None:
    x = case.input(torch.float64, finite=True).requires_grad_()
    scale, offset = (p.requires_grad_() for p in case.parameters(torch.float64))
    y = ops.quantize_dequantize(x, scale, offset, -8, 7, case.block_size)
    grad = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    actual = torch.autograd.grad(y, (x, scale, offset), grad)
    expected = reference.quantize_dequantize_gradient(
        *(to_numpy(t) for t in (grad, x, scale, offset)), -8, 7, case.block_size
    )
    assert same_bits(actual[0], torch.from_numpy(np.asarray(expected[0])))
    # Sums in another order: error below n * eps * sum of magnitudes.
    for ours, theirs in zip(actual[1:], expected[1:], strict=True):
        np.testing.assert_allclose(to_numpy(ours), theirs, rtol=1e-10, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_mask_gives_the_gradient_of_the_full_backward(case: Case, dtype: torch.dtype) -> None:
    x = case.input(dtype).requires_grad_()
    scale, offset = case.parameters(dtype)
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    by_mask = ops.quantize_dequantize(x, scale, offset, -8, 7, case.block_size)
    in_full = ops.quantize_dequantize(x, scale.requires_grad_(), offset, -8, 7, case.block_size)
    assert same_bits(by_mask, in_full)
    (a,) = torch.autograd.grad(by_mask, x, grad)
    (b,) = torch.autograd.grad(in_full, x, grad)
    assert same_bits(a, b)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_separate_steps_have_the_gradient_of_both_in_one(case: Case) -> None:
    def gradients(in_one: bool) -> tuple[torch.Tensor, ...]:
        x = case.input(torch.float64, finite=True).requires_grad_()
        scale, offset = (p.requires_grad_() for p in case.parameters(torch.float64))
        if in_one:
            y = ops.quantize_dequantize(x, scale, offset, -8, 7, case.block_size)
        else:
            q = ops.quantize(x, scale, offset, -8, 7, case.block_size)
            y = ops.dequantize(q, scale, offset, case.block_size)
        return torch.autograd.grad(y.square().sum(), (x, scale, offset))

    for ours, theirs in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradient_of_float32_scale_is_close_to_float64(dtype: torch.dtype) -> None:
    case = Case("weights", (16, 5000), (16, 1))
    x = case.input(dtype, finite=True)
    scale, offset = (p.requires_grad_() for p in case.parameters())
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    ops.quantize_dequantize(x, scale, offset, -8, 7).backward(grad)
    expected = reference.quantize_dequantize_gradient(
        *(to_numpy(t).astype(np.float64) for t in (grad, x, scale, offset)), -8, 7
    )
    for parameter, theirs in zip((scale, offset), expected[1:], strict=True):
        magnitude = np.abs(theirs).max() + 1
        # Ties may round differently in float64; otherwise 64 additions of float32 in a lane.
        np.testing.assert_allclose(to_numpy(parameter.grad), theirs, atol=2e-3 * magnitude)


def test_worked_example() -> None:
    scale, offset = torch.tensor(3 / 255), torch.tensor(-85.0)
    x = torch.tensor([-1.0, 0.004, 2.1])
    assert ops.quantize(x, scale, offset, 0, 255).tolist() == [0, 85, 255]
    torch.testing.assert_close(
        ops.quantize_dequantize(x, scale, offset, 0, 255), torch.tensor([-1.0, 0.0, 2.0])
    )


def test_special_values() -> None:
    x = torch.tensor([torch.nan, torch.inf, -torch.inf, 3.4e38, 1e-45, -1e-45])
    y = ops.quantize_dequantize(x, torch.tensor(0.5), torch.tensor(0.0), -8, 7)
    assert y[0].isnan()
    assert y[1:].tolist() == [3.5, -4.0, 3.5, 0.0, 0.0]


def test_gradient_is_zero_where_the_input_is_not_a_number() -> None:
    x = torch.tensor([torch.nan, 0.1, torch.inf], requires_grad=True)
    ops.quantize_dequantize(x, torch.tensor(0.5), torch.tensor(0.0), -8, 7).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("needs", ["input", "scale"])
def test_saves_a_bit_per_element_unless_the_scale_learns(needs: str) -> None:
    saved: list[torch.Tensor] = []
    x = torch.randn(64, 64, requires_grad=True)
    scale = torch.tensor(0.1, requires_grad=needs == "scale")
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        ops.quantize_dequantize(x, scale, torch.tensor(0.0), -8, 7)
    saved_bytes = sum(t.numel() * t.element_size() for t in saved)
    assert saved_bytes == (64 * 64 // 8 if needs == "input" else 64 * 64 * 4 + 8)


def test_a_single_offset_serves_every_scale() -> None:
    x = torch.randn(4, 6)
    scale = torch.rand(4, 1) + 0.1
    offset = torch.tensor(-2.0, requires_grad=True)
    y = ops.quantize_dequantize(x, scale, offset, 0, 15)
    assert same_bits(y, ops.quantize_dequantize(x, scale, torch.full((4, 1), -2.0), 0, 15))
    y.sum().backward()
    assert offset.grad.shape == ()


def test_integer_offsets_are_fine() -> None:
    x = torch.randn(5)
    y = ops.quantize_dequantize(x, torch.tensor(0.1), torch.tensor(-3), 0, 15)
    assert same_bits(y, ops.quantize_dequantize(x, torch.tensor(0.1), torch.tensor(-3.0), 0, 15))


def test_gradients_of_any_layout_are_taken() -> None:
    x = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    y = ops.quantize_dequantize(x, torch.tensor(0.1), torch.tensor(0.0), -8, 7)
    dense = torch.randn(2, 3, 4, 5)
    (a,) = torch.autograd.grad(y, x, dense, retain_graph=True)
    (b,) = torch.autograd.grad(y, x, dense.to(memory_format=torch.channels_last), retain_graph=True)
    (c,) = torch.autograd.grad(y.sum(), x)  # an expanded gradient
    assert same_bits(a, b)
    assert torch.equal(c, ((x / 0.1).round().clamp(-8, 7) == (x / 0.1).round()).float())


def test_gradient_of_the_gradient_goes_through_the_mask() -> None:
    x = torch.randn(5, 6, dtype=torch.float64).t().requires_grad_()
    weight = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    y = ops.quantize_dequantize(x, torch.tensor(0.1), torch.tensor(0.0), -8, 7)
    (first,) = torch.autograd.grad((y * weight).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), weight)
    inside = ((x / 0.1).round() >= -8) & ((x / 0.1).round() <= 7)
    assert torch.equal(second, (2 * weight * inside).detach())


def test_second_derivatives_of_learned_scales_are_refused() -> None:
    x = torch.randn(7, requires_grad=True)
    scale = torch.tensor(0.1, requires_grad=True)
    y = ops.quantize_dequantize(x, scale, torch.tensor(0.0), -8, 7)
    (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="quantize_dequantize: second derivatives need"):
        first.sum().backward()
