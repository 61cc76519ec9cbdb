"""Names of operation kinds: ONNX's, else that of the PyTorch function or class."""

from __future__ import annotations

from typing import Any

from torch import nn

from aimet_torch.graph.torch_functions import base_name
from aimet_torch.nn.modules.channelwise_clip import ChannelwiseClip
from aimet_torch.nn.modules.custom import FunctionModule

# torch.nn class name -> operation type. Dimension suffixes (1d, 2d, 3d) are stripped before the
# lookup.
_MODULES = {
    "Conv": "Conv", "ConvTranspose": "ConvTranspose", "Linear": "Gemm",
    "NonDynamicallyQuantizableLinear": "Gemm", "Bilinear": "Bilinear",
    "BatchNorm": "BatchNormalization", "SyncBatchNorm": "BatchNormalization",
    "InstanceNorm": "InstanceNormalization", "LayerNorm": "LayerNormalization",
    "GroupNorm": "GroupNormalization", "RMSNorm": "RMSNormalization", "LocalResponseNorm": "LRN",
    "ReLU": "Relu", "ReLU6": "Clip", "Hardtanh": "Clip", "PReLU": "PRelu",
    "LeakyReLU": "LeakyRelu", "ELU": "Elu", "SELU": "Selu", "CELU": "Celu", "GELU": "Gelu",
    "SiLU": "Silu", "Mish": "Mish", "Hardswish": "HardSwish", "Hardsigmoid": "HardSigmoid",
    "Sigmoid": "Sigmoid", "Tanh": "Tanh", "Softplus": "Softplus", "Softsign": "Softsign",
    "Threshold": "ThresholdedRelu", "LogSigmoid": "LogSigmoid", "Softmax": "Softmax",
    "LogSoftmax": "LogSoftmax", "Softmin": "Softmin", "MaxPool": "MaxPool",
    "AvgPool": "AveragePool", "LPPool": "LpPool", "AdaptiveMaxPool": "AdaptiveMaxPool",
    "FractionalMaxPool": "FractionalMaxPool", "MaxUnpool": "MaxUnpool", "Dropout": "Dropout",
    "AlphaDropout": "Dropout", "FeatureAlphaDropout": "Dropout", "Identity": "Identity",
    "Flatten": "Flatten", "Unflatten": "Reshape", "Fold": "Col2Im", "Unfold": "Im2Col",
    "PixelShuffle": "DepthToSpace", "PixelUnshuffle": "SpaceToDepth",
    "ChannelShuffle": "ChannelShuffle", "Upsample": "Resize", "UpsamplingNearest": "Resize",
    "UpsamplingBilinear": "Resize", "ZeroPad": "Pad", "ConstantPad": "Pad",
    "ReflectionPad": "Pad", "ReplicationPad": "Pad", "CircularPad": "Pad", "Embedding": "Gather",
    "EmbeddingBag": "EmbeddingBag", "LSTM": "LSTM", "GRU": "GRU", "RNN": "RNN",
}  # fmt: skip

