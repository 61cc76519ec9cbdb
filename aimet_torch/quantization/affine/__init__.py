"""Affine (integer) quantization: functions, encodings, quantizers."""

from aimet_torch.quantization.affine.encoding import AffineEncoding, GroupedBlockEncoding
from aimet_torch.quantization.affine.functional import dequantize, quantize, quantize_dequantize
from aimet_torch.quantization.affine.grouped import GroupedBlockQuantizeDequantize
from aimet_torch.quantization.affine.quantizer import (
    AffineQuantizerBase,
    Dequantize,
    MinMaxQuantizer,
    Quantize,
    QuantizeDequantize,
)

__all__ = [
    "AffineEncoding",
    "AffineQuantizerBase",
    "Dequantize",
    "GroupedBlockEncoding",
    "GroupedBlockQuantizeDequantize",
    "MinMaxQuantizer",
    "Quantize",
    "QuantizeDequantize",
    "dequantize",
    "quantize",
    "quantize_dequantize",
]
