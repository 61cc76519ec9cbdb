"""Labels through operations that move values: the operation itself runs on them.

A movement may tie channels: a `view` of channels as groups of channels leaves a rectangle only if
all groups lose the same ones, and so do the halves of a `chunk`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from aimet_torch.compression.pruning.labels import FIXED
from aimet_torch.compression.pruning.propagation import Propagation
from aimet_torch.graph import OpNode
from aimet_torch.graph.torch_functions import base_name
from aimet_torch.ptq.replay import call_node

__all__ = ["MOVEMENTS", "move"]

MOVEMENTS = frozenset({
    "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Tile", "Roll", "Flip",
    "Slice", "Split", "Concat", "Stack", "DepthToSpace", "SpaceToDepth", "ChannelShuffle", "Pad",
})  # fmt: skip
"""Types of operations whose output holds entries of their inputs, in another order."""


def move(labels: Propagation, op: OpNode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Labels of the result of a movement."""
    args = _resolved(labels, args)
    kwargs = {name: _resolved(labels, value) for name, value in kwargs.items()}
    kind = op.op_type
    if kind == "Pad":
        return _pad(labels, op, args, kwargs)
    if kind in ("Concat", "Stack"):
        return _join(labels, op, args, kwargs)
    x = args[0]
    if not isinstance(x, Tensor):
        return labels.outside(op, (args, kwargs), f"`{op.name}` ({kind}) is not understood")
    if kind == "Slice" and not _ties_slice(labels, op, x, args, kwargs):
        return labels.outside(op, x, f"`{op.name}` takes channels by their numbers")
    if kind == "DepthToSpace":
        block = _number(op, args, kwargs, "upscale_factor") ** 2
        if x.shape[-3] % block == 0:
            _unite_along(labels, op, x.unflatten(-3, (-1, block)), x.dim() - 2)
    if kind == "ChannelShuffle":
        _unite_along(labels, op, x.unflatten(1, (_number(op, args, kwargs, "groups"), -1)), 1)
    if kind == "Reshape" and not x.is_contiguous():
        args = (x.contiguous(), *args[1:])
    result = _run(labels, op, args, kwargs)
    if kind in ("Reshape", "Flatten"):
        _ties_view(labels, op, result)
    elif kind == "Split":
        return _ties_split(labels, op, x, result, args, kwargs)
    return result


def _resolved(labels: Propagation, value: Any) -> Any:
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return type(value)(_resolved(labels, item) for item in value)
    return labels.resolve(value)


