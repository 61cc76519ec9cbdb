"""Operations as modules that have arguments of their own (AIMET's names)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aimet_torch.nn.modules.function_module import FunctionModule


class Concat(FunctionModule):
    """``torch.cat`` of its positional arguments.

    Args:
        axis: The dimension to concatenate along.
    """

    def __init__(self, axis: int = 0) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *tensors: Any) -> Tensor:
        """``torch.cat(tensors, axis)``; one list or tuple of tensors is taken as well."""
        parts = (
            tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)) else tensors
        )
        return torch.cat(tuple(parts), dim=self.axis)

    def extra_repr(self) -> str:
        """The axis."""
        return f"axis={self.axis}"


class Cast(FunctionModule):
    """``x.to(dtype)``.

    Args:
        dtype: The dtype of the result.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """``x.to(dtype)``."""
        return x.to(self.dtype)


class ChannelShuffle(FunctionModule):
    """``torch.channel_shuffle(x, groups)``.

    Args:
        groups: Number of groups that the channels are dealt from.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...) -> (N, C, ...)."""
        return torch.channel_shuffle(x, self.groups)


class DepthToSpaceCRDMode(FunctionModule):
    """ONNX DepthToSpace in CRD mode, which is ``torch.nn.functional.pixel_shuffle``.

    Args:
        block_size: Side of the square block that one pixel becomes.
    """

    def __init__(self, block_size: int) -> None:
        super().__init__()
        self.block_size = block_size

    def forward(self, x: Tensor) -> Tensor:
        """(N, C b b, H, W) -> (N, C, H b, W b)."""
        return F.pixel_shuffle(x, self.block_size)


class DepthToSpaceDCRMode(DepthToSpaceCRDMode):
    """ONNX DepthToSpace in DCR mode: the block's pixels are the slowest channels."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C b b, H, W) -> (N, C, H b, W b)."""
        n, c, h, w = x.shape
        b = self.block_size
        blocks = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
        return blocks.reshape(n, c // (b * b), h * b, w * b)


class OneHot(FunctionModule):
    """ONNX OneHot over the last axis.

    Args:
        num_classes: Depth; -1 infers it from the largest index.
        off_value: Value where the index does not point.
        on_value: Value where it does.
    """

    def __init__(self, num_classes: int = -1, off_value: float = 0, on_value: float = 1) -> None:
        super().__init__()
        self.num_classes, self.off_value, self.on_value = num_classes, off_value, on_value

    def forward(self, indices: Tensor) -> Tensor:
        """Integer (...) -> (..., num_classes)."""
        hot = F.one_hot(indices, self.num_classes)
        return hot * (self.on_value - self.off_value) + self.off_value


class CustomGather(FunctionModule):
    """ONNX Gather: whole slices of ``x`` along an axis."""

    def forward(self, x: Tensor, indices: Tensor, axis: int = 0) -> Tensor:
        """Slices of ``x`` at integer ``indices``; negative indices count from the end."""
        axis = axis % x.dim()
        flat = indices.long().reshape(-1) % x.size(axis)
        return x.index_select(axis, flat).reshape(
            *x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]
        )


class ScatterND(FunctionModule):
    """ONNX ScatterND: a copy of ``x`` with ``updates`` at ``indices``.

    Args:
        reduction: 0 replaces, 1 adds.
    """

    def __init__(self, reduction: int = 0) -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
        """The last axis of ``indices`` indexes the leading axes of ``x``."""
        return x.index_put(
            tuple(indices.long().unbind(-1)), updates, accumulate=bool(self.reduction)
        )


class NullRequant(FunctionModule):
    """A reshape that marks a place where the encoding changes."""

    def forward(self, x: Tensor, shape: Sequence[int]) -> Tensor:
        """``x.reshape(shape)``."""
        return x.reshape(tuple(shape))


