"""Multiply-accumulates, parameters and activations against counts made by hand."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aimet_torch.compression import estimate_cost, measure_latency
from aimet_torch.graph import trace


class Functional(nn.Module):
    """Functions of every kind that multiply and add up."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(6, 2, 3, 3))
        self.matrix = nn.Parameter(torch.randn(5, 6))

    def forward(self, x):
        y = F.conv2d(x, self.kernel, stride=2, padding=1, groups=2)  # (1, 6, 4, 4)
        y = F.linear(y.flatten(2).transpose(1, 2), self.matrix)  # (1, 16, 5)
        scores = y @ y.transpose(1, 2)  # (1, 16, 16)
        mixed = torch.einsum("bij,bjk->bik", scores, y)  # (1, 16, 5)
        return torch.addmm(mixed[0], scores[0], y[0]) + torch.baddbmm(mixed, scores, y)


class Reused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.layer.weight

    def forward(self, x):
        return self.tied(self.layer(torch.relu(self.layer(x))))


class Branching(nn.Module):
    """Cannot be traced into."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 8, bias=False)

    def forward(self, x):
        y = self.layer(x)
        return y @ y.t() if x.sum() > 1e9 else y @ y.t() * 2


def test_layers_of_every_kind():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, (3, 1), groups=4, bias=False),
        nn.ConvTranspose2d(8, 4, 2, stride=2, bias=False),
        nn.Flatten(),
        nn.Linear(4 * 12 * 16, 10),
    )
    cost = estimate_cost(model, torch.randn(2, 3, 16, 16))
    rows = {row.name: row for row in cost.layers}
    assert rows["0"].macs == 2 * 8 * 8 * 8 * 3 * 9
    assert rows["0"].parameters == 8 * 3 * 9 + 8
    assert rows["0"].activations == 2 * 8 * 8 * 8
    assert rows["0"].activation_bytes == 4 * 2 * 8 * 8 * 8
    assert rows["3"].macs == 2 * 8 * 6 * 8 * 2 * 3
    assert rows["4"].macs == 2 * 8 * 6 * 8 * 4 * 4
    assert rows["6"].macs == 2 * 4 * 12 * 16 * 10
    assert rows["1"].macs == rows["2"].macs == 0
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    assert cost.macs == sum(row.macs for row in rows.values())
    assert cost.unknown == []
    assert cost.layer("4").output_shape == (2, 4, 12, 16)


def test_functional_operations_and_what_the_graph_becomes():
    model, x = Functional(), torch.randn(1, 4, 8, 8)
    expected = [6 * 16 * 2 * 9, 16 * 5 * 6, 16 * 16 * 5, *[16 * 5 * 16] * 3]
    cost = estimate_cost(model, x)
    assert [row.macs for row in cost.layers if row.macs] == expected
    assert [row.parameters for row in cost.layers if row.parameters] == [6 * 2 * 9, 5 * 6]
    graph = trace(model, x)
    graph.to_module()  # functions are modules now, with all they need as arguments
    assert sorted(row.macs for row in estimate_cost(graph.model, x).layers if row.macs) == sorted(
        expected
    )


def test_recurrent_layers():
    lstm = nn.LSTM(5, 7, num_layers=2, bidirectional=True)
    per_step = 2 * 4 * 7 * (5 + 7) + 2 * 4 * 7 * (14 + 7)
    for model in (lstm, nn.Sequential(lstm)):
        assert estimate_cost(model, torch.randn(3, 2, 5)).macs == 3 * 2 * per_step
    cell = nn.Sequential(nn.GRUCell(5, 7))
    assert estimate_cost(cell, torch.randn(2, 5)).macs == 2 * 3 * 7 * (5 + 7)


def test_attention_counts_both_products():
    cost = estimate_cost(nn.MultiheadAttention(8, 2, batch_first=True), [torch.randn(1, 6, 8)] * 3)
    assert cost.macs == 4 * 6 * 8 * 8 + 2 * 6 * 6 * 8


def test_reused_modules_count_once_in_parameters_and_every_time_in_products():
    cost = estimate_cost(Reused(), torch.randn(3, 4))
    row = cost.layer("layer")
    assert (row.calls, row.macs, row.parameters) == (2, 2 * 3 * 16, 20)
    assert (cost.layer("tied").macs, cost.layer("tied").parameters) == (3 * 16, 4)
    assert cost.parameters == 24


def test_parts_that_cannot_be_traced_are_counted_by_module_and_named():
    model = nn.Sequential(nn.Linear(4, 4), Branching())
    cost = estimate_cost(model, torch.randn(3, 4))
    assert cost.layer("1.layer").macs == 3 * 4 * 8
    assert cost.unknown == ["1: matmul (x1)"]
    assert "not counted: 1: matmul" in str(cost)


def test_table_and_file(tmp_path):
    cost = estimate_cost(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.randn(1, 4))
    assert "total" in str(cost)
    assert "ReLU" not in str(cost)
    document = json.loads(cost.write_json(tmp_path / "cost.json").read_text())
    assert (document["macs"], document["layers"][0]["parameters"]) == (12, 15)


def test_model_must_be_a_module():
    with pytest.raises(TypeError, match=r"estimate_cost: `model` must be an nn.Module, got int"):
        estimate_cost(3, torch.randn(1))  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="no layer is called 'x'"):
        estimate_cost(nn.Linear(1, 1), torch.randn(1, 1)).layer("x")


def test_latency_tells_time_and_restores_the_mode(tmp_path):
    model = nn.Sequential(nn.Linear(256, 256), nn.Dropout()).train()
    latency = measure_latency(
        model, torch.randn(64, 256), baseline=nn.Linear(256, 256), rounds=3, warmup=1
    )
    assert 0 < latency.quartiles[0] <= latency.seconds <= latency.quartiles[1]
    assert latency.speedup is not None
    assert latency.speedup > 0
    assert model.training
    assert model[1].training
    assert "faster" in str(latency)
    assert json.loads(latency.write_json(tmp_path / "latency.json").read_text())["rounds"] == 3


def test_latency_refuses_no_rounds():
    with pytest.raises(ValueError, match=r"measure_latency: `rounds` must be positive"):
        measure_latency(nn.Linear(1, 1), torch.randn(1, 1), rounds=0)
