"""Quantization to floating-point formats, against torch's and ml_dtypes' own casts."""

from __future__ import annotations

import itertools
import math

import ml_dtypes
import numpy as np
import pytest
import torch

from aimet_torch.common.defs import Float
from aimet_torch.quantization.encoding_analyzer import MinMaxEncodingAnalyzer
from aimet_torch.quantization.float import FloatEncoding, FloatQuantizeDequantize
from aimet_torch.quantization.float.format import largest, round_to_format, torch_dtype

DTYPES = [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


def numbers_of(exponent_bits, mantissa_bits, finite):
    """All non-negative numbers of a format, from its definition."""
    bias = 2 ** (exponent_bits - 1) - 1
    top = 2**exponent_bits - (0 if finite else 1)
    values = []
    for exponent, mantissa in itertools.product(range(top), range(2**mantissa_bits)):
        fraction = mantissa / 2**mantissa_bits
        if exponent == 0:
            values.append(fraction * 2.0 ** (1 - bias))
        else:
            values.append((1 + fraction) * 2.0 ** (exponent - bias))
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("exponent_bits", "mantissa_bits", "finite", "maximum"),
    [
        (2, 1, True, 6.0),  # OCP microscaling formats: E2M1
        (3, 2, True, 28.0),  # E3M2
        (2, 3, True, 7.5),  # E2M3
        (4, 3, True, 448.0),  # OCP 8-bit floating point: E4M3
        (5, 2, False, 57344.0),  # E5M2
        (4, 3, False, 240.0),  # E4M3 with infinities
        (5, 10, False, 65504.0),
        (8, 7, False, float(torch.finfo(torch.bfloat16).max)),
    ],
)
def test_largest_number(exponent_bits, mantissa_bits, finite, maximum):
    assert largest(Float(exponent_bits, mantissa_bits, finite)) == maximum


@pytest.mark.parametrize(
    ("exponent_bits", "mantissa_bits", "finite"), [(2, 1, True), (3, 2, True), (3, 3, False)]
)
def test_numbers_of_small_formats_are_fixed_points(exponent_bits, mantissa_bits, finite):
    format = Float(exponent_bits, mantissa_bits, finite)
    values = numbers_of(exponent_bits, mantissa_bits, finite)
    assert values.max().item() == largest(format)
    values = torch.cat([values, -values])
    assert torch.equal(round_to_format(values, format), values)
    between = torch.linspace(-largest(format), largest(format), 1001, dtype=torch.float64)
    nearest = (between[:, None] - values).abs().amin(1)
    assert torch.equal((round_to_format(between, format) - between).abs(), nearest)


@pytest.mark.parametrize("dtype", DTYPES)
def test_formula_agrees_with_the_cast(dtype):
    torch.manual_seed(0)
    format = next(
        f
        for f in (Float(5, 10), Float(8, 7), Float(4, 3, True), Float(5, 2))
        if torch_dtype(f) == dtype
    )
    limit = min(largest(format), 1e30)
    x = torch.randn(20000) * torch.logspace(-12, math.log10(limit), 20000)
    x = x.clamp(-limit, limit)
    assert torch.equal(round_to_format(x, format), x.to(dtype).float())


