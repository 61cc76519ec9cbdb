"""AdaRound's operators against the paper's formulas, autograd, torch.optim.Adam and TorchScript."""

from __future__ import annotations

import itertools

import pytest
import torch

from aimet_torch.ops import adaround as ops

GRID = (-4, 3)


def sample(dtype=torch.float64, shape=(6, 5, 3)):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator, dtype=dtype)
    alpha = 2 * torch.randn(shape, generator=generator, dtype=dtype)
    scale = 0.2 + 0.3 * torch.rand((shape[0], 1, 1), generator=generator, dtype=dtype)
    offset = torch.randint(-1, 2, (shape[0], 1, 1), generator=generator).to(dtype)
    return weight, alpha, scale, offset


def h(alpha):
    return (torch.sigmoid(alpha) * 1.2 - 0.1).clamp(0, 1)


def soft(weight, alpha, scale, offset):
    code = torch.floor(weight / scale) + h(alpha) - offset
    return (code.clamp(*GRID) + offset) * scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_soft_weights_and_their_gradient_are_the_papers(dtype):
    weight, alpha, scale, offset = sample(dtype)
    mine, theirs = alpha.clone().requires_grad_(), alpha.clone().requires_grad_()
    result = ops.adaround_quantize_dequantize(weight, mine, scale, offset, *GRID)
    expected = soft(weight, theirs, scale, offset)
    # exp of the two libraries differs in the last bits.
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-12}
    torch.testing.assert_close(result, expected, rtol=tolerance["rtol"], atol=1e-6)
    g = torch.randn_like(result)
    result.backward(g)
    expected.backward(g)
    torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-5, atol=1e-6)
    assert (mine.grad == 0).any()  # clamped codes and decided roundings
    assert (mine.grad != 0).any()


def test_regularizer_and_its_gradient():
    _, alpha, *_ = sample()
    for beta in (20.0, 7.5, 2.0):
        mine, theirs = alpha.clone().requires_grad_(), alpha.clone().requires_grad_()
        result = ops.adaround_regularizer(mine, beta)
        expected = (1 - (2 * h(theirs) - 1).abs().pow(beta)).sum()
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=0)
        result.backward()
        expected.backward()
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-9, atol=1e-12)


def test_gradcheck():
    weight, _, scale, offset = sample(shape=(2, 3, 2))
    alpha = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(2, 3, 2).requires_grad_()
    inside = (-100, 100)
    assert torch.autograd.gradcheck(
        lambda a: ops.adaround_quantize_dequantize(weight, a, scale, offset, *inside), (alpha,)
    )
    assert torch.autograd.gradcheck(lambda a: ops.adaround_regularizer(a, 3.0), (alpha,))


def test_alpha_gives_back_the_weights():
    weight, _, scale, _ = sample()
    alpha = ops.adaround_alpha(weight, scale)
    zero = torch.zeros(())
    result = ops.adaround_quantize_dequantize(weight, alpha, scale, zero, -100, 100)
    torch.testing.assert_close(result, weight, rtol=1e-9, atol=1e-9)
    hard = ops.adaround_quantize_dequantize(weight, alpha, scale, zero, -100, 100, hard=True)
    assert (hard - weight).abs().le(scale / 2 + 1e-9).all()  # nearest, before it has learned


def test_hard_weights_are_on_the_grid_and_have_no_gradient():
    weight, alpha, scale, offset = sample()
    alpha.requires_grad_()
    result = ops.adaround_quantize_dequantize(weight, alpha, scale, offset, *GRID, hard=True)
    code = result / scale - offset
    torch.testing.assert_close(code, code.round(), rtol=0, atol=1e-9)
    assert code.min() >= GRID[0] - 1e-9
    assert code.max() <= GRID[1] + 1e-9


def test_the_fused_step_is_adam_on_loss_and_regularizer():
    weight, alpha, scale, offset = sample()
    wanted = torch.randn_like(weight)
    mine = alpha.clone()
    first, second = torch.zeros_like(mine), torch.zeros_like(mine)
    theirs = alpha.clone().requires_grad_()
    adam = torch.optim.Adam([theirs], lr=0.05)
    iterations = 20
    for step in range(iterations):
        beta = ops.adaround_beta(step, iterations)
        value = ops.adaround_quantize_dequantize(weight, mine, scale, offset, *GRID)
        grad = 2 * (value - wanted)
        ops.adaround_step_(
            mine, first, second, grad, weight, scale, offset, *GRID, beta, 0.3, 0.05, step + 1
        )
        adam.zero_grad()
        loss = (soft(weight, theirs, scale, offset) - wanted).square().sum()
        if beta > 0:
            loss = loss + 0.3 * (1 - (2 * h(theirs) - 1).abs().pow(beta)).sum()
        loss.backward()
        adam.step()
    torch.testing.assert_close(mine, theirs.detach(), rtol=1e-7, atol=1e-9)