# Base name of a function (torch_functions.base_name) -> operation type.
_FUNCTIONS = {
    "conv1d": "Conv", "conv2d": "Conv", "conv3d": "Conv", "conv_transpose1d": "ConvTranspose",
    "conv_transpose2d": "ConvTranspose", "conv_transpose3d": "ConvTranspose", "linear": "Gemm",
    "addmm": "Gemm", "matmul": "MatMul", "bmm": "MatMul", "mm": "MatMul", "mv": "MatMul",
    "dot": "MatMul", "baddbmm": "MatMul", "add": "Add", "sub": "Sub", "subtract": "Sub",
    "rsub": "Sub", "mul": "Mul", "multiply": "Mul", "div": "Div", "divide": "Div",
    "true_divide": "Div", "floor_divide": "FloorDiv", "remainder": "Mod", "fmod": "Mod",
    "pow": "Pow", "square": "Pow", "exp": "Exp", "erf": "Erf", "sqrt": "Sqrt", "rsqrt": "Rsqrt",
    "log": "Log", "abs": "Abs", "neg": "Neg", "sin": "Sin", "cos": "Cos", "asin": "Asin",
    "atan": "Atan", "round": "Round", "ceil": "Ceil", "floor": "Floor", "sign": "Sign",
    "reciprocal": "Reciprocal", "cat": "Concat", "concat": "Concat", "concatenate": "Concat",
    "stack": "Stack", "batch_norm": "BatchNormalization",
    "instance_norm": "InstanceNormalization", "layer_norm": "LayerNormalization",
    "group_norm": "GroupNormalization", "rms_norm": "RMSNormalization",
    "local_response_norm": "LRN", "normalize": "LpNormalization", "relu": "Relu", "relu6": "Clip",
    "hardtanh": "Clip", "clamp": "Clip", "clip": "Clip", "clamp_min": "Clip", "clamp_max": "Clip",
    "prelu": "PRelu", "leaky_relu": "LeakyRelu", "elu": "Elu", "selu": "Selu", "celu": "Celu",
    "gelu": "Gelu", "silu": "Silu", "mish": "Mish", "hardswish": "HardSwish",
    "hardsigmoid": "HardSigmoid", "sigmoid": "Sigmoid", "tanh": "Tanh", "softplus": "Softplus",
    "softsign": "Softsign", "threshold": "ThresholdedRelu", "logsigmoid": "LogSigmoid",
    "softmax": "Softmax", "log_softmax": "LogSoftmax", "max_pool1d": "MaxPool",
    "max_pool2d": "MaxPool", "max_pool3d": "MaxPool", "max_pool2d_with_indices": "MaxPool",
    "avg_pool1d": "AveragePool", "avg_pool2d": "AveragePool", "avg_pool3d": "AveragePool",
    "mean": "ReduceMean", "sum": "ReduceSum", "prod": "ReduceProd", "amax": "ReduceMax",
    "amin": "ReduceMin", "norm": "ReduceL2", "cumsum": "CumSum", "max": "Max", "maximum": "Max",
    "min": "Min", "minimum": "Min", "where": "Where", "masked_fill": "MaskedFill",
    "reshape": "Reshape", "view": "Reshape", "view_as": "Reshape", "reshape_as": "Reshape",
    "unflatten": "Reshape", "flatten": "Flatten", "ravel": "Flatten", "squeeze": "Squeeze",
    "unsqueeze": "Unsqueeze", "transpose": "Transpose", "swapaxes": "Transpose",
    "permute": "Transpose", "movedim": "Transpose", "t": "Transpose", "T": "Transpose",
    "mT": "Transpose", "getitem": "Slice", "narrow": "Slice", "select": "Slice", "split": "Split",
    "chunk": "Split", "unbind": "Split", "tensor_split": "Split", "split_with_sizes": "Split",
    "pad": "Pad", "expand": "Expand", "expand_as": "Expand", "broadcast_to": "Expand",
    "repeat": "Tile", "tile": "Tile", "repeat_interleave": "Tile", "roll": "Roll", "flip": "Flip",
    "contiguous": "Identity", "clone": "Identity", "detach": "Identity", "alias": "Identity",
    "data": "Identity", "to": "Cast", "type_as": "Cast", "float": "Cast", "half": "Cast",
    "bfloat16": "Cast", "double": "Cast", "type": "Cast", "long": "Cast", "int": "Cast",
    "bool": "Cast", "cpu": "Identity", "cuda": "Identity", "dropout": "Dropout",
    "dropout1d": "Dropout", "dropout2d": "Dropout", "dropout3d": "Dropout",
    "alpha_dropout": "Dropout", "feature_alpha_dropout": "Dropout", "feature_dropout": "Dropout",
    "pixel_shuffle": "DepthToSpace", "pixel_unshuffle": "SpaceToDepth",
    "channel_shuffle": "ChannelShuffle", "interpolate": "Resize", "upsample": "Resize",
    "grid_sample": "GridSample", "embedding": "Gather", "gather": "GatherElements",
    "index_select": "Gather", "scatter": "ScatterElements", "topk": "TopK", "argmax": "ArgMax",
    "argmin": "ArgMin", "eq": "Equal", "gt": "Greater", "ge": "GreaterOrEqual", "lt": "Less",
    "le": "LessOrEqual", "logical_and": "And", "logical_or": "Or", "logical_not": "Not",
    "invert": "Not", "arange": "Range", "einsum": "Einsum", "unfold": "Im2Col", "fold": "Col2Im",
    "set_item": "SetItem", "set_view": "SetItem", "copy": "SetItem",
    "take_along_dim": "GatherElements", "zeros": "Constant", "ones": "Constant",
    "full": "Constant", "tensor": "Constant", "zeros_like": "Constant", "ones_like": "Constant",
    "full_like": "Constant", "empty": "Constant", "new_zeros": "Constant", "new_ones": "Constant",
    "new_full": "Constant", "empty_like": "Constant", "as_tensor": "Constant",
}  # fmt: skip

