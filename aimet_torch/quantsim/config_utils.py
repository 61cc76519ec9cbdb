"""Changing the number format of chosen layers: blocks, two-level blocks, floating point."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn

from aimet_torch.quantization.affine import GroupedBlockQuantizeDequantize, QuantizeDequantize
from aimet_torch.quantization.encoding_analyzer import EncodingAnalyzer
from aimet_torch.quantization.float import FloatQuantizeDequantize
from aimet_torch.quantsim.realize import analyzer_class
from aimet_torch.quantsim.sim import QuantizationSimModel

# What chooses layers: module classes, modules of sim.model, or a predicate on modules.
LayerChoice = Sequence[type[nn.Module] | nn.Module] | Callable[[nn.Module], bool]

# Axes of (output channels, input channels) in the weight of each class of layer.
_WEIGHT_AXES: tuple[tuple[tuple[type[nn.Module], ...], tuple[int, int]], ...] = (
    ((nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d), (0, 1)),
    ((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), (1, 0)),
)


def set_blockwise_quantization_for_weights(
    sim: QuantizationSimModel,
    arg: LayerChoice,
    bitwidth: int,
    symmetric: bool,
    block_size: int | Sequence[int],
) -> None:
    """Give the weights of the chosen layers one scale for each block of input channels.

    Args:
        sim: the simulation.
        arg: classes of layers, modules of `sim.model`, or a predicate on modules.
        bitwidth: bits of the weights.
        symmetric: symmetric grid.
        block_size: number of input channels that share a scale (each output channel has scales of
            its own); or one size for each axis of the weight, -1 for a whole axis.

    Raises:
        ValueError: a block size that does not divide its axis, or no layer chosen.
        TypeError: `arg` is neither a list nor a predicate.
    """
    for name, module in _chosen(sim, arg, "set_blockwise_quantization_for_weights"):
        shape, blocks = _blocks(name, module, block_size)
        module.param_quantizers["weight"] = QuantizeDequantize(
            shape,
            bitwidth,
            symmetric,
            encoding_analyzer=_analyzer(sim, shape, blocks),
            block_size=blocks,
        )


def set_grouped_blockwise_quantization_for_weights(
    sim: QuantizationSimModel,
    arg: LayerChoice,
    bitwidth: int,
    symmetric: bool,
    decompressed_bw: int,
    block_size: int | Sequence[int],
    block_grouping: int | Sequence[int] = -1,
) -> None:
    """Give the weights of the chosen layers two-level block scales (LPBQ).

    The scale of a block is an integer times the scale of its group, so that a target can expand the
    weights to `decompressed_bw` bits with one scale a channel.

    Args:
        sim: the simulation.
        arg: classes of layers, modules of `sim.model`, or a predicate on modules.
        bitwidth: bits of the weights.
        symmetric: must be True.
        block_size: as in `set_blockwise_quantization_for_weights`.
        decompressed_bw: bits of the expanded weights.
        block_grouping: number of blocks that share a floating-point scale on the axis of input
            channels; -1 for all.

    Raises:
        ValueError, TypeError: as `set_blockwise_quantization_for_weights`; also for an asymmetric
            grid.
    """
    for name, module in _chosen(sim, arg, "set_grouped_blockwise_quantization_for_weights"):
        shape, blocks = _blocks(name, module, block_size)
        _, input_axis = _axes(module)
        if isinstance(block_grouping, int):
            grouping = tuple(
                block_grouping if axis == input_axis else 1 for axis in range(len(shape))
            )
        else:
            grouping = tuple(block_grouping)
        module.param_quantizers["weight"] = GroupedBlockQuantizeDequantize(
            shape,
            bitwidth,
            symmetric,
            decompressed_bw,
            encoding_analyzer=_analyzer(sim, shape, blocks),
            block_size=blocks,
            block_grouping=grouping,
        )


def set_activation_quantizers_to_float(
    sim: QuantizationSimModel,
    arg: LayerChoice,
    exponent_bits: int | None = None,
    mantissa_bits: int | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Put floating-point quantizers in place of the activation quantizers of the chosen layers.

    Args:
        sim: the simulation.
        arg: classes of layers, modules of `sim.model`, or a predicate on modules.
        exponent_bits: of the format, with `mantissa_bits`.
        mantissa_bits: of the format, with `exponent_bits`.
        dtype: torch.float16 or torch.bfloat16, instead of the two.

    Raises:
        ValueError: no layer chosen, or a format that does not exist.
        TypeError: `arg` is neither a list nor a predicate.
    """
    for _, module in _chosen(sim, arg, "set_activation_quantizers_to_float", with_weight=False):
        for quantizers in (module.input_quantizers, module.output_quantizers):
            for index, quantizer in enumerate(quantizers):
                if quantizer is not None:
                    quantizers[index] = FloatQuantizeDequantize(
                        exponent_bits=exponent_bits, mantissa_bits=mantissa_bits, dtype=dtype
                    )


