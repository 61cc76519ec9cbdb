"""Floating-point quantization: formats, encodings, quantizer."""

from aimet_torch.quantization.float.encoding import FloatEncoding
from aimet_torch.quantization.float.quantizer import FloatQuantizeDequantize, QuantizeDequantize

__all__ = ["FloatEncoding", "FloatQuantizeDequantize", "QuantizeDequantize"]
