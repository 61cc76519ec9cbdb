"""Size and cost on a target: counted by hand, and what the report says about it."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from aimet_torch.quantization.affine import GroupedBlockQuantizeDequantize, QuantizeDequantize
from aimet_torch.quantsim import QuantizationSimModel
from tests.python.report.test_document import Page


class Net(nn.Module):
    """Every kind of row: folded norm, depthwise, attention-like product, a layer without bias."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.depthwise(torch.relu(self.norm(self.conv(x)))).flatten(2)
        return self.head(x @ x.transpose(1, 2))


@pytest.fixture
def sim():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 6)
    sim = QuantizationSimModel(Net().eval(), x)
    sim.compute_encodings(lambda m: m(x))
    return sim


def rows(report):
    return {row.name: row for row in report.parameters}


def test_multiplications_by_hand(sim):
    costs = {row.name: row for row in sim.deployment_report().costs}
    assert costs["conv"].macs == 2 * 8 * 24 * 27
    assert costs["depthwise"].macs == 2 * 8 * 24 * 9
    assert costs["head"].macs == 2 * 8 * 5 * 8
    product = next(row for row in costs.values() if row.op_type == "MatMul")
    assert product.macs == 2 * 8 * 8 * 24
    assert (costs["conv"].weights, costs["conv"].activations) == ("int8", "uint8")
    assert product.formats == "uint8 x uint8"
    report = sim.deployment_report()
    assert report.macs["int8 x uint8"] == 2 * 24 * 8 * 36 + 640
    assert report.float_macs == 0


def test_bytes_by_hand(sim):
    found = rows(sim.deployment_report())
    conv, norm = found["conv.weight"], found["norm.running_mean"]
    assert (conv.before, conv.after, conv.scales, conv.stored) == (864, 216, 32, "int8 x 8")
    assert (norm.before, norm.after, norm.stored) == (32, 0, "folded")
    assert (found["norm.bias"].after, found["norm.bias"].stored) == (32, "int32 bias")
    assert found["depthwise.bias"].stored == "int32 bias"
    report = sim.deployment_report()
    numbers = 27 * 8 + 8 * 9 + 8 * 5
    assert report.bytes_before == 4 * (numbers + 4 * 8 + 8 + 5)
    assert report.scale_bytes == 4 * (8 + 8 + 5)
    assert report.bytes_after == numbers + 4 * (8 + 8 + 5) + report.scale_bytes


def test_narrow_blocks_and_asymmetric_weights(sim):
    sim.model.head.param_quantizers["weight"] = GroupedBlockQuantizeDequantize(
        (5, 2), 4, True, block_size=(1, 4), decompressed_bw=8, block_grouping=(1, 2)
    )
    sim.model.conv.param_quantizers["weight"] = QuantizeDequantize((8, 1, 1, 1), 3, False)
    found = rows(sim.deployment_report())
    head, conv = found["head.weight"], found["conv.weight"]
    # 40 numbers of 4 bits; 10 block scales of 4 bits and 5 scales of rows.
    assert (head.after, head.scales) == (20, 5 + 20)
    assert (conv.after, conv.scales, conv.stored) == (81, 32 + 3, "uint3 x 8")


def test_folded_parameters_count_as_before(sim):
    before = sim.deployment_report()
    sim.fold_param_quantizers()
    after = sim.deployment_report()
    assert (after.bytes_after, after.macs) == (before.bytes_after, before.macs)


def test_what_stays_in_floating_point_and_why(sim):
    sim.exclude_layers_from_quantization(["head"])
    report = sim.deployment_report()
    found = rows(report)
    assert found["head.weight"].reason == "it has no quantizer"
    assert "head" in dict(report.floats)
    assert report.float_macs == 640
    assert "float32 x uint8" in report.macs or "float32 x float32" in report.macs


def test_recurrent_layers_multiply_states_in_floats():
    x = torch.randn(2, 7, 6)
    sim = QuantizationSimModel(nn.Sequential(nn.LSTM(6, 4, batch_first=True)), x)
    costs = {row.name.rpartition(".")[2]: row for row in sim.deployment_report().costs}
    assert costs["weight_ih_l0"].macs == 2 * 7 * 16 * 6
    assert costs["weight_hh_l0"].macs == 2 * 7 * 16 * 4
    assert costs["weight_ih_l0"].activations == "uint8"
    assert costs["weight_hh_l0"].activations == "float32"


def test_functions_that_are_not_counted_say_so():
    class Einsum(nn.Module):
        def forward(self, x):
            return torch.einsum("ij,kj,lj->ikl", x, x, x)

    report = QuantizationSimModel(Einsum(), torch.randn(2, 3)).deployment_report()
    assert [name for name, _ in report.uncounted] == ["einsum"]


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x) if x.mean() > 0 else self.layer(-x)


def test_parts_that_were_not_traced_are_named():
    x = torch.rand(2, 4)
    sim = QuantizationSimModel(nn.Sequential(Branching(), nn.ReLU()), x)
    report = sim.deployment_report()
    assert [name for name, _ in report.uncounted] == ["0"]
    assert [row.macs for row in report.costs] == [24]


def test_as_text_json_and_html(sim, tmp_path):
    report = sim.deployment_report()
    text = str(report)
    assert "int8 x uint8" in text
    assert "times smaller" in text
    assert "int32 bias" in text
    document = json.loads(report.to_json(tmp_path / "cost.json"))
    assert document == json.loads((tmp_path / "cost.json").read_text())
    assert document["bytes_after"] == report.bytes_after
    page = report.write_html(tmp_path / "cost.html").read_text()
    assert not Page(page).unbalanced
    assert "depthwise.weight" in page
