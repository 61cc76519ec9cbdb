"""Encodings, quantizers, and the tensors they return.

``affine``: integer grids. ``float``: floating-point formats. ``encoding_analyzer``: statistics and
range search. Names follow AIMET 2.x.
"""

from aimet_torch.quantization import affine, encoding_analyzer, float
from aimet_torch.quantization.base import EncodingBase, QuantizerBase
from aimet_torch.quantization.tensor import (
    DequantizedTensor,
    EncodingError,
    QuantizedTensor,
    QuantizedTensorBase,
)

__all__ = [
    "DequantizedTensor",
    "EncodingBase",
    "EncodingError",
    "QuantizedTensor",
    "QuantizedTensorBase",
    "QuantizerBase",
    "affine",
    "encoding_analyzer",
    "float",
]
