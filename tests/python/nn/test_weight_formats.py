"""Weights rounded to blocks of float4, then int8: AIMET's set_weight_quantizer_to_*_int8."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aimet_torch import ops
from aimet_torch.nn import QuantizationMixin
from aimet_torch.quantization.affine import QuantizeDequantize


def quantized(module):
    torch.manual_seed(0)
    result = QuantizationMixin.from_module(module)
    result.param_quantizers["weight"] = QuantizeDequantize((), 8, True)
    return result


@pytest.mark.parametrize("module", [nn.Linear(64, 4), nn.Conv2d(64, 4, 3), nn.Conv1d(32, 4, 2)])
def test_mxfp4(module):
    layer = quantized(module)
    original = layer.weight.detach().clone()
    layer.set_weight_quantizer_to_mxfp4_int8()
    expected, scale = ops.quantize_dequantize_mx(original, "float4e2m1", axis=1)
    assert torch.equal(layer.weight, expected)
    assert scale.shape[1] == original.shape[1] // 32
    quantizer = layer.param_quantizers["weight"]
    assert (quantizer.qmin, quantizer.qmax, quantizer.shape[0]) == (-128, 127, 4)
    layer.set_weight_quantizer_to_mxfp4_int8()  # on the grid already
    assert torch.equal(layer.weight, expected)


@pytest.mark.parametrize("module", [nn.Linear(64, 4), nn.Conv2d(64, 4, 3)])
def test_nvfp4(module):
    layer = quantized(module)
    weight = layer.weight.detach().clone()
    shape = (4, 4, *[1] * (weight.dim() - 2))
    scale_q = (torch.rand(shape) + 0.5).to(torch.float8_e4m3fn)
    layer.set_weight_quantizer_to_nvfp4_int8(scale_q, 0.02)
    scale = (0.02 * scale_q.float()).repeat_interleave(16, 1)
    ratio = (weight / scale).clamp(-6, 6)
    numbers = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6.0])
    distance = (ratio.abs()[..., None] - numbers).abs()
    assert torch.equal((layer.weight / scale).abs().round(decimals=3), numbers[distance.argmin(-1)])


def test_errors():
    layer = quantized(nn.Linear(40, 4))
    with pytest.raises(ValueError, match="`block_size` must divide the input channels, got 32"):
        layer.set_weight_quantizer_to_mxfp4_int8()
    with pytest.raises(TypeError, match=r"`scale_q` must be float8_e4m3, got torch\.float32"):
        layer.set_weight_quantizer_to_nvfp4_int8(torch.ones(4, 2), 1.0)
    with pytest.raises(ValueError, match="one scale for each 16 input channels"):
        layer.set_weight_quantizer_to_nvfp4_int8(torch.ones(4, 2).to(torch.float8_e4m3fn), 1.0)
    with pytest.raises(TypeError, match="must be a Linear or a convolution, got QuantizedEmb"):
        quantized(nn.Embedding(4, 32)).set_weight_quantizer_to_mxfp4_int8()
