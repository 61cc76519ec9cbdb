"""What folding and equalization share: which layers may be changed, and how a model is changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvTransposeNd

from aimet_torch.graph import ModelGraph, OpNode, Value, trace

__all__ = [
    "LAYER_TYPES",
    "LayerType",
    "ModuleUses",
    "bias_or_zeros",
    "channel_axis",
    "has_zero_padding",
    "is_transposed",
    "layer_of",
    "random_inputs",
    "replace_modules",
    "set_bias",
    "single_reader",
    "trace_model",
]

LAYER_TYPES = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
    nn.Linear,
)  # fmt: skip
"""Layers whose weights are folded into and equalized."""

LayerType = (
    nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d
    | nn.ConvTranspose3d | nn.Linear
)  # fmt: skip


def trace_model(function: str, model: nn.Module, input_shapes: Any, dummy_input: Any) -> ModelGraph:
    """The graph of ``model``, traced on ``dummy_input`` or on random tensors of ``input_shapes``.

    Args:
        function: Name of the caller, for messages.
        model: Left as it is.
        input_shapes: A shape, or a list of shapes, one a positional argument; None with
            ``dummy_input``.
        dummy_input: A tensor, a tuple or list of positional arguments, or a dict.

    Raises:
        TypeError: ``model`` is not a module, or ``input_shapes`` is not made of integers.
        ValueError: Neither shapes nor input are given.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}: `model` must be an nn.Module, got {type(model).__name__}")
    if dummy_input is None:
        if input_shapes is None:
            raise ValueError(f"{function}: give `input_shapes` or `dummy_input` to trace the model")
        dummy_input = random_inputs(function, model, input_shapes)
    return trace(model, dummy_input)


def random_inputs(function: str, model: nn.Module, input_shapes: Any) -> tuple[Tensor, ...]:
    """Positional arguments of a shape or a list of shapes, in the model's dtype, on its device.

    Raises:
        TypeError: ``input_shapes`` is not made of integers; the message names ``function``.
    """
    shapes = input_shapes
    if isinstance(shapes, Sequence) and shapes and isinstance(shapes[0], int):
        shapes = [shapes]
    is_valid = isinstance(shapes, Sequence) and all(
        isinstance(shape, Sequence) and all(isinstance(size, int) for size in shape)
        for shape in shapes
    )
    if not is_valid:
        raise TypeError(
            f"{function}: `input_shapes` must be a shape or a list of shapes, got {input_shapes!r}"
        )
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return tuple(torch.rand(tuple(shape), dtype=like.dtype, device=like.device) for shape in shapes)


class ModuleUses:
    """Who else uses the modules and parameters of a traced model.

    Args:
        graph: The traced model.
    """

    def __init__(self, graph: ModelGraph) -> None:
        inside = [op for boundary in graph.boundaries for op in boundary.ops]
        self._calls = Counter(id(op.module) for op in (*graph.ops, *inside))
        self._in_boundary = {id(op.module) for op in inside}
        self._owners: dict[int, set[int]] = {}
        self._names: dict[int, str] = {}
        for name, module in graph.model.named_modules():
            self._names[id(module)] = name
            for parameter in module._parameters.values():
                self._owners.setdefault(id(parameter), set()).add(id(module))
        named = dict(graph.model.named_parameters(remove_duplicate=False))
        self._read_by_code = {
            id(named[value.parameter_name])
            for value in graph.values()
            if value.kind == "parameter" and value.parameter_name in named
        }

    def name(self, module: nn.Module) -> str:
        """Dotted name of a module of the model."""
        return self._names[id(module)]

    def call_count(self, module: nn.Module) -> int:
        """How often one run of the model calls ``module``."""
        return self._calls[id(module)]

    def obstacle(self, module: nn.Module) -> str | None:
        """Why the parameters of ``module`` must not change, in words; None when they may."""
        if id(module) in self._in_boundary:
            return "it is called in a part of the model that cannot be traced"
        if self.call_count(module) > 1:
            return f"it is called {self.call_count(module)} times"
        if "weight" not in module._parameters:
            return "its weight is computed (a parametrization)"
        if module._parameters["weight"] is not None and module._parameters["weight"].numel() == 0:
            return "its weight has no elements"
        return self.sharing(module)

    def sharing(self, module: nn.Module) -> str | None:
        """Who else reads the parameters of ``module``, in words; None when nobody does."""
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            if len(self._owners[id(parameter)]) > 1:
                return f"another module shares its {name}"
            if id(parameter) in self._read_by_code:
                return f"other code of the model reads its {name}"
        return None


def layer_of(op: OpNode) -> LayerType:
    """The module of an operation that is known to be a layer."""
    assert isinstance(op.module, LAYER_TYPES)
    return op.module


def is_transposed(layer: LayerType) -> bool:
    """Whether ``layer`` is a transposed convolution."""
    return isinstance(layer, _ConvTransposeNd)


def channel_axis(layer: LayerType, value: Value) -> int:
    """The dimension of ``value``, an input or output of ``layer``, that holds its channels."""
    return len(value.shape) - layer.weight.dim() + 1  # Linear: the last; Conv: before its kernel's


def has_zero_padding(layer: LayerType) -> bool:
    """Whether some kernel elements of ``layer`` read zeros that are not in its input."""
    if isinstance(layer, nn.Linear):
        return False
    if is_transposed(layer):
        return any(size > 1 for size in layer.kernel_size)
    if layer.padding_mode != "zeros" or layer.padding == "valid":
        return False
    if isinstance(layer.padding, str):  # "same"
        return any(size > 1 for size in layer.kernel_size)
    return any(size > 0 for size in layer.padding)


def single_reader(op: OpNode) -> tuple[OpNode, int] | str:
    """The only reader of the result of ``op``, with the index of that operand, or why none."""
    if len(op.outputs) != 1:
        return f"`{op.name}` has {len(op.outputs)} results"
    value = op.outputs[0]
    if value.is_model_output:
        return "it is an output of the model"
    if len(value.consumers) != 1:
        return f"{len(value.consumers)} operations read it"
    return value.consumers[0]


def bias_or_zeros(layer: LayerType) -> Tensor:
    """The bias of ``layer``, or zeros in its place."""
    if layer.bias is not None:
        return layer.bias
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return layer.weight.new_zeros(outputs)


def set_bias(layer: LayerType | _BatchNorm, bias: Tensor) -> None:
    """Write ``bias`` into the bias of ``layer``, which gets one if it has none."""
    if layer.bias is None:
        layer.bias = nn.Parameter(bias.clone(), requires_grad=layer.weight.requires_grad)
    else:
        layer.bias.copy_(bias)


def replace_modules(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> None:
    """Put the new module wherever ``model`` has an old one, in the same training mode."""
    for old, new in replacements.items():
        new.train(old.training)
    for parent in model.modules() if replacements else ():
        for name, child in parent._modules.items():
            if child is not None and child in replacements:
                parent._modules[name] = replacements[child]
