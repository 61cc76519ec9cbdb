"""Channel pruning behind ModelCompressor: masks while ratios are chosen, fewer channels then."""

from __future__ import annotations

import pytest
import torch
from aimet_common.defs import CompressionScheme, CostMetric, GreedySelectionParameters
from torch import nn

from aimet_torch.compress import ModelCompressor
from aimet_torch.compression import Latency
from aimet_torch.compression.pruning_scheme import PruningScheme, _with_zeros
from aimet_torch.defs import (
    ChannelPruningParameters,
    ExactSelectionParameters,
    ModuleCompRatioPair,
)
from aimet_torch.graph import bind_inputs
from aimet_torch.ptq.layers import LAYER_TYPES
from tests.python.compression.networks import images, likeness, small

pytestmark = pytest.mark.usefixtures("one_thread")
DATA = [images(32, seed=seed) for seed in (7, 8)]


def compress(model, mode, params, metric=CostMetric.mac, trainer=None, **options):
    kind = ChannelPruningParameters
    parameters = kind(DATA, 64, True, kind.Mode[mode], params, **options)
    return ModelCompressor.compress_model(
        model, likeness, None, (1, 3, 8, 8), CompressionScheme.channel_pruning, metric, parameters,
        trainer,
    )  # fmt: skip


def auto(selection, ignore=None):
    return ChannelPruningParameters.AutoModeParams(selection, ignore)


@pytest.mark.parametrize("selection", [GreedySelectionParameters, ExactSelectionParameters])
@pytest.mark.parametrize("metric", [CostMetric.mac, CostMetric.memory])
def test_the_ratio_is_kept_by_an_ordinary_network(selection, metric):
    model = small()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    compressed, stats = compress(model, "auto", auto(selection(0.6)), metric)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    reached = {
        CostMetric.mac: stats.mac_compression_ratio,
        CostMetric.memory: stats.memory_compression_ratio,
    }[metric]
    assert reached <= 0.6
    if selection is ExactSelectionParameters:
        assert reached > 0.55
    # What was counted while choosing is what the model has; fitted weights may add biases.
    achieved = stats.compression_ratio_selection_stats.achieved
    assert reached == pytest.approx(achieved, rel=0.02 if metric is CostMetric.memory else 1e-9)
    assert type(compressed) is type(model)
    assert [type(m) for m in compressed.modules()] == [type(m) for m in model.modules()]
    assert compressed(images(2)).shape == (2, 10)


def test_masks_compute_what_smaller_layers_compute():
    model = small()
    scheme = PruningScheme(model, images(2), CostMetric.mac)
    (unit,) = [u for u in scheme.units([0.5]) if u.name == "down"]
    masked = small()
    for name, module in unit.candidates[0].build().items():
        setattr(masked, name, module)
    smaller = scheme.apply(model, {"down": 0.5}).model
    assert smaller.down.out_channels == 12
    with torch.no_grad():
        x = images(16, seed=3)
        torch.testing.assert_close(masked.eval()(x), smaller.eval()(x), rtol=1e-5, atol=1e-5)
    cost = scheme.cost({"down": unit.candidates[0]})
    assert cost == pytest.approx(scheme.total - 2 * (16 * 12 * 9 * 12 + 10 * 12 * 16))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 8, 3, padding=1),
        nn.Conv2d(6, 8, 3, groups=2),
        nn.ConvTranspose2d(6, 8, 3, groups=2),
        nn.ConvTranspose2d(6, 4, 3),
        nn.Conv1d(6, 8, 5),
        nn.Linear(6, 8),
    ],
)
def test_zeros_in_every_kind_of_layer(layer):
    keep = torch.tensor([True, False, True, True, False, False])
    dims = len(getattr(layer, "kernel_size", ()))
    x = torch.randn(2, 6, *[7] * dims)
    with torch.no_grad():
        zeros = x * keep.view(1, 6, *[1] * dims)
        torch.testing.assert_close(_with_zeros(layer, keep)(x), layer(zeros))


def test_coupled_layers_lose_the_same_channels():
    compressed, stats = compress(small(), "auto", auto(ExactSelectionParameters(0.5)))
    assert compressed.stem.out_channels == compressed.conv2.out_channels
    assert (
        compressed.bn.num_features == compressed.depthwise.groups == compressed.conv2.out_channels
    )
    rows = {row.name: row for row in stats.per_layer_stats}
    assert "inputs" in rows["down"].detail or rows["down"].detail == ""
    assert rows["fc"].macs[1] <= rows["fc"].macs[0]


