"""Data-free quantization: a good simulation of a network from its weights alone.

Source: Nagel et al. 2019, Data-Free Quantization Through Weight Equalization and Bias Correction
(arXiv 1906.04721).
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aimet_torch.common.defs import QuantScheme
from aimet_torch.graph import trace
from aimet_torch.ops.algorithms import correct_bias_analytically
from aimet_torch.ptq.activation_equalization import equalize_by_ranges
from aimet_torch.ptq.activation_statistics import (
    ChannelStatistics,
    propagate_statistics,
    set_ranges_from_statistics,
)
from aimet_torch.ptq.cross_layer_equalization import (
    AbsorptionMode,
    ClippingTreatment,
    equalize_model,
)
from aimet_torch.ptq.layers import LAYER_TYPES, is_transposed
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.quantsim.accumulators import fit_weight_steps

__all__ = ["data_free_quantization"]


def data_free_quantization(
    model: nn.Module,
    dummy_input: Any,
    *,
    default_param_bw: int = 8,
    default_output_bw: int = 8,
    quant_scheme: QuantScheme | str = QuantScheme.min_max,
    config_file: str | Path | dict[str, Any] | None = None,
    input_range: tuple[float, float] = (-3.0, 3.0),
    deviations: float = 6.0,
    relu6: ClippingTreatment = "scale",
    high_bias: AbsorptionMode = "exact",
    alpha: float | None = 0.5,
    corrects_biases: bool = True,
) -> QuantizationSimModel:
    """Quantize a network without any data: fold, equalize, absorb, set ranges, correct biases.

    Args:
        model: Trained FP32 model with batch normalizations; left as it is.
        dummy_input: Example input; only its structure, shapes and dtypes matter.
        default_param_bw: Bits of parameters.
        default_output_bw: Bits of activations.
        quant_scheme: How the ranges of weights are found.
        config_file: Placement rules, as for `QuantizationSimModel`.
        input_range: Where the values of the model's inputs lie; the default is that of images
            normalized to mean 0 and deviation 1.
        deviations: Deviations of a batch normalization that the range of an activation covers.
        relu6: As for :func:`~aimet_torch.ptq.cross_layer_equalization.equalize_model`.
        high_bias: Likewise.
        alpha: How much of the spread of an activation's channels moves into the layers that read
            it, as for :func:`~aimet_torch.ptq.activation_equalization.equalize_activations`;
            None: activations keep it.
        corrects_biases: Take the mean errors of rounded weights out of the biases.

    Returns:
        The calibrated simulation. Quantizers whose range cannot be known without data pass their
        input through; a warning names them.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: An option is none of the known ones.
    """
    prepared = copy.deepcopy(model)
    report = equalize_model(prepared, dummy_input=dummy_input, relu6=relu6, high_bias=high_bias)
    statistics = dict(report.statistics)
    limits: dict[str, Any] = {"input_range": input_range, "deviations": deviations}
    if alpha is not None:
        known = propagate_statistics(trace(prepared, dummy_input), statistics, **limits)
        ranges = {name: torch.maximum(-s.low, s.high) for name, s in known.items()}
        divided = equalize_by_ranges(prepared, dummy_input, ranges, alpha=alpha).divided
        for name in divided.keys() & statistics.keys():
            mean, deviation = statistics[name]
            statistics[name] = mean / divided[name], deviation / divided[name]
    sim = QuantizationSimModel(
        prepared,
        dummy_input,
        quant_scheme=quant_scheme,
        default_output_bw=default_output_bw,
        default_param_bw=default_param_bw,
        config_file=config_file,
        in_place=True,
    )
    for module in sim.qmodules():
        module.compute_param_encodings(overwrite=True)
    known = propagate_statistics(sim.graph, statistics, **limits)
    missing = set_ranges_from_statistics(sim, known)
    for quantizer, low, high in sim._realization.limits:
        if quantizer.is_initialized():
            quantizer.set_range(low, high)
    fit_weight_steps(sim.graph)
    if missing:
        warnings.warn(
            "data_free_quantization: without data no range is known for "
            f"{', '.join(missing[:10])}{' and more' if len(missing) > 10 else ''}; their "
            "quantizers pass everything through. Calibrate with compute_encodings",
            stacklevel=2,
        )
    if corrects_biases:
        _correct_biases(sim, known)
    return sim


@torch.no_grad()
def _correct_biases(sim: QuantizationSimModel, known: dict[str, ChannelStatistics]) -> None:
    for op in sim.graph.ops:
        layer: Any = op.module
        is_layer = isinstance(layer, LAYER_TYPES) and not is_transposed(layer)
        if not is_layer or op.call_index or layer.bias is None:
            continue
        inputs = known.get(op.inputs[0].name)
        quantizer = layer.param_quantizers["weight"]
        channels = layer.weight.shape[1] * getattr(layer, "groups", 1)
        if inputs is None or quantizer is None or inputs.mean.numel() != channels:
            continue
        layer.bias.copy_(
            correct_bias_analytically(
                layer.bias,
                layer.weight,
                quantizer.simulate(layer.weight),
                inputs.mean.to(layer.bias.device),
                groups=getattr(layer, "groups", 1),
            )
        )
