"""Elementwise and other functional operations as modules (AIMET's names).

Every class is a :class:`FunctionModule`: its ``forward`` passes all arguments to one function and
it has no state, so it can stand for the function anywhere in a network. The classes without
arguments of their own come from one table; :class:`FunctionCall` stands for any other function.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aimet_torch.nn.modules.custom_classes import (
    Cast,
    ChannelShuffle,
    Concat,
    CustomGather,
    DepthToSpaceCRDMode,
    DepthToSpaceDCRMode,
    HadamardRotation,
    NonMaxSuppression,
    NullRequant,
    OneHot,
    RoiAlign,
    RotaryEmbedding,
    ScatterND,
)
from aimet_torch.nn.modules.function_module import (
    FunctionCall,
    FunctionModule,
    TrainingFunctionCall,
    function_name,
)


def _sub(x: Any, y: Any, **kwargs: Any) -> Any:
    return torch.sub(x, y, **kwargs) if kwargs else x - y


def _div(x: Any, y: Any, **kwargs: Any) -> Any:
    return torch.div(x, y, **kwargs) if kwargs else x / y


def _unary_sign(x: Tensor) -> Tensor:
    return torch.sign(x)


def _strided_slice(x: Tensor, *slices: Any) -> Tensor:
    return x[tuple(slice(*s) if isinstance(s, (tuple, list)) else s for s in slices)]


def _gather_nd(x: Tensor, indices: Tensor, batch_dims: int = 0) -> Tensor:
    """ONNX GatherND: the last axis of ``indices`` indexes ``x`` behind the batch axes."""
    batch = x.shape[:batch_dims]
    grid = (
        torch.meshgrid(*(torch.arange(n, device=x.device) for n in batch), indexing="ij")
        if batch_dims
        else ()
    )
    extra = indices.dim() - 1 - batch_dims
    leading = tuple(g.reshape(*g.shape, *([1] * extra)) for g in grid)
    return x[leading + tuple(indices.unbind(-1))]


def _rms_norm(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return F.rms_norm(x, *args, **kwargs)


def _shape(x: Tensor) -> Tensor:
    return torch.tensor(tuple(x.shape), dtype=torch.int64)


# Class name, its function, other functions with the same arguments that the class stands for.
_TABLE: tuple[tuple[Any, ...], ...] = (
    ("Add", torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__, operator.add),
    ("Subtract", _sub, torch.sub, Tensor.sub, torch.subtract, Tensor.subtract, Tensor.__sub__,
     operator.sub),
    ("Multiply", torch.mul, Tensor.mul, torch.multiply, Tensor.multiply, Tensor.__mul__,
     Tensor.__rmul__, operator.mul),
    ("Divide", _div, torch.div, Tensor.div, torch.divide, Tensor.divide, torch.true_divide,
     Tensor.true_divide, Tensor.__truediv__, operator.truediv),
    ("FloorDivide", torch.floor_divide, Tensor.floor_divide, operator.floordiv,
     Tensor.__floordiv__),
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

# The classes of the table are part of the module as well.
__all__ = [
    "Cast",
    "ChannelShuffle",
    "Concat",
    "CustomGather",
    "DepthToSpaceCRDMode",
    "DepthToSpaceDCRMode",
    "FunctionCall",
    "FunctionModule",
    "HadamardRotation",
    "NonMaxSuppression",
    "NullRequant",
    "OneHot",
    "RoiAlign",
    "RotaryEmbedding",
    "ScatterND",
    "TrainingFunctionCall",
    "module_for_function",
]

_CLASS_OF_FUNCTION: dict[Any, type[FunctionModule]] = {}


def _create(
    name: str, function: Callable[..., Any], *others: Callable[..., Any]
) -> type[FunctionModule]:
    title = function_name(function).strip("_")
    body = {
        "function": staticmethod(function),
        "__module__": __name__,
        "__doc__": f"``{title}`` as a module.",
    }
    created: type[FunctionModule] = type(name, (FunctionModule,), body)
    for accepted in (function, *others):
        _CLASS_OF_FUNCTION[accepted] = created
    return created


globals().update({row[0]: _create(*row) for row in _TABLE})


_CLASS_OF_FUNCTION[torch.cat] = Concat


def module_for_function(function: Callable[..., Any]) -> FunctionModule:
    """A module that stands for ``function``.

    Args:
        function: Any callable; ``torch.cat`` gives ``Concat()`` with its default axis.

    Returns:
        An instance of the class of this file that takes the same arguments, else
        ``FunctionCall(function)``.
    """
    try:
        cls = _CLASS_OF_FUNCTION.get(function)
    except TypeError:  # not hashable
        cls = None
    return cls() if cls is not None else FunctionCall(function)


def __getattr__(name: str) -> Any:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
