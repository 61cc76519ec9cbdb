"""Example inputs for sizes that stay open.

torch.export takes a size of 1 for a constant of the model, whatever the caller says about it: a
file exported with a batch of one would then refuse, or silently mistreat, every other batch. So
open sizes of 1 become 2 first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def widen_open_sizes(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], options: Mapping[str, Any]
) -> _Arguments:
    """Repeat example tensors along their open sizes where these are 1.

    Args:
        model: module whose forward takes the arguments.
        args: positional arguments.
        kwargs: keyword arguments.
        options: of `torch.onnx.export`; `dynamic_shapes`, `dynamic_axes` and `input_names` are
            read.

    Returns:
        The arguments with wider tensors.
    """
    shapes = options.get("dynamic_shapes")
    if shapes is None:
        shapes = _from_axes(model, args, kwargs, options)
    names = list(inspect.signature(model.forward).parameters)
    if isinstance(shapes, Mapping):
        bound = [shapes.get(name) for name in names[: len(args)]]
        # More arguments than names: *args, whose specifications come as one tuple.
        if bound and len(args) > len(names):
            rest = bound.pop() or ()
            bound += list(rest)
        by_name = shapes
    else:
        bound = list(shapes or ())
        by_name = dict(zip(kwargs, bound[len(args) :], strict=False))
    bound += [None] * (len(args) - len(bound))
    return (
        tuple(_widen(value, spec) for value, spec in zip(args, bound, strict=False)),
        {name: _widen(value, by_name.get(name)) for name, value in kwargs.items()},
    )


def _from_axes(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """`dynamic_axes` by the names of forward's parameters, which `input_names` may change."""
    parameters = list(inspect.signature(model.forward).parameters)[: len(args)] + list(kwargs)
    names = list(options.get("input_names") or parameters)
    renamed = dict(zip(names, parameters, strict=False))
    axes = options.get("dynamic_axes") or {}
    return {renamed.get(name, name): dict.fromkeys(spec, True) for name, spec in axes.items()}


def _widen(value: Any, spec: Any) -> Any:
    if spec is None:
        return value
    if isinstance(value, Tensor):
        return _repeat(value, spec)
    make: Callable[..., Any] = type(value)
    if isinstance(value, Mapping) and isinstance(spec, Mapping):
        return make({k: _widen(v, spec.get(k)) for k, v in value.items()})
    if isinstance(value, tuple | list) and isinstance(spec, Sequence):
        entries = [_widen(v, s) for v, s in zip(value, spec, strict=False)]
        return make(*entries) if hasattr(value, "_fields") else make(entries)
    return value


def _repeat(tensor: Tensor, spec: Any) -> Tensor:
    sizes = spec.items() if isinstance(spec, Mapping) else enumerate(spec)
    for axis, size in sizes:
        is_open = (size is not None and not isinstance(size, int)) or size is True
        if is_open and size is not torch.export.Dim.STATIC and tensor.shape[axis] == 1:
            tensor = torch.cat([tensor, tensor], axis)
    return tensor
