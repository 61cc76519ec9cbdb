"""Rules of thumb about architectures that run slowly or lose accuracy on integer targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from aimet_torch.graph import ModelGraph, OpNode, skip_identity, trace
from aimet_torch.ptq.batch_norm_folding import find_standalone_batchnorm_ops

__all__ = ["GRAPH_RULES", "Finding", "GraphRule", "apply_rules"]

_CHANNELS = 32
_FOLDABLE = ("Conv", "ConvTranspose", "Gemm")
_SLOPES = ("Relu", "Clip", "Tanh", "HardSwish", "Silu", "PRelu", "LeakyRelu", "Identity")


@dataclass(frozen=True)
class Finding:
    """Something about one operation that costs speed or accuracy.

    Attributes:
        layer: Name of the operation.
        op_type: What it is.
        rule: Name of the rule.
        issue: What is wrong, in a sentence.
        recommendation: What to do.
    """

    layer: str
    op_type: str
    rule: str
    issue: str
    recommendation: str


GraphRule = Callable[[ModelGraph], Iterable[OpNode]]


def _convolutions(graph: ModelGraph) -> Iterator[tuple[OpNode, Any]]:
    for op in graph.ops:
        if isinstance(op.module, _ConvNd) and not op.call_index:
            yield op, op.module


def _own_channels(op: OpNode, layer: Any) -> list[int]:
    """Channels that an architect can choose: not those of the model's input."""
    reads_input = any(value.kind == "input" for value in op.inputs)
    return [layer.out_channels] if reads_input else [layer.in_channels, layer.out_channels]


def conv_channel_32_base(graph: ModelGraph) -> list[OpNode]:
    """Convolutions whose numbers of channels are no multiples of 32."""
    return [
        op
        for op, layer in _convolutions(graph)
        if any(count % _CHANNELS for count in _own_channels(op, layer))
    ]


def conv_channel_larger_than_32(graph: ModelGraph) -> list[OpNode]:
    """Convolutions with fewer than 32 channels."""
    return [
        op
        for op, layer in _convolutions(graph)
        if any(count < _CHANNELS for count in _own_channels(op, layer))
    ]


def activation_checks(graph: ModelGraph) -> list[OpNode]:
    """PReLU and SiLU, as modules or as functions; SiLU also as ``x * sigmoid(x)``."""
    found = graph.find_ops("PRelu", "Silu")
    for op in graph.find_ops("Mul"):
        for gate in op.producers():
            if gate.op_type == "Sigmoid" and gate.inputs[0] in op.inputs:
                found.append(op)
    return found


def batch_norm_fold(graph: ModelGraph) -> list[OpNode]:
    """Batch normalizations that cannot be folded into a layer."""
    return find_standalone_batchnorm_ops(graph)


def intermediate_padding(graph: ModelGraph) -> list[OpNode]:
    """The second of two padded convolutions with an activation, maybe a batch norm, between."""
    found = []
    for op, layer in _convolutions(graph):
        if _is_padded(layer):
            after = _after(op)
            if after is not None and isinstance(after.module, _ConvNd) and _is_padded(after.module):
                found.append(after)
    return found


def _after(op: OpNode) -> OpNode | None:
    """The first operation behind ``op`` that is neither an activation nor a batch norm."""
    passed = (*_SLOPES, "BatchNormalization")
    following = skip_identity(op.next_op())
    seen_slope = False
    while following is not None and following.op_type in passed:
        seen_slope |= following.op_type in _SLOPES
        following = skip_identity(following.next_op())
    return following if seen_slope else None


def _is_padded(layer: Any) -> bool:
    padding = layer.padding
    return padding == "same" if isinstance(padding, str) else any(padding)


def foldable_bn_with_split(graph: ModelGraph) -> list[OpNode]:
    """Batch normalizations behind a concatenation of results that they could be folded into."""
    return [
        op
        for op in graph.find_ops("BatchNormalization")
        for before in op.producers()
        if before.op_type == "Concat"
        and any(source.op_type in _FOLDABLE for source in before.producers())
    ]


#: Rule -> (function, what is wrong, what to do).
GRAPH_RULES: dict[str, tuple[GraphRule, str, str]] = {
    "conv_channel_32_base": (
        conv_channel_32_base,
        "The number of input or output channels is no multiple of 32: part of the target's vectors "
        "stays empty.",
        "Choose multiples of 32; aimet_torch.compression rounds ranks with `multiplicity=32`.",
    ),
    "conv_channel_larger_than_32": (
        conv_channel_larger_than_32,
        "Fewer than 32 input or output channels: most of the target's vector stays empty.",
        "Use at least 32 channels, or merge the layer with its neighbor.",
    ),
    "activation_checks": (
        activation_checks,
        "PReLU and SiLU have a long flat negative tail, which costs a grid many of its steps, and "
        "targets compute them slowly.",
        "Use ReLU, ReLU6 or hard swish; or give this output 16 bits.",
    ),
    "batch_norm_fold": (
        batch_norm_fold,
        "This batch normalization cannot be folded into a layer: it is quantized and computed on "
        "its own.",
        "Put it directly behind (or before) a convolution or linear layer, or remove it.",
    ),
    "intermediate_padding": (
        intermediate_padding,
        "Two padded convolutions follow each other: the target writes a padded copy in between.",
        "Pad once, in front of the first one.",
    ),
    "foldable_bn_with_split": (
        foldable_bn_with_split,
        "A batch normalization behind a concatenation cannot be folded, though layers before the "
        "concatenation could take it.",
        "Give each branch a batch normalization of its own, directly behind its layer.",
    ),
}


def apply_rules(
    model: nn.Module, dummy_input: Any, rules: dict[str, tuple[GraphRule, str, str]] | None = None
) -> list[Finding]:
    """What rules find in a model, in the order of execution.

    Args:
        model: Left as it is.
        dummy_input: A tensor, a tuple of arguments, or a dict.
        rules: As ``GRAPH_RULES``, which is what None stands for.
    """
    graph = trace(model, dummy_input)
    places = {op: place for place, op in enumerate(graph.ops)}
    findings = []
    for name, (rule, issue, recommendation) in (GRAPH_RULES if rules is None else rules).items():
        for op in dict.fromkeys(rule(graph)):
            finding = Finding(op.name, op.op_type, name, issue, recommendation)
            findings.append((places.get(op, len(places)), finding))
    return [finding for _, finding in sorted(findings, key=lambda entry: entry[0])]
