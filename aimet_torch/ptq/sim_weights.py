"""Techniques that work on a simulation: its weights solved layer by layer, encodings frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from aimet_torch.common.collectives import Ranks
from aimet_torch.graph import bind_inputs
from aimet_torch.ptq.checkpoint import Checkpoint
from aimet_torch.ptq.layer_rounding import LayerResult
from aimet_torch.ptq.layers import LAYER_TYPES
from aimet_torch.ptq.layerwise import Call, LayerTask, LayerwiseReport, quantize_layers
from aimet_torch.ptq.replay import record_inputs
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.quantsim.accumulators import fit_weight_steps

__all__ = ["layers_of", "solve_simulation", "take_results"]


def layers_of(
    function: str, sim: QuantizationSimModel, exclude: Iterable[nn.Module | str] | None
) -> dict[str, Any]:
    """Weight quantizer by name, for all layers of a simulation but those to leave out.

    Raises:
        TypeError: ``sim`` is no simulation.
        ValueError: ``exclude`` names a module that is not there.
    """
    if not isinstance(sim, QuantizationSimModel):
        raise TypeError(
            f"{function}: `sim` must be a QuantizationSimModel, got {type(sim).__name__}"
        )
    modules = dict(sim.model.named_modules())
    known = {module: name for name, module in modules.items()}
    left_out = set()
    for item in exclude or ():
        name = item if isinstance(item, str) else known.get(item, sim._names_in_original.get(item))
        if name not in modules:
            raise ValueError(
                f"{function}: `modules_to_exclude` has "
                f"{item if isinstance(item, str) else type(item).__name__}, which is neither in "
                "sim.model nor in the original model"
            )
        left_out.add(name)
    return {
        name: module.param_quantizers["weight"]
        for name, module in sim.named_qmodules()
        if isinstance(module, LAYER_TYPES)
        and module.param_quantizers["weight"] is not None
        and not any(name == x or name.startswith(f"{x}.") for x in left_out)
    }


def solve_simulation(
    sim: QuantizationSimModel,
    data_loader: Iterable[Any],
    quantizers: dict[str, Any],
    solve: Callable[[LayerTask], LayerResult],
    *,
    num_batches: int | None,
    forward_fn: Callable[[nn.Module, Any], Any] | None,
    cache_budget: int | None,
    description: str,
    checkpoint: Callable[[nn.Module, list[Call]], Checkpoint] | None = None,
    keeps_weights: bool = False,
    on_original_inputs: bool = False,
    process_group: Any = None,
) -> LayerwiseReport:
    """Solve the layers of ``quantizers`` in ``sim`` and freeze their encodings.

    Args:
        sim: Its weights and biases are set, unless ``keeps_weights``.
        data_loader: Batches.
        quantizers: From :func:`layers_of`.
        solve: Solves one layer.
        num_batches: How many batches; None: all.
        forward_fn: As for :func:`aimet_torch.ptq.replay.record_inputs`.
        cache_budget: Bytes of activations in memory.
        description: Of the progress bar.
        checkpoint: Makes one from the original model and its calls.
        keeps_weights: Only ranges are wanted.
        on_original_inputs: Collect moments on the inputs that layers have in the original network.
        process_group: Whose ranks share the data and the work; None: this process alone.
    """
    original = QuantizationSimModel.get_original_model(sim.model)
    count = len(bind_inputs(sim.model, sim.dummy_input)[0])
    with Ranks(process_group, description) as ranks:
        calls = record_inputs(original, data_loader, forward_fn, num_batches, count, ranks)
        for name, quantizer in quantizers.items():
            module: Any = sim.model.get_submodule(name)
            if not quantizer.is_initialized():
                module.compute_param_encodings()
        report = quantize_layers(
            original,
            sim.dummy_input,
            calls,
            quantizers,
            solve,
            cache_budget=cache_budget,
            checkpoint=None if checkpoint is None else checkpoint(original, calls),
            description=description,
            on_original_inputs=on_original_inputs,
            weighs_positions=not keeps_weights,
            ranks=ranks,
        )
    take_results(sim, quantizers, report, keeps_weights)
    return report


def take_results(
    sim: QuantizationSimModel,
    quantizers: dict[str, Any],
    report: LayerwiseReport,
    keeps_weights: bool,
) -> None:
    """Set weights and biases of a simulation, unless ``keeps_weights``; freeze their encodings."""
    with torch.no_grad():
        for name, result in report.results.items():
            layer: Any = sim.model.get_submodule(name)
            if not keeps_weights:
                layer.weight.copy_(report.weights[name])
                if result.bias is not None:
                    layer.bias.copy_(result.bias)
            quantizers[name].allow_overwrite(False)
            quantizers[name].requires_grad_(False)
            quantizers[name].holds_rounded_weight = not keeps_weights
    fit_weight_steps(sim.graph)