class HadamardRotation(FunctionModule):
    """Multiplication of the last axis by the orthonormal Hadamard matrix (Sylvester's).

    Args:
        size: Length of the last axis, a power of two.

    Raises:
        ValueError: `size` is not a power of two.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        if size < 1 or size & (size - 1):
            raise ValueError(f"HadamardRotation: `size` must be a power of two, got {size}")
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        """(..., size) -> (..., size)."""
        y, width = x, 1
        while width < self.size:
            pairs = y.reshape(*x.shape[:-1], self.size // (2 * width), 2, width)
            even, odd = pairs.unbind(-2)
            y = torch.stack([even + odd, even - odd], dim=-2)
            width *= 2
        return y.reshape(x.shape) * self.size**-0.5


class RotaryEmbedding(FunctionModule):
    """ONNX RotaryEmbedding: rotates pairs of features by angles of the position.

    Args:
        interleaved: Pairs are neighbours instead of halves.
    """

    def __init__(self, interleaved: bool = False) -> None:
        super().__init__()
        self.interleaved = interleaved

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, position_ids: Tensor | None = None
    ) -> Tensor:
        """(batch, heads, length, width); ``cos``, ``sin``: (positions | batch, length, width/2)."""
        if position_ids is not None:
            cos, sin = cos[position_ids], sin[position_ids]
        if cos.dim() == 3:
            cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        if self.interleaved:
            first, second = x[..., 0::2], x[..., 1::2]
        else:
            first, second = x.chunk(2, dim=-1)
        rotated = (first * cos - second * sin, first * sin + second * cos)
        return torch.stack(rotated, -1).flatten(-2) if self.interleaved else torch.cat(rotated, -1)


class RoiAlign(FunctionModule):
    """``torchvision.ops.roi_align``.

    Args:
        output_size: Height and width of each output.
        spatial_scale: Scale from box coordinates to feature coordinates.
        sampling_ratio: Samples along each side of a bin; -1 adapts.
    """

    def __init__(
        self, output_size: Any, spatial_scale: float = 1.0, sampling_ratio: int = -1
    ) -> None:
        super().__init__()
        self.output_size, self.spatial_scale, self.sampling_ratio = (
            output_size,
            spatial_scale,
            sampling_ratio,
        )

    def forward(self, x: Tensor, boxes: Any) -> Tensor:
        """(N, C, H, W) and boxes (K, 5) or a list of (L, 4) -> (K, C, height, width)."""
        from torchvision.ops import roi_align

        return roi_align(x, boxes, self.output_size, self.spatial_scale, self.sampling_ratio)


class NonMaxSuppression(FunctionModule):
    """ONNX NonMaxSuppression on corner boxes.

    Args:
        iou_threshold: Boxes that overlap a better one by more are dropped.
        score_threshold: Boxes with a lower score are dropped.
        max_output_boxes_per_class: At most so many boxes of a batch and class.
    """

    def __init__(
        self, iou_threshold: float, score_threshold: float, max_output_boxes_per_class: int
    ) -> None:
        super().__init__()
        self.iou_threshold, self.score_threshold = iou_threshold, score_threshold
        self.max_output_boxes_per_class = max_output_boxes_per_class

    def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:
        """(N, B, 4) and (N, classes, B) -> int64 (K, 3): batch, class, box."""
        chosen = []
        for batch in range(scores.size(0)):
            for label in range(scores.size(1)):
                candidates = (scores[batch, label] > self.score_threshold).nonzero()[:, 0]
                kept = candidates[
                    self._suppress(boxes[batch, candidates], scores[batch, label, candidates])
                ]
                head = torch.tensor([[batch, label]], device=boxes.device).expand(kept.numel(), 2)
                chosen.append(torch.cat([head, kept[:, None]], dim=1))
        return torch.cat(chosen)

    def _suppress(self, boxes: Tensor, scores: Tensor) -> Tensor:
        order = scores.argsort(descending=True, stable=True)
        corner = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
        overlap = (
            (torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - corner).clamp_min(0).prod(-1)
        )
        area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
        iou = overlap / (area[:, None] + area[None, :] - overlap)
        kept: list[int] = []
        for index in order.tolist():
            if len(kept) == self.max_output_boxes_per_class:
                break
            if not any(iou[index, other] > self.iou_threshold for other in kept):
                kept.append(index)
        return torch.tensor(kept, dtype=torch.int64, device=boxes.device)
