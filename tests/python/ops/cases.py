"""Inputs that the operator tests share: awkward shapes, every memory layout, every granularity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@dataclass(frozen=True)
class Case:
    """An input's layout and the granularity of its scale."""

    name: str
    shape: tuple[int, ...]
    scale_shape: tuple[int, ...] = ()
    block_size: tuple[int, ...] | None = None
    layout: str = "contiguous"

    def input(self, dtype: torch.dtype = torch.float32, *, finite: bool = False) -> Tensor:
        """Normal values, ties, both zeros, values far outside, and (unless finite) no numbers."""
        generator = torch.Generator().manual_seed(sum(self.shape) + len(self.name))
        x = torch.randn(self.shape, generator=generator, dtype=torch.float64) * 2
        specials = [0.0, -0.0, 0.125, 0.375, -0.375, 1e4, -1e4, 1e-40]
        if not finite:
            specials += [torch.nan, torch.inf, -torch.inf, 3e38]
        flat = x.view(-1)
        for position, value in zip(range(0, flat.numel(), 7), specials, strict=False):
            flat[position] = value
        return arrange(x.to(dtype), self.layout)

    def parameters(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """Scales between 0.25 and 0.75 (0.25 where ties matter), offsets between -3 and 0."""
        generator = torch.Generator().manual_seed(len(self.name))
        if dtype in (torch.float16, torch.bfloat16):
            dtype = torch.float32
        scale = 0.25 + 0.5 * torch.rand(self.scale_shape, generator=generator, dtype=torch.float64)
        if scale.numel():
            scale.view(-1)[0] = 0.25
        offset = -torch.randint(0, 4, self.scale_shape, generator=generator)
        return scale.to(dtype), offset.to(dtype)


def arrange(x: Tensor, layout: str) -> Tensor:
    """The same values in another memory layout."""
    if layout == "channels_last":
        return x.contiguous(memory_format=torch.channels_last)
    if layout == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "sliced":
        return torch.stack([x, x], dim=-1)[..., 0]
    if layout == "expanded":  # elements overlap in memory
        return x[:1].expand(x.shape)
    assert layout == "contiguous"
    return x


CASES = [
    Case("scalar", ()),
    Case("one_element", (1,)),
    Case("empty", (0,)),
    Case("empty_channels", (3, 0, 2), (3, 1, 1)),
    Case("per_tensor", (257, 259)),
    Case("per_tensor_transposed", (7, 9, 33), layout="transposed"),
    Case("per_tensor_sliced", (5, 7, 11), layout="sliced"),
    Case("per_tensor_expanded", (5, 7, 11), layout="expanded"),
    Case("one_scale_of_full_rank", (3, 4), (1, 1)),
    Case("first_axis", (8, 3, 5, 5), (8, 1, 1, 1)),
    Case("second_axis", (2, 19, 5, 5), (19, 1, 1)),
    Case("second_axis_channels_last", (2, 19, 5, 5), (1, 19, 1, 1), layout="channels_last"),
    Case("few_channels_last", (20, 3, 5, 5), (3, 1, 1), layout="channels_last"),
    Case("last_axis", (31, 17), (17,)),
    Case("last_axis_long", (3, 1003), (1003,)),
    Case("middle_axis_transposed", (4, 9, 6), (9, 1), layout="transposed"),
    Case("middle_axis_sliced", (4, 9, 6), (1, 9, 1), layout="sliced"),
    Case("two_axes", (4, 5, 6), (4, 1, 6)),
    Case("two_neighbouring_axes", (4, 5, 6), (4, 5, 1)),
    Case("every_element", (4, 5), (4, 5)),
    Case("blocks", (8, 32), (8, 4), (1, 8)),
    Case("blocks_of_the_rest", (8, 32), (8, 4), (-1, -1)),
    Case("blocks_on_the_first_axis", (32, 5, 3), (4, 5, 1), (8, 1, 3)),
    Case("blocks_everywhere", (3, 16, 2, 2), (3, 4, 1, 1), (1, 4, 2, 2)),
    Case("blocks_transposed", (16, 6, 12), (4, 6, 3), (4, 1, 4), layout="transposed"),
    Case("blocks_and_more_axes", (2, 3, 12), (3, 2), (1, 6)),
    Case("long_blocks", (4, 600), (4, 2), (1, 300)),
]

NAMES = [case.name for case in CASES]


def to_numpy(x: Tensor) -> np.ndarray:
    """In the type that is computed in: float64 for float64, else float32."""
    x = x.detach()
    return x.numpy() if x.dtype == torch.float64 else x.float().numpy()


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal bit by bit, where every NaN equals every other."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    equal = a.contiguous().view(integer) == b.contiguous().view(integer)
    if a.is_floating_point():
        equal |= a.isnan() & b.isnan()
    return bool(equal.all())
