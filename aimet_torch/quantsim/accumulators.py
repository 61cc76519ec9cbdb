"""Makes a simulation compute what an integer target computes, bit by bit where possible.

Two things part a simulation from its target, although both follow the same encodings: a target adds
biases in steps of its accumulator (`attach_bias_grids`), and two correct programs add the same
products in different orders, so that a sum that falls next to a rounding boundary is rounded up
here and down there. One such step in an early layer is all it takes: the difference grows from
layer to layer up to the size of the quantization noise itself. `fit_weight_steps` chooses the
weights' steps, within one part in ten thousand, such that no accumulator can fall next to a
boundary: with (input step * weight step / output step) = p / q and odd q, the results before
rounding are multiples of 1/q, and the closest to a half is 1/(2q) away, which is more than sums in
float32 differ.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch import ops
from aimet_torch.graph import GRID_PRESERVING_OPS, ModelGraph, OpNode, Value
from aimet_torch.nn.base import BaseQuantizationMixin
from aimet_torch.nn.bias_grid import BiasGrid, folded_batch_norm
from aimet_torch.ops.algorithms import tie_free_multiplier
from aimet_torch.quantization.affine import AffineQuantizerBase
from aimet_torch.quantization.affine.batch import set_ranges
from aimet_torch.quantization.base import plain_tensor
from aimet_torch.quantsim.fusion import is_foldable_batch_norm

# How far a weight's step may move, relative. At the end of an 8-bit range this is 0.013 of a step.
TOLERANCE = 1e-4
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED, nn.Linear)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_NORMALIZATIONS = (
    *(nn.LayerNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *_BATCH_NORMS,
)
# Rounded by the output quantizer that follows as their input would be, but for its limits.
_PASSES_ACCUMULATOR = GRID_PRESERVING_OPS | {"Relu", "Clip"}
_INT32_MAX = 2**31 - 2**15  # of it, AIMET and others keep as much away from the limit


def attach_bias_grids(graph: ModelGraph) -> None:
    """Let convolutions, linear layers and normalizations round their biases as targets do.

    Where a batch norm follows that a target folds into the layer, the batch norm's bias is the one;
    a batch norm that stays has an accumulator of its own.
    """
    for layer in _layers(graph):
        owner: Any = layer.module if layer.norm is None else layer.norm.module
        site = layer.op.call_index if layer.norm is None else layer.norm.call_index
        if owner.bias is not None:
            owner.bias_grids = {**(owner.bias_grids or {}), site: layer.grid}
    for op in graph.ops:
        module: Any = op.module
        is_quantized = isinstance(module, BaseQuantizationMixin)
        if not isinstance(module, _NORMALIZATIONS) or not is_quantized:
            continue
        found = input_quantizer(op)
        normalization: Any = module
        if isinstance(module, _BATCH_NORMS) and op.call_index in (normalization.bias_grids or {}):
            continue  # folded
        is_affine = normalization.weight is not None and normalization.bias is not None
        if found is None or not is_affine:
            continue
        if normalization.param_quantizers["weight"] is not None:
            grid = BiasGrid(normalization, *found, channel_axis=-1)
            normalization.bias_grids = {**(normalization.bias_grids or {}), op.call_index: grid}


@torch.no_grad()
def fit_weight_steps(graph: ModelGraph) -> None:
    """After calibration: let biases fit their accumulators, and these avoid rounding boundaries.

    Only steps of weights with a symmetric grid change, and only where calibration may set them. Of
    a weight that was rounded onto its grid the values move along: its codes stay. A weight that
    several calls read has one step for all of them: it lets every bias fit, but no step avoids the
    boundaries of several outputs.
    """
    calls_by_weight: dict[int, list[_Layer]] = {}
    for layer in _layers(graph):
        if _may_move(layer) and layer.grid.has_scale():
            calls_by_weight.setdefault(id(layer.module.weight), []).append(layer)
    alone = [layers[0] for layers in calls_by_weight.values() if len(layers) == 1]
    done = _fit_together([layer for layer in alone if _is_usual(layer)])
    for layers in calls_by_weight.values():
        if id(layers[0].module.weight) in done:
            continue
        is_shared = len(layers) > 1
        changes = [c for layer in layers if (c := _change(layer, is_shared)) is not None]
        if changes:
            change = functools.reduce(torch.maximum, changes)
            of_quantizers = {id(layer.weight_quantizer): layer for layer in layers}
            for layer in of_quantizers.values():
                quantizer = layer.weight_quantizer
                limits = (quantizer.get_min(), quantizer.get_max())
                quantizer.set_range(*((limit.double() * change).float() for limit in limits))
                _carry(layer, change)


def _is_usual(layer: _Layer) -> bool:
    """Whether `_fit_together` can do it: one scale for each output channel and nothing special."""
    weight, source = layer.weight_quantizer, layer.grid.input_quantizer
    return (
        layer.norm is None
        and layer.grid.groups == 1
        and weight._is_plain
        and source._is_plain
        and not weight.zero_point_shift
        and source.min.numel() == 1
        and len(weight.shape) == layer.module.weight.dim()
        and weight.min.numel() == layer.module.weight.shape[layer.grid.channel_axis] > 1
        and weight.min.dtype == source.min.dtype == torch.float32
        and weight.min.is_cpu
    )


def _fit_together(layers: list[_Layer]) -> set[int]:
    """`_change` and its application for many layers: all their channels in one row.

    Returns:
        The ``id`` of every weight whose step is settled.
    """
    groups: dict[Any, list[_Layer]] = {}
    for layer in layers:
        weight = layer.weight_quantizer
        groups.setdefault((weight.qmin, weight.qmax), []).append(layer)
    for (qmin, qmax), members in groups.items():
        quantizers = [layer.weight_quantizer for layer in members]
        counts = torch.tensor([quantizer.min.numel() for quantizer in quantizers])
        limits = (
            torch.cat([q.min.reshape(-1) for q in quantizers]),
            torch.cat([q.max.reshape(-1) for q in quantizers]),
        )
        scale, offset = ops.encoding_from_range(*limits, qmin, qmax, True)
        sources = [layer.grid.input_quantizer.get_scale().reshape(()) for layer in members]
        accumulator = (scale * torch.stack(sources).repeat_interleave(counts)).double()
        biases = [layer.module.bias for layer in members]
        bias = torch.cat(
            [
                torch.zeros(count) if bias is None else bias.detach()
                for bias, count in zip(biases, counts.tolist(), strict=True)
            ]
        )
        factor = _factor_for(bias, accumulator)
        steps = torch.tensor([_output_step(layer) for layer in members], dtype=torch.float64)
        multiplier = accumulator * factor / steps.repeat_interleave(counts)
        factor = factor * (tie_free_multiplier(multiplier, TOLERANCE) / multiplier).nan_to_num(1.0)
        set_ranges(
            quantizers,
            ((scale * (offset + qmin)).double() * factor).float(),
            ((scale * (offset + qmax)).double() * factor).float(),
        )
        for layer, own in zip(members, factor.split(counts.tolist()), strict=True):
            _carry(layer, own.view(layer.weight_quantizer.shape))
    return {id(layer.module.weight) for layer in layers}


def _output_step(layer: _Layer) -> float:
    """Step of the output's grid; NaN, which fits every multiplier, where there is not one."""
    output = _output_quantizer(layer.op)
    step = output.get_scale() if isinstance(output, AffineQuantizerBase) else None
    return step.item() if step is not None and step.numel() == 1 else math.nan


