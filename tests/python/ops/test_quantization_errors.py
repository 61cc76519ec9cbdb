"""Errors of several grids in one pass, against quantize_dequantize and sums in float64."""

from __future__ import annotations

import pytest
import torch

from aimet_torch import ops
from tests.python.ops.cases import CASES, DTYPES, arrange, same_bits

GRIDS = [(-8, 7), (-128, 127), (0, 15)]


def arguments_of(case, dtype):
    x = case.input(dtype, finite=True)
    generator = torch.Generator().manual_seed(1)
    grad = arrange(torch.randn(x.shape, generator=generator).to(dtype), case.layout)
    scale, offset = case.parameters(dtype)
    scales = [scale * factor for factor in (1.0, 0.07, 0.9)]
    return x, grad, scales, [offset] * 3, [g[0] for g in GRIDS], [g[1] for g in GRIDS]


def expected(x, grad, scales, offsets, qmin, qmax, by_sample, block_size):
    rows = []
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    x, grad = x.to(compute), grad.to(compute)
    for s, o, low, high in zip(scales, offsets, qmin, qmax, strict=True):
        y = ops.quantize_dequantize(x, s, o, low, high, block_size)
        change = (y - x).double() * grad.double()
        samples = change.reshape(x.shape[0], -1) if by_sample and x.dim() else change.reshape(1, -1)
        codes = ops.quantize(x, s, o, -(2**31), 2**32 - 1 - 2**31, block_size).double()
        outside = (codes < low) | (codes > high)
        rows.append(
            torch.stack([
                (y - x).double().square().sum(), change.square().sum(),
                samples.sum(1).square().sum(), outside.sum().double(),
            ])
        )  # fmt: skip
    return torch.stack(rows), x.double().square().sum()


@pytest.mark.parametrize("by_sample", [False, True])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sums_of_what_quantize_dequantize_does(case, by_sample):
    for dtype in DTYPES:
        arguments = arguments_of(case, dtype)
        wide = case.input(dtype, finite=True).numel() == 0 or (by_sample and not case.shape)
        if wide:
            continue
        found = ops.quantization_errors(*arguments, by_sample, case.block_size)
        for ours, theirs in zip(
            found, expected(*arguments, by_sample, case.block_size), strict=True
        ):
            # Sums of float32 products, of which two float32 roundings are off by 1.2e-7 each.
            torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-9)


def test_an_empty_tensor_has_no_errors():
    one = torch.tensor(1.0)
    errors, power = ops.quantization_errors(torch.randn(0, 3), None, [one], [one], [0], [7])
    assert errors.tolist() == [[0.0] * 4]
    assert power == 0


def test_without_a_gradient_nothing_changes_the_loss():
    x, scale, offset = torch.randn(9, 5), torch.tensor(0.1), torch.tensor(0.0)
    errors, _ = ops.quantization_errors(x, None, [scale], [offset], [-8], [7])
    assert errors[0, 0] > 0
    assert errors[0, 1:3].tolist() == [0.0, 0.0]


def test_the_same_bits_with_any_number_of_threads():
    case = next(case for case in CASES if case.name == "second_axis_channels_last")
    x, grad, *rest = arguments_of(case, torch.float32)
    x, grad = x.repeat(40, 1, 20, 20), grad.repeat(40, 1, 20, 20)
    together = ops.quantization_errors(x, grad, *rest, True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        alone = ops.quantization_errors(x, grad, *rest, True)
    finally:
        torch.set_num_threads(threads)
    assert all(map(same_bits, together, alone))


def test_the_fallback_agrees():
    overload = torch.ops.aimet.quantization_errors.default
    for case in CASES:
        arguments = arguments_of(case, torch.float32)
        if not arguments[0].numel():
            continue
        by_sample = bool(case.shape)
        ours = ops.quantization_errors(*arguments, by_sample, case.block_size)
        key = torch._C.DispatchKey.CompositeExplicitAutograd
        theirs = overload._op_dk(key, *arguments, by_sample, case.block_size)
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-5, atol=1e-9)


def test_registration():
    operator = torch.ops.aimet.quantization_errors.default
    case = next(case for case in CASES if case.name == "blocks")
    arguments = arguments_of(case, torch.float32)
    torch.library.opcheck(operator, (*arguments, True, list(case.block_size)))
    x, *rest = arguments
    torch.library.opcheck(operator, (x.requires_grad_(), *rest, False, list(case.block_size)))
    torch.library.opcheck(operator, (x.detach(), None, *rest[1:], False, list(case.block_size)))


ONE, ZERO, X = torch.tensor(1.0), torch.tensor(0.0), torch.randn(4, 6)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X.int(), None, [ONE], [ZERO], [0], [7]), TypeError, "`input` must be float16"),
        ((X, X.int(), [ONE], [ZERO], [0], [7]), TypeError, "`grad` must be float16"),
        ((X, X[:2], [ONE], [ZERO], [0], [7]), ValueError, "`grad` must have the shape of `input`"),
        ((X, X, [], [], [], []), ValueError, "one entry for each grid, at least one, got 0, 0, 0"),
        ((X, X, [ONE], [ZERO], [0, 0], [7]), ValueError, "one entry for each grid, .* got 1, 1, 2"),
        ((X, X, [ONE], [ZERO], [7], [7]), ValueError, "`qmin` must be less than `qmax`"),
        ((X, X, [torch.ones(5)], [ZERO], [0], [7]), ValueError, "`scale` must broadcast"),
        (
            (X, X, [ONE, torch.ones(6)], [ZERO, ZERO], [0, 0], [7, 7]),
            ValueError,
            "all entries of `scale` must have the same shape",
        ),
    ],
)
def test_errors(arguments, error, message, device):
    moved = torch.utils._pytree.tree_map_only(torch.Tensor, lambda t: t.to(device), arguments)
    with pytest.raises(error, match=f"quantization_errors: .*{message}"):
        ops.quantization_errors(*moved)


def test_a_scale_must_be_positive():
    with pytest.raises(ValueError, match="quantization_errors: `scale` must be"):
        ops.quantization_errors(X, None, [-ONE], [ZERO], [0], [7])
