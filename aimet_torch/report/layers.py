"""Rows of the report about single quantizers and single layers of a simulation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from aimet_torch.quantization.affine import AffineQuantizerBase
from aimet_torch.quantization.base import QuantizerBase
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.report.metrics import sqnr_db

__all__ = ["LayerRow", "QuantizerRow", "describe_quantizers", "layer_sqnr"]


@dataclass(frozen=True)
class QuantizerRow:
    """One quantizer of a simulation.

    Attributes:
        layer: dotted name of the module that owns the quantizer.
        layer_type: class of that module, without the prefix ``Quantized``.
        tensor: ``weight``, ``input 0``, ``output 0``, ...
        bitwidth: bits of one number.
        grid: ``int8 symmetric``, ``uint8``, ``float16``, ...
        granularity: ``per tensor``, ``64 channels``, ``512 blocks``.
        min: smallest real number that the grid can represent; None while there is no range, and
            for floating-point formats.
        max: largest one.
        min_scale: smallest scale among channels or blocks.
        max_scale: largest scale.
    """

    layer: str
    layer_type: str
    tensor: str
    bitwidth: int
    grid: str
    granularity: str
    min: float | None = None
    max: float | None = None
    min_scale: float | None = None
    max_scale: float | None = None


@dataclass(frozen=True)
class LayerRow:
    """How well one call of a layer agrees with the same call in FP32.

    Attributes:
        name: dotted name of the module, with ``#1``, ``#2``, ... for its second and later calls.
        layer_type: class of the module, without the prefix ``Quantized``.
        sqnr_db: signal-to-quantization-noise ratio of its output in dB, with all quantizers before
            it at work.
    """

    name: str
    layer_type: str
    sqnr_db: float


def describe_quantizers(sim: QuantizationSimModel) -> list[QuantizerRow]:
    """Return one row for each quantizer; one that several layers share comes once."""
    return [_describe(sim.model, name, quantizer) for name, quantizer in sim.named_quantizers()]


def layer_sqnr(sim: QuantizationSimModel, *inputs: Any) -> list[LayerRow]:
    """Run a simulation with and without its quantizers and compare the outputs of its layers.

    Args:
        sim: calibrated simulation; left as it is.
        *inputs: arguments of one call of the model. The outputs of all layers are kept in memory,
            so a small batch is best.

    Returns:
        One row for each call of a quantized module with a floating-point tensor as its output, in
        the order of execution.
    """
    names = [name for name, _ in sim.named_qmodules()]
    actual = _layer_outputs(sim.model, names, inputs)
    reference = _layer_outputs(sim.get_original_model(sim.model), names, inputs)
    return [
        LayerRow(
            call, _layer_type(sim.model, call.partition("#")[0]), sqnr_db(reference[call], output)
        )
        for call, output in actual.items()
    ]


def _layer_outputs(
    model: nn.Module, names: Iterable[str], inputs: tuple[Any, ...]
) -> dict[str, Tensor]:
    outputs: dict[str, Tensor] = {}
    calls: Counter[str] = Counter()

    def record(name: str, _module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and output.numel():
            # Copied: a later operation in place would change what was recorded.
            outputs[f"{name}#{calls[name]}" if calls[name] else name] = output.detach().clone()
        calls[name] += 1

    handles = [
        model.get_submodule(name).register_forward_hook(partial(record, name)) for name in names
    ]
    was_training = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()(*inputs)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in was_training.items():
            module.training = mode
    return outputs


def _layer_type(model: nn.Module, name: str) -> str:
    return type(model.get_submodule(name)).__name__.removeprefix("Quantized")


def _describe(model: nn.Module, name: str, quantizer: QuantizerBase) -> QuantizerRow:
    layer, kind, key = name.rsplit(".", 2)
    tensor = key if kind == "param_quantizers" else f"{kind.removesuffix('_quantizers')} {key}"
    bitwidth = cast("int", quantizer.bitwidth)  # of every quantizer; nn.Module hides its type
    row = (layer, _layer_type(model, layer), tensor, bitwidth)
    if not isinstance(quantizer, AffineQuantizerBase):
        return QuantizerRow(*row, f"float{bitwidth}", "per tensor")
    grid = f"{'int' if quantizer.signed else 'uint'}{quantizer.bitwidth}"
    grid += " symmetric" if quantizer.symmetric else ""
    count = torch.Size(quantizer.shape).numel()
    unit = "channels" if quantizer.block_size is None else "blocks"
    granularity = "per tensor" if count == 1 else f"{count} {unit}"
    minimum, maximum, scale = quantizer.get_min(), quantizer.get_max(), quantizer.get_scale()
    if minimum is None or maximum is None or scale is None:
        return QuantizerRow(*row, grid, granularity)
    return QuantizerRow(
        *row,
        grid,
        granularity,
        min=minimum.min().item(),
        max=maximum.max().item(),
        min_scale=scale.min().item(),
        max_scale=scale.max().item(),
    )
