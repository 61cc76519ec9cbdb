"""The whole of post-training quantization in one call."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aimet_torch import QuantizationSimModel
from aimet_torch.ptq import quantize_without_labels, round_weights_of_sim
from aimet_torch.ptq.batch_norm_folding import fold_all_batch_norms
from aimet_torch.report.metrics import sqnr_db


class Network(nn.Module):
    """Uneven channels, ReLU6, a depthwise layer, an addition, a normalization, logits."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.bn1 = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
        self.bn2, self.relu1, self.relu2 = nn.BatchNorm2d(16), nn.ReLU6(), nn.ReLU6()
        self.project = nn.Conv2d(16, 16, 1)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 10)

    def forward(self, x):
        x = self.relu1(self.bn1(self.stem(x)))
        x = x + self.project(self.relu2(self.bn2(self.depthwise(x))))
        return self.head(self.norm(x.mean((2, 3))))


def trained():
    """A network whose statistics are those of the data, with channels of very different sizes."""
    model = Network()
    with torch.no_grad():
        for norm in (model.bn1, model.bn2):
            norm.weight.copy_(torch.logspace(-1.5, 0.5, 16))
            norm.momentum = 1.0
        model.project.weight.mul_(torch.logspace(0.5, -1.5, 16).reshape(1, -1, 1, 1))
        model.train()(torch.cat(data()))
    return model.eval()


def data():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 3, 10, 10, generator=generator) for _ in range(4)]


def noise(sim, model):
    with torch.no_grad():
        outputs = (torch.cat([f(x) for x in data()]) for f in (model, sim.model))
    return sqnr_db(*outputs)


def plain(model, **options):
    copied = Network().eval()
    copied.load_state_dict(model.state_dict())
    fold_all_batch_norms(copied, None, data()[0])
    sim = QuantizationSimModel(copied, data()[0], "mse", **options)
    sim.compute_encodings(data())
    return sim


@pytest.mark.parametrize(("bits", "alpha"), [(8, 0.5), (4, None)])
def test_it_loses_less_than_rounding_to_nearest(bits, alpha):
    model = trained()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    sim = quantize_without_labels(model, data()[0], data(), default_param_bw=bits, alpha=alpha)
    assert noise(sim, model) > noise(plain(model, default_param_bw=bits), model) + 1
    assert not sim.model.stem.param_quantizers["weight"].is_overwrite_allowed()
    assert all(tensor.equal(state[name]) for name, tensor in model.state_dict().items())


def test_options_and_bits_of_ones_own():
    model = trained()

    def configure(sim):
        sim.model.head.param_quantizers["weight"].bitwidth = 16

    labelled = [(x, torch.zeros(8)) for x in data()]
    sim = quantize_without_labels(
        model, data()[0], labelled, config_file="default_per_tensor", equalizes_layers=True,
        logit_ranges="cross_entropy", configure=configure, num_batches=2, alpha=None,
    )  # fmt: skip
    assert sim.model.head.param_quantizers["weight"].bitwidth == 16
    assert sim.model.stem.param_quantizers["weight"].shape == ()
    nearest = quantize_without_labels(model, data()[0], data(), rounds_weights=False)
    assert nearest.model.stem.param_quantizers["weight"].is_overwrite_allowed()


def test_learned_ranges_are_the_last_step():
    model = trained()
    options = {"default_output_bw": 4, "quant_scheme": "min_max"}
    before = quantize_without_labels(model, data()[0], data(), **options)
    after = quantize_without_labels(model, data()[0], data(), range_iterations=40, **options)
    assert noise(after, model) > noise(before, model) + 0.5
    weights = [sim.model.stem.weight for sim in (before, after)]
    assert torch.equal(*weights)


def test_weights_of_a_simulation_are_rounded_with_its_grids():
    model = trained()
    sim = plain(model, default_param_bw=3)
    before = noise(sim, model)
    sim.model.head.param_quantizers["weight"].bitwidth = 8
    report = round_weights_of_sim(sim, data(), modules_to_exclude=["project"])
    assert set(report.results) == {"stem", "depthwise", "head"}
    assert report.results["head"].codes.abs().max() > 4
    assert report.results["stem"].codes.abs().max() <= 4
    sim.compute_encodings(data())
    assert noise(sim, model) > before + 1


def test_errors():
    model = trained()
    with pytest.raises(TypeError, match=r"`model` must be an nn\.Module, got int"):
        quantize_without_labels(3, data()[0], data())
    with pytest.raises(ValueError, match="`logit_ranges` must be 'scheme' or 'cross_entropy'"):
        quantize_without_labels(model, data()[0], data(), logit_ranges="entropy")
    with pytest.raises(ValueError, match="gave no batch"):
        quantize_without_labels(model, data()[0], [])
