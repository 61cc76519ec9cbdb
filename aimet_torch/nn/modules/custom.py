"""Elementwise and other functional operations as modules (AIMET's names).

Every class is a :class:`FunctionModule`: its ``forward`` passes all arguments to one function and it has no state, so it
can stand for the function anywhere in a network. The classes without arguments of their own come from one table;
:class:`FunctionCall` stands for any other function.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FunctionModule(nn.Module):
    """A module whose forward is one function."""

    function: Callable[..., Any]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """``function(*args, **kwargs)``."""
        return type(self).function(*args, **kwargs)


class FunctionCall(FunctionModule):
    """Calls `function`, which must be picklable for the module to be picklable."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """``function(*args, **kwargs)``."""
        return self.function(*args, **kwargs)

    def extra_repr(self) -> str:
        """The function's name."""
        return function_name(self.function)


class TrainingFunctionCall(FunctionCall):
    """Calls `function` with ``training=self.training``: functional dropout that follows ``train()`` and ``eval()``."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """``function(*args, **kwargs, training=self.training)``."""
        return self.function(*args, **kwargs, training=self.training)


def function_name(function: Any) -> str:
    """A readable name of a function, method descriptor or partial."""
    if isinstance(function, functools.partial):
        return function_name(function.func)
    return str(getattr(function, "__name__", None) or function)


def _sub(x: Any, y: Any, **kwargs: Any) -> Any:
    return torch.sub(x, y, **kwargs) if kwargs else x - y


def _div(x: Any, y: Any, **kwargs: Any) -> Any:
    return torch.div(x, y, **kwargs) if kwargs else x / y


def _unary_sign(x: Tensor) -> Tensor:
    return torch.sign(x)


def _strided_slice(x: Tensor, *slices: Any) -> Tensor:
    return x[tuple(slice(*s) if isinstance(s, (tuple, list)) else s for s in slices)]


def _gather_nd(x: Tensor, indices: Tensor, batch_dims: int = 0) -> Tensor:
    """ONNX GatherND: the last axis of ``indices`` indexes the axes of ``x`` after the first ``batch_dims``."""
    batch = x.shape[:batch_dims]
    grid = torch.meshgrid(*(torch.arange(n, device=x.device) for n in batch), indexing="ij") if batch_dims else ()
    extra = indices.dim() - 1 - batch_dims
    leading = tuple(g.reshape(*g.shape, *([1] * extra)) for g in grid)
    return x[(*leading, *indices.unbind(-1))]


def _rms_norm(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return F.rms_norm(x, *args, **kwargs)


def _shape(x: Tensor) -> Tensor:
    return torch.tensor(tuple(x.shape), dtype=torch.int64)


# Class name, its function, other functions with the same arguments that the class stands for.
_TABLE: tuple[tuple[Any, ...], ...] = (
    ("Add", torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, operator.add),
    ("Subtract", _sub, torch.sub, Tensor.sub, torch.subtract, Tensor.subtract, Tensor.__sub__, operator.sub),
    ("Multiply", torch.mul, Tensor.mul, torch.multiply, Tensor.multiply, Tensor.__mul__, Tensor.__rmul__, operator.mul),
    ("Divide", _div, torch.div, Tensor.div, torch.divide, Tensor.divide, torch.true_divide, Tensor.true_divide,
     Tensor.__truediv__, operator.truediv),
    ("FloorDivide", torch.floor_divide, Tensor.floor_divide, operator.floordiv, Tensor.__floordiv__),
    ("Remainder", torch.remainder, Tensor.remainder, operator.mod, Tensor.__mod__),
    ("Fmod", torch.fmod, Tensor.fmod),
    ("MatMul", torch.matmul, Tensor.matmul, operator.matmul, Tensor.__matmul__),
    ("Bmm", torch.bmm, Tensor.bmm),
    ("Baddbmm", torch.baddbmm, Tensor.baddbmm),
    ("Addmm", torch.addmm, Tensor.addmm),
    ("Outer", torch.outer, Tensor.outer),
    ("Pow", torch.pow, Tensor.pow, operator.pow, Tensor.__pow__),
    ("Square", torch.square, Tensor.square),
    ("Exponential", torch.exp, Tensor.exp),
    ("Erf", torch.erf, Tensor.erf),
    ("Sqrt", torch.sqrt, Tensor.sqrt),
    ("RSqrt", torch.rsqrt, Tensor.rsqrt),
    ("Log", torch.log, Tensor.log),
    ("Abs", torch.abs, Tensor.abs, Tensor.__abs__, operator.abs),
    ("Neg", torch.neg, Tensor.neg, Tensor.__neg__, operator.neg),
    ("Sin", torch.sin, Tensor.sin),
    ("Cos", torch.cos, Tensor.cos),
    ("Asin", torch.asin, Tensor.asin),
    ("Atan", torch.atan, Tensor.atan),
    ("Round", torch.round, Tensor.round),
    ("ElementwiseCeil", torch.ceil, Tensor.ceil),
    ("ElementwiseFloor", torch.floor, Tensor.floor),
    ("ElementwiseUnarySign", _unary_sign, torch.sign, Tensor.sign),
    ("Norm", torch.norm, Tensor.norm),
    ("Normalize", F.normalize),
    ("Mean", torch.mean, Tensor.mean),
    ("Sum", torch.sum, Tensor.sum),
    ("Prod", torch.prod, Tensor.prod),
    ("CumSum", torch.cumsum, Tensor.cumsum),
    ("Max", torch.max, Tensor.max),
    ("AMax", torch.amax, Tensor.amax),
    ("Maximum", torch.maximum, Tensor.maximum),
    ("Min", torch.min, Tensor.min),
    ("AMin", torch.amin, Tensor.amin),
    ("Minimum", torch.minimum, Tensor.minimum),
    ("Argmax", torch.argmax, Tensor.argmax),
    ("Argmin", torch.argmin, Tensor.argmin),
    ("TopK", torch.topk, Tensor.topk),
    ("Where", torch.where),
    ("Equal", torch.eq, Tensor.eq, operator.eq),
    ("NotEqual", torch.ne, Tensor.ne, operator.ne),
    ("Greater", torch.gt, Tensor.gt, operator.gt),
    ("GreaterEqual", torch.ge, Tensor.ge, operator.ge),
    ("Less", torch.lt, Tensor.lt, operator.lt),
    ("LessEqual", torch.le, Tensor.le, operator.le),
    ("LogicalOr", torch.logical_or, Tensor.logical_or),
    ("LogicalAnd", torch.logical_and, Tensor.logical_and),
    ("LogicalNot", torch.logical_not, Tensor.logical_not),
    ("MaskedFill", torch.masked_fill, Tensor.masked_fill),
    ("Gather", torch.gather, Tensor.gather),
    ("GatherNd", _gather_nd),
    ("ScatterElements", torch.scatter, Tensor.scatter),
    ("IndexSelect", torch.index_select, Tensor.index_select),
    ("Select", torch.select, Tensor.select),
    ("StridedSlice", _strided_slice),
    ("GetItem", operator.getitem, Tensor.__getitem__),
    ("Split", torch.split, Tensor.split),
    ("Chunk", torch.chunk, Tensor.chunk),
    ("Unbind", torch.unbind, Tensor.unbind),
    ("Stack", torch.stack),
    ("Reshape", Tensor.reshape, torch.reshape),
    ("View", Tensor.view),
    ("Flatten", torch.flatten, Tensor.flatten),
    ("Unflatten", Tensor.unflatten),
    ("Squeeze", torch.squeeze, Tensor.squeeze),
    ("Unsqueeze", torch.unsqueeze, Tensor.unsqueeze),
    ("Permute", Tensor.permute, torch.permute),
    ("Transpose", torch.transpose, Tensor.transpose),
    ("Contiguous", Tensor.contiguous),
    ("Expand", Tensor.expand),
    ("Tile", torch.tile, Tensor.tile),
    ("Repeat", Tensor.repeat),
    ("Roll", torch.roll, Tensor.roll),
    ("NonZero", torch.nonzero, Tensor.nonzero),
    ("Shape", _shape),
    ("Pad", F.pad),
    ("GridSample", F.grid_sample),
    ("Interpolate", F.interpolate),
    ("MaxPool2d", F.max_pool2d, torch.max_pool2d),
    ("AvgPool2d", F.avg_pool2d),
    ("AdaptiveAvgPool2d", F.adaptive_avg_pool2d),
    ("BatchNorm", F.batch_norm),
    ("GroupNorm", F.group_norm),
    ("LayerNorm", F.layer_norm),
    ("RmsNorm", _rms_norm, F.rms_norm),
    ("ScaledDotProductAttention", F.scaled_dot_product_attention),
    ("DynamicConv2d", F.conv2d, torch.conv2d),
    ("DynamicLinear", F.linear),
    ("Softmax", F.softmax, torch.softmax, Tensor.softmax),
    ("Relu", F.relu, torch.relu, Tensor.relu),
    ("Clamp", torch.clamp, Tensor.clamp, torch.clip, Tensor.clip),
    ("Sigmoid", torch.sigmoid, Tensor.sigmoid, F.sigmoid),
    ("Tanh", torch.tanh, Tensor.tanh, F.tanh),
    ("Gelu", F.gelu),
    ("CustomSiLU", F.silu),
)  # fmt: skip

_CLASS_OF_FUNCTION: dict[Any, type[FunctionModule]] = {}


def _create(name: str, function: Callable[..., Any], *others: Callable[..., Any]) -> type[FunctionModule]:
    title = function_name(function).strip("_")
    body = {"function": staticmethod(function), "__module__": __name__, "__doc__": f"``{title}`` as a module."}
    created: type[FunctionModule] = type(name, (FunctionModule,), body)
    for accepted in (function, *others):
        _CLASS_OF_FUNCTION[accepted] = created
    return created


globals().update({row[0]: _create(*row) for row in _TABLE})


class Concat(FunctionModule):
    """``torch.cat`` of its positional arguments.

    Args:
        axis: The dimension to concatenate along.
    """

    def __init__(self, axis: int = 0) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *tensors: Any) -> Tensor:  # type: ignore[override]
        """``torch.cat(tensors, axis)``; one list or tuple of tensors is taken as well."""
        parts = tensors[0] if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)) else tensors
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

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
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

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
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

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
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

    def forward(self, indices: Tensor) -> Tensor:  # type: ignore[override]
        """Integer (...) -> (..., num_classes)."""
        hot = F.one_hot(indices, self.num_classes)
        return hot * (self.on_value - self.off_value) + self.off_value


class CustomGather(FunctionModule):
    """ONNX Gather: whole slices of ``x`` along an axis, an output of rank ``x.dim() + indices.dim() - 1``."""

    def forward(self, x: Tensor, indices: Tensor, axis: int = 0) -> Tensor:  # type: ignore[override]
        """Slices of ``x`` at integer ``indices``; negative indices count from the end."""
        axis = axis % x.dim()
        flat = indices.long().reshape(-1) % x.size(axis)
        return x.index_select(axis, flat).reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


class ScatterND(FunctionModule):
    """ONNX ScatterND: a copy of ``x`` with ``updates`` at ``indices``.

    Args:
        reduction: 0 replaces, 1 adds.
    """

    def __init__(self, reduction: int = 0) -> None:
        super().__init__()
        self.reduction = reduction

    def forward(self, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:  # type: ignore[override]
        """The last axis of ``indices`` indexes the leading axes of ``x``."""
        return x.index_put(tuple(indices.long().unbind(-1)), updates, accumulate=bool(self.reduction))


class NullRequant(FunctionModule):
    """A reshape that marks a place where the encoding changes."""

    def forward(self, x: Tensor, shape: Sequence[int]) -> Tensor:  # type: ignore[override]
        """``x.reshape(shape)``."""
        return x.reshape(tuple(shape))


class HadamardRotation(FunctionModule):
    """Multiplication of the last axis by the orthonormal Hadamard matrix (Sylvester's construction).

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

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
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

    def forward(  # type: ignore[override]
        self, x: Tensor, cos: Tensor, sin: Tensor, position_ids: Tensor | None = None
    ) -> Tensor:
        """(batch, heads, length, width); ``cos`` and ``sin``: (positions or batch, length, width / 2)."""
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

    def __init__(self, output_size: Any, spatial_scale: float = 1.0, sampling_ratio: int = -1) -> None:
        super().__init__()
        self.output_size, self.spatial_scale, self.sampling_ratio = output_size, spatial_scale, sampling_ratio

    def forward(self, x: Tensor, boxes: Any) -> Tensor:  # type: ignore[override]
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

    def __init__(self, iou_threshold: float, score_threshold: float, max_output_boxes_per_class: int) -> None:
        super().__init__()
        self.iou_threshold, self.score_threshold = iou_threshold, score_threshold
        self.max_output_boxes_per_class = max_output_boxes_per_class

    def forward(self, boxes: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        """(N, B, 4) and (N, classes, B) -> int64 (K, 3): batch, class, box."""
        chosen = []
        for batch in range(scores.size(0)):
            for label in range(scores.size(1)):
                candidates = (scores[batch, label] > self.score_threshold).nonzero()[:, 0]
                kept = candidates[self._suppress(boxes[batch, candidates], scores[batch, label, candidates])]
                head = torch.tensor([[batch, label]], device=boxes.device).expand(kept.numel(), 2)
                chosen.append(torch.cat([head, kept[:, None]], dim=1))
        return torch.cat(chosen)

    def _suppress(self, boxes: Tensor, scores: Tensor) -> Tensor:
        order = scores.argsort(descending=True, stable=True)
        corner = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
        overlap = (torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:]) - corner).clamp_min(0).prod(-1)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
        iou = overlap / (area[:, None] + area[None, :] - overlap)
        kept: list[int] = []
        for index in order.tolist():
            if len(kept) == self.max_output_boxes_per_class:
                break
            if not any(iou[index, other] > self.iou_threshold for other in kept):
                kept.append(index)
        return torch.tensor(kept, dtype=torch.int64, device=boxes.device)


_CLASS_OF_FUNCTION[torch.cat] = Concat


def module_for_function(function: Callable[..., Any]) -> FunctionModule:
    """A module that stands for ``function``.

    Args:
        function: Any callable; ``torch.cat`` gives ``Concat()`` with its default axis.

    Returns:
        An instance of the class of this file that takes the same arguments, else ``FunctionCall(function)``.
    """
    try:
        cls = _CLASS_OF_FUNCTION.get(function)
    except TypeError:  # not hashable
        cls = None
    return cls() if cls is not None else FunctionCall(function)


def __getattr__(name: str) -> Any:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
