"""Batch norms folded into scales: integers and outputs stay."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from aimet_torch.batch_norm_fold import fold_all_batch_norms_to_scale
from aimet_torch.qat import learn_ranges
from aimet_torch.quantsim import QuantizationSimModel


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def network(negative=False):
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4),
        nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU6(),
        nn.Flatten(), nn.Linear(216, 5), nn.BatchNorm1d(5),
    )  # fmt: skip
    for module in model:
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if negative:
                module.weight.data[::2] *= -1
    return model.eval()


def simulation(negative=False, **kwargs):
    x = torch.randn(16, 2, 8, 8)
    sim = QuantizationSimModel(network(negative), x[:1], **kwargs)
    sim.compute_encodings([x])
    return sim, x


def integers(layer):
    quantizer = layer.param_quantizers["weight"]
    encoding = quantizer.get_encodings()
    return encoding.quantize(layer.weight.detach()).as_subclass(torch.Tensor).detach()


@pytest.mark.parametrize("method", [None, "lsq", "pact"])
@pytest.mark.parametrize("bits", [4, 8])
def test_integers_and_outputs_stay(bits, method):
    sim, x = simulation(default_param_bw=bits)
    if method is not None:
        learn_ranges(sim, method)
    before = sim.model(x).detach()
    layers = [sim.model[i] for i in (0, 3, 5, 9)]
    codes = [integers(layer) for layer in layers]
    pairs = fold_all_batch_norms_to_scale(sim)
    assert [layer for layer, _ in pairs] == layers
    assert not pairs.unchanged
    step = sim.model[9].output_quantizers[0].get_scale().item()
    difference = (sim.model(x) - before).abs()
    assert difference.max() <= 3.01 * step
    assert (difference > 0.5 * step).float().mean() < 0.05
    for layer, code in zip(layers, codes, strict=True):
        assert (integers(layer) - code).abs().max() <= 1
        assert (integers(layer) == code).float().mean() > 0.999
        assert layer.bias is not None
        assert layer.bias_grids
    assert not any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in sim.model.modules())


def test_negative_factors_negate_the_integers():
    sim, x = simulation(negative=True)
    before, codes = sim.model(x).detach(), integers(sim.model[0])
    fold_all_batch_norms_to_scale(sim)
    sign = torch.tensor([-1, 1, -1, 1]).reshape(4, 1, 1, 1)
    want = (codes * sign).clamp(-128, 127)
    assert (integers(sim.model[0]) - want).abs().max() <= 1
    step = sim.model[9].output_quantizers[0].get_scale().item()
    assert (sim.model(x) - before).abs().mean() < step


def test_the_folded_simulation_exports_copies_and_trains(tmp_path):
    sim, x = simulation()
    fold_all_batch_norms_to_scale(sim)
    want = sim.model(x)
    sim.export(str(tmp_path), "model", x[:1])
    assert (tmp_path / "model.encodings").exists()
    torch.testing.assert_close(copy.deepcopy(sim.model)(x), want)
    sim.model(x).sum().backward()
    assert sim.model[0].weight.grad.abs().sum() > 0


def test_what_does_not_fit_is_refused_as_a_whole():
    config = {
        "defaults": {
            "ops": {"is_output_quantized": "True", "is_symmetric": "False"},
            "params": {"is_quantized": "True", "is_symmetric": "True"},
            "per_channel_quantization": "False",
        },
        "params": {"bias": {"is_quantized": "False"}},
        "op_type": {},
        "supergroups": [{"op_list": ["Conv", "BatchNormalization"]}],
        "model_input": {"is_input_quantized": "True"},
        "model_output": {},
    }
    sim, x = simulation(config_file=config)
    before = sim.model(x)
    with pytest.raises(ValueError, match="weight quantizer of `0` must be symmetric with one"):
        fold_all_batch_norms_to_scale(sim)
    assert torch.equal(sim.model(x), before)
    with pytest.raises(TypeError, match="must be a QuantizationSimModel, got Sequential"):
        fold_all_batch_norms_to_scale(network())
