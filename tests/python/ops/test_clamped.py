"""Clamp and quantize-dequantize as one operator: the bits, gradients and memory of the pair."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from aimet_torch import ops
from tests.python.ops.cases import CASES, DTYPES, NAMES, Case, same_bits
from tests.python.ops.test_costs import allocated, kept_for_backward
from tests.python.ops.test_registration import fallback

OPERATORS = torch.ops.aimet
GRID = (-8, 7)
# 0.3 is no number of a half-precision type, -1.1 rounds to a greater one in bfloat16.
BOUNDS = [(0.0, None), (0.0, 6.0), (-1.0, 0.3), (-1.1, 1.0), (-0.375, 0.375)]
SCALE, OFFSET = torch.tensor(0.25), torch.tensor(-3.0)


def activation(bounds: tuple[float | None, float | None]) -> Callable[[Tensor], Tensor]:
    """The function of torch.nn that clamps so."""
    low, high = bounds
    if bounds == (0.0, None):
        return F.relu
    assert low is not None
    assert high is not None
    return lambda x: F.hardtanh(x, low, high)


def pair(x: Tensor, bounds: tuple, *rest: object) -> Tensor:
    """What the operator replaces."""
    return ops.quantize_dequantize(activation(bounds)(x), *rest)


def gradients(function: Callable, case: Case, dtype: torch.dtype, learns: bool) -> list[Tensor]:
    x = case.input(dtype).requires_grad_()
    parameters = [p.requires_grad_(learns) for p in case.parameters(dtype)]
    y = function(x, *parameters)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    wanted = [x, *parameters] if learns else [x]
    return [y.detach(), *torch.autograd.grad(y, wanted, torch.empty_like(y).copy_(grad))]


@pytest.mark.parametrize("learns", [False, True], ids=["static", "learned"])
@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_same_bits_as_the_pair(case: Case, dtype: torch.dtype, bounds: tuple, learns: bool) -> None:
    ours = gradients(
        lambda x, s, o: ops.clamp_quantize_dequantize(x, *bounds, s, o, *GRID, case.block_size),
        case, dtype, learns,
    )  # fmt: skip
    theirs = gradients(
        lambda x, s, o: pair(x, bounds, s, o, *GRID, case.block_size), case, dtype, learns
    )
    for a, b in zip(ours, theirs, strict=True):
        assert same_bits(a, b)
        assert a.stride() == b.stride()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bounds", BOUNDS, ids=str)
def test_every_value_near_the_bounds(bounds: tuple, dtype: torch.dtype) -> None:
    centers = torch.tensor([b for b in bounds if b is not None], dtype=dtype)
    values = [centers]
    for direction in (-torch.inf, torch.inf):
        near = centers
        for _ in range(3):
            if dtype in (torch.float32, torch.float64, torch.bfloat16):
                near = torch.nextafter(near, torch.full_like(near, direction))
            else:
                step = torch.tensor(2.0**-14, dtype=dtype)
                near = near + (step if direction > 0 else -step)
            values.append(near)
    x = torch.cat([*values, torch.tensor([0.0, -0.0, torch.nan, torch.inf, -torch.inf]).to(dtype)])
    scale = torch.tensor(0.01)
    results = []
    grid = (scale, OFFSET, -2000, 2000)
    for function in (
        lambda x: ops.clamp_quantize_dequantize(x, *bounds, *grid),
        lambda x: pair(x, bounds, *grid),
    ):
        leaf = x.clone().requires_grad_()
        y = function(leaf)
        y.backward(torch.ones_like(y))
        results.append((y.detach(), leaf.grad))
    assert same_bits(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_the_gradient_passes_strictly_between_the_bounds() -> None:
    x = torch.tensor([-1.0, 0.0, 0.5, 6.0, 7.0, torch.nan], requires_grad=True)
    y = ops.clamp_quantize_dequantize(x, 0.0, 6.0, torch.tensor(0.5), torch.tensor(0.0), 0, 255)
    y.sum().backward()
    assert y.tolist()[:5] == [0.0, 0.0, 0.5, 6.0, 6.0]
    assert y[5].isnan()
    assert x.grad.tolist() == [0.0, 0.0, 1.0, 0.0, 0.0, 0.0]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_large_tensors_and_threads(threads: int) -> None:
    case = Case("large", (3, 70_001))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for learns in (False, True):
            ours = gradients(
                lambda x, s, o: ops.clamp_quantize_dequantize(x, 0.0, 1.5, s, o, *GRID),
                case, torch.float32, learns,
            )  # fmt: skip
            theirs = gradients(
                lambda x, s, o: pair(x, (0.0, 1.5), s, o, *GRID), case, torch.float32, learns
            )
            assert all(same_bits(a, b) for a, b in zip(ours, theirs, strict=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("bounds", [*BOUNDS, (None, 1.0)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_fallback_gives_the_same_bits(case: Case, dtype: torch.dtype, bounds: tuple) -> None:
    x, (scale, offset) = case.input(dtype), case.parameters(dtype)
    arguments = (x, *bounds, scale, offset, *GRID, case.block_size)
    assert same_bits(
        fallback("clamp_quantize_dequantize", *arguments),
        ops.clamp_quantize_dequantize(*arguments),
    )
    output, mask = fallback("_clamp_quantize_dequantize_mask", *arguments)
    expected_output, expected_mask = OPERATORS._clamp_quantize_dequantize_mask(*arguments)
    assert same_bits(output, expected_output)
    assert torch.equal(mask, expected_mask)
    grad = torch.empty_like(output).copy_(torch.randn(x.shape))
    ours, theirs = (
        backward(grad, *arguments, [True, False, False])[0]
        for backward in (
            OPERATORS._clamp_quantize_dequantize_backward,
            lambda *a: fallback("_clamp_quantize_dequantize_backward", *a),
        )
    )
    assert torch.equal(ours, theirs)


def test_a_static_range_keeps_one_bit_an_element_and_nothing_else() -> None:
    x = torch.randn(4099).requires_grad_()
    kept = kept_for_backward(
        lambda: ops.clamp_quantize_dequantize(x, 0.0, None, SCALE, OFFSET, *GRID), x, SCALE, OFFSET
    )
    assert kept == {"given": 0, "new": 513}


def test_a_learned_range_keeps_its_arguments_and_nothing_new() -> None:
    x, scale, offset = (t.clone().requires_grad_() for t in (torch.randn(4096), SCALE, OFFSET))
    kept = kept_for_backward(
        lambda: ops.clamp_quantize_dequantize(x, 0.0, 6.0, scale, offset, *GRID), x, scale, offset
    )
    assert kept == {"given": 4 * 4098, "new": 0}


def test_forward_and_backward_allocate_their_results_only() -> None:
    x = torch.randn(1 << 16).requires_grad_()
    g = torch.randn_like(x)
    call = lambda: ops.clamp_quantize_dequantize(x, 0.0, 6.0, SCALE, OFFSET, *GRID)  # noqa: E731
    assert allocated(lambda: call().detach()) == [x.nbytes // 32, x.nbytes]
    y = call()
    assert allocated(lambda: torch.autograd.grad(y, [x], g, retain_graph=True)) == [x.nbytes]


def test_second_derivatives() -> None:
    x = torch.randn(9, requires_grad=True)
    w = torch.ones(9, requires_grad=True)
    y = ops.clamp_quantize_dequantize(x, 0.0, None, SCALE, OFFSET, *GRID)
    (dx,) = torch.autograd.grad((y * w).sum(), x, create_graph=True)
    dx.sum().backward()
    assert torch.equal(w.grad, dx.detach())
    scale = SCALE.clone().requires_grad_()
    y = ops.clamp_quantize_dequantize(x, 0.0, None, scale, OFFSET, *GRID)
    (dx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="clamp_quantize_dequantize: second derivatives"):
        dx.sum().backward()


def test_compile_gives_the_same_values_and_gradients() -> None:
    torch._dynamo.reset()

    def function(x: Tensor, scale: Tensor) -> Tensor:
        return ops.clamp_quantize_dequantize(x * 2, 0.0, 1.5, scale, OFFSET, *GRID).sin()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (4, 5):
        for learns in (False, True):
            x = torch.randn(3, size, requires_grad=True)
            scale = SCALE.clone().requires_grad_(learns)
            wanted = (x, scale) if learns else (x,)
            ours = torch.autograd.grad(compiled(x, scale).sum(), wanted)
            theirs = torch.autograd.grad(function(x, scale).sum(), wanted)
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
