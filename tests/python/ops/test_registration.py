"""What PyTorch expects of operators: opcheck, compile, export, TorchScript, autocast, devices."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from aimet_torch import ops
from tests.python.ops.cases import CASES, DTYPES, NAMES, Case, same_bits

OPERATORS = torch.ops.aimet
TESTS = Path(__file__).parents[2]
BY_NAME = {case.name: case for case in CASES}
GRID = (-8, 7)


def affine_samples() -> list[tuple]:
    samples = []
    for name in (
        "per_tensor",
        "second_axis_channels_last",
        "middle_axis_sliced",
        "blocks",
        "empty",
    ):
        case = BY_NAME[name]
        x = case.input(finite=True).detach()
        samples.append((case, x, *case.parameters()))
    return samples


def histogram() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    counts = torch.randint(0, 9, (3, 1, 64), generator=torch.Generator().manual_seed(0))
    return counts, torch.full((3, 1), -1.0), torch.full((3, 1), 1.5)


def samples_of(operator: str) -> list[tuple]:
    """Positional arguments; tensors that can learn require a gradient."""
    if operator in ("quantize", "quantize_dequantize", "quantize_dequantize_min_max"):
        inputs = [(x, s, o, *GRID, case.block_size) for case, x, s, o in affine_samples()]
        learning = [
            (
                x.clone().requires_grad_(),
                s.clone().requires_grad_(),
                o.clone().requires_grad_(),
                *rest,
            )
            for x, s, o, *rest in inputs
        ]
        return [*inputs, *learning, (inputs[1][0].clone().requires_grad_(), *inputs[1][1:])]
    if operator in ("clamp_quantize_dequantize", "_clamp_quantize_dequantize_mask"):
        inputs = [
            (x, *bounds, s, o, *GRID, case.block_size)
            for bounds in ((0.0, None), (-0.5, 1.0))
            for case, x, s, o in affine_samples()
        ]
        if operator.startswith("_"):
            return inputs
        learning = [
            (x.clone().requires_grad_(), low, high, s.clone().requires_grad_(), *rest)
            for x, low, high, s, *rest in inputs
        ]
        return [*inputs, *learning, *((x.clone().requires_grad_(), *rest) for x, *rest in inputs)]
    if operator == "_clamp_quantize_dequantize_backward":
        return [
            (torch.randn_like(x), x, 0.0, 1.0, s, o, *GRID, case.block_size, wanted)
            for case, x, s, o in affine_samples()
            for wanted in ([True, True, True], [True, False, False])
        ]
    if operator == "dequantize":
        return [
            (x.clone().requires_grad_(), s.clone().requires_grad_(), o, case.block_size)
            for case, x, s, o in affine_samples()
        ]
    if operator == "_quantize_dequantize_mask":
        return [(x, s, o, *GRID, case.block_size) for case, x, s, o in affine_samples()]
    if operator == "_quantize_dequantize_mask_backward":
        return [(torch.randn(5, 7), torch.arange(5, dtype=torch.uint8))]
    if operator == "_quantize_dequantize_backward":
        return [
            (torch.randn_like(x), x, s, o, *GRID, case.block_size, wanted)
            for case, x, s, o in affine_samples()
            for wanted in ([True, True, True], [True, False, False])
        ]
    if operator in ("quantize_dequantize_float", "_quantize_dequantize_float_mask"):
        inputs = [
            (x, s, 4, 3, True, False, True, case.block_size) for case, x, s, _ in affine_samples()
        ]
        if operator.startswith("_"):
            return inputs
        learning = [
            (x.clone().requires_grad_(), s.clone().requires_grad_(), *rest)
            for x, s, *rest in inputs
        ]
        return [*inputs, *learning, (inputs[1][0].clone().requires_grad_(), *inputs[1][1:])]
    if operator == "_quantize_dequantize_float_backward":
        return [
            (torch.randn_like(x), x, s, 5, 2, False, False, True, case.block_size, wanted)
            for case, x, s, _ in affine_samples()
            for wanted in ([True, True], [True, False])
        ]
    if operator.endswith(("microscaling", "microscaling_mask")):
        inputs = [
            (x, element, axis, 16, scale)
            for _, x, _, _ in affine_samples()
            for axis in (0, -1)
            for element, scale in (("int8", None), ("float4e2m1", torch.tensor(0.01)))
        ]
        if operator.startswith("_"):
            return inputs
        return [*inputs, *((x.clone().requires_grad_(), *rest) for x, *rest in inputs)]
    if operator == "min_max":
        return [(x, case.scale_shape, case.block_size) for case, x, _, _ in affine_samples()]
    if operator == "update_histogram_":
        counts, low, high = histogram()
        return [
            (counts, torch.randn(3, 50), low, high),
            (counts[0, 0], torch.randn(9), low[0, 0], high[0, 0]),
        ]
    if operator == "quantize_dequantize_by_range_":
        low, high = torch.tensor(-1.0), torch.tensor(2.0)
        return [
            (torch.randn(5, 7), low, high, 0, 255, False),
            (torch.randn(5, 7), low, high, 0, 255, False, 0.0, 6.0),
            (torch.randn(5, 7).t(), low.expand(5), high.expand(5), *GRID, True, 0.0),
        ]
    if operator == "quantize_dequantize_":
        scale, offset = torch.tensor(0.1), torch.tensor(-3.0)
        return [
            (torch.randn(5, 7), scale, offset, 0, 255),
            (torch.randn(5, 7), scale, offset, 0, 255, 0.0, 6.0),
            (torch.randn(5, 7).t(), scale.expand(5), offset, *GRID, 0.0),
        ]
    if operator == "grouped_scale":
        scale = torch.rand(4, 6) + 0.1
        return [(scale, [1, -1], 16), (scale.t().requires_grad_(), [3, 2], 1)]
    if operator == "rebin_histogram":
        counts, low, high = histogram()
        return [(counts, low, high, low - 1, high + 0.3)]
    if operator == "encoding_from_range":
        low, high = (t.clone().requires_grad_() for t in histogram()[1:])
        return [
            (low, high, *GRID, True),
            (low, high, 0, 255, False),
            (low.detach(), high.detach(), 0, 255, False),
        ]
    if operator == "range_from_min_max":
        return [(*histogram()[1:], *GRID, True, True), (*histogram()[1:], 0, 255, False)]
    if operator == "range_from_percentile":
        return [(*histogram(), 99.0, *GRID, True)]
    if operator.startswith("range_from_"):
        return [(*histogram(), *GRID, True), (*histogram(), 0, 255, False)]
    return [()]


OURS = [
    "quantize",
    "dequantize",
    "quantize_dequantize",
    "quantize_dequantize_min_max",
    "_quantize_dequantize_mask",
    "_quantize_dequantize_mask_backward",
    "_quantize_dequantize_backward",
    "clamp_quantize_dequantize",
    "_clamp_quantize_dequantize_mask",
    "_clamp_quantize_dequantize_backward",
    "quantize_dequantize_float",
    "_quantize_dequantize_float_mask",
    "_quantize_dequantize_float_backward",
    "quantize_dequantize_microscaling",
    "_quantize_dequantize_microscaling_mask",
    "min_max",
    "update_histogram_",
    "rebin_histogram",
    "range_from_min_max",
    "encoding_from_range",
    "grouped_scale",
    "quantize_dequantize_",
    "quantize_dequantize_by_range_",
    "range_from_percentile",
    "range_from_sqnr",
    "range_from_mse",
    "range_from_entropy",
]


@pytest.mark.parametrize("operator", OURS)
def test_opcheck(operator: str) -> None:
    for arguments in samples_of(operator):
        torch.library.opcheck(getattr(OPERATORS, operator).default, arguments)


@pytest.mark.parametrize("operator", OURS)
def test_every_backend_is_registered(operator: str) -> None:
    for key in ("CPU", "Meta", "CompositeExplicitAutograd"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"aimet::{operator}", key), key


def test_every_operator_is_tested_somewhere() -> None:
    tests = "".join(path.read_text() for path in TESTS.rglob("*.py"))
    registered = {
        name.split("::")[1]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("aimet::")
    }
    assert set(OURS) <= registered
    assert [name for name in registered if name.split(".")[0] not in tests] == []


def block(x: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    scale, offset = ops.encoding_from_range(low, high, 0, 255, False)
    return ops.quantize_dequantize(x.relu(), scale, offset, 0, 255) * 2


def learned(function: Callable, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    low = torch.full((x.shape[1], 1, 1), -0.5, requires_grad=True)
    high = torch.full((x.shape[1], 1, 1), 1.0, requires_grad=True)
    y = function(x, low, high)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), (x, low, high))]


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_compile_gives_the_same_values_and_gradients(layout: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(block, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (4, 5):
        x = Case("x", (2, 3, size, size), layout=layout).input(finite=True)
        for ours, theirs in zip(learned(compiled, x), learned(block, x), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_compile_with_the_mask_only() -> None:
    torch._dynamo.reset()
    scale, offset = torch.tensor(0.25), torch.tensor(0.0)

    def function(x: torch.Tensor) -> torch.Tensor:
        return ops.quantize_dequantize(x.permute(0, 2, 1) * 3, scale, offset, *GRID).sin()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    a = torch.randn(4, 6, 5, requires_grad=True)
    b = a.detach().clone().requires_grad_()
    compiled(a).sum().backward()
    function(b).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)


def test_export_keeps_the_operator_and_the_batch_free() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return ops.quantize_dequantize(x, torch.tensor(0.1), torch.tensor(0.0), *GRID)

    batch = torch.export.Dim("batch")
    exported = torch.export.export(Model(), (torch.randn(4, 3),), dynamic_shapes=({0: batch},))
    assert any(
        node.target is OPERATORS.quantize_dequantize.default for node in exported.graph.nodes
    )
    x = torch.randn(7, 3)
    assert same_bits(exported.module()(x), Model()(x))


def test_torchscript_saves_loads_and_learns() -> None:
    @torch.jit.script
    def scripted(x: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor) -> torch.Tensor:
        return torch.ops.aimet.quantize_dequantize(x, scale, offset, -8, 7)

    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    x = torch.randn(9, requires_grad=True)
    scale = torch.tensor(0.1, requires_grad=True)
    y = loaded(x, scale, torch.tensor(0.0))
    assert same_bits(
        y.detach(), ops.quantize_dequantize(x, scale, torch.tensor(0.0), *GRID).detach()
    )
    y.sum().backward()
    assert x.grad is not None
    assert scale.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_keeps_dtype_and_computes_in_float32(dtype: torch.dtype) -> None:
    x = torch.randn(8, 8)
    scale, offset = torch.tensor(0.1), torch.tensor(0.0)
    with torch.autocast("cpu", dtype=dtype):
        product = x @ x
        y = ops.quantize_dequantize(product, scale, offset, *GRID)
        assert ops.quantize_dequantize(x, scale, offset, *GRID).dtype == torch.float32
    assert y.dtype == product.dtype == dtype
    expected = ops.quantize_dequantize(product.float(), scale, offset, *GRID).to(dtype)
    assert same_bits(y, expected)


def fallback(operator: str, *arguments: object) -> object:
    """The ATen implementation for devices without kernels of ours, on CPU tensors."""
    overload = getattr(OPERATORS, operator).default
    return overload._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, *arguments)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_fallback_gives_the_same_bits(case: Case, dtype: torch.dtype) -> None:
    x = case.input(dtype)
    scale, offset = case.parameters(dtype)
    arguments = (x, scale, offset, *GRID, case.block_size)
    assert same_bits(fallback("quantize", *arguments), ops.quantize(*arguments))
    assert same_bits(
        fallback("quantize_dequantize", *arguments), ops.quantize_dequantize(*arguments)
    )
    dequantized = fallback("dequantize", x, scale, offset, case.block_size)
    assert same_bits(dequantized, ops.dequantize(x, scale, offset, case.block_size))
    output, mask = fallback("_quantize_dequantize_mask", *arguments)
    expected_output, expected_mask = OPERATORS._quantize_dequantize_mask(*arguments)
    assert same_bits(output, expected_output)
    assert torch.equal(mask, expected_mask)
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    grad = torch.empty_like(output).copy_(grad)
    assert same_bits(
        fallback("_quantize_dequantize_mask_backward", grad, mask),
        OPERATORS._quantize_dequantize_mask_backward(grad, mask),
    )
    for ours, theirs in zip(
        fallback("quantize_dequantize_min_max", *arguments),
        ops.quantize_dequantize_min_max(*arguments),
        strict=True,
    ):
        assert same_bits(ours, theirs)
    for ours, theirs in zip(
        fallback("min_max", x, case.scale_shape, case.block_size),
        ops.min_max(x, case.scale_shape, case.block_size),
        strict=True,
    ):
        assert same_bits(ours, theirs)
    counts = [torch.zeros(*case.scale_shape, 16, dtype=torch.int64) for _ in range(2)]
    low, high = torch.full(case.scale_shape, -1.0), torch.full(case.scale_shape, 1.5)
    fallback("update_histogram_", counts[0], x, low, high, case.block_size)
    ops.update_histogram_(counts[1], x, low, high, case.block_size)
    assert torch.equal(*counts)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_fallback_gives_close_gradients(case: Case) -> None:
    x = case.input(torch.float64, finite=True)
    scale, offset = case.parameters(torch.float64)
    grad = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    arguments = (grad, x, scale, offset, *GRID, case.block_size, [True, True, True])
    ours = fallback("_quantize_dequantize_backward", *arguments)
    theirs = OPERATORS._quantize_dequantize_backward(*arguments)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("symmetric", [False, True])
def test_the_fallback_of_ranges_and_searches_gives_the_same_bits(symmetric: bool) -> None:
    counts, low, high = histogram()
    grid = (-128, 127, True) if symmetric else (0, 255, False)
    calls: list[tuple] = [
        ("encoding_from_range", low, high, *grid),
        ("range_from_min_max", low, high, *grid),
        ("range_from_percentile", counts, low, high, 99.0, *grid),
        ("range_from_sqnr", counts, low, high, *grid),
        ("range_from_mse", counts, low, high, *grid),
        ("range_from_entropy", counts, low, high, *grid),
    ]
    for operator, *arguments in calls:
        expected = getattr(ops, operator)(*arguments)
        for ours, theirs in zip(fallback(operator, *arguments), expected, strict=True):
            assert same_bits(ours, theirs), operator
    rebinned = fallback("rebin_histogram", counts, low, high, low - 1, high + 1)
    assert torch.equal(rebinned, ops.rebin_histogram(counts, low, high, low - 1, high + 1))