def _change(layer: _Layer, is_shared: bool) -> Tensor | None:
    """The factor on a weight's step, in its shape; None where it cannot follow the channels."""
    step = layer.grid.scale()
    assert step is not None  # fit_weight_steps has asked
    accumulator = step.double()
    factor = _factor_for_bias(layer, accumulator)
    output = _output_quantizer(layer.norm or layer.op)
    output_step = output.get_scale() if isinstance(output, AffineQuantizerBase) else None
    if not is_shared and output_step is not None and output_step.numel() == 1:
        multiplier = accumulator * factor / output_step.double()
        free = tie_free_multiplier(multiplier, TOLERANCE) / multiplier
        factor = factor * free.nan_to_num(1.0)
    return _for_weight(factor, layer.weight_quantizer, layer.grid)


@dataclass(frozen=True)
class _Layer:
    """One call of a layer, and the call of the batch norm that a target folds into it."""

    op: OpNode
    norm: OpNode | None
    grid: BiasGrid

    @property
    def module(self) -> Any:
        """The quantized convolution or linear layer."""
        return self.op.module

    @property
    def weight_quantizer(self) -> Any:
        """The quantizer of its weight, or None."""
        return self.module.param_quantizers["weight"]


def _layers(graph: ModelGraph) -> Iterator[_Layer]:
    for op in graph.ops:
        module: Any = op.module
        is_layer = isinstance(module, _LAYERS) and isinstance(module, BaseQuantizationMixin)
        if not is_layer:
            continue
        found = input_quantizer(op)
        if found is None:
            continue
        is_transposed = isinstance(module, _TRANSPOSED)
        norm = _folded_norm(op)
        grid = BiasGrid(
            module,
            *found,
            channel_axis=1 if is_transposed else 0,
            groups=module.groups if is_transposed else 1,
            norm=None if norm is None else norm.module,
        )
        if norm is None or grid.groups == 1:
            yield _Layer(op, norm, grid)


