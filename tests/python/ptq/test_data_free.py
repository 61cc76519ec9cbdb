"""Ranges and biases without data: against networks whose activations are what batch norms say."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from aimet_torch import QuantizationSimModel
from aimet_torch.ptq import data_free_quantization
from aimet_torch.ptq.activation_statistics import propagate_statistics
from aimet_torch.ptq.cross_layer_equalization import equalize_model
from aimet_torch.report.metrics import sqnr_db


class Block(nn.Module):
    """Batch norms, ReLU6, an addition, pooling and a layer without batch norm."""

    def __init__(self, channels=16):
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu6 = nn.ReLU6()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu6_2 = nn.ReLU6()
        self.conv3 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Conv2d(3, channels, 1, bias=False)
        self.bn4 = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, 5)

    def forward(self, x):
        y = self.relu6(self.bn1(self.conv1(x)))
        y = self.relu6_2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y)) + self.bn4(self.shortcut(x))
        y = functional.adaptive_avg_pool2d(functional.hardswish(y), 1)
        return self.fc(torch.flatten(y, 1))


def data(count=64):
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = Block()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.3, 1.5)
            nn.init.normal_(module.bias)
            module.momentum = 1.0
    for module in (model.conv1, model.conv2):
        module.weight.data *= torch.logspace(-1, 1, 16).reshape(-1, 1, 1, 1)
    model.train()(data())  # running statistics are those of the data
    return model.eval()


def observed(sim, x):
    """Mean and deviation of each channel of each value of the simulated network in FP32."""
    found, hooks = {}, []
    for op in sim.graph.ops:

        def keep(_, inputs, output, name=op.outputs[0].name):
            dims = [d for d in range(output.dim()) if d != 1]
            found[name] = output.double().mean(dims), output.double().std(dims, correction=0)

        hooks.append(op.module.register_forward_hook(keep))
    for module in sim.qmodules():
        module._remove_all_quantizers()
    with torch.no_grad():
        sim.model(x)
    for hook in hooks:
        hook.remove()
    return found


def test_statistics_are_those_of_the_data(model):
    report = equalize_model(model, dummy_input=data(1))
    assert set(report.statistics) == {"conv1", "conv2", "conv3", "shortcut"}
    sim = QuantizationSimModel(model, data(1), in_place=True)
    known = propagate_statistics(sim.graph, report.statistics)
    seen = observed(sim, data())
    for name in ("conv1", "conv2", "conv3", "shortcut"):
        # Batch normalization itself: the same numbers, up to float32 and the unbiased variance.
        torch.testing.assert_close(known[name].mean, seen[name][0], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(known[name].deviation, seen[name][1], rtol=1e-2, atol=1e-3)
    for name in ("relu6", "relu6_2", "add", "hardswish"):
        # Sums of 9 to 27 inputs are nearly normal, and summands not quite independent.
        mean, deviation = seen[name]
        assert (known[name].mean - mean).abs().max() < 0.1 * deviation.max()
        assert (known[name].deviation - deviation).abs().max() < 0.2 * deviation.max()
    assert (known["fc"].mean - seen["fc"][0]).abs().max() < 0.1


def test_ranges_cover_the_data_and_no_more_than_a_clip_lets_pass(model):
    report = equalize_model(model, dummy_input=data(1), relu6="keep")
    sim = QuantizationSimModel(model, data(1), in_place=True)
    known = propagate_statistics(sim.graph, report.statistics, deviations=5)
    assert known["relu6"].low.min() >= 0
    assert known["relu6"].high.max() <= 6
    for statistics in known.values():
        assert (statistics.low <= statistics.mean + 1e-9).all()
        assert (statistics.high >= statistics.mean - 1e-9).all()


def test_a_network_is_quantized_well_without_any_data(model):
    reference = model(data())
    config = "default_per_tensor"
    sim = data_free_quantization(model, data(1), config_file=config)
    assert all(quantizer.is_initialized() for quantizer in sim.quantizers())
    naive = QuantizationSimModel(model, data(1), config_file=config)
    naive.compute_encodings([data()])
    with torch.no_grad():
        ours, theirs = (sqnr_db(reference, s.model(data())) for s in (sim, naive))
    assert ours > 15
    assert ours > theirs - 3  # that one was calibrated on the very data it is measured on


def test_biases_are_corrected(model):
    sims = [
        data_free_quantization(model, data(1), default_param_bw=4, corrects_biases=c)
        for c in (False, True)
    ]
    reference = model(data())
    with torch.no_grad():
        errors = [(s.model(data()) - reference).mean(0).abs().sum() for s in sims]
    assert errors[1] < errors[0]


def test_what_cannot_be_known_is_named():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Softmax(dim=1)).eval()
    model.append(nn.Conv2d(4, 2, 1))
    with pytest.warns(UserWarning, match="no range is known for 2, 3"):
        sim = data_free_quantization(model, torch.zeros(1, 3, 5, 5))
    assert sim.model(torch.randn(2, 3, 5, 5)).isfinite().all()


def test_errors(model):
    with pytest.raises(ValueError, match="`deviations` must be positive, got 0"):
        data_free_quantization(model, data(1), deviations=0)
    with pytest.raises(ValueError, match=r"`input_range` must be \(low, high\)"):
        data_free_quantization(model, data(1), input_range=(1.0, 1.0))
