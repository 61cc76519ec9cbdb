"""Clipping with limits per channel: what ReLU6 becomes when channels are rescaled."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["ChannelwiseClip"]


class ChannelwiseClip(nn.Module):
    """``clamp(x, min, max)`` with one pair of limits per channel.

    ``clamp(x / s, min / s, max / s) = clamp(x, min, max) / s``, so a clipping activation whose
    limits are divided along with its input commutes with a positive scale per channel; ReLU6, with
    its one limit for all channels, does not.

    Args:
        min: Lower limits, (C,).
        max: Upper limits, (C,), none below its lower limit.
        trailing_dims: Dimensions of the input behind the channel dimension: 2 for (N, C, H, W).

    Attributes:
        min: Buffer (C, 1, ..., 1), which broadcasts against the input.
        max: The same.

    Raises:
        ValueError: The limits are not two vectors of one length, or cross.
    """

    min: Tensor
    max: Tensor

    def __init__(self, min: Tensor, max: Tensor, trailing_dims: int = 2) -> None:
        super().__init__()
        if min.dim() != 1 or min.shape != max.shape:
            raise ValueError(
                "ChannelwiseClip: `min` and `max` must be vectors of one length, got shapes "
                f"{tuple(min.shape)} and {tuple(max.shape)}"
            )
        if bool((min > max).any()):
            channel = int((min > max).nonzero()[0])
            raise ValueError(
                f"ChannelwiseClip: `min` must not be above `max`, got {float(min[channel])} and "
                f"{float(max[channel])} in channel {channel}"
            )
        shape = (-1, *[1] * trailing_dims)
        self.register_buffer("min", min.detach().clone().reshape(shape))
        self.register_buffer("max", max.detach().clone().reshape(shape))

    def divide_limits(self, scale: Tensor) -> None:
        """Divide both limits by a positive ``scale``, (C,), in place."""
        self.min.copy_(self.min / scale.reshape(self.min.shape))
        self.max.copy_(self.max / scale.reshape(self.max.shape))

    def shift_limits(self, shift: Tensor) -> None:
        """Add ``shift``, (C,), to both limits, in place."""
        self.min.add_(shift.reshape(self.min.shape))
        self.max.add_(shift.reshape(self.max.shape))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> (N, C, ...)."""
        return torch.clamp(x, self.min, self.max)

    def extra_repr(self) -> str:
        """Number of channels and the span of the limits."""
        low, high = float(self.min.min()), float(self.max.max())
        return f"{self.min.shape[0]} channels, limits within [{low:.4g}, {high:.4g}]"