def test_the_fallback_for_other_devices_computes_the_same():
    weight, alpha, scale, offset = sample()
    operators = torch.ops.aimet
    key = torch._C.DispatchKey.CompositeExplicitAutograd

    def both(name, *given):
        overload = getattr(operators, name).default
        return overload(*given), overload._op_dk(key, *given)

    for results in (
        both("adaround_alpha", weight, scale),
        both("adaround_quantize_dequantize", weight, alpha, scale, offset, *GRID, False),
        both("adaround_quantize_dequantize", weight, alpha, scale, offset, *GRID, True),
        both("_adaround_quantize_dequantize_backward", weight, weight, alpha, scale, offset, *GRID),
        both("adaround_regularizer", alpha, 3.0),
        both("_adaround_regularizer_backward", torch.ones(()), alpha, 3.0),
    ):
        torch.testing.assert_close(*results, rtol=1e-9, atol=1e-12)
    states = []
    for redispatch in (False, True):
        state = [alpha.clone(), torch.zeros_like(alpha), torch.zeros_like(alpha)]
        given = (*state, weight, weight, scale, offset, *GRID, 2.0, 0.1, 0.1, 1)
        overload = operators.adaround_step_.default
        overload._op_dk(key, *given) if redispatch else overload(*given)
        states.append(state)
    for a, b in zip(*states, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_opcheck():
    weight, alpha, scale, offset = sample(torch.float32)
    learning = alpha.clone().requires_grad_()
    operators = torch.ops.aimet
    zeros = torch.zeros_like(alpha)
    for overload, given in (
        (operators.adaround_alpha.default, (weight, scale)),
        (operators.adaround_quantize_dequantize.default, (weight, learning, scale, offset, *GRID)),
        (operators.adaround_regularizer.default, (learning, 3.0)),
        (
            operators.adaround_step_.default,
            (alpha.clone(), zeros.clone(), zeros.clone(), zeros, weight, scale, offset, *GRID, 2.0),
        ),
    ):
        torch.library.opcheck(overload, given)


@torch.jit.script
def scripted_loss(weight: torch.Tensor, alpha: torch.Tensor, scale: torch.Tensor, beta: float):
    zero = torch.zeros_like(scale)
    soft = torch.ops.aimet.adaround_quantize_dequantize(weight, alpha, scale, zero, -4, 3)
    return (soft - weight).square().sum() + torch.ops.aimet.adaround_regularizer(alpha, beta)


def test_torchscript():
    weight, alpha, scale, _ = sample()
    alpha.requires_grad_()
    loss = scripted_loss(weight, alpha, scale, 2.0)
    loss.backward()
    assert alpha.grad.abs().sum() > 0


def test_beta_is_annealed_by_half_a_cosine():
    values = [ops.adaround_beta(i, 100, 20, 2, 0.2) for i in range(101)]
    assert values[:20] == [0.0] * 20
    assert values[20] == 20
    assert values[60] == pytest.approx(11)
    assert values[100] == pytest.approx(2)
    assert all(a >= b for a, b in itertools.pairwise(values[20:]))


def test_error_messages():
    weight, alpha, scale, offset = sample()
    quantize = ops.adaround_quantize_dequantize
    with pytest.raises(TypeError, match="`weight` must be float32 or float64, got Half"):
        quantize(weight.half(), alpha.half(), scale, offset, *GRID)
    with pytest.raises(TypeError, match="`alpha` must have the dtype of `weight`"):
        quantize(weight, alpha.float(), scale, offset, *GRID)
    with pytest.raises(ValueError, match="`alpha` must have the shape of `weight`"):
        quantize(weight, alpha[:2], scale, offset, *GRID)
    with pytest.raises(ValueError, match=r"adaround_quantize_dequantize: .*qmin"):
        quantize(weight, alpha, scale, offset, 3, 3)
    with pytest.raises(ValueError, match="adaround_beta: `iteration` must be between 0 and"):
        ops.adaround_beta(11, 10)
    zeros = torch.zeros_like(alpha)
    with pytest.raises(ValueError, match="`step` counts from 1, got 0"):
        ops.adaround_step_(
            alpha, zeros, zeros, zeros, weight, scale, offset, *GRID, 2.0, step=0
        )  # fmt: skip