def test_four_bit_format_agrees_with_ml_dtypes():
    x = torch.linspace(-6, 6, 4001)
    expected = x.numpy().astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    assert np.array_equal(round_to_format(x, Float(2, 1, True)).numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_need_no_calibration(dtype):
    quantizer = FloatQuantizeDequantize(dtype=dtype)
    x = torch.randn(50)
    assert quantizer.is_initialized()
    assert torch.equal(quantizer(x), x.to(dtype).float())
    assert list(quantizer.state_dict()) == ["_extra_state"]  # its format
    assert quantizer.is_float16() == (dtype == torch.float16)
    assert quantizer.is_bfloat16() == (dtype == torch.bfloat16)
    assert quantizer.get_encodings().to_qnn_encoding_dict("1.0.0") == {
        "dtype": "FLOAT", "bw": 16, "enc_type": "PER_TENSOR"
    }  # fmt: skip
    assert quantizer.get_encodings().to_qnn_encoding_dict("0.6.1") == [
        {"bitwidth": 16, "dtype": "float"}
    ]


def test_infinity_clamps_and_nan_stays():
    output = FloatQuantizeDequantize(dtype=torch.float16)(
        torch.tensor([math.inf, -math.inf, 1e6, math.nan])
    )
    assert output[:3].tolist() == [65504.0, -65504.0, 65504.0]
    assert output[3].isnan()


@pytest.mark.parametrize("shape", [(), (4, 1), (4, 2)])
def test_small_formats_are_scaled_to_the_data(shape):
    torch.manual_seed(0)
    data = torch.randn(4, 6) * 100
    block_size = (1, 3) if shape == (4, 2) else None
    quantizer = FloatQuantizeDequantize(4, 3, finite=True, shape=shape, block_size=block_size)
    with pytest.raises(RuntimeError, match="no range to quantize with"):
        quantizer(data)
    with quantizer.compute_encodings(passes_through=True):
        assert quantizer(data) is data
    output = quantizer(data)
    with quantizer.compute_encodings():
        assert torch.equal(quantizer(data), output)
        assert torch.equal(quantizer(data / 4), output / 4)
    assert quantizer.get_scale().shape == shape
    assert ((output - data).abs() <= data.abs() / 16 + 1e-3).all()
    assert output.abs().max().item() == pytest.approx(data.abs().max().item(), rel=1e-6)
    again = FloatQuantizeDequantize.from_encodings(quantizer.get_encodings())
    torch.testing.assert_close(again(data), output)
    loaded = FloatQuantizeDequantize(4, 3, finite=True, shape=shape, block_size=block_size)
    loaded.load_state_dict(quantizer.state_dict())
    assert torch.equal(loaded(data), output)


def test_zeros_stay_zero():
    quantizer = FloatQuantizeDequantize(4, 3, finite=True)
    with quantizer.compute_encodings():
        quantizer(torch.zeros(4))
    assert torch.equal(quantizer(torch.zeros(4)), torch.zeros(4))


def test_gradient_is_not_rounded_to_the_format():
    x = torch.tensor([0.1, 1e9], requires_grad=True)
    gradient = torch.tensor([1 / 3, 1 / 3])
    FloatQuantizeDequantize(dtype=torch.float16)(x).backward(gradient)
    assert x.grad.tolist() == [gradient[0].item(), 0.0]


def test_analyzer_of_a_sixteen_bit_format():
    quantizer = FloatQuantizeDequantize(
        dtype=torch.float16, encoding_analyzer=MinMaxEncodingAnalyzer((2, 1))
    )
    assert quantizer.shape == (2, 1)
    assert not quantizer.is_initialized()
    with quantizer.compute_encodings():
        quantizer(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
    assert quantizer.maxval.tolist() == [[2.0], [4.0]]


def test_format_can_be_changed():
    quantizer = FloatQuantizeDequantize(5, 10)
    quantizer.exponent_bits, quantizer.mantissa_bits = 8, 7
    assert quantizer.is_bfloat16()
    assert quantizer.maxval.item() == torch.finfo(torch.bfloat16).max


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "is missing"),
        ({"exponent_bits": 4}, "is missing"),
        ({"dtype": torch.float16, "mantissa_bits": 3}, "not both"),
        ({"dtype": torch.int8}, "`dtype` must be one of"),
    ],
)
def test_format_errors(kwargs, message):
    with pytest.raises(ValueError, match=message):
        FloatQuantizeDequantize(**kwargs)


def test_formats_a_file_cannot_hold():
    encoding = FloatEncoding(3, 4, finite=True)
    with pytest.raises(NotImplementedError, match="hold float16 and bfloat16 without a scale"):
        encoding.to_qnn_encoding_dict("1.0.0")
    assert encoding.to_qnn_encoding_dict("2.0.0") == {"output_dtype": "float8e4m3fn", "y_scale": 1}
    per_channel = FloatEncoding(2, 5, scale=torch.tensor([[0.5], [0.25]]))
    assert per_channel.to_qnn_encoding_dict("2.1.0") == {
        "output_dtype": "float8e5m2", "y_scale": [0.5, 0.25], "axis": 0
    }  # fmt: skip
    assert FloatEncoding(10, 5).to_qnn_encoding_dict("2.0.0") == {}


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fnuz, torch.float8_e5m2fnuz])
def test_formats_without_a_negative_zero(dtype):
    quantizer = FloatQuantizeDequantize(dtype=dtype)
    assert largest(quantizer.format) == torch.finfo(dtype).max
    quantizer.set_maxval(torch.finfo(dtype).max)
    x = torch.randn(1000) * 10
    assert torch.equal(quantizer(x), x.to(dtype).float())


def test_half_precision_is_not_rounded_twice():
    # 1 + 2**-8 in bfloat16 terms: the quotient by 3 has more bits than bfloat16 holds.
    x = torch.randn(4000).to(torch.bfloat16)
    scale = torch.tensor(1 / 3)
    encoding = FloatEncoding(3, 4, finite=True, scale=scale)
    expected = (x.float() / scale).to(torch.float8_e4m3fn).float()
    assert torch.equal(encoding.quantize(x).float(), expected)
    assert torch.equal(encoding.quantize_dequantize(x), (expected * scale).to(torch.bfloat16))