def test_given_ratios_are_shares_of_input_channels():
    model = small()
    pairs = [ModuleCompRatioPair(model.conv2, 0.5), ModuleCompRatioPair(model.fc, 0.75)]
    params = ChannelPruningParameters.ManualModeParams(pairs)
    compressed, stats = compress(model, "manual", params)
    assert compressed.conv2.in_channels == 6
    assert compressed.fc.in_features == 18 * 16
    rows = {row.name: row for row in stats.per_layer_stats}
    assert rows["conv2"].compression_ratio == 0.5
    assert rows["conv2"].detail == "6 of 12 inputs"


def test_a_trainer_sees_the_network_shrink():
    class Trainer:
        def __init__(self):
            self.widths = []

        def train_model(self, model, layer, train_flag=True):
            self.widths.append((model.conv1.out_channels, model.down.out_channels))

    model, trainer = small(), Trainer()
    pairs = [ModuleCompRatioPair(model.conv2, 0.5), ModuleCompRatioPair(model.fc, 0.75)]
    params = ChannelPruningParameters.ManualModeParams(pairs)
    _, stats = compress(model, "manual", params, trainer=trainer)
    assert trainer.widths == [(12, 24), (6, 24), (6, 18)]
    rows = {row.name: row.detail for row in stats.per_layer_stats}
    assert rows["conv2"] == "6 of 12 inputs"
    assert rows["fc"] == "288 of 384 inputs"


def test_ignored_layers_and_multiples():
    model = small()
    params = auto(ExactSelectionParameters(0.9), [model.conv2])
    compressed, stats = compress(model, "auto", params, multiplicity=4)
    assert compressed.conv2.in_channels == model.conv2.in_channels
    assert compressed.down.out_channels % 4 == 0
    notes = {row.name: row.note for row in stats.per_layer_stats}
    assert "`conv2` reads it and is to be ignored" in notes["conv2"]


def test_an_ignored_layer_loses_outputs_that_others_need_no_more():
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3),
        nn.Conv2d(16, 16, 3, groups=16),
        nn.Conv2d(16, 8, 1),
        nn.Conv2d(8, 4, 1),
    ).eval()
    x = images(8)
    scheme = PruningScheme(model, x, CostMetric.mac, modules_to_ignore=model[:2], data=[x])
    assert [unit.name for unit in scheme.units([0.5])] == ["0", "2"]
    smaller = scheme.apply(model, {"0": 0.5}).model
    assert (smaller[0].out_channels, smaller[1].groups, smaller[2].in_channels) == (8, 8, 8)
    # One that mixes channels keeps those that it reads.
    scheme = PruningScheme(model, x, CostMetric.mac, modules_to_ignore=model[2:3], data=[x])
    assert [unit.name for unit in scheme.units([0.5])] == ["2"]
    assert "`2` reads it and is to be ignored" in scheme.left["2"]


def test_data_choose_channels_that_lose_less():
    scores = [
        compress(small(), "auto", auto(ExactSelectionParameters(0.6)), selection=selection)[1]
        for selection in ("magnitude", "gram")
    ]
    assert scores[1].compressed_model_accuracy > scores[0].compressed_model_accuracy


def test_what_is_refused():
    with pytest.raises(ValueError, match="`num_reconstruction_samples` must be positive, got 0"):
        ChannelPruningParameters(None, 0, True, ChannelPruningParameters.Mode.auto, auto(None))
    with pytest.raises(ValueError, match=r"got 0.01; the smallest with them is"):
        compress(small(), "auto", auto(ExactSelectionParameters(0.01)))


# ---------------------------------------------------------------------------- measured time


