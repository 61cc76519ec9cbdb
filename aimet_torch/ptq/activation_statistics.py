"""Activation ranges without data: what batch normalizations know, carried through the network.

A layer whose batch normalization was folded gives channels with mean beta and deviation gamma. From
there means and deviations are carried on through activations (a clipped normal variable), additions
(independent summands), pooling and layers without a batch normalization. A range is the mean plus
and minus some deviations, within what a clip lets pass.
Source: Nagel et al. 2021 (arXiv 2106.08295), section 3.1, with 6 deviations there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from aimet_torch.graph import ModelGraph, OpNode, Value
from aimet_torch.nn import QuantizationMixin
from aimet_torch.nn.modules.channelwise_clip import ChannelwiseClip
from aimet_torch.ops import range_from_min_max
from aimet_torch.ops.algorithms import clipped_normal_moments
from aimet_torch.ptq.layers import LAYER_TYPES, is_transposed
from aimet_torch.quantsim import QuantizationSimModel

__all__ = ["ChannelStatistics", "propagate_statistics", "set_ranges_from_statistics"]


@dataclass
class ChannelStatistics:
    """What is known of the channels of an activation, float64 (channels,) each.

    Attributes:
        mean: Of each channel.
        deviation: Standard deviation of each channel.
        low: Where its values begin, nearly always.
        high: Where they end.
    """

    mean: Tensor
    deviation: Tensor
    low: Tensor
    high: Tensor


_SAME = frozenset(
    {
        "Identity", "Dropout", "MaxPool", "GlobalMaxPool", "AdaptiveMaxPool", "AveragePool",
        "GlobalAveragePool", "Resize", "ResizeNearest",
    }
)  # fmt: skip
# Inputs of a layer are not independent. Where no batch norm tells the deviation of its outputs, as
# of logits, the sum of variances is too small by about this factor.
_CORRELATION = 2.5
_RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze"})
_ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "HardSwish": functional.hardswish,
    "HardSigmoid": functional.hardsigmoid,
    "Sigmoid": torch.sigmoid,
    "Silu": functional.silu,
    "Gelu": functional.gelu,
    "Tanh": torch.tanh,
    "LeakyRelu": functional.leaky_relu,
    "Elu": functional.elu,
    "Mish": functional.mish,
    "Softplus": functional.softplus,
}


def propagate_statistics(
    graph: ModelGraph,
    statistics: Mapping[str, tuple[Tensor, Tensor]],
    *,
    input_range: tuple[float, float] = (-3.0, 3.0),
    deviations: float = 6.0,
) -> dict[str, ChannelStatistics]:
    """Statistics of all activations of a network that can be known without data.

    Args:
        graph: Of the network, batch norms folded; of a simulation, whose weights are read without
            quantization, ``sim.graph``.
        statistics: Name of a layer -> mean and deviation (channels,) of its outputs, such as
            ``equalize_model(...).statistics``.
        input_range: Where the values of the model's inputs lie; the default is that of images
            normalized to mean 0 and deviation 1.
        deviations: Deviations on either side of the mean that a range covers.

    Returns:
        Name of a value of the graph -> its statistics. Values that hang on operations whose
        effect is not known are missing.

    Raises:
        ValueError: ``deviations`` is not positive, or ``input_range`` is empty.
    """
    low, high = input_range
    if not deviations > 0:
        raise ValueError(f"propagate_statistics: `deviations` must be positive, got {deviations}")
    if not low < high:
        raise ValueError(
            f"propagate_statistics: `input_range` must be (low, high) with low < high, got "
            f"{input_range}"
        )
    known: dict[str, ChannelStatistics] = {}
    for value in graph.inputs:
        if value.is_float and len(value.shape) > 1:
            ends = torch.tensor([low, high], dtype=torch.float64)
            one = torch.ones(value.shape[1], dtype=torch.float64)
            # Six deviations between the ends: those of a normal variable that fills them.
            known[value.name] = ChannelStatistics(
                one * ends.mean(), one * (high - low) / 6, one * low, one * high
            )
    rules = _Rules(known, statistics, deviations)
    for op in graph.ops:
        result = rules.result(op)
        if result is not None and len(op.outputs) == 1:
            known[op.outputs[0].name] = result
    return known


class _Rules:
    def __init__(
        self,
        known: Mapping[str, ChannelStatistics],
        statistics: Mapping[str, tuple[Tensor, Tensor]],
        deviations: float,
    ) -> None:
        self.known, self.statistics, self.deviations = known, statistics, deviations

    def result(self, op: OpNode) -> ChannelStatistics | None:
        """Statistics of the result of an operation, None where they are not known."""
        if isinstance(op.module, LAYER_TYPES):
            return self._of_layer(op)
        operands = [self.known.get(value.name) for value in op.inputs]
        if not operands or any(operand is None for operand in operands):
            return None
        inputs: list[Any] = operands
        if op.op_type in _SAME:
            return inputs[0]
        if op.op_type in ("Relu", "Clip"):
            return _clipped(inputs[0], *_limits_of(op))
        if op.op_type in _ELEMENTWISE:
            return self._of_function(inputs[0], _ELEMENTWISE[op.op_type])
        if op.op_type == "ReduceMean" and len(op.outputs[0].shape) == 2:
            return inputs[0]
        if op.op_type in _RESHAPES:
            return _repeated(inputs[0], op.outputs[0])
        if op.op_type == "Concat" and _is_along_channels(op):
            return _joined(inputs)
        if op.op_type in ("Add", "Mul") and len(inputs) == 2:
            return self._of_pair(op.op_type, *inputs)
        return None

    def _normal(self, mean: Tensor, deviation: Tensor, factor: float = 1) -> ChannelStatistics:
        reach = factor * self.deviations * deviation
        return ChannelStatistics(mean, deviation, mean - reach, mean + reach)

    def _of_layer(self, op: OpNode) -> ChannelStatistics | None:
        if str(op.module_name) in self.statistics:
            mean, deviation = (x.double() for x in self.statistics[str(op.module_name)])
            return self._normal(mean, deviation.abs())
        layer: Any = op.module
        given = self.known.get(op.inputs[0].name)
        if given is None or is_transposed(layer):
            return None
        groups = getattr(layer, "groups", 1)
        inputs = layer.weight.shape[1]
        weight = (
            layer.weight.detach().double().reshape(groups, -1, inputs, layer.weight[0, 0].numel())
        )
        if given.mean.numel() != groups * inputs:
            return None
        mean, variance = (
            x.reshape(groups, 1, inputs) for x in (given.mean, given.deviation.square())
        )
        result = (weight.sum(3) * mean).sum(2).flatten()
        if layer.bias is not None:
            result = result + layer.bias.detach().double()
        power = weight.square().sum(3)
        return self._normal(result, (power * variance).sum(2).flatten().sqrt(), _CORRELATION)

    def _of_function(
        self, given: ChannelStatistics, function: Callable[[Tensor], Tensor]
    ) -> ChannelStatistics:
        # Midpoints of equal shares of a normal variable.
        share = (torch.arange(257, dtype=torch.float64) + 0.5) / 257
        points = given.mean + given.deviation * torch.special.ndtri(share)[:, None]
        results = function(points.clamp(given.low, given.high))
        span = torch.linspace(0, 1, 257, dtype=torch.float64)[:, None]
        edge = function(given.low + (given.high - given.low) * span)
        deviation = results.std(0, correction=0)
        return ChannelStatistics(results.mean(0), deviation, edge.amin(0), edge.amax(0))

    def _of_pair(
        self, op_type: str, a: ChannelStatistics, b: ChannelStatistics
    ) -> ChannelStatistics | None:
        if 1 not in (a.mean.numel(), b.mean.numel()) and a.mean.numel() != b.mean.numel():
            return None
        if op_type == "Add":
            reach = self._normal(a.mean + b.mean, (a.deviation**2 + b.deviation**2).sqrt())
            reach.low = reach.low.maximum(a.low + b.low)
            reach.high = reach.high.minimum(a.high + b.high)
            return reach
        ends = torch.stack([x * y for x in (a.low, a.high) for y in (b.low, b.high)])
        second = (a.mean**2 + a.deviation**2) * (b.mean**2 + b.deviation**2)
        mean = a.mean * b.mean
        deviation = (second - mean**2).clamp(min=0).sqrt()
        return ChannelStatistics(mean, deviation, ends.amin(0), ends.amax(0))


def _limits_of(op: OpNode) -> tuple[Tensor | None, Tensor | None]:
    module: Any = op.module
    if isinstance(module, ChannelwiseClip):
        return module.min.flatten().double(), module.max.flatten().double()
    if isinstance(module, nn.Hardtanh):
        low, high = (torch.tensor(float(x)) for x in (module.min_val, module.max_val))
        return low.double(), high.double()
    zero = torch.zeros((), dtype=torch.float64)
    is_relu6 = op.op_type == "Clip" and "relu6" in str(getattr(op.function, "__name__", ""))
    return zero, zero + 6.0 if is_relu6 else None


def _clipped(
    given: ChannelStatistics, low: Tensor | None, high: Tensor | None
) -> ChannelStatistics:
    mean, deviation = clipped_normal_moments(given.mean, given.deviation, low, high)
    ends = [end.clamp(min=low, max=high) for end in (given.low, given.high)]
    return ChannelStatistics(mean, deviation, *ends)


def _repeated(given: ChannelStatistics, result: Value) -> ChannelStatistics | None:
    """(N, C, *positions) -> (N, C * positions)."""
    channels = given.mean.numel()
    if len(result.shape) != 2 or result.shape[1] % channels:
        return None
    count = result.shape[1] // channels
    fields = (given.mean, given.deviation, given.low, given.high)
    return ChannelStatistics(*(field.repeat_interleave(count) for field in fields))


def _joined(parts: list[ChannelStatistics]) -> ChannelStatistics:
    names = ("mean", "deviation", "low", "high")
    return ChannelStatistics(*(torch.cat([getattr(p, name) for p in parts]) for name in names))


def _is_along_channels(op: OpNode) -> bool:
    channels = [value.shape[1] if len(value.shape) > 1 else 0 for value in op.inputs]
    shape = op.outputs[0].shape
    return len(shape) > 1 and shape[1] == sum(channels)


def set_ranges_from_statistics(
    sim: QuantizationSimModel, known: Mapping[str, ChannelStatistics]
) -> list[str]:
    """Set the ranges of the activation quantizers of a simulation from statistics.

    Args:
        sim: The simulation.
        known: From :func:`propagate_statistics`.

    Returns:
        Names of the values whose quantizers got no range.
    """
    missing: list[str] = []
    for op in sim.graph.ops:
        module = op.module
        if not isinstance(module, QuantizationMixin):
            continue
        places = (
            (module.input_quantizers, module.inputs_per_call, op.inputs),
            (module.output_quantizers, module.outputs_per_call, op.outputs),
        )
        for quantizers, per_call, values in places:
            for position, value in enumerate(values):
                index = op.call_index * per_call + position
                quantizer: Any = quantizers[index] if index < len(quantizers) else None
                if quantizer is None or not quantizer.is_overwrite_allowed():
                    continue
                statistics = known.get(value.name)
                if statistics is None:
                    if not quantizer.is_initialized():
                        missing.append(value.name)
                        quantizer.calibration_issue = "nothing is known without data"
                    continue
                ends = (statistics.low.min(), statistics.high.max())
                grid = (quantizer.qmin, quantizer.qmax, quantizer.symmetric)
                limits = (end.to(quantizer.min) for end in ends)
                quantizer.set_range(*range_from_min_max(*limits, *grid))
    return missing
