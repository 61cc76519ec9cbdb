"""Blockwise quantization whose scales are small integers times one real scale a group (LPBQ).

Hardware then decompresses every block of a group to one grid of ``decompressed_bw`` bits.
Formula: docs/quantizers.md.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aimet_torch import ops
from aimet_torch.quantization.affine.encoding import AffineEncoding, GroupedBlockEncoding
from aimet_torch.quantization.affine.quantizer import QuantizeDequantize
from aimet_torch.quantization.encoding_analyzer import EncodingAnalyzer

__all__ = ["GroupedBlockQuantizeDequantize"]


class GroupedBlockQuantizeDequantize(QuantizeDequantize):
    """Quantize-dequantize with grouped blocks.

    Args:
        shape: shape of the block scales.
        bitwidth: bits of the stored integers.
        symmetric: must be True.
        decompressed_bw: bits of the grid that all blocks of a group share, at least ``bitwidth``.
        encoding_analyzer: how the range is chosen; minimum and maximum if None.
        block_size: elements of a block for each dimension of ``shape``.
        block_grouping: blocks that share one real scale for each dimension of ``shape``; -1 means
            all. None: each block has a real scale of its own.

    Raises:
        ValueError: asymmetric, ``decompressed_bw`` too small, or groups that do not fit ``shape``.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        bitwidth: int,
        symmetric: bool,
        decompressed_bw: int,
        encoding_analyzer: EncodingAnalyzer | None = None,
        block_size: tuple[int, ...] | None = None,
        block_grouping: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(shape, bitwidth, symmetric, encoding_analyzer, block_size)
        name = type(self).__name__
        if not symmetric:
            raise ValueError(f"{name}: `symmetric` must be True, got {symmetric}")
        if decompressed_bw < bitwidth:
            raise ValueError(
                f"{name}: `decompressed_bw` must be at least `bitwidth` {bitwidth}, got "
                f"{decompressed_bw}"
            )
        grouping = (1,) * len(self.shape) if block_grouping is None else tuple(block_grouping)
        if len(grouping) != len(self.shape) or any(
            group != -1 and (group < 1 or size % group)
            for size, group in zip(self.shape, grouping, strict=True)
        ):
            raise ValueError(
                f"{name}: `block_grouping` must have, for each dimension of `shape` {self.shape}, "
                f"-1 or a divisor of it, got {block_grouping}"
            )
        self.decompressed_bw = decompressed_bw
        self.block_grouping = grouping

    def _group_sizes(self) -> list[int]:
        return [
            size if group == -1 else group
            for size, group in zip(self.shape, self.block_grouping, strict=True)
        ]

    def _per_channel_scale(self, scale: Tensor) -> Tensor:
        """Scale of each group: its largest block scale over the largest integer.

        The same for the scales before and after rounding: the largest is rounded to itself.
        """
        interleaved: list[int] = []
        for size, group in zip(self.shape, self._group_sizes(), strict=True):
            interleaved += [size // group, group]
        grouped = scale.reshape(interleaved)  # (groups, blocks of a group) for each dimension
        largest = grouped.amax(dim=tuple(range(1, len(interleaved), 2))) if self.shape else grouped
        return largest / 2 ** (self.decompressed_bw - self.bitwidth)

    def get_per_channel_scale(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """Return the real scale of each group, None while there is no range."""
        if not self.is_initialized():
            return None
        scale = self._per_channel_scale(self._scale_and_offset()[0])
        return scale if dtype is None else scale.to(dtype)

    def _grid_of(self, minimum: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor]:
        scale, offset = super()._grid_of(minimum, maximum)
        steps = 2 ** (self.decompressed_bw - self.bitwidth)
        return ops.grouped_scale(scale, self._group_sizes(), steps), offset

    def _encoding(self, scale: Tensor, offset: Tensor) -> GroupedBlockEncoding:
        return GroupedBlockEncoding(
            scale,
            offset,
            self.bitwidth,
            self.signed,
            self.symmetric,
            self.block_size,
            tuple(self._group_sizes()),
            self.decompressed_bw,
            self._per_channel_scale(scale),
        )

    @classmethod
    def from_encodings(cls, encodings: AffineEncoding) -> GroupedBlockQuantizeDequantize:
        """Return a quantizer with the grid and the range of ``encodings``.

        Raises:
            TypeError: not a `GroupedBlockEncoding`.
        """
        if not isinstance(encodings, GroupedBlockEncoding) or encodings.decompressed_bw is None:
            raise TypeError(
                f"{cls.__name__}.from_encodings: expected a GroupedBlockEncoding with "
                f"`decompressed_bw`, got {type(encodings).__name__}"
            )
        quantizer = cls(
            tuple(encodings.scale.shape),
            encodings.bitwidth,
            encodings.symmetry,
            encodings.decompressed_bw,
            block_size=encodings.block_size,
            block_grouping=encodings.block_grouping,
        )
        quantizer.set_encodings(encodings)
        return quantizer

    def extra_repr(self) -> str:
        """Show the grouping too."""
        return (
            f"{super().extra_repr()}, decompressed_bw={self.decompressed_bw}, "
            f"block_grouping={self.block_grouping}"
        )