class Clock:
    """In the place of `measure_latency`: what a run costs by multiply-accumulates, in steps.

    Args:
        step: Channels are as slow as the next multiple of this.
        fixed: Seconds of every layer besides.
    """

    def __init__(self, step=1, fixed=0.0):
        self.step, self.fixed, self.calls = step, fixed, 0

    def __call__(self, model, input, *, baseline=None, rounds=20):
        self.calls += 1
        seconds = self.seconds(model, input)
        speedup = None if baseline is None else self.seconds(baseline, input) / seconds
        return Latency(seconds, (seconds, seconds), rounds, 1, "cpu", speedup)

    def seconds(self, model, input):
        total = 0.0

        def add(layer, args, output):
            nonlocal total
            is_linear = isinstance(layer, nn.Linear)
            groups = 1 if is_linear else layer.groups
            ins, outs = args[0].shape[1], output.shape[1]
            kernel = layer.weight[0, 0].numel()
            places = output.numel() // outs
            rounded = [-(-count // self.step) * self.step for count in (ins // groups, outs)]
            total += rounded[0] * rounded[1] * kernel * places * 1e-9 + self.fixed

        layers = [m for m in model.modules() if isinstance(m, LAYER_TYPES)]
        handles = [layer.register_forward_hook(add) for layer in layers]
        args, kwargs = bind_inputs(model, input)
        with torch.no_grad():
            model(*args, **kwargs)
        for handle in handles:
            handle.remove()
        return total


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr("aimet_torch.compression.pruning.latency.measure_latency", made)
    monkeypatch.setattr("aimet_torch.compression.job.measure_latency", made)
    return made


@pytest.mark.parametrize("fixed", [0.0, 1e-5])
def test_measured_layers_add_up_to_the_smaller_model(clock, fixed):
    clock.fixed = fixed
    model, x = small(), images(2)
    scheme = PruningScheme(model, x, CostMetric.latency)
    assert scheme.total == pytest.approx(clock.seconds(model, x))
    groups = {unit.name: unit for unit in scheme.units([0.25, 0.4, 0.55, 0.75, 0.9])}
    for picks in ({"conv1": 0}, {"stem": 2}, {"stem": 1, "conv1": 3, "down": 2}):
        choice = {name: groups[name].candidates[index] for name, index in picks.items()}
        smaller = scheme.apply(model, {name: c.ratio for name, c in choice.items()}).model
        assert scheme.cost(choice) == pytest.approx(clock.seconds(smaller, x), rel=1e-6)
    # Each layer some times, not once for each candidate of each choice.
    assert clock.calls < 80


@pytest.mark.parametrize("selection", [GreedySelectionParameters, ExactSelectionParameters])
def test_measured_time_is_a_budget(clock, selection):
    model = small()
    compressed, stats = compress(model, "auto", auto(selection(0.6)), CostMetric.latency)
    x = images(1)
    ratio = clock.seconds(compressed.eval(), x) / clock.seconds(model, x)
    assert 0.5 < ratio <= 0.6 * 1.02
    assert stats.latency_ratio == pytest.approx(ratio)
    assert stats.compression_ratio_selection_stats.achieved == pytest.approx(ratio, rel=1e-6)
    assert "measured time" in str(stats)


def test_steps_of_a_machine_are_seen(clock):
    clock.step = 4
    compressed, stats = compress(
        small(), "auto", auto(ExactSelectionParameters(0.6)), CostMetric.latency, multiplicity=4
    )
    assert stats.latency_ratio <= 0.6 * 1.02
    assert compressed.down.out_channels % 4 == 0


def test_layers_of_every_kind_are_measured(clock):
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv1d(4, 16, 3)
            self.grouped = nn.Conv1d(16, 32, 3, groups=4)
            self.up = nn.ConvTranspose1d(32, 8, 2, groups=2)
            self.b = nn.Conv1d(8, 4, 1)

        def forward(self, x):
            return self.b(self.up(self.grouped(self.a(x).relu()).relu()).relu())

    torch.manual_seed(0)
    model = Mixed().eval()
    compressed, stats = ModelCompressor.compress_model(
        model, lambda m, *_: 1.0, None, (2, 4, 20), CompressionScheme.channel_pruning,
        CostMetric.latency, ChannelPruningParameters(
            None, 1, True, ChannelPruningParameters.Mode.auto,
            auto(ExactSelectionParameters(0.8, data_loader=[torch.randn(8, 4, 20)])),
        ),
    )  # fmt: skip
    assert 0.4 < stats.latency_ratio <= 0.8
    assert stats.latency_ratio == stats.compression_ratio_selection_stats.achieved
    assert compressed(torch.randn(2, 4, 20)).shape == model(torch.randn(2, 4, 20)).shape
