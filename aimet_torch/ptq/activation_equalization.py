"""Activation equalization: channels of an activation get like ranges, weights take up the rest.

One scale per tensor wastes steps on channels that are much smaller than the largest. A scale per
channel can move from the activation into the layers around it wherever nothing between them minds:
behind a LayerNorm (SmoothQuant, Xiao et al. 2022, arXiv 2211.10438), through ReLU and clips, and
through the additions of a residual stream, all of whose values then share the scales. Weights with
one step per output channel hardly suffer: what writes the activation not at all, a depthwise layer
that reads it not at all, other readers as `alpha` says. In floating point nothing changes.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch import ops
from aimet_torch.common.progress import progress
from aimet_torch.graph import ModelGraph, OpNode, Value, bind_inputs, trace
from aimet_torch.nn.modules.channelwise_clip import ChannelwiseClip
from aimet_torch.ops.algorithms import smoothing_scale
from aimet_torch.ptq.cls_sets import is_depthwise
from aimet_torch.ptq.layers import (
    LAYER_TYPES,
    ModuleUses,
    channel_axis,
    is_transposed,
    layer_of,
    replace_modules,
    trace_model,
)
from aimet_torch.ptq.replay import record_inputs

__all__ = ["ActivationEqualizationReport", "equalize_activations", "equalize_by_ranges"]

_NORMS = (nn.LayerNorm, nn.RMSNorm)
_POINTWISE = frozenset({"Relu", "LeakyRelu", "Clip", "Identity", "Dropout", "Add"})
_SPATIAL = frozenset(
    {
        "MaxPool", "AdaptiveMaxPool", "GlobalMaxPool", "AveragePool", "GlobalAveragePool",
        "Resize", "ResizeNearest",
    }
)  # fmt: skip
_RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze"})


@dataclass(repr=False)
class ActivationEqualizationReport:
    """What was equalized.

    Attributes:
        scales: Names of the layers that write an activation, joined by " + " -> its scales
            (channels,), float64: the activation was divided by them.
        readers: The same name -> names of the layers that took them up.
        divided: Name of each layer that writes an activation -> the scales.
    """

    scales: dict[str, Tensor] = field(default_factory=dict)
    readers: dict[str, list[str]] = field(default_factory=dict)
    divided: dict[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        lines = [f"{len(self.scales)} activations equalized"]
        for name, scales in self.scales.items():
            readers = ", ".join(self.readers[name])
            span = f"{float(scales.min()):.3g} to {float(scales.max()):.3g}"
            lines.append(f"  {name}: divided by {span}, taken up by {readers}")
        return "\n".join(lines)


class _Stream:
    """Values that share their channels and so their scales."""

    def __init__(self, value: Value) -> None:
        self.values = [value]
        self.axis: int | None = None
        self.writers: list[OpNode] = []
        self.readers: list[OpNode] = []
        self.clips: list[OpNode] = []
        self.is_fixed = False

    def absorb(self, other: _Stream) -> None:
        for name in ("values", "writers", "readers", "clips"):
            getattr(self, name).extend(getattr(other, name))
        self.is_fixed |= other.is_fixed
        if other.axis is not None:
            self.set_axis(other.axis)

    def set_axis(self, axis: int) -> None:
        self.is_fixed |= self.axis not in (None, axis)
        self.axis = axis


def equalize_activations(
    model: nn.Module,
    dummy_input: Any,
    data_loader: Iterable[Any],
    *,
    alpha: float = 0.5,
    max_scale: float = 64.0,
    num_batches: int | None = None,
    forward_fn: Callable[[nn.Module, Any], Any] | None = None,
) -> ActivationEqualizationReport:
    """Equalize the channel ranges of activations, in place; outputs stay, to rounding.

    Args:
        model: Trained model, batch norms folded. ReLU6 between layers gets limits per channel, see
            :class:`~aimet_torch.nn.modules.channelwise_clip.ChannelwiseClip`.
        dummy_input: Example input for the trace.
        data_loader: Batches of inputs, or of inputs followed by labels, that show the ranges.
        alpha: How much of an activation's spread moves into the layers that read it: 0 to 1.
            Depthwise readers take all of it.
        max_scale: Scales stay within ``[1 / max_scale, max_scale]``.
        num_batches: How many batches are used; None: all.
        forward_fn: ``forward_fn(model, batch)`` runs one; None: a batch is an input, or a tuple
            that begins with the inputs.

    Returns:
        A report.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: ``alpha`` or ``max_scale`` is out of range, or there is no batch.
    """
    _check("equalize_activations", alpha, max_scale)
    graph = trace_model("equalize_activations", model, None, dummy_input)
    streams = _find_streams(graph)
    if not streams:
        return ActivationEqualizationReport()
    calls = record_inputs(
        model, data_loader, forward_fn, num_batches, len(bind_inputs(model, dummy_input)[0])
    )
    ranges = _observe(model, dummy_input, calls, streams)
    return _equalize(model, streams, ranges, alpha, max_scale)


def equalize_by_ranges(
    model: nn.Module,
    dummy_input: Any,
    ranges: Mapping[str, Tensor],
    *,
    alpha: float = 1.0,
    max_scale: float = 64.0,
) -> ActivationEqualizationReport:
    """As :func:`equalize_activations`, with ranges that are known already.

    Args:
        model: As there.
        dummy_input: As there.
        ranges: Name of a value in the graph of ``trace(model, dummy_input)`` -> the largest
            absolute value of each channel, (channels,).
        alpha: As there.
        max_scale: As there.

    Returns:
        A report.

    Raises:
        TypeError, ValueError: As there.
    """
    _check("equalize_by_ranges", alpha, max_scale)
    graph = trace_model("equalize_by_ranges", model, None, dummy_input)
    return _equalize(model, _find_streams(graph), ranges, alpha, max_scale)


def _check(function: str, alpha: float, max_scale: float) -> None:
    if not 0 <= alpha <= 1:
        raise ValueError(f"{function}: `alpha` must lie in [0, 1], got {alpha}")
    if not max_scale >= 1:
        raise ValueError(f"{function}: `max_scale` must be at least 1, got {max_scale}")


@torch.no_grad()
def _equalize(
    model: nn.Module,
    streams: list[_Stream],
    ranges: Mapping[str, Tensor],
    alpha: float,
    max_scale: float,
) -> ActivationEqualizationReport:
    report = ActivationEqualizationReport()
    replacements: dict[nn.Module, nn.Module] = {}
    for stream in streams:
        observed = [ranges[v.name] for v in _rounded(stream) if v.name in ranges]
        if not observed:
            continue
        readers = [_by_input(op.module) for op in stream.readers]
        takes_all = all(is_depthwise(layer_of(op)) for op in stream.readers)
        scale = smoothing_scale(
            torch.stack(observed).amax(0), readers, 1.0 if takes_all else alpha, max_scale
        )
        _apply(stream, scale, replacements)
        writers = [str(op.module_name) for op in stream.writers]
        name = " + ".join(writers)
        report.scales[name] = scale
        report.readers[name] = [str(op.module_name) for op in stream.readers]
        report.divided.update(dict.fromkeys(writers, scale))
    replace_modules(model, replacements)
    return report


# --------------------------------------------------------------------------------------- streams


def _find_streams(graph: ModelGraph) -> list[_Stream]:
    """The streams that can be scaled, in the order of the graph."""
    uses = ModuleUses(graph)
    streams = {value: _Stream(value) for value in graph.values()}

    def join(values: list[Value]) -> _Stream:
        first = streams[values[0]]
        for value in values[1:]:
            other = streams[value]
            if other is not first:
                first.absorb(other)
                for moved in other.values:
                    streams[moved] = first
        return first

    for value in graph.values():
        is_free = value.kind == "activation" and value.is_float and not value.is_model_output
        streams[value].is_fixed |= not is_free
    for op in graph.ops:
        module: Any = op.module
        if _is_plain_layer(op, uses):
            source, result = streams[op.inputs[0]], streams[op.outputs[0]]
            source.readers.append(op)
            source.set_axis(channel_axis(module, op.inputs[0]))
            result.writers.append(op)
            result.set_axis(channel_axis(module, op.outputs[0]))
        elif isinstance(module, _NORMS) and _is_scalable_norm(op, uses):
            streams[op.inputs[0]].is_fixed = True
            result = streams[op.outputs[0]]
            result.writers.append(op)
            result.set_axis(len(op.outputs[0].shape) - 1)
        elif _commutes(op, uses):
            stream = join([*op.inputs, *op.outputs])
            if op.op_type == "Clip":
                stream.clips.append(op)
            if op.op_type in _SPATIAL or op.op_type in _RESHAPES:
                stream.set_axis(1)
        else:
            for value in (*op.inputs, *op.outputs):
                streams[value].is_fixed = True
    found = dict.fromkeys(streams.values())
    return [s for s in found if not s.is_fixed and s.writers and s.readers]


def _is_plain_layer(op: OpNode, uses: ModuleUses) -> bool:
    module: Any = op.module
    return (
        isinstance(module, LAYER_TYPES)
        and not is_transposed(module)
        and len(op.inputs) == 1
        and uses.obstacle(module) is None
    )


def _is_scalable_norm(op: OpNode, uses: ModuleUses) -> bool:
    module: Any = op.module
    is_affine = module.weight is not None and len(module.normalized_shape) == 1
    return is_affine and uses.obstacle(module) is None


def _commutes(op: OpNode, uses: ModuleUses) -> bool:
    """Whether a positive scale per channel passes the operation unchanged."""
    if len(op.outputs) != 1 or not op.inputs:
        return False
    result = op.outputs[0]
    if op.op_type == "Clip":
        is_module = isinstance(op.module, nn.Hardtanh | ChannelwiseClip)
        return is_module and uses.call_count(op.module) == 1  # type: ignore[arg-type]
    if op.op_type in _POINTWISE:
        return all(value.shape == result.shape for value in op.inputs) and _is_plain_sum(op)
    if op.op_type in _SPATIAL:
        before, after = op.inputs[0].shape, result.shape
        return len(before) > 2 and before[:2] == after[:2] and len(before) == len(after)
    if op.op_type in _RESHAPES:
        before = op.inputs[0].shape
        return len(before) > 2 and math.prod(before[2:]) == 1 and result.shape == before[:2]
    return False


def _is_plain_sum(op: OpNode) -> bool:
    """Whether an addition adds two tensors and nothing else, such as a number times one."""
    if op.op_type != "Add":
        return True
    arguments = () if op.fx_node is None else op.fx_node.args
    options = {} if op.fx_node is None else op.fx_node.kwargs
    is_number = any(isinstance(x, int | float) for x in arguments)
    factor: Any = options.get("alpha", 1)
    is_plain = isinstance(factor, int | float) and factor == 1
    return len(op.inputs) == 2 and not is_number and is_plain


def _rounded(stream: _Stream) -> list[Value]:
    """The values that quantizers will see: not those that an activation makes smaller at once."""
    kept = []
    for value in stream.values:
        followers = {op.op_type for op, _ in value.consumers}
        if not followers <= {"Relu", "LeakyRelu", "Clip", "Identity", "Dropout"} or not followers:
            kept.append(value)
    return kept


# ------------------------------------------------------------------------------------------- data


def _observe(
    model: nn.Module, dummy_input: Any, calls: list[Any], streams: list[_Stream]
) -> dict[str, Tensor]:
    """Largest absolute value of each channel of the values of the streams, by name."""
    graph = trace(copy.deepcopy(model), dummy_input)  # whose operations are all modules
    graph.to_module().eval()
    axes = {value.name: stream.axis for stream in streams for value in stream.values}
    names: dict[nn.Module, dict[int, str]] = {}
    for op in graph.ops:
        if op.module is not None and len(op.outputs) == 1 and op.outputs[0].name in axes:
            names.setdefault(op.module, {})[op.call_index] = op.outputs[0].name
    ranges: dict[str, Tensor] = {}
    call_counts: Counter[nn.Module] = Counter()

    def observe(module: nn.Module, _: Any, output: Tensor) -> None:
        name = names[module].get(call_counts[module])
        call_counts[module] += 1
        if name is None:
            return
        shape = [1] * output.dim()
        axis = axes[name]
        assert axis is not None
        shape[axis] = output.shape[axis]
        low, high = ops.min_max(output, shape)
        largest = torch.maximum(low.abs(), high.abs()).flatten()
        ranges[name] = torch.maximum(ranges[name], largest) if name in ranges else largest

    for module in names:
        module.register_forward_hook(observe)
    with torch.no_grad():
        for args, kwargs in progress(calls, "Observing activations", unit="batch"):
            call_counts.clear()
            graph.model(*args, **kwargs)
    return ranges


# ------------------------------------------------------------------------------------------ scales


def _grouped(layer: Any) -> Tensor:
    """The weight as (groups, outputs, inputs, kernel), a view."""
    groups, inputs = getattr(layer, "groups", 1), layer.weight.shape[1]
    return layer.weight.view(groups, layer.weight.shape[0] // groups, inputs, -1)


def _by_input(layer: Any) -> Tensor:
    """The weight with its input channels in dimension 1."""
    weight = _grouped(layer).detach()
    return weight.permute(1, 3, 0, 2).reshape(-1, weight.shape[0] * weight.shape[2])


def _apply(stream: _Stream, scale: Tensor, replacements: dict[nn.Module, nn.Module]) -> None:
    for op in stream.writers:
        module: Any = op.module
        shape = (-1, *[1] * (module.weight.dim() - 1))
        module.weight.copy_(module.weight.double() / scale.reshape(shape))
        if getattr(module, "bias", None) is not None:
            module.bias.copy_(module.bias.double() / scale)
    for op in stream.readers:
        weight = _grouped(op.module)
        factor = scale.reshape(weight.shape[0], 1, weight.shape[2], 1)
        weight.copy_(weight.double() * factor)
    for op in stream.clips:
        clip: Any = op.module
        if isinstance(clip, ChannelwiseClip):
            clip.divide_limits(scale)
        else:
            assert stream.axis is not None
            like = stream.writers[0].module.weight  # type: ignore[union-attr]
            low, high = ((limit / scale).to(like) for limit in (clip.min_val, clip.max_val))
            trailing = len(op.outputs[0].shape) - stream.axis - 1
            replacements[clip] = ChannelwiseClip(low, high, trailing)
