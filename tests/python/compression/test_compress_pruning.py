"""Channel pruning behind ModelCompressor: masks while ratios are chosen, fewer channels then."""

from __future__ import annotations

import pytest
import torch
from aimet_common.defs import CompressionScheme, CostMetric, GreedySelectionParameters
from torch import nn

from aimet_torch.compress import ModelCompressor
from aimet_torch.compression.pruning_scheme import PruningScheme, _with_zeros
from aimet_torch.defs import (
    ChannelPruningParameters,
    ExactSelectionParameters,
    ModuleCompRatioPair,
)
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
    with pytest.raises(NotImplementedError, match="`cost_metric` must be mac or memory for chan"):
        compress(small(), "auto", auto(ExactSelectionParameters(0.6)), CostMetric.latency)
    with pytest.raises(ValueError, match="`num_reconstruction_samples` must be positive, got 0"):
        ChannelPruningParameters(None, 0, True, ChannelPruningParameters.Mode.auto, auto(None))
    with pytest.raises(ValueError, match=r"got 0.01; the smallest with them is"):
        compress(small(), "auto", auto(ExactSelectionParameters(0.01)))
