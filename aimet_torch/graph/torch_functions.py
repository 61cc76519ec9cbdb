"""What PyTorch's functions are to a graph: computation, metadata, sizes, data access."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from aimet_torch.graph.runtime import apply_on_copy
from aimet_torch.graph.structure import leaves

getitem = operator.getitem


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_METADATA = _words(
    """
    dtype device ndim layout names requires_grad grad grad_fn itemsize nbytes _version is_leaf
    output_nr is_cuda is_cpu is_sparse is_quantized is_mkldnn is_meta is_nested is_mps is_xpu
    is_xla is_ipu is_hpu is_maia is_vulkan is_mtia is_sparse_csr _base _grad _backward_hooks
    retains_grad name volatile dim ndimension is_floating_point is_complex is_signed
    is_contiguous stride element_size storage_offset data_ptr get_device type __repr__ __str__
    __format__ __hash__ __dir__ has_names is_shared is_pinned is_inference is_coalesced is_conj
    is_neg untyped_storage storage _is_view register_hook retain_grad requires_grad_
    result_type can_cast is_tensor is_storage is_set_to is_same_size dim_order
    _set_grad_enabled set_grad_enabled promote_types is_distributed isinstance __class__
    _has_compatible_shallow_copy_type is_grad_enabled broadcast_shapes get_default_dtype
    iscomplexobj _is_zerotensor sparse_dim dense_dim
    """
)
_SIZES = _words("shape size __len__ numel nelement")
_DATA = _words(
    """
    item tolist numpy __bool__ __int__ __float__ __index__ __complex__ __array__ __contains__
    __dlpack__ __nonzero__ is_nonzero equal allclose __reduce_ex__ __deepcopy__ __long__
    _local_scalar_dense
    """
)
_FORBIDDEN = _words("set_ resize_ resize_as_ backward apply_ map_ map2_ share_memory_ rename_")
# In-place operations whose namesake without the underscore computes the same value.
_PURE = _words(
    """
    add sub subtract mul multiply div divide true_divide floor_divide pow relu relu6 leaky_relu
    elu selu celu silu mish hardtanh hardswish hardsigmoid sigmoid tanh clamp clamp_min
    clamp_max clip exp log sqrt rsqrt abs neg square reciprocal floor ceil round sin cos
    masked_fill threshold tril triu lerp addcmul addcdiv masked_scatter index_add index_copy
    index_fill scatter scatter_add logical_not __add__ __sub__ __mul__ __truediv__ __floordiv__
    __pow__ __mod__ __and__ __or__ __xor__
    """
)


def property_name(func: Callable[..., Any]) -> str | None:
    """The attribute that ``func`` reads (``Tensor.T.__get__``: ``"T"``), else None."""
    if getattr(func, "__name__", "") == "__get__":
        return str(getattr(getattr(func, "__self__", None), "__name__", "")) or None
    return None


def is_tensor_method(func: Callable[..., Any]) -> bool:
    """Whether ``func`` is a method of ``torch.Tensor`` that can be called by name."""
    name = getattr(func, "__name__", "")
    return not name.startswith("__") and getattr(Tensor, name, None) is func


@functools.lru_cache(maxsize=4096)
def classify(func: Callable[..., Any]) -> str:
    """``metadata``, ``size``, ``data``, ``forbidden`` or ``compute``."""
    name = getattr(func, "__name__", "")
    if name == "__set__":
        attribute = getattr(getattr(func, "__self__", None), "__name__", "")
        return "forbidden" if attribute == "data" else "metadata"
    name = property_name(func) or name
    if name in _METADATA or name.startswith("_record_function"):
        return "metadata"
    if name in _SIZES:
        return "size"
    if name in _DATA:
        return "data"
    return "forbidden" if name in _FORBIDDEN else "compute"


def base_name(func: Callable[..., Any]) -> str:
    """A short name for op names: ``add`` for ``torch.add``, ``Tensor.__iadd__``, ``add_``."""
    if isinstance(func, functools.partial):
        return base_name(func.args[0]) if func.func is apply_on_copy else "set_view"
    if isinstance(func, torch._ops.OpOverload):
        return base_name(func.overloadpacket)
    if isinstance(func, operator.attrgetter):
        return str(func.__reduce__()[1][0])
    name = property_name(func) or getattr(func, "__name__", None) or type(func).__name__
    if name == "apply" and isinstance(getattr(func, "__self__", None), type):
        return str(func.__self__.__name__)  # type: ignore[attr-defined]
    if classify(func) != "compute":
        return str(name)
    if name.startswith("__") and name.endswith("__"):
        name = name[2:-2]
        for prefix in ("i", "r"):
            if name.startswith(prefix) and name[1:] in _ARITHMETIC:
                name = name[1:]
        name = {
            "truediv": "div",
            "floordiv": "floor_divide",
            "setitem": "set_item",
            "mod": "remainder",
        }.get(name, name)
    return str(name).removesuffix(".default").replace(".", "_").strip("_") or "call"


_ARITHMETIC = _words("add sub mul truediv floordiv pow mod matmul div and or xor lshift rshift")


def out_of_place(
    func: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    node_args: Any,
    node_kwargs: Any,
    target: Tensor,
) -> tuple[Any, Any, Any]:
    """The function and arguments that compute the value of ``target`` after ``func`` wrote into it.

    Returns:
        (function, args, kwargs), the arguments as graph nodes; (None, ...) when ``target`` is
        neither the first argument nor ``out``.
    """
    if kwargs.get("out") is target:
        return func, node_args, {k: v for k, v in node_kwargs.items() if k != "out"}
    if not args or args[0] is not target:
        return None, node_args, node_kwargs
    pure = _pure_function(func)
    if pure is not None and all(
        t.dtype in (target.dtype, torch.bool, torch.int64) for t in leaves((args, kwargs))
    ):
        if pure is func:  # relu(x, inplace=True)
            bound = inspect.signature(func).bind(*node_args, **node_kwargs)
            bound.arguments["inplace"] = False
            return func, bound.args, bound.kwargs
        if _fits(pure, args, kwargs, target):
            return pure, node_args, node_kwargs
    return apply_on_copy, (func, *node_args), node_kwargs


def _pure_function(func: Any) -> Any:
    name = getattr(func, "__name__", "")
    if name.startswith("__i") and f"__{name[3:]}" in _PURE:
        return getattr(Tensor, f"__{name[3:]}", None)
    if name.endswith("_") and name[:-1] in _PURE:
        for namespace in (Tensor, torch, F):
            if getattr(namespace, name, None) is func:
                return getattr(namespace, name[:-1], None)
        return getattr(F, name[:-1], None)
    try:
        return func if "inplace" in inspect.signature(func).parameters else None
    except (TypeError, ValueError):
        return None


def _fits(pure: Any, args: tuple[Any, ...], kwargs: dict[str, Any], target: Tensor) -> bool:
    """Whether the pure function gives the written tensor's dtype and shape."""
    others = leaves((args[1:], kwargs))
    broadcast = torch.broadcast_shapes(
        target.shape, *(t.shape for t in others if t.dim() <= target.dim())
    )
    whole = (
        all(isinstance(a, int) for a in args[1:] if isinstance(a, (int, float)))
        or target.is_floating_point()
    )
    return tuple(broadcast) == tuple(target.shape) and whole if _elementwise(pure) else True


