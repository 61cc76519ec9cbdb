"""Distributions of weights and activations, agreement of layers, and facts drawn from them."""

import math

import pytest
import torch
from torch import nn

from aimet_torch.analysis import Switchboard, estimate_sensitivity
from aimet_torch.analysis.facts import graph_nodes, operators_of_quantizers, tensor_facts, unfolded
from aimet_torch.analysis.histograms import (
    TensorHistogram,
    activation_histograms,
    channel_histograms,
    weight_histograms,
)
from aimet_torch.analysis.layers import compare_layers
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.quantsim.calibration import evaluation_mode
from tests.python.analysis.networks import data, simulation


def test_every_value_is_counted_in_floating_point():
    sim = simulation()
    board = Switchboard(sim)
    found = {h.name: h for h in activation_histograms(board, data(), 64)}
    assert set(found) == set(board.activations)
    with torch.no_grad(), board.only(()):
        expected = torch.cat([torch.relu(sim.model.stem(x)) for x in data()])
    histogram = found["relu.output_quantizers.0"]
    assert sum(histogram.counts) == expected.numel()
    assert histogram.upper == pytest.approx(expected.max().item())
    assert histogram.grid_max == pytest.approx(sim.model.relu.output_quantizers[0].max.item())
    assert histogram.steps == 255


def test_channels_have_histograms_of_their_own():
    sim = simulation()
    board = Switchboard(sim)
    name = "left.param_quantizers.weight"
    whole = next(h for h in weight_histograms(board, 64) if h.name == name)
    weight = sim.model.left.weight
    assert sum(whole.counts) == weight.numel()
    channels = list(channel_histograms(board, name, 64))
    assert len(channels) == 8
    low = sim.model.left.param_quantizers["weight"].get_min().flatten()
    for index, channel in enumerate(channels):
        assert sum(channel.counts) == weight[index].numel()
        assert channel.lower == weight[index].min().item()
        assert channel.grid_min == low[index].item()


def test_layers_are_compared_as_one_by_one():
    sim, batches = simulation(default_param_bw=4), data(2)
    board = Switchboard(sim)
    with evaluation_mode(sim.model):
        rows = compare_layers(board, lambda model, i: model(batches[i]), len(batches))
    found = {row.name: row for row in rows}
    assert {"stem", "left", "again", "again#1", "fc"} <= set(found)
    with torch.no_grad():
        actual = torch.cat([sim.model(x) for x in batches])
        with board.only(()):
            expected = torch.cat([sim.model(x) for x in batches])
    noise = (actual - expected).double().square()
    assert found["fc"].mse == pytest.approx(noise.mean().item(), rel=1e-5)
    ratio = 10 * math.log10(expected.double().square().sum() / noise.sum())
    assert found["fc"].sqnr_db == pytest.approx(ratio, abs=1e-4)
    assert found["fc"].layer_type == "Linear"


def test_facts_name_what_is_wrong_with_a_tensor():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide = nn.Conv2d(3, 8, 3)
            self.bn = nn.BatchNorm2d(8)
            self.tail = nn.Tanh()
            self.fc = nn.Linear(8, 16)
            self.norm = nn.LayerNorm(16)

        def forward(self, x):
            x = self.tail(self.bn(self.wide(x))).mean((2, 3))
            return self.norm(self.fc(x))

    torch.manual_seed(0)
    model = Odd().eval()
    with torch.no_grad():
        model.wide.weight[0] *= 100
        model.fc.bias[3] = 500.0
    batches = [torch.randn(64, 3, 8, 8)]
    sim = QuantizationSimModel(model, batches[0], config_file="default_per_tensor")
    sim.compute_encodings(batches)
    board = Switchboard(sim)
    facts = {
        t.quantizer: t
        for t in tensor_facts(
            board,
            estimate_sensitivity(sim, batches, (8, 16)),
            list(activation_histograms(board, batches, 1024)),
        )
    }
    weight, output = facts["wide.param_quantizers.weight"], facts["fc.output_quantizers.0"]
    assert weight.op_type == "Conv"
    assert weight.scales == 1
    assert weight.spread > 50
    assert output.is_before_norm
    assert sum(t.share for t in facts.values()) == pytest.approx(1)
    assert output.share > 0.3  # one step is 2, the other values lie between -2 and 2
    assert output.share_left < 0.01
    assert unfolded(sim) == ["bn"]


def test_tails_are_measured_against_nearly_all_values():
    from aimet_torch.analysis.facts import _tail

    assert _tail(TensorHistogram("x", [1000] * 10, 0.0, 10.0)) == 1
    long = TensorHistogram("x", [10_000] + [0] * 98 + [1], 0.0, 100.0)
    assert _tail(long) == 100
    assert _tail(TensorHistogram("x", [1, *[0] * 98, 10_000], -100.0, 0.0)) == 100


def test_quantizers_find_their_operators_and_nodes_their_producers():
    sim = simulation()
    operators = operators_of_quantizers(sim)
    assert operators["tanh.output_quantizers.0"].op_type == "Tanh"
    assert operators["left.param_quantizers.weight"].op_type == "Conv"
    nodes = graph_nodes(sim)
    by_name = {node.name: node for node in nodes}
    add = next(node for node in nodes if node.op_type == "Add")
    assert {nodes[i].name for i in add.reads} == {"left", "right"}
    assert by_name["again.1"].module == "again"
    assert by_name["again.1"].call == 1
