"""How an encoding is stored with ONNX's integer types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
import torch

from aimet_torch import ops
from aimet_torch.encodings.float_formats import format_named
from aimet_torch.encodings.tensor_encoding import TensorEncoding
from aimet_torch.quantization.float.encoding import FloatEncoding

Signedness = Literal["signed", "unsigned"] | None

# ONNX integer type by (bits, signed).
_TYPES = {
    (4, True): ir.DataType.INT4,
    (4, False): ir.DataType.UINT4,
    (8, True): ir.DataType.INT8,
    (8, False): ir.DataType.UINT8,
    (16, True): ir.DataType.INT16,
    (16, False): ir.DataType.UINT16,
}
_FLOAT_TYPES = {
    "float8e4m3fn": ir.DataType.FLOAT8E4M3FN,
    "float8e4m3fnuz": ir.DataType.FLOAT8E4M3FNUZ,
    "float8e5m2": ir.DataType.FLOAT8E5M2,
    "float8e5m2fnuz": ir.DataType.FLOAT8E5M2FNUZ,
}
FLOAT8_OPSET = 19
# QuantizeLinear knows 4-bit and 16-bit integers and blocks from this opset on, 8-bit ones in every
# opset we write.
WIDE_TYPES_OPSET = 21


@dataclass(frozen=True)
class OnnxGrid:
    """The integers of an ONNX QuantizeLinear/DequantizeLinear pair: `x = (q - zero_point) * scale`.

    Attributes:
        encoding: the grid of the simulation.
        dtype: integer type of q.
        shift: what to add to the simulation's q to get ONNX's q.
    """

    encoding: TensorEncoding
    dtype: ir.DataType
    shift: int

    @property
    def zero_point(self) -> np.ndarray:
        """Zero points, int64, in the shape of the scale; 0 for floating-point formats."""
        if self.encoding.is_float:
            return np.zeros(self.encoding.scale.shape, np.int64)
        return self.shift - self.encoding.offset

    @property
    def saturates_alike(self) -> bool:
        """Whether the limits of the type are those of the grid."""
        if self.encoding.is_float:
            return True
        bits = self.dtype.bitwidth
        lowest = -(2 ** (bits - 1)) if self.dtype.is_signed() else 0
        return (self.encoding.qmin + self.shift, self.encoding.qmax + self.shift) == (
            lowest,
            lowest + 2**bits - 1,
        )

    def real_limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest number on the grid, float32, in the shape of the scale."""
        encoding = self.encoding
        low, high = encoding.qmin + encoding.offset, encoding.qmax + encoding.offset
        return (low.astype(np.float32) * encoding.scale, high.astype(np.float32) * encoding.scale)

    def integers(self, values: np.ndarray) -> np.ndarray:
        """Round real numbers to the integers of this grid (int64), or to its float8 numbers."""
        encoding = self.encoding
        if encoding.is_float:
            scale = torch.from_numpy(np.array(encoding.scale, np.float32))
            format = format_named(encoding.float_format)
            grid = FloatEncoding(
                format.mantissa_bits,
                format.exponent_bits,
                format.finite,
                format.unsigned_zero,
                scale,
                encoding.block_size,
            )
            return grid.quantize(torch.from_numpy(np.array(values, np.float32))).numpy()
        quantized = ops.quantize(
            torch.from_numpy(np.array(values, dtype=np.float32)),
            torch.from_numpy(np.array(encoding.scale, dtype=np.float32)),
            torch.from_numpy(np.array(encoding.offset, dtype=np.float32)),
            encoding.qmin,
            encoding.qmax,
            list(encoding.block_size) if encoding.block_size is not None else None,
        )
        return quantized.numpy().astype(np.int64) + self.shift


def check_signedness(name: str, signedness: object) -> None:
    """Refuse what is no type of activations.

    Raises:
        ValueError: neither "signed" nor "unsigned" nor None.
    """
    if signedness not in ("signed", "unsigned", None):
        raise ValueError(
            f"{name}: `force_activation_as` must be 'signed', 'unsigned' or None, got "
            f"{signedness!r}"
        )


def _is_float8(encoding: TensorEncoding) -> bool:
    """Whether QuantizeLinear has this format; MX and NVFP4 blocks have elements of it, too."""
    is_scaled_alone = encoding.block_scale is None and not encoding.is_dynamic
    return encoding.float_format in _FLOAT_TYPES and is_scaled_alone


def needed_opset(encoding: TensorEncoding) -> int:
    """The lowest opset whose QuantizeLinear holds this encoding: 13, 19 (float8) or 21."""
    if encoding.is_float and not _is_float8(encoding):
        return 13
    if encoding.block_size is not None or encoding.bitwidth > 8:
        return WIDE_TYPES_OPSET
    return FLOAT8_OPSET if encoding.is_float else 13


def onnx_grid(encoding: TensorEncoding, signedness: Signedness, opset: int) -> OnnxGrid:
    """Choose the integer type for an encoding.

    Args:
        encoding: an integer encoding, or one of float8.
        signedness: None keeps the grid as it is; otherwise its integers are shifted by half the
            grid.
        opset: 4-bit types are used from opset 21 on; before that, 4-bit integers sit in 8-bit ones.

    Raises:
        NotImplementedError: more than 16 bits, or blocks or 16 bits before opset 21.
    """
    if opset < needed_opset(encoding):
        raise NotImplementedError(
            f"onnx_qdq.export: quantizer `{encoding.source}` ({encoding.bitwidth} bits"
            f"{', blocks' if encoding.block_size is not None else ''}) needs `opset_version` "
            f"{needed_opset(encoding)} or later, got {opset}"
        )
    if encoding.is_float:
        if not _is_float8(encoding):
            raise NotImplementedError(
                f"onnx_qdq.export: quantizer `{encoding.source}` is a {encoding.bitwidth}-bit "
                "floating-point one, for which QuantizeLinear has no type; use float8 (e4m3fn, "
                "e5m2), integers or 16-bit floats"
            )
        return OnnxGrid(encoding, _FLOAT_TYPES[encoding.float_format], 0)
    widths = [
        bits
        for bits in ((4, 8, 16) if opset >= WIDE_TYPES_OPSET else (8,))
        if bits >= encoding.bitwidth
    ]
    if encoding.zero_point_shift:
        raise NotImplementedError(
            f"onnx_qdq.export: quantizer `{encoding.source}` has `zero_point_shift` "
            f"{encoding.zero_point_shift}; integer types have zero on their grid; use 0"
        )
    if not widths:
        raise NotImplementedError(
            f"onnx_qdq.export: quantizer `{encoding.source}` has {encoding.bitwidth} bits; "
            "QuantizeLinear has integers of at most 16 bits; lower the quantizer's `bitwidth` or "
            "remove it"
        )
    signed = encoding.qmin < 0 if signedness is None else signedness == "signed"
    half = 2 ** (encoding.bitwidth - 1)
    shift = 0 if signed == (encoding.qmin < 0) else (-half if signed else half)
    return OnnxGrid(encoding, _TYPES[widths[0], signed], shift)
