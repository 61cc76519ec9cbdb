"""How an encoding is stored with ONNX's integer types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
import torch

from aimet_torch import ops
from aimet_torch.encodings.tensor_encoding import TensorEncoding

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
        """Zero points, int64, in the shape of the scale."""
        return self.shift - self.encoding.offset

    @property
    def saturates_alike(self) -> bool:
        """Whether the limits of the integer type are those of the grid."""
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
        """Round real numbers to the integers of this grid (int64)."""
        encoding = self.encoding
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


def needed_opset(encoding: TensorEncoding) -> int:
    """The lowest opset whose QuantizeLinear holds this encoding, 13 or 21."""
    if encoding.is_float:
        return 13
    return WIDE_TYPES_OPSET if encoding.bitwidth > 8 or encoding.block_size is not None else 13


def onnx_grid(encoding: TensorEncoding, signedness: Signedness, opset: int) -> OnnxGrid:
    """Choose the integer type for an encoding.

    Args:
        encoding: an integer encoding.
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
