"""Two levels of scales: against the formula, in float64, and its gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aimet_torch import ops
from tests.python.ops.test_registration import fallback

GROUPS = [
    ((6,), (3,)),
    ((4, 8), (1, -1)),
    ((4, 8), (-1, 2)),
    ((4, 6, 3), (2, 3, 1)),
    ((4, 6, 3), (1, -1, 3)),
    ((2, 3, 4, 5), (1, 3, -1, 1)),
    ((), ()),
]


def by_formula(scale: Tensor, group_size: tuple[int, ...], steps: int) -> Tensor:
    """The formula of docs/number_formats.md in torch operations."""
    split: list[int] = []
    for size, group in zip(scale.shape, group_size, strict=True):
        split += [1, size] if group == -1 else [size // group, group]
    within = tuple(range(1, len(split), 2))
    grouped = scale.reshape(split)
    largest = grouped.amax(within, keepdim=True) if within else grouped
    unit = largest / steps
    ratio = grouped / unit
    code = ratio + (ratio.round() - ratio).detach()  # straight through
    return (code.clamp(1, steps) * unit).reshape(scale.shape)


def scales(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(len(shape))
    return (torch.rand(shape, generator=generator, dtype=torch.float64) * 3 + 1e-3).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [1, 2, 16, 256])
@pytest.mark.parametrize(("shape", "group_size"), GROUPS, ids=str)
def test_values(shape, group_size, steps, dtype):
    scale = scales(shape, dtype)
    got = ops.grouped_scale(scale, group_size, steps)
    assert got.dtype == dtype
    assert torch.equal(got, by_formula(scale, group_size, steps))
    strided = scale.t().contiguous().t() if scale.dim() == 2 else scale
    assert torch.equal(ops.grouped_scale(strided, group_size, steps), got)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    scale = scales((4, 8), dtype)
    want = by_formula(scale.float(), (1, -1), 16).to(dtype)
    assert torch.equal(ops.grouped_scale(scale, (1, -1), 16), want)


@pytest.mark.parametrize("steps", [1, 16])
@pytest.mark.parametrize(("shape", "group_size"), GROUPS, ids=str)
def test_gradient(shape, group_size, steps):
    scale = scales(shape)
    if scale.dim() == 2:
        scale[1, 2:4] = 5.0  # two largest ones share the unit's gradient
    scale.requires_grad_()
    g = torch.randn_like(scale)
    (got,) = torch.autograd.grad(ops.grouped_scale(scale, group_size, steps), scale, g)
    (want,) = torch.autograd.grad(by_formula(scale, group_size, steps), scale, g)
    torch.testing.assert_close(got, want)


def test_the_largest_of_a_group_stays_and_none_is_zero():
    scale = scales((64, 32), torch.float32)
    scale[:, 5] = 1e-30
    got = ops.grouped_scale(scale, (1, -1), 16)
    torch.testing.assert_close(got.amax(1), scale.amax(1), rtol=1e-6, atol=0)
    assert torch.equal(got[:, 5], scale.amax(1) / 16)


@pytest.mark.parametrize("steps", [1, 8])
@pytest.mark.parametrize(("shape", "group_size"), GROUPS, ids=str)
def test_the_fallback_gives_the_same_bits(shape, group_size, steps):
    scale = scales(shape, torch.float32)
    want = ops.grouped_scale(scale, group_size, steps)
    assert torch.equal(fallback("grouped_scale", scale, group_size, steps), want)


@pytest.mark.parametrize(
    ("scale", "group_size", "steps", "message"),
    [
        (torch.ones(4), (3,), 2, r"`group_size` must divide the shape of `scale`, .*\[3\]"),
        (torch.ones(4), (2, 2), 2, r"`group_size` must have one entry per dimension"),
        (torch.ones(4), (2,), 0, r"`steps` must be at least 1, got 0"),
        (-torch.ones(4), (2,), 2, r"`scale` must be positive and finite"),
        (torch.full((4,), torch.nan), (2,), 2, r"`scale` must be positive and finite, got nan"),
    ],
)
def test_errors(scale, group_size, steps, message):
    with pytest.raises(ValueError, match="grouped_scale: .*" + message):
        ops.grouped_scale(scale, group_size, steps)
    with pytest.raises(TypeError, match="grouped_scale: `scale` must be float16"):
        ops.grouped_scale(scale.long(), group_size, 2)