def _folded_norm(op: OpNode) -> OpNode | None:
    """The batch norm behind a layer, unless something is rounded between them or in it."""
    following = op.next_op()
    if following is None or not is_foldable_batch_norm(following):
        return None
    norm: Any = following.module
    is_plain = not isinstance(norm, BaseQuantizationMixin) or all(
        quantizer is None for quantizer in norm.param_quantizers.values()
    )
    is_rounded = _quantizer_at(op, "output_quantizers", 0) is not None
    return following if is_plain and not is_rounded and norm.running_mean is not None else None


def _may_move(layer: _Layer) -> bool:
    quantizer = layer.weight_quantizer
    return (
        isinstance(quantizer, AffineQuantizerBase)
        and quantizer.symmetric
        and quantizer.block_size is None
        and (quantizer.is_overwrite_allowed() or _is_rounded(layer))
    )


def _is_rounded(layer: _Layer) -> bool:
    """Whether the weight was rounded onto its grid and nothing has changed it since."""
    quantizer, weight = layer.weight_quantizer, layer.module.weight
    if not quantizer.holds_rounded_weight or quantizer.is_overwrite_allowed():
        return False
    distance = (plain_tensor(quantizer(weight)) - weight).abs() / quantizer.get_scale()
    return float(distance.max()) < 1e-3


def _carry(layer: _Layer, change: Tensor) -> None:
    """Let a rounded weight follow its step; to the last bit it is on the new grid."""
    quantizer, weight = layer.weight_quantizer, layer.module.weight
    if quantizer.holds_rounded_weight and not quantizer.is_overwrite_allowed():
        weight.copy_(plain_tensor(quantizer((weight.double() * change).to(weight.dtype))))


def _factor_for_bias(layer: _Layer, accumulator: Tensor) -> Tensor:
    """By how much the accumulator's step must grow to hold the bias in 32 bits; 1 as a rule."""
    bias = layer.module.bias
    if layer.norm is not None:
        bias = folded_batch_norm(layer.norm.module, bias)[1]
    if bias is None:
        return torch.ones_like(accumulator)
    return _factor_for(bias.detach(), accumulator)


def _factor_for(bias: Tensor, accumulator: Tensor) -> Tensor:
    needed = bias.double().abs() / _INT32_MAX / accumulator
    if accumulator.dim() == 0:
        needed = needed.max()
    return needed.nan_to_num(1.0, posinf=1.0).clamp(min=1.0)


def _for_weight(factor: Tensor, weight: AffineQuantizerBase, grid: BiasGrid) -> Tensor | None:
    """Factors of the accumulator's channels in the shape of the weight's scale.

    None where several accumulators share a step and cannot all have their wish.
    """
    if math.prod(weight.shape) == factor.numel():
        return factor.reshape(weight.shape)
    if factor.numel() != grid.groups * math.prod(weight.shape):
        return None
    # Groups of a transposed convolution share the weight's channels: the first group decides.
    return factor[: math.prod(weight.shape)].reshape(weight.shape)


def input_quantizer(op: OpNode, position: int = 0) -> tuple[BaseQuantizationMixin, str, int] | None:
    """Where the quantizer of an operator's input is: module, name of the list, position.

    Operators that only move numbers are looked through. None for an input in floating point.
    """
    value: Value = op.inputs[position]
    reader: OpNode = op
    while True:
        found = _quantizer_at(reader, "input_quantizers", position)
        if found is not None:
            return found
        producer = value.producer
        if producer is None:
            return None
        found = _quantizer_at(producer, "output_quantizers", producer.outputs.index(value))
        if found is not None:
            return found
        if producer.op_type not in GRID_PRESERVING_OPS or not producer.inputs:
            return None
        reader, value, position = producer, producer.inputs[0], 0


def _quantizer_at(
    op: OpNode, kind: str, position: int
) -> tuple[BaseQuantizationMixin, str, int] | None:
    module = op.module
    if not isinstance(module, BaseQuantizationMixin):
        return None
    per_call = module.inputs_per_call if kind == "input_quantizers" else module.outputs_per_call
    index = op.call_index * per_call + position
    quantizers = getattr(module, kind)
    return (
        (module, kind, index) if index < len(quantizers) and quantizers[index] is not None else None
    )


def _output_quantizer(op: OpNode) -> nn.Module | None:
    """The quantizer that rounds a layer's accumulator."""
    while True:
        found = _quantizer_at(op, "output_quantizers", 0)
        if found is not None:
            module, kind, index = found
            return getattr(module, kind)[index]
        following = op.next_op()
        if following is None or following.op_type not in _PASSES_ACCUMULATOR:
            return None
        op = following
