"""GPTQ: rounding with error feedback, for convolutions and linear layers.

Source: Frantar et al. 2023 (arXiv 2210.17323). See ``docs/rounding.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from aimet_torch.ptq.layer_rounding import LayerResult, round_layer
from aimet_torch.ptq.layerwise import LayerTask, LayerwiseReport
from aimet_torch.ptq.sim_weights import layers_of, solve_simulation
from aimet_torch.quantsim import QuantizationSimModel

__all__ = ["apply_gptq"]


def apply_gptq(
    sim: QuantizationSimModel,
    data_loader: Iterable[Any],
    num_batches: int | None = None,
    forward_fn: Callable[[nn.Module, Any], Any] | None = None,
    modules_to_exclude: Iterable[nn.Module | str] | None = None,
    *,
    damping: float = 0.01,
    search_scales: bool = False,
    cache_budget: int | None = None,
    process_group: Any = None,
) -> LayerwiseReport:
    """Round the weights of a simulation with error feedback; freeze their encodings.

    A later calibration moves weights and steps together by at most 1e-4 of themselves, so that no
    accumulator lies on a rounding boundary.

    Args:
        sim: Its weights move onto their grids, its biases take up the means.
        data_loader: Unlabeled batches.
        num_batches: How many of them; None: all.
        forward_fn: ``forward_fn(model, batch)`` runs the model; None: a batch is an input, a
            mapping, or a tuple or list of inputs and labels.
        modules_to_exclude: Modules, or their names, that stay as they are.
        damping: Added to the diagonal of the Gram matrix, as a share of its mean.
        search_scales: Choose scales for the least weighted error; False: those of the simulation.
        cache_budget: Bytes of activations in memory; None: a quarter of what is free.
        process_group: A ``torch.distributed.ProcessGroup`` whose ranks all call this, each with its
            part of the data, and share the work; all get the same result. None: this process alone.

    Returns:
        What became of each layer.

    Raises:
        TypeError, ValueError: Arguments that make no sense; the message says which and why.
    """

    def solve(task: LayerTask) -> LayerResult:
        return round_layer(
            task.view,
            task.grid,
            task.sums,
            damping=damping,
            search_scales=search_scales,
            moves=False,
        )

    return solve_simulation(
        sim,
        data_loader,
        layers_of("apply_gptq", sim, modules_to_exclude),
        solve,
        num_batches=num_batches,
        forward_fn=forward_fn,
        cache_budget=cache_budget,
        process_group=process_group,
        description="GPTQ",
    )
