"""Quantizer to floating-point formats: float16, bfloat16, 8 bits and fewer."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from aimet_torch.common.defs import Float
from aimet_torch.quantization.base import is_captured, plain_tensor
from aimet_torch.quantization.encoding_analyzer import EncodingAnalyzer, MinMaxEncodingAnalyzer
from aimet_torch.quantization.float.base import FloatQuantizerBase
from aimet_torch.quantization.float.encoding import FloatEncoding
from aimet_torch.quantization.float.format import (
    format_of_dtype,
    largest,
    quantize_dequantize,
    torch_dtype,
)
from aimet_torch.quantization.tensor import DequantizedTensor

__all__ = ["FloatQuantizeDequantize", "QuantizeDequantize"]


class FloatQuantizeDequantize(FloatQuantizerBase):
    """Round to a floating-point format and back.

    Formats of 16 bits are used as they are. Smaller ones are scaled so that the largest observed
    magnitude maps to the largest number of the format; that needs `compute_encodings`.

    Args:
        exponent_bits: bits of the exponent; give this and ``mantissa_bits``, or ``dtype``.
        mantissa_bits: bits of the mantissa.
        finite: whether the format lacks infinities.
        unsigned_zero: whether the format lacks a negative zero.
        dtype: a dtype of torch that names the format.
        shape: shape of the scale; that of the analyzer, or ``()``, if None.
        block_size: elements that share one scale for each dimension of ``shape``.
        encoding_analyzer: how the largest magnitude is chosen; for formats below 16 bits minimum
            and maximum if None.

    Attributes:
        maxval: buffer of ``shape``, largest real number; NaN until calibrated.

    Raises:
        ValueError: the format is given in none or both of the ways, or not known.

    >>> FloatQuantizeDequantize(dtype=torch.float16)(torch.tensor([1 / 3, 1e6]))
    DequantizedTensor([3.3325e-01, 6.5504e+04])
    """

    maxval: Tensor
    _unit: Tensor
    _range_names = ("maxval",)

    def __init__(
        self,
        exponent_bits: int | None = None,
        mantissa_bits: int | None = None,
        finite: bool | None = None,
        unsigned_zero: bool | None = None,
        dtype: torch.dtype | None = None,
        shape: tuple[int, ...] | None = None,
        block_size: tuple[int, ...] | None = None,
        encoding_analyzer: EncodingAnalyzer | None = None,
    ) -> None:
        super().__init__()
        parts = (exponent_bits, mantissa_bits, finite, unsigned_zero)
        if dtype is not None and any(part is not None for part in parts):
            raise ValueError(
                "FloatQuantizeDequantize: give `dtype`, or `exponent_bits`, `mantissa_bits`, "
                "`finite` and `unsigned_zero`, not both"
            )
        if dtype is not None:
            self.format = format_of_dtype(dtype)
        elif exponent_bits is None or mantissa_bits is None:
            raise ValueError(
                "FloatQuantizeDequantize: `dtype`, or `exponent_bits` and `mantissa_bits`, "
                "is missing"
            )
        else:
            self.format = Float(exponent_bits, mantissa_bits, bool(finite), bool(unsigned_zero))
        limit = largest(self.format)
        if shape is None:
            shape = encoding_analyzer.shape if encoding_analyzer is not None else ()
        self.shape = tuple(shape)
        self.block_size = None if block_size is None else tuple(block_size)
        if encoding_analyzer is None and self.bitwidth < 16:
            encoding_analyzer = MinMaxEncodingAnalyzer(self.shape, self.block_size)
        self.encoding_analyzer = encoding_analyzer
        is_scaled = encoding_analyzer is not None
        self.register_buffer(
            "maxval",
            torch.full(self.shape, torch.nan if is_scaled else limit),
            persistent=is_scaled,
        )
        self.register_buffer("_unit", torch.ones(()), persistent=False)
        self._initialized = not is_scaled

    # -- format ---------------------------------------------------------------------------------

    @property
    def exponent_bits(self) -> int:
        """Bits of the exponent."""
        return self.format.exponent_bits

    @exponent_bits.setter
    def exponent_bits(self, bits: int) -> None:
        self._set_format(bits, self.mantissa_bits)

    @property
    def mantissa_bits(self) -> int:
        """Bits of the mantissa."""
        return self.format.mantissa_bits

    @mantissa_bits.setter
    def mantissa_bits(self, bits: int) -> None:
        self._set_format(self.exponent_bits, bits)

    def _set_format(self, exponent_bits: int, mantissa_bits: int) -> None:
        old = self.format
        flags = int(old.finite), int(old.unsigned_zero)
        self._set_format_numbers([exponent_bits, mantissa_bits, *flags])

    @property
    def bitwidth(self) -> int:
        """Bits of one number."""
        return self.format.bits

    def is_float16(self) -> bool:
        """Whether the format is float16."""
        return torch_dtype(self.format) == torch.float16

    def is_bfloat16(self) -> bool:
        """Whether the format is bfloat16."""
        return torch_dtype(self.format) == torch.bfloat16

    # -- scale ----------------------------------------------------------------------------------

    def is_initialized(self) -> bool:
        """Whether the scale is known: 16 bits need none."""
        if not self._initialized:
            self._initialized = not bool(self.maxval.isnan().any())
        return self._initialized

    def _set_from_statistics(self, analyzer: EncodingAnalyzer) -> None:
        limits = analyzer.compute_encodings(2**self.bitwidth - 1, is_symmetric=False)
        self.set_maxval(torch.maximum(*(limit.abs() for limit in limits)))

    def _encoding_of(self, input: Tensor) -> FloatEncoding:
        assert self.encoding_analyzer is not None
        steps = 2**self.bitwidth - 1
        limits = self.encoding_analyzer.compute_dynamic_encodings(input, steps, False)
        return self._encoding(torch.maximum(*(limit.abs() for limit in limits)))

    @torch.no_grad()
    def set_maxval(self, maxval: Tensor | float) -> None:
        """Set the largest real number, broadcast to ``shape``."""
        self.maxval.copy_(torch.as_tensor(maxval, device=self.maxval.device).expand(self.shape))
        self._initialized = False
        self.is_initialized()

    def get_scale(self) -> Tensor | None:
        """Return the real size of 1.0, None while it is not known."""
        return self._scale(self.maxval) if self.is_initialized() else None

    def _scale(self, maxval: Tensor) -> Tensor:
        # All-zero data would give a scale of zero.
        return (maxval / largest(self.format)).clamp(min=torch.finfo(torch.float32).tiny)

    def get_encodings(self) -> FloatEncoding | None:
        """Return the encoding, None while the scale is not known."""
        return self._encoding(self.maxval) if self.is_initialized() else None

    def _encoding(self, maxval: Tensor) -> FloatEncoding:
        format = self.format
        return FloatEncoding(
            format.mantissa_bits,
            format.exponent_bits,
            format.finite,
            format.unsigned_zero,
            self._scale(maxval),
            self.block_size,
        )

    @classmethod
    def from_encodings(cls, encodings: FloatEncoding) -> FloatQuantizeDequantize:
        """Return a quantizer with the format and the scale of ``encodings``.

        Raises:
            TypeError: not a float encoding.
        """
        if not isinstance(encodings, FloatEncoding):
            raise TypeError(
                f"{cls.__name__}.from_encodings: expected a FloatEncoding, got "
                f"{type(encodings).__name__}"
            )
        format = encodings.format
        quantizer = cls(
            format.exponent_bits,
            format.mantissa_bits,
            format.finite,
            format.unsigned_zero,
            shape=tuple(encodings.scale.shape),
            block_size=encodings.block_size,
        )
        if quantizer.encoding_analyzer is not None or bool((encodings.scale != 1).any()):
            quantizer.set_maxval(encodings.maxval.detach())
        return quantizer

    # -- map ------------------------------------------------------------------------------------

    def simulate(self, input: Tensor) -> Tensor:
        """Round a plain tensor; see `QuantizerBase.simulate`."""
        if not input.is_floating_point():
            return input
        if self._calibrating:
            self.observe(input)
            return input
        if self.encoding_analyzer is None and not self.shape:
            return quantize_dequantize(input, self.format, self._unit)
        if not self.is_initialized():
            issue = f" (last time: {self.calibration_issue})" if self.calibration_issue else ""
            raise RuntimeError(
                f"{type(self).__name__}: there is no range to quantize with; pass data through the "
                f"quantizer within `compute_encodings()`{issue}"
            )
        scale = self._scale(self.maxval)
        return quantize_dequantize(input, self.format, scale, self.block_size)

    def map_of(
        self, input: Tensor, clamp_min: float | None = None, clamp_max: float | None = None
    ) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]] | None:
        """Rounding with the scale of now; see `QuantizerBase.map_of`."""
        is_own = type(self).simulate is FloatQuantizeDequantize.simulate
        if not is_own or self._calibrating or (clamp_min, clamp_max) != (None, None):
            return None
        format = self.format
        if self.encoding_analyzer is None and not self.shape:
            return lambda x, s: quantize_dequantize(x, format, s), (self._unit,)
        block_size = self.block_size
        return lambda x, s: quantize_dequantize(x, format, s, block_size), (
            self._scale(self.maxval),
        )

    def forward(self, input: Tensor) -> Tensor:
        """Round ``input`` to the format.

        Args:
            input: any shape that ``shape`` broadcasts against; integers pass unchanged.

        Returns:
            A `DequantizedTensor` of the same shape and dtype; a plain tensor while a graph is
            captured.

        Raises:
            RuntimeError: the format needs a scale and there is none.
        """
        input = plain_tensor(input)
        if self._calibrating and not self._passes_through and input.is_floating_point():
            observed = self._observed_encoding(input)
            if observed is None:
                return input
            return DequantizedTensor.attach(observed.quantize_dequantize(input), observed)
        output = self.simulate(input)
        if self._calibrating or is_captured() or not output.is_floating_point():
            return output
        return DequantizedTensor.attach(output, self.get_encodings())

    # -- state ----------------------------------------------------------------------------------

    def _format_numbers(self) -> dict[str, int]:
        format = self.format
        return {
            "exponent bits": format.exponent_bits,
            "mantissa bits": format.mantissa_bits,
            "finite =": int(format.finite),
            "unsigned_zero =": int(format.unsigned_zero),
        }

    def _set_format_numbers(self, numbers: list[int]) -> None:
        exponent_bits, mantissa_bits, finite, unsigned_zero = numbers
        self.format = Float(exponent_bits, mantissa_bits, bool(finite), bool(unsigned_zero))
        if self.encoding_analyzer is None:
            self.maxval.fill_(largest(self.format))

    def extra_repr(self) -> str:
        """Show shape and format."""
        return f"shape={self.shape}, format={self.format}"


QuantizeDequantize = FloatQuantizeDequantize
