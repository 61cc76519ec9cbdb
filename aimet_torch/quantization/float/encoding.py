"""Encodings of floating-point formats, with an optional scale in front."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

from aimet_torch.common.defs import EncodingType, Float
from aimet_torch.quantization import onnx_entry
from aimet_torch.quantization.affine.functional import expand_blocks
from aimet_torch.quantization.base import EncodingBase, plain_tensor
from aimet_torch.quantization.float.format import (
    ONNX_NAMES,
    largest,
    quantize_dequantize,
    round_to_format,
)

__all__ = ["FloatEncoding"]

Self = TypeVar("Self", bound="FloatEncoding")


class FloatEncoding(EncodingBase):
    """Real number = number of a floating-point format * scale.

    Args:
        mantissa_bits: bits of the mantissa.
        exponent_bits: bits of the exponent.
        finite: whether the format lacks infinities.
        unsigned_zero: whether the format lacks a negative zero.
        scale: real size of 1.0; 1 if None.
        block_size: elements that share one scale for each dimension of ``scale``.
    """

    def __init__(
        self,
        mantissa_bits: int,
        exponent_bits: int,
        finite: bool = False,
        unsigned_zero: bool = False,
        scale: Tensor | None = None,
        block_size: tuple[int, ...] | None = None,
    ) -> None:
        self.format = Float(exponent_bits, mantissa_bits, finite, unsigned_zero)
        self.scale = torch.ones(()) if scale is None else scale
        self.block_size = block_size

    def __repr__(self) -> str:
        return f"FloatEncoding({self.format}, {self.granularity}, scale={self.scale.tolist()})"

    @property
    def mapping(self) -> str:
        """``"float"``."""
        return "float"

    @property
    def bitwidth(self) -> int:
        """Bits of one number."""
        return self.format.bits

    @property
    def mantissa_bits(self) -> int:
        """Bits of the mantissa."""
        return self.format.mantissa_bits

    @property
    def exponent_bits(self) -> int:
        """Bits of the exponent."""
        return self.format.exponent_bits

    @property
    def finite(self) -> bool:
        """Whether the format lacks infinities."""
        return self.format.finite

    @property
    def unsigned_zero(self) -> bool:
        """Whether the format lacks a negative zero."""
        return self.format.unsigned_zero

    @property
    def maxval(self) -> Tensor:
        """Largest real number."""
        return self.scale * largest(self.format)

    def quantize(self, input: Tensor) -> Tensor:
        """Divide by the scale and round to the format; same dtype as ``input``."""
        input = plain_tensor(input)
        # The quotient of a half-precision tensor is not rounded before it is rounded to the format.
        values = input if input.dtype == torch.float64 else input.float()
        ratio = values / expand_blocks(self.scale, input, self.block_size)
        return round_to_format(ratio, self.format).to(input.dtype)

    def dequantize(self, input: Tensor) -> Tensor:
        """Multiply by the scale; same dtype as ``input``."""
        input = plain_tensor(input)
        return (input * expand_blocks(self.scale, input, self.block_size)).to(input.dtype)

    def quantize_dequantize(self, input: Tensor) -> Tensor:
        """Round real numbers to those the format and the scale can represent."""
        return quantize_dequantize(plain_tensor(input), self.format, self.scale, self.block_size)

    def rescale(self: Self, factor: float) -> Self:
        """Return the encoding of values that are ``factor`` (positive) times as large."""
        return self.map_tensors(lambda scale: scale * factor)

    def to_qnn_encoding_dict(self, encoding_version: str | None = None) -> Any:
        """Return the entry of an encodings file, without its name.

        Args:
            encoding_version: ``"0.6.1"``, ``"1.0.0"``, ``"2.0.0"`` or ``"2.1.0"``. In the last two
                16-bit formats have no entry: the dictionary is empty.

        Raises:
            NotImplementedError: another version, or a format that the version cannot express.
        """
        is_plain = self.scale.numel() == 1 and bool(self.scale == 1)
        is_16_bit = self.bitwidth == 16 and is_plain
        if encoding_version in onnx_entry.VERSIONS and (is_16_bit or self.format in ONNX_NAMES):
            return {} if is_16_bit else self._to_2()
        if encoding_version not in ("0.6.1", "1.0.0") or not is_16_bit:
            raise NotImplementedError(
                "FloatEncoding.to_qnn_encoding_dict: versions 0.6.1 and 1.0.0 hold float16 and "
                "bfloat16 without a scale, 2.0.0 and 2.1.0 also 8-bit floats and float4e2m1, got "
                f"{self.format} for version {encoding_version!r}"
            )
        if encoding_version == "0.6.1":
            return [{"bitwidth": 16, "dtype": "float"}]
        return {"dtype": "FLOAT", "bw": 16, "enc_type": EncodingType.PER_TENSOR.name}

    def _to_2(self) -> dict[str, Any]:
        axes = onnx_entry.scale_axes("FloatEncoding.to_qnn", self.scale, self.block_size)
        scale = onnx_entry.nested_values(self.scale, axes)
        return {"output_dtype": ONNX_NAMES[self.format], "y_scale": scale, **axes}
