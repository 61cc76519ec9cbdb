"""From an entry of an encodings file to a quantizer: whether it fits, and what it sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aimet_torch.encodings.float_formats import format_named
from aimet_torch.quantization.base import QuantizerBase
from aimet_torch.quantization.float.format import largest


@dataclass(frozen=True)
class Setting:
    """What an entry makes of a quantizer; nothing where both are fully described by their type."""

    quantizer: Any
    entry: dict[str, Any]
    limits: tuple[Tensor, Tensor] | None = None
    maxval: Tensor | None = None

    def apply(self) -> None:
        """Set grid and range."""
        if self.limits is not None:
            self.quantizer.bitwidth = self.entry["bitwidth"]
            # Versions 2.x do not tell whether an unsigned grid was meant to be symmetric.
            self.quantizer.symmetric = self.entry["symmetric"]
            self.quantizer.signed = self.entry["signed"]
            self.quantizer.set_range(*self.limits)
        if self.maxval is not None:
            self.quantizer.set_maxval(self.maxval)


def setting_of(slot: str, entry: dict[str, Any], quantizer: QuantizerBase) -> Setting:
    """What `entry` sets.

    Args:
        slot: where the quantizer sits, for messages.
        entry: in the neutral form of `aimet_torch.encodings.read`.
        quantizer: of the simulation.

    Raises:
        ValueError: integers for a floating-point quantizer or the other way round, another format,
            another number of scales, or scales along another axis.
    """
    is_float = entry["dtype"] == "float"
    if is_float == hasattr(quantizer, "set_range"):
        wanted = entry.get("format", f"{entry['dtype']}{entry['bitwidth']}")
        raise ValueError(
            f"load_encodings: the entry of {slot} is of {wanted}, its quantizer is a "
            f"{type(quantizer).__name__}; give it another quantizer or leave the entry out"
        )
    if "scale" not in entry:
        return Setting(quantizer, entry)
    scale = _block_scales(entry)
    if is_float:
        return Setting(quantizer, entry, maxval=_maxval(slot, entry, scale, quantizer))
    shape = tuple(quantizer.shape)
    _check_shape(slot, entry, scale.numel(), shape)
    shift = entry.get("zero_point_shift", 0.0)
    if shift != getattr(quantizer, "zero_point_shift", 0.0):
        raise ValueError(
            f"load_encodings: the entry of {slot} has `zero_point_shift` {shift}, its quantizer "
            f"{getattr(quantizer, 'zero_point_shift', 0.0)}"
        )
    # With scales of two levels there is one offset, 0, for each channel.
    offset = torch.tensor(entry["offset"] if scale.numel() == len(entry["offset"]) else [0])
    lowest = -(2 ** (entry["bitwidth"] - 1)) if entry["signed"] else 0
    highest = lowest + 2 ** entry["bitwidth"] - 1
    lowest += int(entry.get("strict_symmetric", False))
    count = torch.Size(shape).numel()
    minimum, maximum = (
        (offset.double() + limit + shift).mul(scale).expand(count).reshape(shape)
        for limit in (lowest, highest)
    )
    return Setting(quantizer, entry, limits=(minimum, maximum))


def _block_scales(entry: dict[str, Any]) -> Tensor:
    """One scale for each channel or block, float64, flattened."""
    scale = torch.tensor(entry["scale"], dtype=torch.float64)
    factors = entry.get("per_block_int_scale") or entry.get("per_block_float_scale")
    if factors is None:
        return scale
    shape = entry["shape"]
    channels = [1] * len(shape)
    if "block_axis" not in entry:
        channels[0] = len(scale)  # versions before 2 list one channel after the other
    elif entry["channel_axis"] is not None:
        channels[entry["channel_axis"]] = len(scale)
    blocks = torch.tensor(factors, dtype=torch.float64).reshape(shape)
    return (blocks * scale.reshape(channels)).flatten()


def _check_shape(slot: str, entry: dict[str, Any], count: int, shape: tuple[int, ...]) -> None:
    if count not in (1, torch.Size(shape).numel()):
        raise ValueError(
            f"load_encodings: the entry of {slot} has {count} scales, its quantizer has shape "
            f"{list(shape)}"
        )
    axis = entry["channel_axis"]
    wide = [axis for axis, size in enumerate(shape) if size > 1]
    is_per_channel = entry["block_size"] is None and count > 1
    if is_per_channel and axis is not None and 0 <= axis < len(shape) and wide != [axis]:
        raise ValueError(
            f"load_encodings: the entry of {slot} has scales along axis {axis}, its quantizer has "
            f"shape {list(shape)}"
        )


def _maxval(slot: str, entry: dict[str, Any], scale: Tensor, quantizer: Any) -> Tensor | None:
    """The largest number of a floating-point quantizer; None where it follows from each tensor."""
    format = format_named(entry["format"])
    element = getattr(quantizer, "element", None)
    mine = element if element is not None else str(quantizer.format)
    if entry["format"] != element if element is not None else quantizer.format != format:
        raise ValueError(
            f"load_encodings: the entry of {slot} is of {entry['format']}, its quantizer of {mine}"
        )
    if element is not None:
        if "per_block_float_scale" not in entry:
            return None  # MX
        widest = largest(format) * largest(format_named(entry["block_scale_format"]))
        return _product(torch.tensor(entry["scale"][0], dtype=torch.float64), widest)
    if scale.numel() not in (1, torch.Size(tuple(quantizer.shape)).numel()):
        raise ValueError(
            f"load_encodings: the entry of {slot} has {scale.numel()} scales, its quantizer has "
            f"shape {list(quantizer.shape)}"
        )
    count = torch.Size(tuple(quantizer.shape)).numel()
    return _product(scale, largest(format)).expand(count).reshape(tuple(quantizer.shape))


def _product(scale: Tensor, factor: float) -> Tensor:
    """The float32 number whose quotient by `factor` is `scale` again, where there is one."""
    wanted, product = scale.float(), (scale * factor).float()
    for direction in (torch.inf, -torch.inf):
        neighbor = torch.nextafter(product, torch.full_like(product, direction))
        product = torch.where(
            (product / factor != wanted) & (neighbor / factor == wanted), neighbor, product
        )
    return product
