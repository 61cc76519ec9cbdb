"""Number formats as mixed precision names and counts them."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeAlias, get_args

from aimet_torch.analysis.precision import Candidate, Precision
from aimet_torch.quantization.base import QuantizerBase
from aimet_torch.quantization.float import FloatQuantizeDequantize

__all__ = ["Candidate", "Precision", "SupportedDType", "effective_bits", "parse", "precision_of"]

SupportedDType: TypeAlias = Literal["int16", "int8", "int4", "fp16"]

# AIMET's factor: a product of two floating-point numbers counts 1.5 times as much as of integers.
_FLOAT_FACTOR = math.sqrt(1.5)


def parse(name: object, argument: str) -> Precision:
    """The precision of a name such as "int8" or "fp16".

    Args:
        name: one of `SupportedDType`, or a `Precision`.
        argument: function and argument, for the message.

    Raises:
        ValueError: another value.
    """
    if isinstance(name, Precision):
        return name
    if name not in get_args(SupportedDType):
        raise ValueError(
            f"{argument} must be one of {', '.join(map(repr, get_args(SupportedDType)))}, "
            f"got {name!r}"
        )
    return Precision.of(str(name))


def precision_of(quantizer: QuantizerBase) -> Precision:
    """The precision that a quantizer has now."""
    bits: Any = getattr(quantizer, "bitwidth")  # noqa: B009 - the base class has none
    return Precision(bits, isinstance(quantizer, FloatQuantizeDequantize))


def effective_bits(precision: Precision) -> float:
    """What one factor of a product counts in bit-operations: its bits, more in floating point."""
    return precision.bits * (_FLOAT_FACTOR if precision.is_float else 1)
