"""QuantAnalyzer's work on a network, by AIMET's interface; see `benchmarks.subjects`."""

from __future__ import annotations

import tempfile
from typing import Any

import torch
from torch import nn

from benchmarks.model_subjects import images, network, prepared
from benchmarks.subjects import subject
from benchmarks.timing import Subject


@subject
def quant_analysis(*, model: str, shape: tuple[int, ...]) -> Subject:
    """Scores with each layer on and off, ranges, and the loss of each layer, with their files."""
    from aimet_torch.batch_norm_fold import fold_all_batch_norms
    from aimet_torch.quant_analyzer import QuantAnalyzer
    from aimet_torch.quantsim import QuantizationSimModel

    try:
        from aimet_torch.common.utils import CallbackFunc
    except ImportError:
        from aimet_torch.quant_analyzer import CallbackFunc

    batch = images(shape)
    net = prepared(network(model)).eval()
    fold_all_batch_norms(net, None, dummy_input=batch[:1])

    def run(simulated: nn.Module, _: Any) -> torch.Tensor:
        with torch.no_grad():
            return simulated(batch)

    def score(simulated: nn.Module, _: Any) -> float:
        return float(run(simulated, None).square().mean())

    with torch.no_grad():
        sim = QuantizationSimModel(net, batch[:1])
        sim.compute_encodings(run, None)
    analyzer = QuantAnalyzer(net, batch[:1], CallbackFunc(run), CallbackFunc(score))
    analyzer.enable_per_layer_mse_loss([batch], 1)

    def work() -> torch.Tensor:
        with tempfile.TemporaryDirectory() as folder:
            analyzer.check_model_sensitivity_to_quantization(sim)
            enabled = analyzer.perform_per_layer_analysis_by_enabling_quant_wrappers(sim, folder)
            analyzer.perform_per_layer_analysis_by_disabling_quant_wrappers(sim, folder)
            analyzer.export_per_layer_encoding_min_max_range(sim, folder)
            losses = analyzer.export_per_layer_mse_loss(sim, folder)
        layers = [name for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
        return torch.tensor([[enabled[name], losses[name]] for name in layers])

    return Subject(work)
