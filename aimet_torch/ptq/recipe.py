"""The whole of post-training quantization in one call: what works best without labels.

Every step is a technique of its own that can be called by itself; what each of them gains is
measured in docs/ptq.md.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from aimet_torch.common.defs import QuantScheme
from aimet_torch.ptq.activation_equalization import equalize_activations
from aimet_torch.ptq.batch_norm_folding import fold_all_batch_norms
from aimet_torch.ptq.cross_layer_equalization import equalize_model
from aimet_torch.ptq.logit_ranges import set_logit_ranges
from aimet_torch.ptq.norm_ranges import set_ranges_before_norms
from aimet_torch.ptq.range_tuning import RangeLoss, tune_activation_ranges
from aimet_torch.ptq.replay import count_inputs, record_inputs
from aimet_torch.ptq.sim_rounding import round_weights_of_sim
from aimet_torch.quantsim import QuantizationSimModel

__all__ = ["quantize_without_labels"]


def quantize_without_labels(
    model: nn.Module,
    dummy_input: Any,
    data_loader: Iterable[Any],
    *,
    default_param_bw: int = 8,
    default_output_bw: int = 8,
    quant_scheme: QuantScheme | str = QuantScheme.post_training_mse,
    config_file: str | Path | None = None,
    equalizes_layers: bool = False,
    alpha: float | None = 0.5,
    rounds_weights: bool = True,
    logit_ranges: Literal["scheme", "cross_entropy"] = "scheme",
    range_iterations: int = 0,
    range_learning_rate: float = 2e-3,
    range_loss: RangeLoss = "squared_error",
    configure: Callable[[QuantizationSimModel], None] | None = None,
    num_batches: int | None = None,
) -> QuantizationSimModel:
    """Quantize a network with the techniques that together lose least, without labels.

    Folds batch norms, equalizes layers if asked to, equalizes activations, calibrates, rounds the
    weights of each layer so that it makes up for what the rounded weights before it have changed,
    calibrates again, sets the ranges in front of LayerNorms by what these make of them, and learns
    the ranges of all activations if asked to.

    Args:
        model: Trained FP32 model; left as it is.
        dummy_input: Example input, as for :class:`~aimet_torch.quantsim.QuantizationSimModel`.
        data_loader: Batches of inputs, or of inputs followed by labels, which are not read; 64 to
            1,000 samples. They are kept in memory until the end.
        default_param_bw: Bits of parameters.
        default_output_bw: Bits of activations.
        quant_scheme: How the ranges of activations are found: "mse" for convolutional networks,
            "min_max" for transformers.
        config_file: Placement rules, as for the simulation.
        equalizes_layers: Equalize weights across layers
            (:func:`~aimet_torch.ptq.cross_layer_equalization.equalize_model`): for one scale per
            tensor of weights.
        alpha: As for :func:`~aimet_torch.ptq.activation_equalization.equalize_activations`; None:
            activations are not equalized.
        rounds_weights: Round weights layer by layer
            (:func:`~aimet_torch.ptq.sim_rounding.round_weights_of_sim`); False: to the nearest
            integer.
        logit_ranges: Ranges of the model's outputs: "scheme": as those of other activations;
            "cross_entropy": for a classifier,
            :func:`~aimet_torch.ptq.logit_ranges.set_logit_ranges`.
        range_iterations: Steps that learn the ranges of all activations at the end
            (:func:`~aimet_torch.ptq.range_tuning.tune_activation_ranges`); 0: they stay. A step
            costs about as much as one of training; 64 to 128 are usual.
        range_learning_rate: Of these steps, as a share of each range.
        range_loss: What these steps lower; "cross_entropy" for a classifier.
        configure: Called with the simulation before it is calibrated, for bits of your own.
        num_batches: How many batches are used; None: all.

    Returns:
        The calibrated simulation. The ranges of rounded weights are frozen.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: There is no batch, or an option is none of the known ones.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"quantize_without_labels: `model` must be an nn.Module, got {type(model).__name__}"
        )
    if logit_ranges not in ("scheme", "cross_entropy"):
        raise ValueError(
            "quantize_without_labels: `logit_ranges` must be 'scheme' or 'cross_entropy', got "
            f"{logit_ranges!r}"
        )
    prepared = copy.deepcopy(model).eval()
    inputs = count_inputs(prepared, dummy_input)
    batches = _Batches(record_inputs(prepared, data_loader, None, num_batches, inputs))
    if equalizes_layers:
        equalize_model(prepared, dummy_input=dummy_input)
    else:
        fold_all_batch_norms(prepared, None, dummy_input)
    if alpha is not None:
        equalize_activations(
            prepared, dummy_input, batches, alpha=alpha, forward_fn=_Batches.forward
        )
    sim = QuantizationSimModel(
        prepared,
        dummy_input,
        quant_scheme,
        default_output_bw=default_output_bw,
        default_param_bw=default_param_bw,
        config_file=config_file,
        in_place=True,
    )
    if configure is not None:
        configure(sim)
    sim.compute_encodings(batches.run)
    if rounds_weights:
        round_weights_of_sim(sim, batches, forward_fn=_Batches.forward)
        sim.compute_encodings(batches.run)
    set_ranges_before_norms(sim, batches, forward_fn=_Batches.forward)
    if logit_ranges == "cross_entropy":
        set_logit_ranges(sim, batches, forward_fn=_Batches.forward)
    if range_iterations:
        tune_activation_ranges(
            sim,
            model,
            batches,
            num_iterations=range_iterations,
            learning_rate=range_learning_rate,
            loss=range_loss,
            forward_fn=_Batches.forward,
        )
    return sim


class _Batches(list[tuple[tuple[Any, ...], dict[str, Any]]]):
    """Calls of a model; each technique runs through all of them."""

    @staticmethod
    def forward(model: nn.Module, call: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
        """Run a model on one of them."""
        args, kwargs = call
        return model(*args, **kwargs)

    def run(self, model: nn.Module) -> None:
        """Run a model on all of them."""
        with torch.no_grad():
            for call in self:
                self.forward(model, call)
