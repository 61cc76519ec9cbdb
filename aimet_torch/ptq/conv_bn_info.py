"""The batch normalizations around layers: what analytic bias correction knows inputs from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from aimet_torch.common.defs import ActivationType
from aimet_torch.graph import OpNode
from aimet_torch.ops.algorithms import clipped_normal_moments
from aimet_torch.ptq.layers import LAYER_TYPES, channel_axis, layer_of, trace_model

__all__ = ["ConvBnInfoType", "expected_input", "find_all_conv_bn_with_activation"]


@dataclass
class ConvBnInfoType:
    """The batch normalizations around a layer.

    Attributes:
        input_bn: The one that the layer's input comes from, through the activation below.
        output_bn: The one behind the layer.
        in_activation_type: What stands between ``input_bn`` and the layer.
        out_activation_type: What stands behind ``output_bn``, or behind the layer.
    """

    input_bn: _BatchNorm | None = None
    output_bn: _BatchNorm | None = None
    in_activation_type: ActivationType = ActivationType.no_activation
    out_activation_type: ActivationType = ActivationType.no_activation


_LIMITS = {
    ActivationType.no_activation: (None, None),
    ActivationType.relu: (0.0, None),
    ActivationType.relu6: (0.0, 6.0),
}


def find_all_conv_bn_with_activation(
    model: nn.Module, input_shape: Any = None, dummy_input: Any = None
) -> dict[nn.Module, ConvBnInfoType]:
    """The batch normalizations before and behind each layer; call it before folding them.

    Args:
        model: Left as it is.
        input_shape: Shape of its input, or a list of shapes; None with ``dummy_input``.
        dummy_input: Input to trace the model with.

    Returns:
        Layer -> what is around it, for layers that have at least one batch normalization.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: Neither shape nor input are given.
    """
    graph = trace_model("find_all_conv_bn_with_activation", model, input_shape, dummy_input)
    found: dict[nn.Module, ConvBnInfoType] = {}
    for op in graph.ops:
        if not isinstance(op.module, LAYER_TYPES) or op.call_index or not op.inputs:
            continue
        info = ConvBnInfoType()
        producer = _skip(op.inputs[0].producer, backwards=True)
        activation = _activation_type(producer)
        if activation is not None and producer is not None and producer.inputs:
            info.in_activation_type = activation
            producer = _skip(producer.inputs[0].producer, backwards=True)
        info.input_bn = _norm_of(producer)
        follower = _skip(op.next_op())
        info.output_bn = _norm_of(follower)
        if info.output_bn is not None and follower is not None:
            follower = _skip(follower.next_op())
        info.out_activation_type = _activation_type(follower) or ActivationType.no_activation
        is_input_channel = channel_axis(layer_of(op), op.inputs[0]) == 1
        if info.input_bn is not None and not is_input_channel:
            info.input_bn = None
        if info.input_bn is not None or info.output_bn is not None:
            found[layer_of(op)] = info
    return found


def _skip(op: OpNode | None, backwards: bool = False) -> OpNode | None:
    while op is not None and op.op_type in ("Identity", "Dropout"):
        op = (op.inputs[0].producer if op.inputs else None) if backwards else op.next_op()
    return op


def _norm_of(op: OpNode | None) -> _BatchNorm | None:
    return op.module if op is not None and isinstance(op.module, _BatchNorm) else None


def _activation_type(op: OpNode | None) -> ActivationType | None:
    if op is None:
        return None
    if op.op_type == "Relu":
        return ActivationType.relu
    module = op.module
    if isinstance(module, nn.Hardtanh) and (module.min_val, module.max_val) == (0.0, 6.0):
        return ActivationType.relu6
    return None


def expected_input(info: ConvBnInfoType) -> Tensor:
    """Means of the input channels behind a batch normalization and an activation."""
    norm = info.input_bn
    assert norm is not None
    size = norm.num_features
    beta = torch.zeros(size) if norm.bias is None else norm.bias.detach()
    gamma = torch.ones(size) if norm.weight is None else norm.weight.detach()
    low, high = _LIMITS[info.in_activation_type]
    limits = [None if limit is None else beta.new_tensor(limit) for limit in (low, high)]
    return clipped_normal_moments(beta, gamma, *limits)[0]
