"""What each kind of operation does to labels of channels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from aimet_torch.compression.pruning.labels import FIXED, NEUTRAL, compact
from aimet_torch.compression.pruning.layer_rules import (
    channel_line,
    functional_layer,
    module_layer,
)
from aimet_torch.compression.pruning.movements import MOVEMENTS, move
from aimet_torch.compression.pruning.propagation import ParameterRef, Propagation
from aimet_torch.graph import OpNode
from aimet_torch.ptq.layers import LAYER_TYPES
from aimet_torch.ptq.replay import call_node

__all__ = ["propagate"]

_ELEMENTWISE = frozenset({
    "Relu", "Clip", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Silu", "Mish", "HardSwish",
    "HardSigmoid", "Sigmoid", "Tanh", "Softplus", "Softsign", "ThresholdedRelu", "LogSigmoid",
    "Add", "Sub", "Mul", "Div", "FloorDiv", "Mod", "Pow", "Exp", "Erf", "Sqrt", "Rsqrt", "Log",
    "Abs", "Neg", "Sin", "Cos", "Asin", "Atan", "Round", "Ceil", "Floor", "Sign", "Reciprocal",
    "Max", "Min", "Where", "MaskedFill", "Equal", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "And", "Or", "Not", "PRelu",
})  # fmt: skip
_SAME = frozenset({"Identity", "Dropout", "Cast"})
_POOLS = frozenset({
    "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "AdaptiveMaxPool", "LpPool",
    "FractionalMaxPool", "Resize", "ResizeNearest",
})  # fmt: skip
_REDUCTIONS = frozenset({"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd"})
_ALONG = frozenset({"Softmax", "LogSoftmax", "Softmin", "CumSum", "LpNormalization"})


def propagate(
    labels: Propagation, op: OpNode, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Labels of the result of an operation, from labels in place of its tensors."""
    kind, module = op.op_type, op.module
    if op.is_boundary:
        return labels.outside(op, (args, kwargs), f"`{op.name}` cannot be traced")
    if module is not None and _has_hooks(module):
        return labels.outside(op, (args, kwargs), f"`{op.name}` has hooks")
    if op.fx_node is not None and op.fx_node.meta.get("persistent"):
        return labels.outside(op, (args, kwargs), f"`{op.name}` writes into the model")
    if isinstance(module, LAYER_TYPES):
        return module_layer(labels, op, args, kwargs)
    if kind in ("Conv", "ConvTranspose", "Gemm") and module is None:
        return functional_layer(labels, op, args, kwargs)
    if kind in MOVEMENTS:
        return move(labels, op, args, kwargs)
    if kind in ("Constant", "Range"):
        return _constant(labels, op, args, kwargs)
    norm = _NORMS.get(kind)
    if norm is not None:
        return norm(labels, op, args, kwargs)
    x = labels.resolve(args[0]) if args else None
    if not isinstance(x, Tensor) or len(op.outputs) != 1:
        return _unknown(labels, op, args, kwargs)
    if kind in _SAME:
        return x
    if module is not None and isinstance(module, nn.PReLU):
        return _prelu(labels, op, x)
    if kind in _ELEMENTWISE:
        return _elementwise(labels, op, args, kwargs)
    if kind in _POOLS:
        return _pool(labels, op, x, (args, kwargs))
    if kind in _REDUCTIONS:
        return _reduce(labels, op, x, args, kwargs)
    if kind in _ALONG:
        dim = getattr(module, "dim", kwargs.get("dim", args[1] if len(args) > 1 else None))
        if isinstance(dim, int) and dim % x.dim() not in labels.varying(x):
            return x
        return labels.outside(op, x, f"`{op.name}` ({kind}) runs over its channels")
    return _unknown(labels, op, args, kwargs)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _unknown(labels: Propagation, op: OpNode, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return labels.outside(op, (args, kwargs), f"`{op.name}` ({op.op_type}) mixes its channels")


def _constant(
    labels: Propagation, op: OpNode, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    node = op.fx_node
    assert node is not None
    if op.module is not None or len(op.outputs) != 1:
        return _unknown(labels, op, args, kwargs)
    kwargs = {**kwargs, "device": "cpu"} if "device" in kwargs else kwargs
    args = tuple(labels.resolve(arg) for arg in args)
    made = call_node(labels.graph.model, node, args, kwargs)
    return torch.full((1,) * made.dim(), float(NEUTRAL)).double().expand(made.shape)


# ---------------------------------------------------------------------- elementwise


def _elementwise(
    labels: Propagation, op: OpNode, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    values = [labels.resolve(value) for value in (*args, *kwargs.values())]
    operands = [value for value in values if isinstance(value, Tensor)]
    if op.op_type in ("Max", "Min") and len(operands) != 2:
        return _unknown(labels, op, args, kwargs)
    if op.op_type == "PRelu":
        slope = operands[1]
        if slope.numel() > 1 and operands[0].dim() > 1:  # along the second dimension
            operands[1] = slope.view(-1, *[1] * (operands[0].dim() - 2))
        elif slope.numel() == 1:
            operands = operands[:1]
    return unite_operands(labels, op, operands)


def unite_operands(labels: Propagation, op: OpNode, operands: list[Tensor]) -> Tensor:
    """Labels of a result whose elements come from the same elements of all operands."""
    shape = torch.broadcast_shapes(*(t.shape for t in operands))
    sizes = [(1,) * (len(shape) - t.dim()) + tuple(t.shape) for t in operands]
    known = []
    for size, operand in zip(sizes, operands, strict=True):
        small = compact(operand)
        if bool((small != NEUTRAL).any()):
            full = operand.clamp_min(FIXED) if bool((small < 0).any()) else operand
            known.append((size, full.expand(shape)))
    if not known:
        return operands[0].new_full((1,) * len(shape), NEUTRAL).expand(shape)
    dims = [labels.varying(operand) for _, operand in known]
    main = max(range(len(known)), key=lambda i: len(dims[i]))
    result = known[main][1]
    for index, (size, operand) in enumerate(known):
        if index == main:
            continue
        own = known[main][0]
        crosses = labels.decide(partial(_is_single, set(dims[index]) - set(dims[main]), own))
        is_shared = labels.decide(partial(_is_single, dims[main], size))
        if crosses:
            reason = f"`{op.name}` ({op.op_type}) combines every channel of one with all of another"
            labels.fix(result, reason, op)
            labels.fix(operand, reason, op)
        elif is_shared:
            labels.fix(operand, f"`{op.name}` ({op.op_type}) uses it for all channels", op)
        else:
            labels.unite(op, result, operand)
    return result


def _is_single(dims: Iterable[int], size: Sequence[int]) -> bool:
    """Whether a tensor of this size has one entry for all along one of the dimensions."""
    return any(size[dim] == 1 for dim in dims)


def _prelu(labels: Propagation, op: OpNode, x: Tensor) -> Any:
    module: Any = op.module
    if module.num_parameters == 1:
        return x
    return _per_channel(labels, op, x, 1, module.num_parameters)


# ---------------------------------------------------------------------- pools and reductions


def _pool(labels: Propagation, op: OpNode, x: Tensor, args: Any) -> Any:
    """What works on each channel by itself; only sizes behind the channels change."""
    out = op.outputs[0].shape
    name = type(op.module).__name__ if op.module is not None else str(op.fx_node)
    digits = [d for d in "123" if f"{d}d" in name]
    spatial = int(digits[0]) if digits else x.dim() - 2
    channel_dims = x.dim() - spatial
    if any(dim >= channel_dims for dim in labels.varying(x)):
        return labels.outside(op, args, f"`{op.name}` ({op.op_type}) runs over its channels")
    return first_of(x, range(channel_dims, x.dim())).expand(
        *x.shape[:channel_dims], *out[channel_dims:]
    )


def first_of(labels: Tensor, dims: Any) -> Tensor:
    """The first entry along some dimensions, which stay with size 1."""
    for dim in dims:
        labels = labels.narrow(dim, 0, 1)
    return labels


def _reduce(
    labels: Propagation, op: OpNode, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    dims = kwargs.get("dim", args[1] if len(args) > 1 else None)
    keeps = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
    if dims is None or dims in ((), []):
        dims = tuple(range(x.dim()))
    if isinstance(dims, int):
        dims = (dims,)
    if not all(isinstance(d, int) for d in dims):
        return _unknown(labels, op, args, kwargs)
    over = sorted(d % x.dim() for d in dims) if x.dim() else []
    if any(d in over for d in labels.varying(x)):
        return labels.outside(op, x, f"`{op.name}` ({op.op_type}) runs over its channels")
    result = first_of(x, over)
    if not keeps:
        for dim in reversed(over):
            result = result.select(dim, 0)
    return result


# ---------------------------------------------------------------------- normalizations


def _per_channel(labels: Propagation, op: OpNode, x: Tensor, dim: int, count: int) -> Any:
    """An entry of each of the module's parameters belongs to a channel along ``dim``."""
    assert op.module_name is not None
    line = channel_line(labels, op, x, dim)
    if line is None:
        axis = labels.axis(op.module_name, count)
        labels.fix(axis.double(), f"`{op.name}` does not see one channel each", op)
        return x
    labels.unite(op, line, labels.axis(op.module_name, count))
    return x


def _batch_norm(
    labels: Propagation, op: OpNode, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    x = labels.resolve(args[0])
    if op.module is None:
        shape = (-1, *[1] * (x.dim() - 2))
        rest = [labels.resolve(v) for v in (*args[1:5], *kwargs.values())]
        operands = [v.reshape(shape) for v in rest if isinstance(v, Tensor)]
        return unite_operands(labels, op, [x, *operands])
    module: Any = op.module
    if not isinstance(module, (_BatchNorm, _InstanceNorm)) or _overrides(module):
        return _unknown(labels, op, args, kwargs)
    spatial = next((int(d) for d in "123" if f"{d}d" in type(module).__name__), 0)
    is_single = isinstance(module, _InstanceNorm) and x.dim() == spatial + 1
    return _per_channel(labels, op, x, 0 if is_single else 1, module.num_features)


def _group_norm(
    labels: Propagation, op: OpNode, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    module: Any = op.module
    if type(module) is not nn.GroupNorm:
        return _unknown(labels, op, args, kwargs)
    x = labels.resolve(args[0])
    result = _per_channel(labels, op, x, 1, module.num_channels)
    if labels.keep is None:
        atoms = labels.axes[str(op.module_name)].view(module.num_groups, -1)
        # Whole groups leave the others' statistics as they are.
        by_group = norm_removes_groups(module)
        labels.unite(op, atoms, atoms[:, :1] if by_group else atoms[:1])
    return result


def norm_removes_groups(norm: nn.GroupNorm) -> bool:
    """Whether channels leave a group norm with their whole group."""
    return norm.num_groups >= 8


def _layer_norm(
    labels: Propagation, op: OpNode, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Layer and RMS norms: channels that leave it leave its statistics."""
    x = labels.resolve(args[0])
    model = labels.graph.model
    if op.module is not None:
        module: Any = op.module
        if type(module) not in (nn.LayerNorm, nn.RMSNorm):
            return _unknown(labels, op, args, kwargs)
        shape = tuple(module.normalized_shape)
        names = [f"{op.module_name}.{n}" for n, p in module.named_parameters(recurse=False)]
        if not names:
            names = [f"{op.module_name}.normalized_shape"]
    else:
        refs = [v for v in (*args[1:], *kwargs.values()) if isinstance(v, ParameterRef)]
        names = [ref.name for ref in refs]
        if not names:
            return labels.outside(op, x, f"`{op.name}`: its size is a number in the model's code")
        module = model.get_submodule(names[0].rpartition(".")[0])
        shape = tuple(getattr(module, "normalized_shape", ()))
        given = kwargs.get("normalized_shape", args[1] if len(args) > 1 else ())
        if not isinstance(module, (nn.LayerNorm, nn.RMSNorm)) or shape != tuple(given):
            return labels.outside(op, x, f"`{op.name}`: its size is a number in the model's code")
    operands = []
    for name in names:
        labels.new_elements(name, shape)
        operands.append(labels.resolve(ParameterRef(name)))
    return unite_operands(labels, op, [x, *operands])


def _overrides(module: nn.Module) -> bool:
    return not type(module).__module__.startswith("torch.nn.modules")


_NORMS = {
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _batch_norm,
    "GroupNormalization": _group_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _layer_norm,
}
