"""Quantizers of MX and NVFP4, alone and in a simulation."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from aimet_torch import ops
from aimet_torch.quantization import DequantizedTensor
from aimet_torch.quantization.float import (
    MicroscalingEncoding,
    MXQuantizeDequantize,
    NVFP4QuantizeDequantize,
)
from aimet_torch.quantsim import QuantizationSimModel

ELEMENTS = ["float8e4m3fn", "float8e5m2", "float6e3m2", "float6e2m3", "float4e2m1", "int8"]


@pytest.fixture
def x():
    return torch.randn(6, 70, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_values_and_encoding(x, element, axis):
    quantizer = MXQuantizeDequantize(element, axis)
    output = quantizer(x)
    expected, scale = ops.quantize_dequantize_mx(x, element, axis)
    assert isinstance(output, DequantizedTensor)
    assert torch.equal(output, expected)
    assert torch.equal(output.encoding.scale, scale)
    assert torch.equal(quantizer.simulate(x), expected)
    quantized = output.quantize()
    assert torch.equal(quantized.dequantize(), expected)
    limit = {"float8e4m3fn": 448, "float8e5m2": 57344, "float6e3m2": 28}.get(element, 7.5)
    assert quantized.abs().max() <= limit
    assert quantizer.is_initialized()
    assert list(quantizer.state_dict()) == ["_extra_state"]  # its format


def test_nvfp4_is_calibrated_and_loaded(x):
    quantizer = NVFP4QuantizeDequantize()
    with pytest.raises(RuntimeError, match="no range to quantize with"):
        quantizer(x)
    with quantizer.compute_encodings():
        first = quantizer(x)
    output = quantizer(x)
    assert torch.equal(first, output)  # the tensor alone has the range of all data
    expected, _ = ops.quantize_dequantize_nvfp4(x, x.abs().max() / (6 * 448))
    assert torch.equal(output, expected)
    assert torch.equal(output.quantize().dequantize(), expected)
    loaded = NVFP4QuantizeDequantize()
    loaded.load_state_dict(quantizer.state_dict())
    assert torch.equal(loaded(x), expected)
    assert torch.equal(copy.deepcopy(quantizer)(x), expected)


def test_zeros_stay_zero():
    quantizer = NVFP4QuantizeDequantize()
    with quantizer.compute_encodings():
        quantizer(torch.zeros(40))
    assert torch.equal(quantizer(torch.zeros(40)), torch.zeros(40))


def test_integers_pass():
    x = torch.arange(5)
    assert MXQuantizeDequantize()(x) is x


def test_calibration_of_a_model_passes_through(x):
    quantizer = NVFP4QuantizeDequantize()
    with quantizer.compute_encodings(passes_through=True):
        assert quantizer(x) is x
    assert quantizer.maxval == x.abs().max()


@pytest.mark.parametrize(
    "make", [lambda: MXQuantizeDequantize("float8e4m3fn"), NVFP4QuantizeDequantize]
)
def test_in_a_simulation(make):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    x = torch.randn(16, 64)
    sim = QuantizationSimModel(model, x)
    for layer in (sim.model[0], sim.model[2]):
        layer.param_quantizers["weight"] = make()
        layer.output_quantizers[0] = None
    sim.model[0].input_quantizers[0] = make()
    sim.compute_encodings([x])
    output = sim.model(x)
    weight = sim.model[0].param_quantizers["weight"].simulate(model[0].weight)
    inputs = sim.model[0].input_quantizers[0].simulate(x)
    hidden = torch.relu(nn.functional.linear(inputs, weight, model[0].bias))
    if sim.model[1].output_quantizers[0] is not None:
        hidden = sim.model[1].output_quantizers[0].simulate(hidden)
    weight = sim.model[2].param_quantizers["weight"].simulate(model[2].weight)
    expected = nn.functional.linear(hidden, weight, model[2].bias)
    torch.testing.assert_close(output, expected)
    output.square().sum().backward()
    assert sim.model[0].weight.grad.abs().sum() > 0
    compiled = torch.compile(sim.model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), output)


def test_unknown_elements_and_files():
    with pytest.raises(ValueError, match="`element` must be float8e4m3fn"):
        MXQuantizeDequantize("float16")
    encoding = MXQuantizeDequantize().get_encodings()
    assert (encoding.mapping, encoding.granularity, encoding.bitwidth) == ("float", "blockwise", 8)
    with pytest.raises(NotImplementedError, match="hold no block scales"):
        encoding.to_qnn_encoding_dict("1.0.0")
    with pytest.raises(NotImplementedError, match="cannot take a factor"):
        encoding.rescale(2.0)
    with pytest.raises(RuntimeError, match="`scale` is None"):
        MicroscalingEncoding("int8").dequantize(torch.ones(3))
