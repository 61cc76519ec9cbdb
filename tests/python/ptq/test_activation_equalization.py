"""Activation equalization: nothing changes in floating point, and channels get like ranges."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aimet_torch import QuantizationSimModel
from aimet_torch.graph import trace
from aimet_torch.nn.modules.channelwise_clip import ChannelwiseClip
from aimet_torch.ops import algorithms
from aimet_torch.ptq import equalize_activations
from aimet_torch.ptq.activation_equalization import equalize_by_ranges
from aimet_torch.report.metrics import sqnr_db


class Attention(nn.Module):
    """A transformer block with outliers in a few channels, as large language models have them."""

    def __init__(self, width=16):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        y = self.norm1(x)
        scores = torch.softmax(self.q(y) @ self.k(y).transpose(1, 2) / 4, dim=-1)
        x = x + self.out(scores @ self.v(y))
        return x + self.down(torch.relu(self.up(self.norm2(x))))


class Residual(nn.Module):
    """A residual stream, depthwise and grouped layers, ReLU6, pooling, a branch."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.expand, self.clip = nn.Conv2d(8, 16, 1), nn.ReLU6()
        self.depthwise, self.clip2 = nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU6()
        self.project = nn.Conv2d(16, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, groups=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.project(self.clip2(self.depthwise(self.clip(self.expand(x)))))
        return self.fc(self.pool(torch.relu(self.grouped(x))).flatten(1))


class OneActivation(nn.Module):
    """Calls the same ReLU for activations of different widths."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 1)
        self.last, self.relu = nn.Conv2d(12, 4, 1), nn.ReLU()

    def forward(self, x):
        return self.last(self.relu(self.second(self.relu(self.first(x)))))


NETWORKS = {"attention": Attention, "residual": Residual, "one activation": OneActivation}


def build(kind):
    torch.manual_seed(0)
    model = NETWORKS[kind]().double().eval()
    with torch.no_grad():
        for name in ("norm1", "norm2"):
            if kind == "attention":
                getattr(model, name).weight[3] = 40.0
                getattr(model, name).bias.normal_()
        if kind == "one activation":
            model.first.weight.mul_(torch.logspace(-1, 1, 8).reshape(-1, 1, 1, 1))
        if kind == "residual":
            model.stem.weight.mul_(torch.logspace(-1, 1, 8).reshape(-1, 1, 1, 1))
            model.expand.weight.mul_(torch.logspace(-1, 1, 16).reshape(-1, 1, 1, 1))
    return model


def data(kind):
    generator = torch.Generator().manual_seed(1)
    shape = (4, 10, 16) if kind == "attention" else (4, 3, 9, 9)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3)]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", NETWORKS)
def test_outputs_stay_as_they_are(kind, alpha):
    model, batches = build(kind), data(kind)
    before = [model(x) for x in batches]
    report = equalize_activations(model, batches[0], batches, alpha=alpha)
    assert any((scale / scale.mean() - 1).abs().max() > 0.1 for scale in report.scales.values())
    for x, y in zip(batches, before, strict=True):
        torch.testing.assert_close(model(x), y, rtol=1e-10, atol=1e-10)


def test_streams_are_what_may_share_scales():
    model = build("attention")
    report = equalize_activations(model, data("attention")[0], data("attention"))
    # Not v: a matrix product reads it. Not out: x, an input of the model, is added to it.
    assert report.readers == {"norm1": ["q", "k", "v"], "norm2": ["up"], "up": ["down"]}
    model = build("residual")
    report = equalize_activations(model, data("residual")[0], data("residual"))
    assert report.readers == {
        "stem + project": ["expand", "grouped"],
        "expand": ["depthwise"],
        "depthwise": ["project"],
        "grouped": ["fc"],
    }
    assert isinstance(model.clip, ChannelwiseClip)


def test_channels_that_a_depthwise_layer_reads_get_the_same_range():
    model, batches = build("residual"), data("residual")
    equalize_activations(model, batches[0], batches)
    seen = []
    model.clip.register_forward_hook(lambda m, i, o: seen.append(o.abs().amax((0, 2, 3))))
    for x in batches:
        model(x)
    largest = torch.stack(seen).amax(0)
    torch.testing.assert_close(largest, largest.mean().expand(16), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", ["attention", "residual"])
def test_quantization_loses_less(kind):
    batches = [x.float() for x in data(kind)]
    noise = []
    for equalizes in (False, True):
        model = build(kind).float()
        reference = torch.cat([model(x) for x in batches])
        if equalizes:
            equalize_activations(model, batches[0], batches)
        sim = QuantizationSimModel(model, batches[0], default_output_bw=6)
        sim.compute_encodings(batches)
        noise.append(sqnr_db(reference, torch.cat([sim.model(x) for x in batches])))
    assert noise[1] > noise[0] + 1.0


def test_the_scale_is_that_of_the_paper():
    activation = torch.tensor([8.0, 2.0, 0.0, 4.0])
    weights = [torch.tensor([[0.5, -1.0, 3.0, 2.0]]), torch.tensor([[-2.0, 0.5, 1.0, 0.25]])]
    scale = algorithms.smoothing_scale(activation, weights, 0.75)
    raw = activation.double() ** 0.75 / torch.tensor([2.0, 1.0, 3.0, 2.0]).double() ** 0.25
    usable = raw[[0, 1, 3]]
    torch.testing.assert_close(scale[[0, 1, 3]], usable / usable.log().mean().exp())
    assert scale[2] == 1
    assert algorithms.smoothing_scale(activation, weights, 1.0, max_scale=1.5).max() == 1.5


def test_each_call_of_a_shared_activation_is_observed_by_itself():
    model, batches = build("one activation"), data("one activation")
    report = equalize_activations(model, batches[0], batches, alpha=1.0)
    assert {name: len(scale) for name, scale in report.scales.items()} == {"first": 8, "second": 12}
    largest = torch.stack([torch.relu(model.first(x)).amax((0, 2, 3)) for x in batches]).amax(0)
    torch.testing.assert_close(largest, largest.mean().expand(8), rtol=1e-6, atol=0)


def test_known_ranges_do_as_well_as_data():
    models = [build("residual"), build("residual")]
    batches = data("residual")
    report = equalize_activations(models[0], batches[0], batches, alpha=0.7)
    graph = trace(models[1], batches[0])
    seen = {}
    for value in graph.values():
        if value.producer is not None and len(value.shape) > 1:
            seen[value.name] = torch.ones(value.shape[1])
    equal = equalize_by_ranges(models[1], batches[0], seen, alpha=1.0)
    # Equal ranges leave nothing to do.
    assert all(torch.allclose(s, torch.ones_like(s)) for s in equal.scales.values())
    assert report.divided["stem"] is report.scales["stem + project"]
    assert set(report.divided) == {"stem", "project", "expand", "depthwise", "grouped"}


def test_errors():
    model, batches = build("residual"), data("residual")
    with pytest.raises(ValueError, match=r"`alpha` must lie in \[0, 1\], got 2"):
        equalize_activations(model, batches[0], batches, alpha=2)
    with pytest.raises(ValueError, match="`max_scale` must be at least 1, got 0"):
        equalize_activations(model, batches[0], batches, max_scale=0)
    with pytest.raises(ValueError, match="gave no batch"):
        equalize_activations(model, batches[0], [])
    with pytest.raises(ValueError, match="smoothing_scale: `weights` is empty"):
        algorithms.smoothing_scale(torch.ones(3), [])
    with pytest.raises(ValueError, match="the 3 channels of `activation_range` in dimension 1"):
        algorithms.smoothing_scale(torch.ones(3), [torch.ones(3, 4)])
    with pytest.raises(TypeError, match="`activation_range` must have a floating-point dtype"):
        algorithms.smoothing_scale(torch.ones(3, dtype=torch.int64), [torch.ones(3, 3)])
