"""AdaRound of a simulation: its weights rounded for the least error of each layer's output."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from aimet_torch.ptq.layer_rounding import LayerResult, round_layer
from aimet_torch.ptq.layerwise import LayerTask, LayerwiseReport
from aimet_torch.ptq.sim_weights import layers_of, solve_simulation
from aimet_torch.quantsim import QuantizationSimModel

__all__ = ["round_weights_of_sim"]


def round_weights_of_sim(
    sim: QuantizationSimModel,
    data_loader: Iterable[Any],
    num_batches: int | None = None,
    forward_fn: Callable[[nn.Module, Any], Any] | None = None,
    modules_to_exclude: Iterable[nn.Module | str] | None = None,
    *,
    cache_budget: int | None = None,
) -> LayerwiseReport:
    """Round the weights of a calibrated simulation for the least error of each layer's output.

    AdaRound's method "discrete" (:class:`~aimet_torch.ptq.adaround.Adaround`) on a simulation, with
    its grids and bit widths; scales are chosen along with the codes. Each layer is solved on the
    inputs that it gets when the weights before it are rounded; activations stay in floating point.

    Args:
        sim: Its weights move onto their grids, its biases take up the means; encodings of weights
            are frozen. Calibrate activations afterwards; that moves weights and steps together, by
            at most 1e-4 of themselves, so that no accumulator lies on a rounding boundary.
        data_loader: Unlabeled batches.
        num_batches: How many of them; None: all.
        forward_fn: ``forward_fn(model, batch)`` runs the model; None: a batch is an input, a
            mapping, or a tuple or list of inputs and labels.
        modules_to_exclude: Modules, or their names, that stay as they are.
        cache_budget: Bytes of activations in memory; None: a quarter of what is free.

    Returns:
        What became of each layer.

    Raises:
        TypeError, ValueError: Arguments that make no sense; the message says which and why.

    Source: Nagel et al. 2020 (arXiv 2004.10568); see ``docs/rounding.md``.
    """

    def solve(task: LayerTask) -> LayerResult:
        return round_layer(task.view, task.grid, task.sums)

    return solve_simulation(
        sim,
        data_loader,
        layers_of("round_weights_of_sim", sim, modules_to_exclude),
        solve,
        num_batches=num_batches,
        forward_fn=forward_fn,
        cache_budget=cache_budget,
        description="Rounding weights",
    )
