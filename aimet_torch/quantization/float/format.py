"""Small floating-point formats: their largest number, and rounding to them."""

from __future__ import annotations

import torch
from torch import Tensor

from aimet_torch import ops
from aimet_torch.common.defs import Float

__all__ = ["ONNX_NAMES", "format_of_dtype", "largest", "round_to_format", "torch_dtype"]

_DTYPES = {
    Float(5, 10): torch.float16,
    Float(8, 7): torch.bfloat16,
    Float(4, 3, finite=True): torch.float8_e4m3fn,
    Float(4, 3, finite=True, unsigned_zero=True): torch.float8_e4m3fnuz,
    Float(5, 2): torch.float8_e5m2,
    Float(5, 2, finite=True, unsigned_zero=True): torch.float8_e5m2fnuz,
}
#: ONNX's names of formats that come with a scale.
ONNX_NAMES = {
    Float(4, 3, finite=True): "float8e4m3fn",
    Float(4, 3, finite=True, unsigned_zero=True): "float8e4m3fnuz",
    Float(5, 2): "float8e5m2",
    Float(5, 2, finite=True, unsigned_zero=True): "float8e5m2fnuz",
    Float(2, 1, finite=True): "float4e2m1",
}
_FORMATS = {dtype: format for format, dtype in _DTYPES.items()}


def torch_dtype(format: Float) -> torch.dtype | None:
    """Return the dtype of torch with this format, None if there is none."""
    return _DTYPES.get(format)


def format_of_dtype(dtype: torch.dtype) -> Float:
    """Return the format of a dtype.

    Raises:
        ValueError: not one of the formats of 8 or 16 bits.
    """
    if dtype not in _FORMATS:
        raise ValueError(
            f"float format: `dtype` must be one of {', '.join(map(str, _FORMATS))}, got {dtype}"
        )
    return _FORMATS[dtype]


def largest(format: Float) -> float:
    """Return the largest finite number.

    IEEE formats keep the top exponent for infinities and NaN. Finite ones use it for numbers; with
    eight bits one pattern of it is NaN (OCP 8-bit floating point specification, 2023), with fewer
    bits none (OCP microscaling formats, 2023). Formats with an unsigned zero have NaN in the
    pattern of the negative one, and a bias larger by one.
    """
    bias = 2 ** (format.exponent_bits - 1) - (0 if format.unsigned_zero else 1)
    top = 2**format.exponent_bits - 1 - bias
    mantissa = 2 - 2.0**-format.mantissa_bits
    if not format.finite and not format.unsigned_zero:
        top -= 1
    elif format.bits >= 8 and not format.unsigned_zero:
        mantissa -= 2.0**-format.mantissa_bits
    return float(mantissa * 2.0**top)


def quantize_dequantize(
    input: Tensor, format: Float, scale: Tensor, block_size: tuple[int, ...] | None = None
) -> Tensor:
    """Round ``input / scale`` to ``format``, saturating, and multiply by ``scale``."""
    return ops.quantize_dequantize_float(
        input,
        scale,
        format.exponent_bits,
        format.mantissa_bits,
        format.finite,
        format.unsigned_zero,
        True,
        block_size,
    )


def round_to_format(input: Tensor, format: Float) -> Tensor:
    """Round to the nearest number of the format; ties to even, beyond the largest to the largest.

    NaN stays NaN. The gradient is that of the clamp (straight-through).
    """
    return quantize_dequantize(input, format, torch.ones((), device=input.device))
