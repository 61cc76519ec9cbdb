"""Floating-point quantization: formats, encodings, quantizers."""

from aimet_torch.quantization.float.encoding import FloatEncoding
from aimet_torch.quantization.float.microscaling import (
    MicroscalingEncoding,
    MXQuantizeDequantize,
    NVFP4QuantizeDequantize,
)
from aimet_torch.quantization.float.quantizer import FloatQuantizeDequantize, QuantizeDequantize

__all__ = [
    "FloatEncoding",
    "FloatQuantizeDequantize",
    "MXQuantizeDequantize",
    "MicroscalingEncoding",
    "NVFP4QuantizeDequantize",
    "QuantizeDequantize",
]
