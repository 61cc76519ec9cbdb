"""Fields of entries of encodings files of versions 2.x, those of ONNX QuantizeLinear."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["VERSIONS", "nested_values", "scale_axes"]

VERSIONS = ("2.0.0", "2.1.0")


def scale_axes(name: str, scale: Tensor, block_size: tuple[int, ...] | None) -> dict[str, int]:
    """`axis` and `block_size` of scales: nothing per tensor, the axis of channels, that of blocks.

    Args:
        name: of the calling function, for the message.
        scale: as in an encoding.
        block_size: elements of a block for each dimension of `scale`.

    Raises:
        NotImplementedError: blocks along several axes, or scales along several axes without blocks.
    """
    blocks = [axis for axis, size in enumerate(block_size or ()) if size not in (-1, 1)]
    wide = [axis for axis, size in enumerate(scale.shape) if size > 1]
    if len(blocks) > 1 or (not blocks and len(wide) > 1):
        raise NotImplementedError(
            f"{name}: versions 2.x have blocks or channels along one axis, got scales of shape "
            f"{tuple(scale.shape)} with `block_size` {block_size}"
        )
    if blocks:
        assert block_size is not None
        return {"axis": blocks[0], "block_size": block_size[blocks[0]]}
    return {} if scale.dim() == 0 else {"axis": (wide or [0])[0]}


def nested_values(values: Tensor, axes: dict[str, int]) -> Any:
    """A number, a list of those of the channels, or nested lists of those of the blocks."""
    if "block_size" in axes:
        return values.tolist()
    return values.flatten().tolist() if axes else values.reshape(()).tolist()


def zero_points(offset: Tensor, shift: float) -> Tensor | None:
    """What ONNX subtracts from integers; None where it is 0 everywhere, the default."""
    points = -torch.round(offset).to(torch.int64)
    if shift:
        return points - shift
    return points if bool(points.any()) else None
