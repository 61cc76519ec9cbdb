"""The grid of one tensor in plain numbers, read off a quantizer: no module, no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from aimet_torch.quantization.base import QuantizerBase


@dataclass(frozen=True, eq=False)
class TensorEncoding:
    """How one tensor maps to integers: `x = (q + offset) * scale`, `qmin <= q <= qmax`.

    Attributes:
        source: dotted name of the quantizer in the simulation, for messages.
        is_param: the tensor is a parameter (listed under `param_encodings`).
        bitwidth: bits of an element.
        is_float: a floating-point quantizer: no grid; the fields below mean nothing.
        signed: the grid holds negative integers.
        symmetric: the quantizer was asked for a range symmetric about zero.
        qmin, qmax: limits of the grid.
        scale: float32, in the quantizer's shape (broadcasts against the tensor, or one value a
            block).
        offset: int64, same shape.
        block_size: elements a scale covers along each axis of `scale`, or None; -1 means the whole
            axis.
        int_scale: of LPBQ, else None: int64, same shape as `scale`, which is their product with
            `group_scale`.
        group_scale: of LPBQ: float32, the real scale of each channel.
        decompressed_bitwidth: of LPBQ: bits of the grid that all blocks of a channel share.
    """

    source: str
    is_param: bool
    bitwidth: int
    is_float: bool = False
    signed: bool = False
    symmetric: bool = False
    qmin: int = 0
    qmax: int = 0
    scale: np.ndarray = field(default_factory=lambda: np.ones((), np.float32))
    offset: np.ndarray = field(default_factory=lambda: np.zeros((), np.int64))
    block_size: tuple[int, ...] | None = None
    int_scale: np.ndarray | None = None
    group_scale: np.ndarray | None = None
    decompressed_bitwidth: int | None = None

    @classmethod
    def from_quantizer(
        cls, source: str, is_param: bool, quantizer: QuantizerBase
    ) -> TensorEncoding:
        """Read the numbers off an initialized quantizer.

        Raises:
            ValueError: the quantizer has seen no data.
            NotImplementedError: the grid is shifted by half a step.
        """
        encoding = quantizer.get_encodings()
        if encoding is None:
            raise uncalibrated([source])
        return cls.from_encoding(source, is_param, encoding)

    @classmethod
    def from_encoding(cls, source: str, is_param: bool, encoding: Any) -> TensorEncoding:
        """Read the numbers off an encoding of `aimet_torch.quantization`.

        Raises:
            NotImplementedError: the grid is shifted by half a step.
        """
        if encoding.mapping == "float":
            return cls(source, is_param, int(encoding.bitwidth), is_float=True)
        if getattr(encoding, "zero_point_shift", 0.0):
            raise NotImplementedError(
                f"export: quantizer `{source}` has `zero_point_shift` {encoding.zero_point_shift}; "
                "integer types have zero on their grid; use 0"
            )
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
            block_size=tuple(encoding.block_size) if encoding.block_size is not None else None,
        )

    @property
    def is_per_tensor(self) -> bool:
        """One scale for the whole tensor."""
        return self.is_float or (self.block_size is None and self.scale.size == 1)

    def channel_axis(self, rank: int) -> int | None:
        """Axis of a tensor of `rank` axes along which the scale varies; None when it does not.

        Raises:
            NotImplementedError: the scale varies along several axes without blocks.
        """
        if self.is_per_tensor:
            return None
        axes = [rank - self.scale.ndim + i for i, size in enumerate(self.scale.shape) if size > 1]
        if len(axes) > 1 and self.block_size is None:
            raise NotImplementedError(
                f"export: quantizer `{self.source}` has scales of shape {list(self.scale.shape)}; "
                "one scale for each position of two axes has no ONNX form; use one channel axis or "
                "`block_size`"
            )
        return axes[0] if axes else 0

    def has_same_grid(self, other: TensorEncoding) -> bool:
        """Whether both map every number alike."""
        if self.is_float or other.is_float:
            return self.is_float == other.is_float and self.bitwidth == other.bitwidth
        return (
            (self.bitwidth, self.qmin, self.qmax, self.block_size)
            == (other.bitwidth, other.qmin, other.qmax, other.block_size)
            and np.array_equal(self.scale.reshape(-1), other.scale.reshape(-1))
            and np.array_equal(self.offset.reshape(-1), other.offset.reshape(-1))
            and (self.is_per_tensor or self.scale.shape == other.scale.shape)
        )

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
            group_scale=moved(self.group_scale),
            block_size=tuple(sizes[axis] for axis in order) if sizes is not None else None,
        )

    def to_entry(self, name: str, rank: int | None, version: str = "1.0.0") -> dict[str, Any]:
        """The neutral form of this encoding under the tensor name `name`, for files of `version`.

        LPBQ in a version that does not know it (before 1.0.0) becomes blocks like others.
        """
        if self.is_float:
            return {"name": name, "dtype": "float", "bitwidth": self.bitwidth}
        sizes = [size for size in self.block_size or () if size not in (-1, 1)]
        entry = {
            "name": name,
            "dtype": "int",
            "bitwidth": self.bitwidth,
            "signed": self.signed,
            "symmetric": self.symmetric,
            "scale": [float(s) for s in self.scale.reshape(-1)],
            "offset": [int(o) for o in self.offset.reshape(-1)],
            "shape": list(self.scale.shape),
            "block_size": sizes[0] if sizes else None,
            "channel_axis": self.channel_axis(self.scale.ndim if rank is None else rank),
        }
        if version == "1.0.0" and self.int_scale is not None and self._has_rows():
            assert self.group_scale is not None
            entry["scale"] = [float(s) for s in self.group_scale.reshape(-1)]
            entry["offset"] = [0] * self.group_scale.size
            entry["decompressed_bitwidth"] = self.decompressed_bitwidth
            entry["per_block_int_scale"] = [int(s) for s in self.int_scale.reshape(-1)]
        return entry

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
