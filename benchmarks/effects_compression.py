"""What compression does to a real network at every size, without fine-tuning; see `effects`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch import nn

from aimet_torch.common.defs import CompressionScheme, CostMetric
from aimet_torch.compression import PruningPlan, factorize
from benchmarks import fashion_mnist

_NETWORK = "residual"
_IMAGES = 1024
_RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def low_rank() -> dict[str, Any]:
    """Top-1 by the cost of the model, every convolution behind the first at the same ratio."""
    model = fashion_mnist.trained(_NETWORK)
    data = fashion_mnist.calibration_batches(_IMAGES)
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)][1:]
    curves: dict[str, list[list[float]]] = {}
    seconds: dict[str, float] = {}
    for label, scheme, batches in (
        ("spatial, truncated (AIMET's)", "spatial", None),
        ("weight, truncated (AIMET's)", "weight", None),
        ("spatial, fitted to data", "spatial", data),
        ("best of four, fitted to data", "auto", data),
    ):
        curves[label] = []
        for ratio in _RATIOS:
            ratios = dict.fromkeys(layers, ratio)
            start = time.process_time()
            result = factorize(model, data[0][:1], ratios, scheme=scheme, data=batches)
            seconds[label] = round(time.process_time() - start, 2)
            accuracy = fashion_mnist.accuracy(result.model)
            curves[label].append([round(result.mac_ratio, 4), round(accuracy, 2)])
    return _effect(model, curves, seconds)


def pruning() -> dict[str, Any]:
    """Top-1 by the cost of the model, channels taken out of all layers."""
    model = fashion_mnist.trained(_NETWORK)
    data = fashion_mnist.calibration_batches(_IMAGES)
    options: dict[str, dict[str, Any]] = {
        "magnitude, not fitted": {},
        "magnitude, fitted": {"data": data, "selection": "magnitude"},
        "Gram, fitted": {"data": data, "selection": "gram"},
    }
    curves: dict[str, list[list[float]]] = {}
    seconds: dict[str, float] = {}
    for label, chosen in options.items():
        curves[label] = []
        start = time.process_time()
        plan = PruningPlan(model, data[0][:1], **chosen)
        plan.apply(plan.counts(0.5))
        seconds[label] = round(time.process_time() - start, 2)
        for ratio in _RATIOS:
            result = plan.apply(plan.counts(ratio))
            accuracy = fashion_mnist.accuracy(result.model)
            curves[label].append([round(result.mac_ratio, 4), round(accuracy, 2)])
    return _effect(model, curves, seconds)


def _effect(
    model: nn.Module, curves: dict[str, list[list[float]]], seconds: dict[str, float]
) -> dict[str, Any]:
    return {
        "network": _NETWORK,
        "float": fashion_mnist.accuracy(model),
        "curves": curves,
        "cpu_seconds": seconds,
    }


def ratio_selection() -> dict[str, Any]:
    """Top-1 by the cost of the model: one ratio for all layers beside chosen ones."""
    from aimet_torch.compress import ModelCompressor
    from aimet_torch.defs import (
        ExactSelectionParameters,
        GreedySelectionParameters,
        SpatialSvdParameters,
    )

    model = fashion_mnist.trained(_NETWORK)
    data = fashion_mnist.calibration_batches(_IMAGES)
    mode = SpatialSvdParameters.Mode.auto
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)][1:]
    curves: dict[str, list[list[float]]] = {"the same for all layers": []}
    for ratio in _RATIOS:
        result = factorize(
            model, data[0][:1], dict.fromkeys(layers, ratio), scheme="spatial", data=data
        )
        accuracy = fashion_mnist.accuracy(result.model)
        point = [round(result.mac_ratio, 4), round(accuracy, 2)]
        curves["the same for all layers"].append(point)
    chosen: dict[str, dict[str, float]] = {}
    seconds: dict[str, float] = {}
    for label, selection in (
        ("greedy (AIMET's)", GreedySelectionParameters),
        ("exact", ExactSelectionParameters),
    ):
        curves[label] = []
        for ratio in _RATIOS:
            parameters = SpatialSvdParameters(
                mode, SpatialSvdParameters.AutoModeParams(selection(ratio)), data_loader=data
            )
            start = time.process_time()
            smaller, stats = ModelCompressor.compress_model(
                model,
                lambda m, *_: fashion_mnist.accuracy(m, 2000),
                None,
                (1, 1, 28, 28),
                CompressionScheme.spatial_svd,
                CostMetric.mac,
                parameters,
            )
            accuracy = round(fashion_mnist.accuracy(smaller), 2)
            curves[label].append([round(stats.mac_compression_ratio, 4), accuracy])
            if ratio == 0.5:
                seconds[label] = round(time.process_time() - start, 2)
                chosen[label] = {row.name: row.compression_ratio for row in stats.per_layer_stats}
    return {
        "network": _NETWORK,
        "float": fashion_mnist.accuracy(model),
        "curves": curves,
        "chosen": chosen,
        "cpu_seconds": seconds,
    }


SUBJECTS: dict[str, Callable[[], dict[str, Any]]] = {
    "low_rank": low_rank,
    "pruning": pruning,
    "ratio_selection": ratio_selection,
}
