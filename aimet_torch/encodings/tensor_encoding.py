"""The grid of one tensor in plain numbers, read off a quantizer: no module, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from aimet_torch.encodings.float_formats import format_name, microscaling_fields
from aimet_torch.quantization.base import QuantizerBase

_SIXTEEN_BITS = ("float16", "bfloat16")


@dataclass(frozen=True, eq=False)
class TensorEncoding:
    """How one tensor maps to integers: `x = (q + offset) * scale`, `qmin <= q <= qmax`.

    Attributes:
        source: dotted name of the quantizer in the simulation, for messages.
        is_param: the tensor is a parameter (listed under `param_encodings`).
        bitwidth: bits of an element.
        is_float: a floating-point quantizer: no grid; of the fields below only `float_format`,
            `scale`, `block_size` and those of blocks mean something.
        float_format: ONNX's name of a floating-point format; "" where it is not known.
        is_dynamic: the scales follow from each tensor: no file can hold them.
        signed: the grid holds negative integers.
        symmetric: the quantizer was asked for a range symmetric about zero.
        qmin, qmax: limits of the grid.
        scale: float32, in the quantizer's shape (broadcasts against the tensor, or one value a
            block).
        offset: int64, same shape.
        zero_point_shift: 0, or 0.5 for grids without a zero: `x = (q + offset + 0.5) * scale`.
        block_size: elements a scale covers along each axis of `scale`, or None; -1 means the whole
            axis.
        int_scale: of LPBQ, else None: int64, same shape as `scale`, which is their product with
            `group_scale`.
        group_scale: of LPBQ and NVFP4: float32, the real scale of each channel, or of the tensor.
        decompressed_bitwidth: of LPBQ: bits of the grid that all blocks of a channel share.
        block_scale: of NVFP4: like `int_scale`, but numbers of `block_scale_format`.
        block_scale_format: ONNX's name of that format.
    """

    source: str
    is_param: bool
    bitwidth: int
    is_float: bool = False
    float_format: str = ""
    is_dynamic: bool = False
    signed: bool = False
    symmetric: bool = False
    qmin: int = 0
    qmax: int = 0
    scale: np.ndarray = field(default_factory=lambda: np.ones((), np.float32))
    offset: np.ndarray = field(default_factory=lambda: np.zeros((), np.int64))
    zero_point_shift: float = 0.0
    block_size: tuple[int, ...] | None = None
    int_scale: np.ndarray | None = None
    group_scale: np.ndarray | None = None
    decompressed_bitwidth: int | None = None
    block_scale: np.ndarray | None = None
    block_scale_format: str = ""

    @classmethod
    def from_quantizer(
        cls, source: str, is_param: bool, quantizer: QuantizerBase, tensor: Tensor | None = None
    ) -> TensorEncoding:
        """Read the numbers off an initialized quantizer.

        Args:
            source: as in the class.
            is_param: as in the class.
            quantizer: where to read.
            tensor: the parameter itself, from which MX and NVFP4 derive the scales of blocks.

        Raises:
            ValueError: the quantizer has seen no data.
            NotImplementedError: blocks of MX or NVFP4 that do not divide their axis.
        """
        encoding = quantizer.get_encodings()
        if encoding is None:
            raise uncalibrated([source])
        return cls.from_encoding(source, is_param, encoding, tensor)

    @classmethod
    def from_encoding(
        cls, source: str, is_param: bool, encoding: Any, tensor: Tensor | None = None
    ) -> TensorEncoding:
        """Read the numbers off an encoding of `aimet_torch.quantization`.

        Raises:
            NotImplementedError: blocks of MX or NVFP4 that do not divide their axis.
        """
        if encoding.mapping == "float":
            return cls._from_float(source, is_param, encoding, tensor)
        grouped = {}
        if getattr(encoding, "is_lpbq", False):
            grouped = {
                "int_scale": encoding.per_block_int_scale.detach().cpu().numpy().astype(np.int64),
                "group_scale": encoding.per_channel_scale.detach().float().cpu().numpy(),
                "decompressed_bitwidth": int(encoding.decompressed_bw),
            }
        return cls(
            **grouped,
            source=source,
            is_param=is_param,
            bitwidth=int(encoding.bitwidth),
            signed=bool(encoding.signed),
            symmetric=bool(encoding.symmetry),
            qmin=int(encoding.qmin),
            qmax=int(encoding.qmax),
            scale=encoding.scale.detach().float().cpu().numpy(),
            offset=np.rint(encoding.offset.detach().double().cpu().numpy()).astype(np.int64),
            zero_point_shift=float(getattr(encoding, "zero_point_shift", 0.0) or 0.0),
            block_size=tuple(encoding.block_size) if encoding.block_size is not None else None,
        )

    @classmethod
    def _from_float(
        cls, source: str, is_param: bool, encoding: Any, tensor: Tensor | None
    ) -> TensorEncoding:
        bits = int(encoding.bitwidth)
        if hasattr(encoding, "element"):
            fields = microscaling_fields(source, encoding, tensor)
        else:
            sizes = encoding.block_size
            fields = {
                "float_format": format_name(encoding.format),
                "scale": encoding.scale.detach().float().cpu().numpy(),
                "block_size": tuple(sizes) if sizes is not None else None,
            }
        return cls(source, is_param, bits, is_float=True, **fields)

    @property
    def is_per_tensor(self) -> bool:
        """One scale for the whole tensor."""
        return self.block_size is None and self.scale.size == 1

    @property
    def is_plain_float(self) -> bool:
        """A 16-bit floating-point format without a scale, or any of more bits."""
        is_16_bit = self.float_format in _SIXTEEN_BITS and bool(np.all(self.scale == 1))
        return self.is_float and (is_16_bit or self.bitwidth > 16)

    def channel_axis(self, rank: int) -> int | None:
        """Axis of a tensor of `rank` axes along which the scale varies; None when it does not.

        Raises:
            NotImplementedError: the scale varies along several axes without blocks.
        """
        if self.is_per_tensor:
            return None
        block_axis = self._block_axis()
        axes = [
            rank - self.scale.ndim + i
            for i, size in enumerate(self.scale.shape)
            if size > 1 and i != block_axis
        ]
        if len(axes) > 1 and self.block_size is None:
            raise NotImplementedError(
                f"export: quantizer `{self.source}` has scales of shape {list(self.scale.shape)}; "
                "one scale for each position of two axes has no ONNX form; use one channel axis or "
                "`block_size`"
            )
        return axes[0] if axes else int(block_axis == 0)

    def _block_axis(self) -> int | None:
        """Axis of `scale` along which blocks lie.

        Raises:
            NotImplementedError: blocks lie along several axes.
        """
        axes = [axis for axis, size in enumerate(self.block_size or ()) if size not in (-1, 1)]
        if len(axes) > 1:
            raise NotImplementedError(
                f"export: quantizer `{self.source}` has `block_size` {self.block_size}; files have "
                "blocks along one axis; use 1 or -1 for the others"
            )
        return axes[0] if axes else None

    def has_same_grid(self, other: TensorEncoding) -> bool:
        """Whether both map every number alike."""
        return (
            self._format() == other._format()
            and np.array_equal(self.scale.reshape(-1), other.scale.reshape(-1))
            and np.array_equal(self.offset.reshape(-1), other.offset.reshape(-1))
            and (self.is_per_tensor or self.scale.shape == other.scale.shape)
        )

    def _format(self) -> tuple[Any, ...]:
        grid = (self.qmin, self.qmax, self.zero_point_shift) if not self.is_float else ()
        return self.is_float, self.float_format, self.bitwidth, self.block_size, *grid

    def transposed(self, order: tuple[int, ...]) -> TensorEncoding:
        """The encoding of the tensor with its axes in another order."""
        if self.is_per_tensor or self.scale.ndim != len(order):
            return self
        sizes = self.block_size

        def moved(values: np.ndarray | None) -> np.ndarray | None:
            return None if values is None else np.transpose(values, order)

        return replace(
            self,
            scale=np.transpose(self.scale, order),
            offset=np.transpose(self.offset, order),
            int_scale=moved(self.int_scale),
            block_scale=moved(self.block_scale),
            group_scale=self.group_scale if self.is_float else moved(self.group_scale),
            block_size=tuple(sizes[axis] for axis in order) if sizes is not None else None,
        )

    def to_entry(self, name: str, rank: int | None, version: str = "1.0.0") -> dict[str, Any]:
        """The neutral form of this encoding under the tensor name `name`, for files of `version`.

        LPBQ in a version that cannot list it (0.6.1; 1.0.0 where the blocks of a channel do not
        follow each other) becomes blocks like others.

        Raises:
            NotImplementedError: an activation in MX or NVFP4, whose scales follow from each tensor;
                a format that ONNX has no name for.
        """
        if self.is_plain_float:
            return {"name": name, "dtype": "float", "bitwidth": self.bitwidth}
        if self.is_dynamic or self.float_format.startswith("("):
            reason = (
                "scales that follow from each tensor, which no encodings file can hold"
                if self.is_dynamic
                else "a floating-point format that encodings files have no name for"
            )
            raise NotImplementedError(
                f"export: quantizer `{self.source}` has {self.float_format or 'floats'} with "
                f"{reason}; use integers, or float8 or 16-bit quantizers"
            )
        block_axis = self._block_axis()
        entry: dict[str, Any] = {
            "name": name,
            "dtype": "float" if self.is_float else "int",
            "bitwidth": self.bitwidth,
            "scale": [float(s) for s in self.scale.reshape(-1)],
            "shape": list(self.scale.shape),
            "block_size": None,
            "channel_axis": self.channel_axis(self.scale.ndim if rank is None else rank),
        }
        if block_axis is not None:
            assert self.block_size is not None
            entry |= {"block_size": self.block_size[block_axis], "block_axis": block_axis}
        if self.is_float:
            entry["format"] = self.float_format
        else:
            entry |= {"signed": self.signed, "symmetric": self.symmetric}
            entry["offset"] = [int(o) for o in self.offset.reshape(-1)]
            if self.zero_point_shift:
                entry["zero_point_shift"] = self.zero_point_shift
        return entry | self._two_levels(version)

    def as_signed(self, signed: bool) -> TensorEncoding:
        """The same grid with integers of the other sign."""
        if self.is_float or self.signed == signed:
            return self
        shift = 2 ** (self.bitwidth - 1) * (-1 if signed else 1)
        return replace(
            self,
            signed=signed,
            qmin=self.qmin + shift,
            qmax=self.qmax + shift,
            offset=self.offset - shift,
        )

    def _two_levels(self, version: str) -> dict[str, Any]:
        """What the entry has instead, where blocks have scales of two levels."""
        if self.group_scale is None or version == "0.6.1":
            return {}
        fields: dict[str, Any] = {"scale": [float(s) for s in self.group_scale.reshape(-1)]}
        if self.block_scale is not None:
            return {
                **fields,
                "per_block_float_scale": [float(s) for s in self.block_scale.reshape(-1)],
                "block_scale_format": self.block_scale_format,
            }
        if self.int_scale is None or (version == "1.0.0" and not self._has_rows()):
            return {}
        return {
            **fields,
            "offset": [0] * self.group_scale.size,
            "decompressed_bitwidth": self.decompressed_bitwidth,
            "per_block_int_scale": [int(s) for s in self.int_scale.reshape(-1)],
        }

    def _has_rows(self) -> bool:
        """Whether the blocks of one channel follow each other, which is how files list them."""
        assert self.group_scale is not None
        wide = [axis for axis, size in enumerate(self.group_scale.shape) if size > 1]
        blocks = [axis for axis, size in enumerate(self.scale.shape) if size > 1]
        return all(axis < min(set(blocks) - set(wide), default=axis + 1) for axis in wide)


def uncalibrated(names: list[str]) -> ValueError:
    """The error for quantizers that have seen no data."""
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return ValueError(
        f"export: {len(names)} quantizer(s) have no encoding yet: {shown}; run "
        "`sim.compute_encodings` with data that reaches them before exporting"
    )
