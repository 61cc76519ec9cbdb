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

from collections import Counter

import torch
from torch import Tensor, nn

from aimet_torch.graph import GRID_PRESERVING_OPS, ModelGraph, OpNode, Value
from aimet_torch.nn.base import BaseQuantizationMixin
from aimet_torch.nn.bias_grid import BiasGrid
from aimet_torch.quantization.affine import AffineQuantizerBase

# How far a weight's step may move, relative. At the end of an 8-bit range this is 0.013 of a step.
TOLERANCE = 1e-4
# Beyond, the distance from a boundary is of the size of float32's own error.
_LARGEST_DENOMINATOR = 20_001
_CHUNK = 512
_LAYERS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)
# Rounded by the output quantizer that follows as their input would be, but for its limits.
_PASSES_ACCUMULATOR = GRID_PRESERVING_OPS | {"Relu", "Clip"}
_INT32_MAX = 2**31 - 2**15  # of it, AIMET and others keep as much away from the limit


def attach_bias_grids(graph: ModelGraph) -> None:
    """Let convolutions and linear layers that are called once round their biases as targets do."""
    for op in _layers(graph):
        found = _input_quantizer(op)
        if found is not None:
            is_transposed = isinstance(
                op.module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
            )
            axis, groups = (1, op.module.groups) if is_transposed else (0, 1)
            op.module.bias_grid = BiasGrid(*found, channel_axis=axis, groups=groups)


@torch.no_grad()
def fit_weight_steps(graph: ModelGraph) -> None:
    """After calibration: let biases fit their accumulators, and these avoid rounding boundaries.

    Only steps of weights with a symmetric grid change, and only where calibration may set them.
    """
    shared = Counter(id(parameter) for op in _layers(graph) for parameter in [op.module.weight])
    for op in _layers(graph):
        grid, weight = op.module.bias_grid, op.module.param_quantizers["weight"]
        if grid is None or not _may_move(weight) or shared[id(op.module.weight)] > 1:
            continue
        accumulator = grid.scale(weight)
        if accumulator is None:
            continue
        factor = _factor_for_bias(op.module, accumulator)
        output = _output_quantizer(op)
        if isinstance(output, AffineQuantizerBase) and output.is_initialized() and not output.shape:
            multiplier = accumulator.double() * factor / output.get_scale().double()
            factor = factor * (tie_free(multiplier, TOLERANCE) / multiplier)
        factor = _for_weight(factor, weight, grid)
        weight.set_range(weight.get_min().double() * factor, weight.get_max().double() * factor)


def tie_free(multiplier: Tensor, tolerance: float) -> Tensor:
    """The nearest numbers of which no integer multiple is close to a half.

    Args:
        multiplier: float64, positive.
        tolerance: largest relative change.

    Returns:
        For each number the fraction p / q with the smallest odd q within the tolerance; the number
        itself where there is none with q up to 20,001.

    >>> tie_free(torch.tensor([0.3333, 0.5], dtype=torch.float64), 1e-3)
    tensor([0.3333, 0.4995], dtype=torch.float64)
    """
    flat = multiplier.reshape(-1)
    result = flat.clone()
    pending = torch.nonzero((flat > 0) & flat.isfinite()).reshape(-1)
    start = 1
    while start <= _LARGEST_DENOMINATOR and pending.numel():
        stop = min(start + 2 * _CHUNK, _LARGEST_DENOMINATOR + 2)
        denominators = torch.arange(start, stop, 2, dtype=torch.float64, device=flat.device)
        wanted = flat[pending].unsqueeze(1)
        fractions = torch.round(wanted * denominators) / denominators  # (pending, denominators)
        is_near = (fractions / wanted - 1).abs() <= tolerance
        is_found = is_near.any(1)
        first = is_near.to(torch.uint8).argmax(1, keepdim=True)
        result[pending[is_found]] = fractions.gather(1, first).squeeze(1)[is_found]
        pending = pending[~is_found]
        start = stop
    return result.reshape(multiplier.shape)


def _layers(graph: ModelGraph) -> list[OpNode]:
    """Calls of quantized layers with a weight quantizer, of modules that are called once."""
    calls = Counter(op.module_name for op in graph.ops)
    return [
        op
        for op in graph.ops
        if isinstance(op.module, _LAYERS)
        and isinstance(op.module, BaseQuantizationMixin)
        and calls[op.module_name] == 1
    ]


def _may_move(quantizer: nn.Module | None) -> bool:
    return (
        isinstance(quantizer, AffineQuantizerBase)
        and quantizer.symmetric
        and quantizer.block_size is None
        and quantizer.is_overwrite_allowed()
    )


def _factor_for_bias(module: nn.Module, accumulator: Tensor) -> Tensor:
    """By how much the accumulator's step must grow to hold the bias in 32 bits; 1 as a rule."""
    if module.bias is None:
        return torch.ones_like(accumulator, dtype=torch.float64)
    needed = module.bias.detach().double().abs() / _INT32_MAX / accumulator.double()
    if accumulator.dim() == 0:
        needed = needed.max()
    return needed.clamp(min=1.0)


def _for_weight(factor: Tensor, weight: AffineQuantizerBase, grid: BiasGrid) -> Tensor:
    """Factors of the accumulator's channels in the shape of the weight's scale."""
    if weight.get_scale().numel() == 1:
        return factor.reshape(weight.shape)
    # Groups of a transposed convolution share the weight's channels: the first group's factor
    # counts.
    return factor[: factor.numel() // grid.groups].reshape(weight.shape)


def _input_quantizer(op: OpNode) -> tuple[BaseQuantizationMixin, str, int] | None:
    """Where the quantizer of a layer's input is: module, name of the list, position."""
    value: Value = op.inputs[0]
    reader: OpNode = op
    while True:
        found = _quantizer_at(reader, "input_quantizers", reader.inputs.index(value))
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
        reader, value = producer, producer.inputs[0]


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
