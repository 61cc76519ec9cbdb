"""The smaller network: parameters, buffers and sizes of modules without the channels that left."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from aimet_torch.compression.pruning.labels import kept_indices
from aimet_torch.compression.pruning.propagation import Layer, select
from aimet_torch.compression.pruning.rules import norm_removes_groups
from aimet_torch.compression.pruning.structure import ChannelStructure

__all__ = ["remove_channels", "shrink_layer"]


def remove_channels(model: nn.Module, structure: ChannelStructure, keep: Tensor) -> None:
    """Take channels out of ``model``, in place; it then is an ordinary smaller network.

    Args:
        model: A copy of what ``structure`` was found on: same names, same shapes.
        structure: Of the channels.
        keep: From ``ChannelStructure.keep``.
    """
    with torch.no_grad():
        for layer in structure.layers:
            shrink_layer(model, layer, keep)
        for name, atoms in structure.labels.axes.items():
            _shrink_norm(model.get_submodule(name), keep[atoms])
        for name, atoms in structure.labels.elements.items():
            _shrink_element(model, name, keep[atoms])


def weight_indices(layer: Layer, keep: Tensor) -> tuple[Tensor, Tensor]:
    """Which entries stay of a weight's first and second dimension, bool."""
    inputs, outputs = keep[layer.inputs], keep[layer.outputs]
    first, second = (inputs, outputs) if layer.transposed else (outputs, inputs)
    size = len(second) // layer.groups
    if layer.removes_groups:
        return first, torch.ones(size, dtype=torch.bool)
    return first, second[:size]


def shrink_layer(model: nn.Module, layer: Layer, keep: Tensor) -> None:
    """Take channels out of one layer of ``model``, in place; arguments as above."""
    inputs, outputs = keep[layer.inputs], keep[layer.outputs]
    if bool(inputs.all()) and bool(outputs.all()):
        return
    first, second = weight_indices(layer, keep)
    indices = [None if bool(k.all()) else k.nonzero().flatten() for k in (first, second)]
    _replace(model, layer.weight, indices)
    if layer.bias is not None:
        _replace(model, layer.bias, [outputs.nonzero().flatten()])
    if layer.module is None:
        return
    module: Any = model.get_submodule(layer.name)
    ins, outs = int(inputs.sum()), int(outputs.sum())
    if isinstance(module, nn.Linear):
        module.in_features, module.out_features = ins, outs
        return
    module.in_channels, module.out_channels = ins, outs
    if layer.removes_groups:
        module.groups = ins // (len(layer.inputs) // layer.groups)


def _shrink_norm(module: Any, stays: Tensor) -> None:
    if bool(stays.all()):
        return
    index = stays.nonzero().flatten()
    for name in ("weight", "bias", "running_mean", "running_var"):
        if getattr(module, name, None) is not None:
            _replace(module, name, [index])
    if isinstance(module, (_BatchNorm, _InstanceNorm)):
        module.num_features = len(index)
    elif isinstance(module, nn.GroupNorm):
        if norm_removes_groups(module):
            module.num_groups = len(index) * module.num_groups // module.num_channels
        module.num_channels = len(index)
    elif isinstance(module, nn.PReLU):
        module.num_parameters = len(index)


def _shrink_element(model: nn.Module, name: str, stays: Tensor) -> None:
    if bool(stays.all()):
        return
    owner, _, attribute = name.rpartition(".")
    module: Any = model.get_submodule(owner)
    indices = kept_indices(stays)
    assert indices is not None, name  # checked before
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        sizes = [
            size if index is None else len(index)
            for size, index in zip(stays.shape, indices, strict=True)
        ]
        module.normalized_shape = tuple(sizes)
    if attribute != "normalized_shape":
        _replace(model, name, indices)


def _replace(model: nn.Module, name: str, indices: list[Tensor | None]) -> None:
    """Put what stays of a parameter or buffer in its place."""
    owner, _, attribute = name.rpartition(".")
    module: Any = model.get_submodule(owner)
    old: Tensor = getattr(module, attribute)
    new = select(old.detach(), indices).clone(memory_format=torch.contiguous_format)
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(new, requires_grad=old.requires_grad)
    setattr(module, attribute, new)
