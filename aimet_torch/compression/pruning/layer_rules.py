"""Labels through convolutions and linear layers: what arrives meets the weight, new ones leave."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.compression.pruning.labels import FIXED
from aimet_torch.compression.pruning.propagation import Layer, ParameterRef, Propagation
from aimet_torch.graph import OpNode
from aimet_torch.graph.torch_functions import base_name
from aimet_torch.ptq.layers import LAYER_TYPES, is_transposed

__all__ = ["channel_line", "functional_layer", "module_layer"]


def channel_line(labels: Propagation, op: OpNode, x: Tensor, dim: int) -> Tensor | None:
    """The labels along a dimension, (channels,); None, and all stay, where others vary too."""
    if any(d != dim for d in labels.varying(x)):
        labels.fix(x, f"`{op.name}` does not see one channel along a dimension", op)
        return None
    for other in range(x.dim()):
        if other != dim:
            x = x.narrow(other, 0, 1)
    return x.flatten().clamp_min(FIXED)


def module_layer(
    labels: Propagation, op: OpNode, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """A convolution or linear layer that is a module."""
    module: Any = op.module
    everything = (args, kwargs)
    if type(module) not in LAYER_TYPES:
        reason = f"a {type(module).__name__} may compute something else than its base class"
        return labels.outside(op, everything, reason)
    if "weight" not in module._parameters:
        return labels.outside(op, everything, f"the weight of `{op.name}` is computed")
    if len(args) != 1 or kwargs:
        return labels.outside(op, everything, f"`{op.name}` is called with more than its input")
    is_linear = isinstance(module, nn.Linear)
    layer = labels.layers.get(f"{op.module_name}.weight")
    if layer is None:
        layer = _new_layer(
            labels, op, module, f"{op.module_name}.weight", module.weight,
            None if module.bias is None else f"{op.module_name}.bias",
            1 if is_linear else module.groups, is_transposed(module),
        )  # fmt: skip
    return _through(labels, op, labels.resolve(args[0]), layer, module.weight.dim() - 2)


_CONVOLUTIONS = {f"conv{d}d" for d in "123"}
_TRANSPOSED = {f"conv_transpose{d}d" for d in "123"}


def functional_layer(
    labels: Propagation, op: OpNode, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """``F.conv2d`` and its like, where the weight is a parameter of the model."""
    name = base_name(op.function) if op.function is not None else ""
    names: tuple[str, ...] = ("input", "weight", "bias") if name == "linear" else ()
    if name in _CONVOLUTIONS:
        names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    elif name in _TRANSPOSED:
        names = (
            "input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation",
        )  # fmt: skip
    given = dict(zip(names, args, strict=False)) | kwargs
    weight: Any = given.get("weight")
    bias: Any = given.get("bias")
    parameters = dict(labels.graph.model.named_parameters(remove_duplicate=False))
    is_known = isinstance(weight, ParameterRef) and weight.name in parameters
    if not names or not is_known or not (bias is None or isinstance(bias, ParameterRef)):
        return labels.outside(op, (args, kwargs), f"`{op.name}` computes its weight or mixes")
    tensor = parameters[weight.name]
    layer = labels.layers.get(weight.name)
    if layer is None:
        layer = _new_layer(
            labels, op, None, weight.name, tensor, None,  # the bias has labels of its own
            int(given.get("groups", 1)), name in _TRANSPOSED,
        )  # fmt: skip
    if bias is not None:
        atoms = labels.resolve(bias)
        labels.unite(op, atoms, labels.left(layer.outputs))
    return _through(labels, op, labels.resolve(given["input"]), layer, tensor.dim() - 2)


def _new_layer(
    labels: Propagation,
    op: OpNode,
    module: nn.Module | None,
    weight: str,
    tensor: Tensor,
    bias: str | None,
    groups: int,
    transposed: bool,
) -> Layer:
    first, second = tensor.shape[0], tensor.shape[1] * groups
    inputs, outputs = (first, second) if transposed else (second, first)
    atoms = labels.partition.new(inputs + outputs)
    layer = Layer(
        op.module_name or op.name, op.op_type if module is None else type(module).__name__,
        module, weight, bias, groups, transposed, atoms[:inputs], atoms[inputs:],
    )  # fmt: skip
    labels.layers[weight] = layer
    if groups > 1:
        rows = [layer.inputs.view(groups, -1), layer.outputs.view(groups, -1)]
        if layer.removes_groups:
            both = torch.cat(rows, dim=1)
            labels.unite(op, both, both[:, :1])
        else:
            for row in rows:
                labels.unite(op, row, row[:1])
    return layer


def _through(labels: Propagation, op: OpNode, x: Tensor, layer: Layer, kernel_dims: int) -> Any:
    if labels.keep is None:
        layer.calls.append(op)
    dim = x.dim() - 1 - kernel_dims if kernel_dims > 0 else x.dim() - 1
    line = channel_line(labels, op, x, dim)
    if line is None:
        labels.fix(layer.inputs.double(), f"`{op.name}` does not see one channel each", op)
    else:
        labels.unite(op, line, labels.left(layer.inputs))
    outputs = labels.left(layer.outputs).double()
    shape = list(op.outputs[0].shape)
    shape[:dim] = x.shape[:dim]
    shape[dim] = len(outputs)
    return outputs.view(-1, *[1] * (len(shape) - dim - 1)).expand(shape)
