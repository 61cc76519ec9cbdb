"""The report of rounding: how it is summed up and shown."""

from __future__ import annotations

import torch
from torch import nn

from benchmarks import render_rounding, rounding
from benchmarks.rounding_jobs import Clock, layer_errors


def test_results_of_seeds_are_a_mean_and_a_range():
    assert rounding._over_seeds([88.0, 88.5, 88.1]) == {
        "top1_percent": 88.2, "range": [88.0, 88.5], "seeds": 3,
    }  # fmt: skip
    assert rounding._times([(1.0, 2.0), (2.0, 4.0)]) == {"seconds": 1.5, "cpu_seconds": 3.0}


def test_a_stopped_clock_stands_still():
    clock = Clock().stop()
    seconds, cpu_seconds = clock.times()
    assert 0 <= seconds < 60
    assert 0 <= cpu_seconds < 60
    assert clock.times() == (seconds, cpu_seconds)


def test_layer_errors_are_shares_of_the_power():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    other = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other[0].weight.mul_(1.1)
        other[0].bias.mul_(1.1)
    first, second = layer_errors(model, other, torch.randn(20, 3))
    assert abs(first - 0.01) < 1e-6
    assert second > 0
    assert layer_errors(model, model, torch.randn(20, 3)) == [0.0, 0.0]


def test_tables():
    found = {"top1_percent": 88.2, "range": [88.0, 88.5], "seeds": 3}
    row = {"weight_bits": 2, "activation_bits": 8, "fp32_percent": 88.77, "seeds": 3}
    job = {"seconds": 20.0, "cpu_seconds": 30.0, "mean_layer_error": 0.01}
    photographs = {"agreement_percent": 81.0, "sqnr_db": 12.34, "cpu_seconds": 60.0}
    text = render_rounding.markdown(
        {
            "mobilenet_v2": [{"weight_bits": 4, "activation_bits": 32, "adaround": photographs}],
            "fashion_residual": [
                row | {"nearest": found, "adaround": found | {"cpu_seconds": 1.2}}
            ],
            "resnet18_job": [{"adaround": job, "aimet_torch_adaround": job | {"iterations": 20}}],
        }
    )
    assert "| W4 | - | 81.0 %, 12.3 dB, 60 s | - |" in text
    assert "| residual W2A8 | 88.77 | 88.20 [88.00, 88.50] | 88.20 [88.00, 88.50], 1 s |" in text
    assert "AdaRound, 20 iterations | 20.0 s, 30.0 s of a processor | 1.00 % |" in text
