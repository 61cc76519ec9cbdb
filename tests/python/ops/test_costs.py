"""What operators cost that can be counted: bytes kept for backward, tensors allocated, passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from aimet_torch import ops
from tests.python.ops.cases import CASES, DTYPES, NAMES, Case, same_bits

COUNT = 4096
SCALE, OFFSET = torch.tensor(0.05), torch.tensor(0.0)


def kept_for_backward(run: Callable[[], Tensor], *given: Tensor) -> dict[str, int]:
    """Bytes that autograd keeps: of the given tensors (which live anyway), and of new ones."""
    known = {tensor.data_ptr() for tensor in given}
    kept = {"given": 0, "new": 0}

    def pack(tensor: Tensor) -> Tensor:
        kept["given" if tensor.data_ptr() in known else "new"] += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return kept


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_static_range_keeps_one_bit_an_element_and_nothing_else(dtype: torch.dtype) -> None:
    x = torch.randn(COUNT + 3, dtype=dtype).requires_grad_()
    kept = kept_for_backward(
        lambda: ops.quantize_dequantize(x, SCALE, OFFSET, -128, 127), x, SCALE, OFFSET
    )
    assert kept == {"given": 0, "new": (COUNT + 3 + 7) // 8}


def test_a_learned_range_keeps_its_arguments_and_nothing_new() -> None:
    x, scale, offset = (t.clone().requires_grad_() for t in (torch.randn(COUNT), SCALE, OFFSET))
    kept = kept_for_backward(
        lambda: ops.quantize_dequantize(x, scale, offset, -128, 127), x, scale, offset
    )
    assert kept == {"given": 4 * (COUNT + 2), "new": 0}


def test_nothing_is_kept_where_nothing_learns() -> None:
    x = torch.randn(COUNT)
    assert kept_for_backward(
        lambda: ops.quantize_dequantize(x, SCALE, OFFSET, -128, 127), x, SCALE, OFFSET
    ) == {"given": 0, "new": 0}


def allocated(run: Callable[[], object]) -> list[int]:
    """Bytes of each tensor that `run` allocates, in order."""
    run()  # what happens once
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        results = run()
    del results
    events = profiler.profiler.kineto_results.events()
    return [event.nbytes() for event in events if event.name() == "[memory]" and event.nbytes() > 0]


@pytest.mark.parametrize("count", [16, COUNT, 1 << 20])
def test_a_forward_allocates_its_result_only(count: int) -> None:
    x = torch.randn(count)
    sizes = allocated(lambda: ops.quantize_dequantize(x, SCALE, OFFSET, -128, 127))
    assert sizes == [4 * count]


def test_a_backward_allocates_one_gradient_and_little_else() -> None:
    x = torch.randn(COUNT * 16).requires_grad_()
    scale, offset = SCALE.clone().requires_grad_(), OFFSET.clone().requires_grad_()
    g = torch.randn_like(x)
    y = ops.quantize_dequantize(x, scale, offset, -128, 127)
    sizes = allocated(lambda: torch.autograd.grad(y, [x, scale, offset], g, retain_graph=True))
    assert [size for size in sizes if size >= x.nbytes / 16] == [x.nbytes]
    assert sum(sizes) < 1.02 * x.nbytes  # two sums for each 1024 elements


def test_a_static_backward_allocates_the_gradient_only() -> None:
    x = torch.randn(COUNT).requires_grad_()
    g = torch.randn_like(x)
    y = ops.quantize_dequantize(x, SCALE, OFFSET, -128, 127)
    assert allocated(lambda: torch.autograd.grad(y, [x], g, retain_graph=True)) == [4 * COUNT]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_limits_in_passing_are_those_of_min_max(case: Case, dtype: torch.dtype) -> None:
    x = case.input(dtype)
    arguments = (*case.parameters(dtype), -8, 7, case.block_size)
    output, low, high = ops.quantize_dequantize_min_max(x, *arguments)
    assert same_bits(output, ops.quantize_dequantize(x, *arguments))
    assert output.stride() == ops.quantize_dequantize(x, *arguments).stride()
    for ours, expected in zip(
        (low, high), ops.min_max(x, case.scale_shape, case.block_size), strict=True
    ):
        assert same_bits(ours, expected)


@pytest.mark.parametrize(
    ("shape", "scale_shape"),
    [
        ((3, 700_001), ()),
        ((3, 700_001), (3, 1)),
        ((5, 3, 64 * 2001), (3, 1)),
        ((9 * 2**20,), ()),  # streamed past the caches
        ((70_000, 30), (30,)),
        ((700, 3001), (3001,)),
    ],
)
def test_limits_in_passing_on_many_threads(
    shape: tuple[int, ...], scale_shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(6))
    scale = torch.rand(scale_shape) + 0.1
    output, low, high = ops.quantize_dequantize_min_max(x, scale, OFFSET, -8, 7)
    assert same_bits(output, ops.quantize_dequantize(x, scale, OFFSET, -8, 7))
    assert same_bits(low, ops.min_max(x, scale_shape)[0])
    assert same_bits(high, ops.min_max(x, scale_shape)[1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("place", [0, 1500, 4999])
@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan"), 0.0])
def test_limits_in_passing_of_long_runs_are_those_of_finite_values(
    value: float, place: int, dtype: torch.dtype
) -> None:
    x = torch.randn(5000, generator=torch.Generator().manual_seed(7)).abs().to(dtype) + 1
    for count in (1, 5000):  # one such value, and nothing else
        x[place if count == 1 else slice(None)] = value
        output, low, high = ops.quantize_dequantize_min_max(x, SCALE, OFFSET, -8, 7)
        assert same_bits(output, ops.quantize_dequantize(x, SCALE, OFFSET, -8, 7))
        finite = x[x.isfinite()].to(low.dtype)
        expected = (finite.min(), finite.max()) if finite.numel() else (torch.inf, -torch.inf)
        assert (low.item(), high.item()) == tuple(float(limit) for limit in expected)


def test_limits_in_passing_leave_the_gradient_as_it_is() -> None:
    x = torch.randn(99).requires_grad_()
    scale = SCALE.clone().requires_grad_()
    output, low, high = ops.quantize_dequantize_min_max(x, scale, OFFSET, -8, 7)
    assert not low.requires_grad
    assert not high.requires_grad
    expected = ops.quantize_dequantize(x, scale, OFFSET, -8, 7)
    g = torch.randn_like(x)
    ours, theirs = (torch.autograd.grad(y, [x, scale], g) for y in (output, expected))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
