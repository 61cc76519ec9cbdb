"""Rows about quantizers and layers against the simulation that they describe."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aimet_torch import QuantizationSimModel
from aimet_torch.report import describe_quantizers, layer_sqnr, sqnr_db


class Reuses(nn.Module):
    """One convolution, one activation called twice, and a functional addition."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.PReLU()
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        y = self.act(self.conv(x))
        return self.head(self.act(y - 0.1).mean((2, 3)) + 1)


def simulation(bitwidth: int, calibrate: bool = True) -> tuple[QuantizationSimModel, torch.Tensor]:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 8, 8)
    sim = QuantizationSimModel(Reuses(), x, default_param_bw=bitwidth, default_output_bw=bitwidth)
    if calibrate:
        sim.compute_encodings([x])
    return sim, x


def test_every_quantizer_has_a_row() -> None:
    sim, _ = simulation(8)
    rows = describe_quantizers(sim)
    assert len(rows) == len(list(sim.quantizers()))
    assert len({(row.layer, row.tensor) for row in rows}) == len(rows)


def test_rows_hold_what_the_quantizers_hold() -> None:
    sim, _ = simulation(6)
    rows = {(row.layer, row.tensor): row for row in describe_quantizers(sim)}
    row, quantizer = rows["conv", "weight"], sim.model.conv.param_quantizers["weight"]
    assert (row.layer_type, row.bitwidth, row.grid) == ("Conv2d", 6, "int6 symmetric")
    assert row.granularity == "4 channels"
    assert row.min == quantizer.get_min().min().item()
    assert row.max == quantizer.get_max().max().item()
    assert row.min_scale == quantizer.get_scale().min().item()
    assert row.max_scale == quantizer.get_scale().max().item()
    row = rows["conv", "input 0"]
    assert (row.grid, row.granularity) == ("uint6", "per tensor")
    assert row.min_scale == row.max_scale


def test_a_quantizer_without_a_range_has_no_numbers() -> None:
    sim, _ = simulation(8, calibrate=False)
    rows = describe_quantizers(sim)
    assert {(row.min, row.max, row.min_scale, row.max_scale) for row in rows} == {(None,) * 4}


def test_layers_come_in_order_and_repeated_calls_are_told_apart() -> None:
    sim, x = simulation(8)
    names = [row.name for row in layer_sqnr(sim, x)]
    assert names[0] == "conv"
    assert names[-1] == "head"
    assert names.index("act") < names.index("act#1")


def test_last_layer_agrees_with_the_outputs() -> None:
    sim, x = simulation(8)
    original = sim.get_original_model(sim.model)
    with torch.no_grad():
        expected = sqnr_db(original(x), sim.model(x))
    assert layer_sqnr(sim, x)[-1].sqnr_db == pytest.approx(expected)


def test_more_bits_are_better_in_every_layer() -> None:
    coarse, fine = (
        {row.name: row.sqnr_db for row in layer_sqnr(*simulation(bitwidth))} for bitwidth in (4, 8)
    )
    assert coarse.keys() == fine.keys()
    # Four bits are 24 dB; half of it leaves room for layers that add no error of their own.
    assert all(fine[name] > coarse[name] + 12 for name in fine)


def test_the_simulation_is_left_as_it_was() -> None:
    sim, x = simulation(8)
    sim.model.train()
    sim.model.head.eval()
    before = {name: value.clone() for name, value in sim.model.state_dict().items()}
    layer_sqnr(sim, x)
    assert sim.model.training
    assert not sim.model.head.training
    assert all(not module._forward_hooks for module in sim.model.modules())
    after = sim.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
