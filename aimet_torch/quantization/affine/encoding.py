"""Encodings of affine integer grids: per tensor, per channel, per block, and grouped blocks."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import Tensor

from aimet_torch import ops
from aimet_torch.common.defs import EncodingType
from aimet_torch.quantization import onnx_entry
from aimet_torch.quantization.affine.functional import dequantize, quantize, quantize_dequantize
from aimet_torch.quantization.base import EncodingBase, plain_tensor
from aimet_torch.quantization.grid import bind_grid_arguments, bitwidth_of, grid_limits

__all__ = ["AffineEncoding", "GroupedBlockEncoding"]

Self = TypeVar("Self", bound="AffineEncoding")

_INTEGER_DTYPES = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)


class AffineEncoding(EncodingBase):
    """Real number = (integer + offset) * scale, integers between qmin and qmax.

    Args:
        scale: real size of one step.
        offset: in the convention of the grid: 0 for a signed symmetric one.
        *args: ``qmin, qmax, symmetry=False, block_size=None, zero_point_shift=0.0`` or
            ``bitwidth, signed=False, symmetry=False, block_size=None, zero_point_shift=0.0``.
        **kwargs: the same by name.

    Raises:
        TypeError: the grid is given in none or both of the forms.
        ValueError: the grid is empty.

    >>> encoding = AffineEncoding(torch.tensor(0.5), torch.tensor(0.0), bitwidth=4, signed=True)
    >>> encoding.min.item(), encoding.max.item(), encoding.granularity
    (-4.0, 3.5, 'pertensor')
    """

    _tensors: tuple[str, ...] = ("scale", "offset")

    def __init__(self, scale: Tensor, offset: Tensor, *args: Any, **kwargs: Any) -> None:
        after = ("symmetry", "block_size", "zero_point_shift")
        bound = bind_grid_arguments("AffineEncoding", args, kwargs, ("signed", *after), after)
        signed = bool(bound.pop("signed", False))
        self.qmin, self.qmax = grid_limits("AffineEncoding", bound, signed)
        self.scale = scale
        self.offset = offset
        self.symmetry = bool(bound.get("symmetry", False))
        block_size = bound.get("block_size")
        self.block_size = None if block_size is None else tuple(block_size)
        self.zero_point_shift = float(bound.get("zero_point_shift") or 0.0)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.granularity}, qmin={self.qmin}, qmax={self.qmax}, "
            f"symmetry={self.symmetry}, scale={self.scale.tolist()}, offset={self.offset.tolist()})"
        )

    @property
    def mapping(self) -> str:
        """``"affine"``."""
        return "affine"

    @property
    def num_steps(self) -> int:
        """Steps of the grid."""
        return self.qmax - self.qmin

    @property
    def bitwidth(self) -> int:
        """Bits that hold every integer of the grid."""
        return bitwidth_of(self.qmin, self.qmax)

    @property
    def signed(self) -> bool:
        """Whether the grid has negative integers."""
        return self.qmin < 0

    @property
    def min(self) -> Tensor:
        """Smallest real number of the grid."""
        return self.scale * (self.offset + self.qmin + self.zero_point_shift)

    @property
    def max(self) -> Tensor:
        """Largest real number of the grid."""
        return self.scale * (self.offset + self.qmax + self.zero_point_shift)

    @property
    def dtype(self) -> torch.dtype:
        """Smallest integer dtype that holds the grid."""
        for dtype in _INTEGER_DTYPES:
            info = torch.iinfo(dtype)
            if info.min <= self.qmin and self.qmax <= info.max:
                return dtype
        raise AssertionError("a grid has at most 32 bits")

    def _require_unshifted(self, operator: str) -> None:
        if self.zero_point_shift:
            raise NotImplementedError(
                f"AffineEncoding.{operator}: `zero_point_shift` must be 0, got "
                f"{self.zero_point_shift}; quantize_dequantize supports it"
            )

    def quantize(self, input: Tensor) -> Tensor:
        """Map real numbers to integers of the grid, in the dtype of ``input``."""
        self._require_unshifted("quantize")
        return quantize(
            plain_tensor(input), self.scale, self.offset, self.qmin, self.qmax, self.block_size
        )

    def dequantize(self, input: Tensor) -> Tensor:
        """Map integers of the grid to real numbers."""
        self._require_unshifted("dequantize")
        return dequantize(plain_tensor(input), self.scale, self.offset, self.block_size)

    def quantize_dequantize(self, input: Tensor) -> Tensor:
        """Round real numbers to the grid."""
        return quantize_dequantize(
            plain_tensor(input),
            self.scale,
            self.offset,
            qmin=self.qmin,
            qmax=self.qmax,
            block_size=self.block_size,
            zero_point_shift=self.zero_point_shift,
        )

    def rescale(self: Self, factor: float) -> Self:
        """Return the encoding of values that are ``factor`` (positive) times as large."""
        return self.map_tensors(lambda value: value * factor if value is self.scale else value)

    def unsigned_offset(self) -> Tensor:
        """Offset on the unsigned grid, as encodings files of version 0.6.1 and 1.0.0 have it."""
        shift = 2 ** (self.bitwidth - 1) if self.signed else 0
        return torch.round(self.offset - shift).to(torch.int64)

    def to_qnn_encoding_dict(self, encoding_version: str | None = None) -> Any:
        """Return the entry of an encodings file, without its name.

        Args:
            encoding_version: ``"0.6.1"`` (a list with one dict a channel), ``"1.0.0"``, ``"2.0.0"``
                or ``"2.1.0"`` (a dict).

        Raises:
            NotImplementedError: another version, or a block size of -1, or blocks along two axes.
            ValueError: several axes have more than one scale, and there are no blocks.
        """
        match encoding_version:
            case "0.6.1":
                return self._to_0_6_1()
            case "1.0.0":
                return self._to_1_0_0()
            case "2.0.0" | "2.1.0":
                return self._to_2(encoding_version)
        raise NotImplementedError(
            f"{type(self).__name__}.to_qnn_encoding_dict: `encoding_version` must be '0.6.1', "
            f"'1.0.0', '2.0.0' or '2.1.0', got {encoding_version!r}"
        )

    def _to_0_6_1(self) -> list[dict[str, Any]]:
        columns = (self.min, self.max, self.scale, self.unsigned_offset())
        rows = zip(*(column.flatten().tolist() for column in columns), strict=True)
        shift = {"zero_point_shift": self.zero_point_shift} if self.zero_point_shift else {}
        return [
            {
                "bitwidth": self.bitwidth,
                "dtype": "int",
                "is_symmetric": str(self.symmetry),
                "min": minimum,
                "max": maximum,
                "scale": scale,
                "offset": offset,
                **shift,
            }
            for minimum, maximum, scale, offset in rows
        ]

    def _to_1_0_0(self) -> dict[str, Any]:
        kinds = {
            "pertensor": EncodingType.PER_TENSOR,
            "perchannel": EncodingType.PER_CHANNEL,
            "blockwise": EncodingType.PER_BLOCK,
        }
        if self.granularity not in kinds:
            raise ValueError(
                "AffineEncoding.to_qnn_encoding_dict: `scale` must have one axis longer than 1, "
                f"got shape {tuple(self.scale.shape)}"
            )
        entry: dict[str, Any] = {
            "enc_type": kinds[self.granularity].name,
            "dtype": "INT",
            "bw": self.bitwidth,
            "is_sym": self.symmetry,
            "scale": self.scale.flatten().tolist(),
            "offset": self.unsigned_offset().flatten().tolist(),
        }
        if self.granularity == "blockwise":
            entry["block_size"] = self._exported_block_size()
        if self.zero_point_shift:
            entry["zero_point_shift"] = [self.zero_point_shift] * self.scale.numel()
        return entry

    def _to_2(self, version: str) -> dict[str, Any]:
        axes = onnx_entry.scale_axes(f"{type(self).__name__}.to_qnn", self.scale, self.block_size)
        entry: dict[str, Any] = {
            "output_dtype": f"{'int' if self.signed else 'uint'}{self.bitwidth}",
            "y_scale": onnx_entry.nested_values(self.scale, axes),
        }
        points = onnx_entry.zero_points(self.offset, self.zero_point_shift)
        if points is not None:
            entry["y_zero_point"] = onnx_entry.nested_values(points, axes)
        return {**entry, **axes}

    def _exported_block_size(self) -> int:
        sizes = [size for size in self.block_size or () if size != 1]
        if len(sizes) != 1 or sizes[0] == -1:
            raise NotImplementedError(
                "AffineEncoding.to_qnn_encoding_dict: version 1.0.0 needs exactly one positive "
                f"`block_size` other than 1, got {self.block_size}"
            )
        return sizes[0]


class GroupedBlockEncoding(AffineEncoding):
    """Blockwise grid whose scales are integers times one real scale a group (LPBQ).

    Args:
        scale: scale of each block.
        offset: zeros of the shape of ``scale``.
        bitwidth: bits of the stored integers.
        signed: whether the grid has negative integers.
        symmetry: whether the grid is symmetric; always so in practice.
        block_size: elements of a block for each dimension.
        block_grouping: blocks that share one real scale for each dimension; -1 means all.
        decompressed_bw: bits of the grid that all blocks of a group share.
        per_channel_scale: the real scale of each group.
        zero_point_shift: as in `AffineEncoding`.
    """

    _tensors = ("scale", "offset", "per_channel_scale")

    def __init__(
        self,
        scale: Tensor,
        offset: Tensor,
        bitwidth: int,
        signed: bool = False,
        symmetry: bool = False,
        block_size: tuple[int, ...] | None = None,
        block_grouping: tuple[int, ...] | None = None,
        decompressed_bw: int | None = None,
        per_channel_scale: Tensor | None = None,
        zero_point_shift: float = 0.0,
    ) -> None:
        super().__init__(
            scale,
            offset,
            bitwidth=bitwidth,
            signed=signed,
            symmetry=symmetry,
            block_size=block_size,
            zero_point_shift=zero_point_shift,
        )
        self.block_grouping = block_grouping
        self.decompressed_bw = decompressed_bw
        self.per_channel_scale = per_channel_scale

    def rescale(self: Self, factor: float) -> Self:
        """Return the encoding of values that are ``factor`` (positive) times as large."""
        return self.map_tensors(lambda value: value if value is self.offset else value * factor)

    @property
    def is_lpbq(self) -> bool:
        """Whether all blocks of a channel, and more than one, share a real scale.

        That is what encodings files call LPBQ. Other groupings are blocks like others there.
        """
        if self.per_channel_scale is None or self.decompressed_bw is None:
            return False
        if self.decompressed_bw <= self.bitwidth or self.scale.dim() == 0:
            return False
        groups = self.per_channel_scale.shape
        shared = [s for g, s in zip(groups, self.scale.shape, strict=True) if g != s]
        kept = [g for g in groups if g > 1]
        return (
            len(shared) == 1
            and all(g in (1, s) for g, s in zip(groups, self.scale.shape, strict=True))
            and len(kept) <= 1
        )

    @property
    def per_block_int_scale(self) -> Tensor:
        """Integer of each block: ``scale = per_block_int_scale * per_channel_scale``."""
        assert self.per_channel_scale is not None
        assert self.decompressed_bw is not None
        largest = 2 ** (self.decompressed_bw - self.bitwidth)
        return ops.quantize(
            self.scale,
            self.per_channel_scale,
            torch.zeros_like(self.per_channel_scale),
            1,
            largest,
            self.block_grouping,
        )

    def _to_1_0_0(self) -> dict[str, Any]:
        entry = super()._to_1_0_0()
        if not self.is_lpbq:
            return entry
        assert self.per_channel_scale is not None
        assert self.decompressed_bw is not None
        scales = self.per_channel_scale.flatten().tolist()
        return {
            **entry,
            "enc_type": EncodingType.LPBQ.name,
            "bw": self.decompressed_bw,
            "compressed_bw": self.bitwidth,
            "scale": scales,
            "offset": [-(2 ** (self.decompressed_bw - 1))] * len(scales),
            "per_block_int_scale": self.per_block_int_scale.flatten().to(torch.int64).tolist(),
        }

    def _to_2(self, version: str) -> dict[str, Any]:
        entry = super()._to_2(version)
        if not self.is_lpbq:
            return entry
        assert self.per_channel_scale is not None
        integers = self.per_block_int_scale.to(torch.int64).tolist()
        del entry["y_scale"]
        if version == "2.0.0":
            scales = self.per_channel_scale.tolist()
            return {**entry, "per_block_int_scale": integers, "per_channel_float_scale": scales}
        wide = [axis for axis, size in enumerate(self.per_channel_scale.shape) if size > 1]
        channel_axis = wide[0] if wide else int(entry["axis"] == 0)
        outer = self.per_channel_scale.flatten().tolist()
        return {**entry, "y_scale": {"x": integers, "x_scale": outer, "axis": channel_axis}}