def _elementwise(pure: Any) -> bool:
    return not getattr(pure, "__name__", "").startswith(("scatter", "index_", "masked_scatter"))


def has_dynamic_shape(name: str, args: tuple[Any, ...]) -> bool:
    """Whether the shape of an operation's result depends on the values of its inputs.

    Args:
        name: Its base name.
        args: Its arguments as graph nodes.
    """
    if name == "where":
        return len(args) == 1
    if name == "getitem":
        masks = leaves(args[1:], fx.Node)
        return any(dtype == torch.bool for n in masks for _, _, dtype in n.meta.get("outputs", ()))
    return name in _DYNAMIC_SHAPES


_DYNAMIC_SHAPES = _words(
    """
    nonzero argwhere masked_select unique unique_consecutive bincount nms batched_nms
    combinations
    """
)


def as_operator(func: Any, args: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
    """``Tensor.__radd__`` etc. as functions and arguments of module ``operator``."""
    name = getattr(func, "__name__", "")
    if not (name.startswith("__") and name.endswith("__")):
        return func, args
    if name[2:-2] in _ARITHMETIC or name == "__getitem__":
        return getattr(operator, _OPERATOR_NAMES.get(name, name)), args
    if name.startswith("__r") and name[3:-2] in _ARITHMETIC:
        return getattr(operator, _OPERATOR_NAMES.get(f"__{name[3:]}", f"__{name[3:]}")), (
            args[1],
            args[0],
        )
    return func, args


_OPERATOR_NAMES = {"__div__": "truediv"}