GRID_PRESERVING_OPS = frozenset(
    {
        "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather",
        "GatherElements", "Expand", "Tile", "Roll", "Flip", "MaxPool", "GlobalMaxPool",
        "AdaptiveMaxPool", "MaxUnpool", "Identity", "Dropout", "ChannelShuffle", "DepthToSpace",
        "SpaceToDepth", "Im2Col", "ResizeNearest", "ReduceMax", "ReduceMin", "TopK",
    }
)  # fmt: skip
"""Types whose output values are a subset or rearrangement of one input's values (or zero, which
every grid holds)."""


def op_type_of_module(
    module: nn.Module, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
) -> str:
    """Operation type of a leaf module; its class name when ONNX has no such operation.

    Args:
        module: A leaf module.
        args: What it is called with, where that is known: functional operations as modules take
            everything as arguments.
        kwargs: Its keyword arguments.
    """
    if isinstance(module, ChannelwiseClip):
        return "Clip"
    if isinstance(module, FunctionModule):
        function = getattr(module, "function", None)
        name = type(module).__name__
        if function is None:  # a class with arguments of its own
            return "DepthToSpace" if name.startswith("DepthToSpace") else name
        return op_type_of_function(base_name(function), args, kwargs or {})
    for cls in type(module).__mro__:
        if cls is not nn.Module and cls.__module__.startswith(("torch.nn.modules", "torch.ao.nn")):
            name = cls.__name__
            break
    else:
        return _identity_type(module)
    for suffix in ("1d", "2d", "3d"):
        name = name.removesuffix(suffix)
    if name.startswith("Adaptive") and name.endswith("Pool"):
        sizes = (
            module.output_size
            if isinstance(module.output_size, (tuple, list))
            else (module.output_size,)
        )
        if all(size == 1 for size in sizes):
            return "GlobalAveragePool" if "Avg" in name else "GlobalMaxPool"
        return "AveragePool" if "Avg" in name else "AdaptiveMaxPool"
    if (name == "Upsample" and module.mode == "nearest") or name == "UpsamplingNearest":
        return "ResizeNearest"
    return _MODULES.get(name, type(module).__name__)


def is_known_pure(name: str) -> bool:
    """Whether a function of this base name does nothing but compute its result."""
    return name in _FUNCTIONS and _FUNCTIONS[name] != "Dropout"


def _identity_type(module: nn.Module) -> str:
    """Modules of users become leaves only when they return their input in eval mode."""
    name = type(module).__name__
    return "Dropout" if "drop" in name.lower() or "stochastic" in name.lower() else "Identity"


def op_type_of_function(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Operation type of a functional call.

    Args:
        name: Its base name.
        args: Positional arguments (graph nodes stand for tensors).
        kwargs: Keyword arguments.
    """
    if name.startswith("adaptive_"):
        size = kwargs.get("output_size", args[1] if len(args) > 1 else None)
        one = all(s == 1 for s in (size if isinstance(size, (tuple, list)) else (size,)))
        if "avg" in name:
            return "GlobalAveragePool" if one else "AveragePool"
        return "GlobalMaxPool" if one else "AdaptiveMaxPool"
    if name in ("interpolate", "upsample"):
        mode = kwargs.get("mode", args[3] if len(args) > 3 else "nearest")
        return "ResizeNearest" if mode == "nearest" else "Resize"
    return _FUNCTIONS.get(name, name)