def _chosen(
    sim: QuantizationSimModel, arg: LayerChoice, caller: str, *, with_weight: bool = True
) -> list[tuple[str, Any]]:
    is_chosen = _predicate(arg, caller)
    layers: list[tuple[str, Any]] = [
        (name, module) for name, module in sim.named_qmodules() if is_chosen(cast(Any, module))
    ]
    if with_weight:
        layers = [(n, m) for n, m in layers if dict(m.param_quantizers).get("weight") is not None]
    if not layers:
        kind = "layer with a quantized weight" if with_weight else "quantized layer"
        raise ValueError(f"{caller}: `arg` chooses no {kind} of the simulation")
    return layers


def _predicate(arg: LayerChoice, caller: str) -> Callable[[nn.Module], bool]:
    if isinstance(arg, Sequence):
        classes = tuple(item for item in arg if isinstance(item, type))
        modules = {id(item) for item in arg if isinstance(item, nn.Module)}
        if len(classes) + len(modules) == len(arg):
            return lambda module: isinstance(module, classes) or id(module) in modules
    elif callable(arg):
        return arg
    raise TypeError(
        f"{caller}: `arg` must be a list of module classes and modules, or a predicate, got "
        f"{type(arg).__name__}"
    )


def _axes(module: nn.Module) -> tuple[int, int]:
    for classes, axes in _WEIGHT_AXES:
        if isinstance(module, classes):
            return axes
    raise ValueError(
        f"blockwise quantization: `arg` chooses a {type(module).__name__}; only linear, "
        "convolution and "
        "transposed-convolution layers have input channels to divide into blocks"
    )


def _blocks(
    name: str, module: Any, block_size: int | Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape of the scale and size of a block for each axis of the weight."""
    weight: torch.Tensor = module.weight
    if isinstance(block_size, int):
        output_axis, input_axis = _axes(module)
        sizes = [-1] * weight.dim()
        sizes[output_axis], sizes[input_axis] = 1, block_size
    else:
        sizes = list(block_size)
    if len(sizes) != weight.dim() or any(
        size != -1 and (size < 1 or length % size)
        for size, length in zip(sizes, weight.shape, strict=False)
    ):
        raise ValueError(
            f"blockwise quantization: `block_size` {block_size} must divide the weight of "
            f"`{name}`, of shape "
            f"{list(weight.shape)}, axis by axis"
        )
    shape = tuple(
        1 if size == -1 else length // size
        for size, length in zip(sizes, weight.shape, strict=True)
    )
    return shape, tuple(sizes)


def _analyzer(
    sim: QuantizationSimModel, shape: tuple[int, ...], blocks: tuple[int, ...]
) -> EncodingAnalyzer:
    kwargs: dict[str, Any] = {"block_size": blocks}
    return analyzer_class(sim.settings.scheme)(shape, **kwargs)
