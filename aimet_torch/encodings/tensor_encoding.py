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
        return cls(
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
        return replace(
            self,
            scale=np.transpose(self.scale, order),
            offset=np.transpose(self.offset, order),
            block_size=tuple(sizes[axis] for axis in order) if sizes is not None else None,
        )

    def to_entry(self, name: str, rank: int | None) -> dict[str, Any]:
        """The neutral form of this encoding under the ONNX tensor name `name`."""
        if self.is_float:
            return {"name": name, "dtype": "float", "bitwidth": self.bitwidth}
        sizes = [size for size in self.block_size or () if size not in (-1, 1)]
        return {
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


def uncalibrated(names: list[str]) -> ValueError:
    """The error for quantizers that have seen no data."""
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return ValueError(
        f"export: {len(names)} quantizer(s) have no encoding yet: {shown}; run "
        "`sim.compute_encodings` with data that reaches them before exporting"
    )
