"""CUDA kernels of floating-point formats and microscaling against the CPU's, bit for bit."""

from __future__ import annotations

import pytest
import torch

from aimet_torch import ops
from tests.python.ops import test_cuda
from tests.python.ops.test_cuda import Case, all_cases, assert_same_bits, to_gpu
from tests.python.ops.test_microscaling import LAYOUTS, values

gpu = test_cuda.gpu  # the fixture
OPERATORS = torch.ops.aimet
FORMATS = [(4, 3, True, False), (5, 2, False, False), (5, 2, True, True), (5, 10, False, False)]


@pytest.mark.cuda
@all_cases
def test_float_formats(gpu: torch.device, case: Case, dtype: torch.dtype) -> None:
    x, scale, _ = case.tensors(dtype)
    on_gpu = to_gpu(x, gpu), to_gpu(scale, gpu)
    for format in FORMATS:
        for saturate in (False, True):
            rest = (*format, saturate, case.block_size)
            expected = OPERATORS._quantize_dequantize_float_mask(x, scale, *rest)
            actual = OPERATORS._quantize_dequantize_float_mask(*on_gpu, *rest)
            for ours, theirs in zip(actual, expected, strict=True):
                assert_same_bits(ours, theirs)
            plain = ops.quantize_dequantize_float(*on_gpu, *rest)
            assert_same_bits(plain, expected[0])


@pytest.mark.cuda
@all_cases
def test_backward_of_float_formats(gpu: torch.device, case: Case, dtype: torch.dtype) -> None:
    x, scale, _ = case.tensors(dtype)
    scale = scale / 64
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    rest = (2, 1, True, False, True, case.block_size, [True, True])
    expected = OPERATORS._quantize_dequantize_float_backward(grad, x, scale, *rest)
    tensors = (to_gpu(t, gpu) for t in (grad, x, scale))
    actual = OPERATORS._quantize_dequantize_float_backward(*tensors, *rest)
    for ours, theirs in zip(actual, expected, strict=True):
        assert_same_bits(ours, theirs)


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("shape", "axis", "layout"), LAYOUTS, ids=str)
def test_microscaling(
    gpu: torch.device, shape: tuple[int, ...], axis: int, layout: str, dtype: torch.dtype
) -> None:
    x = values(shape, dtype, layout)
    for element, block, tensor_scale in (
        ("float8e4m3fn", 32, None),
        ("int8", 7, None),
        ("float4e2m1", 16, torch.tensor(0.0123)),
    ):
        expected = OPERATORS._quantize_dequantize_microscaling_mask(
            x, element, axis, block, tensor_scale
        )
        actual = OPERATORS._quantize_dequantize_microscaling_mask(
            to_gpu(x, gpu), element, axis, block, tensor_scale
        )
        for ours, theirs in zip(actual, expected, strict=True):
            assert_same_bits(ours, theirs)