def _run(labels: Propagation, op: OpNode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    assert op.fx_node is not None
    return call_node(labels.graph.model, op.fx_node, args, kwargs)


def _number(op: OpNode, args: tuple[Any, ...], kwargs: dict[str, Any], name: str) -> int:
    value = getattr(op.module, name, None)
    return int(value if value is not None else kwargs.get(name, args[1] if len(args) > 1 else 1))


def _unite_along(labels: Propagation, op: OpNode, x: Tensor, dim: int) -> None:
    labels.unite(op, x, x.narrow(dim, 0, 1))


# ---------------------------------------------------------------------- views


def _ties_view(labels: Propagation, op: OpNode, result: Tensor) -> None:
    """Where channels are spread over several dimensions, those of all but one are tied."""
    dims = labels.varying(result)
    if len(dims) < 2:
        return
    numbers = _literal_dims(op, result.dim())
    free = [dim for dim in dims if dim not in numbers] or dims
    for dim in dims:
        if dim != free[-1]:
            _unite_along(labels, op, result, dim)


def _literal_dims(op: OpNode, count: int) -> set[int]:
    """The dimensions of a view whose size is a number in the code of the model."""
    node = op.fx_node
    assert node is not None
    if op.module is not None or op.function is None:
        return set()
    arguments: list[Any] = list(node.args[1:]) + list(node.kwargs.values())
    if len(arguments) == 1 and isinstance(arguments[0], (tuple, list)):
        arguments = list(arguments[0])
    if base_name(op.function) not in ("view", "reshape") or len(arguments) != count:
        return set()
    return {d for d, size in enumerate(arguments) if isinstance(size, int) and size >= 0}


# ---------------------------------------------------------------------- parts


def _ties_split(
    labels: Propagation,
    op: OpNode,
    x: Tensor,
    parts: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    assert op.fx_node is not None
    name = base_name(op.function) if op.function is not None else ""
    dim = kwargs.get("dim", args[2] if len(args) > 2 else 0)
    if name == "unbind":
        dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    dim = int(dim) % x.dim()
    if dim not in labels.varying(x):
        return parts
    sizes = {part.shape for part in parts}
    given = op.fx_node.args[1] if len(op.fx_node.args) > 1 else None
    given = next(iter(v for k, v in op.fx_node.kwargs.items() if k != "dim"), given)
    if name in ("chunk", "tensor_split"):
        is_computed = isinstance(given, int)
    else:
        is_computed = isinstance(given, fx.Node) or (
            isinstance(given, Sequence) and all(isinstance(item, fx.Node) for item in given)
        )
    if name == "unbind" or len(sizes) != 1 or not is_computed:
        return labels.outside(op, x, f"`{op.name}` splits channels at fixed places")
    for part in parts[1:]:
        labels.unite(op, part, parts[0])
    return parts


def _ties_slice(
    labels: Propagation, op: OpNode, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> bool:
    """Tie the parts of an even slice; False where the channels are taken by their numbers."""
    assert op.fx_node is not None
    if op.function is None:
        return False
    node, name = op.fx_node, base_name(op.function)
    if name in ("narrow", "select"):
        dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
        return isinstance(dim, int) and dim % x.dim() not in labels.varying(x)
    if name != "getitem":
        return False
    index = node.args[1]
    items = list(index) if isinstance(index, tuple) else [index]
    if not all(
        item is None or item is Ellipsis or isinstance(item, (int, slice)) for item in items
    ):
        return not labels.varying(x)
    consumed = sum(isinstance(item, (int, slice)) for item in items)
    if Ellipsis in items:
        place = items.index(Ellipsis)
        items[place : place + 1] = [slice(None)] * (x.dim() - consumed)
    dims = labels.varying(x)
    real = args[1] if isinstance(args[1], tuple) else (args[1],)
    real_items = [item for item in real if item is not None and item is not Ellipsis]
    entries = [item for item in items if item is not None]
    for dim, item in enumerate(entries):
        if dim not in dims or item == slice(None):
            continue
        bounds = [item.start, item.stop] if isinstance(item, slice) else [0]
        if not isinstance(item, slice) or item.step not in (None, 1):
            return False
        if any(isinstance(bound, int) and bound != 0 for bound in bounds):
            return False
        position = sum(isinstance(e, slice) and e != slice(None) for e in entries[:dim])
        cut = [e for e in real_items if isinstance(e, slice) and e != slice(None)][position]
        start, stop, _ = cut.indices(x.shape[dim])
        length = stop - start
        if length <= 0 or x.shape[dim] % length or start % length:
            return False
        _unite_along(labels, op, x.unflatten(dim, (-1, length)), dim)
    return True


# ---------------------------------------------------------------------- joining


def _join(labels: Propagation, op: OpNode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    parts = args[0] if args else kwargs.get("tensors")
    if not isinstance(parts, (list, tuple)) or not all(isinstance(p, Tensor) for p in parts):
        return labels.outside(op, (args, kwargs), f"`{op.name}` is not understood")
    dim = int(kwargs.get("dim", args[1] if len(args) > 1 else 0))
    parts = [part.clamp_min(FIXED) for part in parts if part.numel()]
    rank = parts[0].dim() + (op.op_type == "Stack")
    dim %= rank
    if op.op_type == "Stack":
        parts = [part.unsqueeze(dim) for part in parts]
    across = sorted({d for part in parts for d in labels.varying(part)} - {dim})
    if across:
        # Channels lie in another dimension than that of the parts: they are the same in each.
        first = parts[0].narrow(dim, 0, 1)
        for part in parts:
            if dim in labels.varying(part):
                return labels.outside(op, parts, f"`{op.name}` joins channels in two dimensions")
            labels.unite(op, part.narrow(dim, 0, 1), first)
    shape = list(torch.broadcast_shapes(*(_without(part, dim) for part in parts)))
    small = []
    expanded = [
        d
        for d in range(rank)
        if d != dim and all(p.stride(d) == 0 or p.shape[d] == 1 for p in parts)
    ]
    for part in parts:
        if _without(part, dim) != tuple(shape):
            raise ValueError(f"{op.name}: sizes {[tuple(p.shape) for p in parts]} do not fit")
        small.append(part[tuple(slice(1) if d in expanded else slice(None) for d in range(rank))])
    joined = torch.cat(small, dim)
    shape[dim] = joined.shape[dim]
    return joined.expand(shape)


def _without(part: Tensor, dim: int) -> tuple[int, ...]:
    return (*part.shape[:dim], 1, *part.shape[dim + 1 :])


def _pad(labels: Propagation, op: OpNode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Padded entries of channels stay; elsewhere a channel is padded with itself."""
    x = args[0]
    module: Any = op.module
    if module is not None:
        padding = module.padding
    else:
        padding = kwargs.get("pad", args[1] if len(args) > 1 else None)
    if not isinstance(x, Tensor) or not isinstance(padding, (tuple, list)):
        return labels.outside(op, (args, kwargs), f"`{op.name}` is not understood")
    dims = labels.varying(x)
    shape = list(x.shape)
    pads = {}
    for index in range(len(padding) // 2):
        dim = x.dim() - 1 - index
        before, after = int(padding[2 * index]), int(padding[2 * index + 1])
        shape[dim] += before + after
        pads[dim] = (before, after)
    if any(dim in dims and pads[dim] != (0, 0) for dim in pads):
        mode = "constant" if module is not None else kwargs.get("mode", "constant")
        if mode != "constant" or min(n for pair in pads.values() for n in pair) < 0:
            return labels.outside(op, x, f"`{op.name}` pads its channels with others")
        flat = [pads[dim] if dim in dims else (0, 0) for dim in sorted(pads, reverse=True)]
        numbers = [n for pair in flat for n in pair]
        x = torch.nn.functional.pad(x.contiguous(), numbers, value=float(FIXED))
    for dim in pads:
        if dim not in dims:
            x = x.narrow(dim, 0, 1)
    return x.expand(shape)
