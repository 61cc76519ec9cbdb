"""Small floating-point formats: their largest number, and rounding to them."""

from __future__ import annotations

import torch
from torch import Tensor

from aimet_torch.common.defs import Float
from aimet_torch.quantization.base import is_tracing

__all__ = ["format_of_dtype", "largest", "round_to_format", "torch_dtype"]

_DTYPES = {
    Float(5, 10): torch.float16,
    Float(8, 7): torch.bfloat16,
    Float(4, 3, finite=True): torch.float8_e4m3fn,
    Float(4, 3, finite=True, unsigned_zero=True): torch.float8_e4m3fnuz,
    Float(5, 2): torch.float8_e5m2,
    Float(5, 2, finite=True, unsigned_zero=True): torch.float8_e5m2fnuz,
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


def _exponent_bias(format: Float) -> int:
    return 2 ** (format.exponent_bits - 1) - 1


def largest(format: Float) -> float:
    """Return the largest finite number.

    IEEE formats keep the top exponent for infinities and NaN. Finite ones use it for numbers; with
    eight bits one pattern of it is NaN (OCP 8-bit floating point specification, 2023), with fewer
    bits none (OCP microscaling formats, 2023).

    Raises:
        NotImplementedError: an unsigned zero in a format that torch does not have.
    """
    dtype = torch_dtype(format)
    if dtype is not None:
        return float(torch.finfo(dtype).max)
    if format.unsigned_zero:
        raise NotImplementedError(f"float format: `unsigned_zero` is not supported in {format}")
    top = 2**format.exponent_bits - 1 - _exponent_bias(format)
    mantissa = 2 - 2.0**-format.mantissa_bits
    if not format.finite:
        top -= 1
    elif format.bits >= 8:
        mantissa -= 2.0**-format.mantissa_bits
    return float(mantissa * 2.0**top)


def round_to_format(input: Tensor, format: Float) -> Tensor:
    """Round to the nearest number of the format; ties to even, beyond the largest to the largest.

    NaN stays NaN. The gradient is that of the clamp (straight-through).
    """
    limit = largest(format)
    clamped = input.clamp(-limit, limit)
    with torch.no_grad():
        dtype = torch_dtype(format)
        if dtype is not None:
            rounded = clamped.to(dtype).to(input.dtype)
        else:
            rounded = _round_mantissa(clamped, format)
    # A traced graph must not depend on whether gradients were on.
    if not clamped.requires_grad and not is_tracing():
        return rounded
    # Casting back and forth inside the graph would round the gradient to the small format too.
    return rounded + (clamped - clamped.detach())


def _round_mantissa(input: Tensor, format: Float) -> Tensor:
    values = input if input.dtype == torch.float64 else input.float()
    _, exponent = torch.frexp(values)  # |value| = mantissa * 2**exponent, 0.5 <= mantissa < 1
    smallest = 1 - _exponent_bias(format)  # exponent of the subnormal numbers
    step = torch.ldexp(
        torch.ones_like(values), (exponent - 1).clamp(min=smallest) - format.mantissa_bits
    )
    return (torch.round(values / step) * step).to(input.dtype)
