"""Floating-point formats and microscaling: the fallback, compile, export, TorchScript, autocast."""

from __future__ import annotations

import io

import pytest
import torch

from aimet_torch import ops
from tests.python.ops.cases import CASES, DTYPES, NAMES, Case, same_bits
from tests.python.ops.test_microscaling import LAYOUTS, values
from tests.python.ops.test_registration import fallback

OPERATORS = torch.ops.aimet
ONE = torch.tensor(1.0)
FORMATS = [(4, 3, True, False), (5, 2, False, False), (5, 2, True, True), (2, 1, True, False)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_fallback_gives_the_same_bits(case: Case, dtype: torch.dtype) -> None:
    x = case.input(dtype)
    scale = case.parameters(dtype)[0].div(64)
    for format in FORMATS:
        for saturate in (False, True):
            arguments = (x, scale, *format, saturate, case.block_size)
            ours = fallback("quantize_dequantize_float", *arguments)
            assert same_bits(ours, ops.quantize_dequantize_float(*arguments))
            for a, b in zip(
                fallback("_quantize_dequantize_float_mask", *arguments),
                OPERATORS._quantize_dequantize_float_mask(*arguments),
                strict=True,
            ):
                assert same_bits(a, b)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_the_fallback_gives_close_gradients(case: Case) -> None:
    x = case.input(torch.float64, finite=True)
    scale = case.parameters(torch.float64)[0].div(64)
    grad = torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    arguments = (grad, x, scale, 2, 1, True, False, True, case.block_size, [True, True])
    ours = fallback("_quantize_dequantize_float_backward", *arguments)
    theirs = OPERATORS._quantize_dequantize_float_backward(*arguments)
    assert same_bits(ours[0], theirs[0])
    # Sums in another order: error below n * eps * sum of magnitudes.
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("shape", "axis", "layout"), LAYOUTS, ids=str)
def test_the_fallback_of_blocks_gives_the_same_bits(
    shape: tuple[int, ...], axis: int, layout: str, dtype: torch.dtype
) -> None:
    x = values(shape, dtype, layout)
    for element, block, scale in (
        ("int8", 32, None),
        ("float8e5m2", 32, None),
        ("float4e2m1", 7, None),
        ("float4e2m1", 16, torch.tensor(0.0123)),
    ):
        arguments = (x, element, axis, block, scale)
        ours = fallback("_quantize_dequantize_microscaling_mask", *arguments)
        theirs = OPERATORS._quantize_dequantize_microscaling_mask(*arguments)
        for a, b in zip(ours, theirs, strict=True):
            assert same_bits(a, b)
        plain = fallback("quantize_dequantize_microscaling", *arguments)
        assert same_bits(plain[0], theirs[0])
        assert same_bits(plain[1], theirs[1])


def formats(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    y = ops.quantize_dequantize_float(x * 2, scale, 4, 3, finite=True)
    z, scales = ops.quantize_dequantize_mx(y.relu() + x, "float8e4m3fn", axis=1)
    n, _ = ops.quantize_dequantize_nvfp4(z * 3, torch.tensor(0.01))
    return n.sin() + scales.sum()


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("learns", [False, True])
def test_compile_gives_the_same_values_and_gradients(layout: str, learns: bool) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(formats, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (4, 5):
        results = []
        for function in (compiled, formats):
            x = Case("x", (2, 40, size, size), layout=layout).input(finite=True).requires_grad_()
            scale = torch.full((40, 1, 1), 0.02, requires_grad=learns)
            y = function(x, scale)
            wanted = (x, scale) if learns else (x,)
            results.append([y.detach(), *torch.autograd.grad(y.square().sum(), wanted)])
        for ours, theirs in zip(*results, strict=True):
            torch.testing.assert_close(ours, theirs, equal_nan=True)


def test_export_keeps_the_operators_and_the_batch_free() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return formats(x, torch.tensor(0.1))

    shapes = ({0: torch.export.Dim("batch")},)
    exported = torch.export.export(Model(), (torch.randn(4, 48),), dynamic_shapes=shapes)
    targets = {node.target for node in exported.graph.nodes}
    assert OPERATORS.quantize_dequantize_float.default in targets
    assert OPERATORS.quantize_dequantize_microscaling.default in targets
    x = torch.randn(7, 48)
    assert same_bits(exported.module()(x), Model()(x))


def test_torchscript_saves_loads_and_learns() -> None:
    @torch.jit.script
    def scripted(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        y = torch.ops.aimet.quantize_dequantize_float(x, scale, 4, 3, True)
        values, scales = torch.ops.aimet.quantize_dequantize_microscaling(y, "float6e3m2")
        return values + scales.sum()

    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    x = torch.randn(9, requires_grad=True)
    scale = torch.tensor(0.1, requires_grad=True)
    y = loaded(x, scale)
    rounded = ops.quantize_dequantize_float(x, scale, 4, 3, True)
    expected, scales = ops.quantize_dequantize_mx(rounded, "float6e3m2")
    assert same_bits(y.detach(), (expected + scales.sum()).detach())
    y.sum().backward()
    assert x.grad is not None
    assert scale.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_keeps_dtype_and_computes_in_float32(dtype: torch.dtype) -> None:
    x = torch.randn(8, 8)
    scale = torch.tensor(0.013)
    with torch.autocast("cpu", dtype=dtype):
        product = x @ x
        y = ops.quantize_dequantize_float(product, scale, 4, 3, True)
        blocks, _ = ops.quantize_dequantize_mx(product, "float4e2m1")
    assert y.dtype == blocks.dtype == product.dtype == dtype
    wide = product.float()
    assert same_bits(y, ops.quantize_dequantize_float(wide, scale, 4, 3, True).to(dtype))
    assert same_bits(blocks, ops.quantize_dequantize_mx(wide, "float4e2m1")[0].to(dtype))
