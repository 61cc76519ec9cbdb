"""One-pass sensitivity against what evaluating each quantizer by itself gives."""

import pytest
import torch
from torch import nn

from aimet_torch.analysis import Precision, Switchboard, estimate_sensitivity
from aimet_torch.quantsim import QuantizationSimModel
from tests.python.analysis.networks import data, simulation


def sample(count, seed=0):
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))


def perceptron():
    torch.manual_seed(1)
    sim = QuantizationSimModel(
        nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 8)),
        sample(1),
    )
    sim.compute_encodings([sample(512)])
    return sim


@torch.no_grad()
def measured(sim, x, bits, loss):
    """The loss with one quantizer at a time, by its name."""
    board = Switchboard(sim)
    board.observe([x], bits)
    with board.only(()):
        reference = sim.model(x)
    found = {}
    for name in board.quantizers:
        for width in bits:
            with board.at(board.only_at({name: Precision(width)})):
                output = sim.model(x)
            if loss == "squared_error":
                value = (output - reference).square().sum() / reference.square().sum()
            else:
                logs, expected = output.log_softmax(-1), reference.log_softmax(-1)
                value = (expected.exp() * (expected - logs)).sum(-1).mean()
            found[name, width] = value.item()
    return found


@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy"])
def test_the_estimate_is_what_evaluating_each_quantizer_gives(loss):
    sim, x = perceptron(), sample(512)
    truth = measured(sim, x, (4, 8), loss)
    found = {
        (row.name, row.bitwidth): row.loss
        for row in estimate_sensitivity(sim, [x], (4, 8), loss=loss)
    }
    assert found.keys() == truth.keys()
    for key, value in truth.items():
        # Second order, and one random projection: the order of magnitude and the ranking count.
        assert value / 2 < found[key] < 2 * value, (key, found[key], value)


def test_errors_that_depend_on_each_other_count_together():
    """A constant input is rounded the same way everywhere: its errors add up, not their squares."""
    model = nn.Linear(64, 4, bias=False)
    nn.init.constant_(model.weight, 0.5)
    x = torch.full((32, 64), 0.37)
    x[:, 0] = torch.linspace(0, 7.5, 32)
    sim = QuantizationSimModel(nn.Sequential(model), x, default_output_bw=4)
    sim.compute_encodings([x])
    name = "0.input_quantizers.0"
    truth = measured(sim, x, (4,), "squared_error")[name, 4]
    row = next(r for r in estimate_sensitivity(sim, [x], (4,)) if r.name == name)
    assert truth / 2 < row.loss < 2 * truth


def test_noise_and_clipping_of_the_tensors_themselves():
    sim, x = perceptron(), sample(512)
    rows = {r.name: r for r in estimate_sensitivity(sim, [x], (4,)) if r.bitwidth == 4}
    weight = sim.model[2].weight.detach()
    quantizer = Switchboard(sim).quantizer_at("2.param_quantizers.weight", Precision(4))
    error = quantizer(weight).detach() - weight
    expected = 10 * torch.log10(weight.square().sum() / error.square().sum())
    assert rows["2.param_quantizers.weight"].sqnr_db == pytest.approx(expected.item(), abs=1e-4)
    sim.model[1].output_quantizers[0].set_range(0.0, 0.5)
    sim.model[1].output_quantizers[0].freeze()
    hidden = torch.relu(sim.model[0](x)).detach()
    found = next(
        r for r in estimate_sensitivity(sim, [x], (8,)) if r.name == "1.output_quantizers.0"
    )
    assert found.clipped == pytest.approx((hidden > 0.5).double().mean().item(), abs=0.02)


def test_the_simulation_is_left_as_it_is():
    sim = simulation()
    sim.model.train()
    learned = [p for p in sim.model.parameters() if p.requires_grad]
    quantizers = dict(sim.named_quantizers())
    estimate_sensitivity(sim, data(), (4,))
    assert dict(sim.named_quantizers()) == quantizers
    assert sim.model.training
    assert [p for p in sim.model.parameters() if p.requires_grad] == learned
    assert all(p.grad is None for p in sim.model.parameters())


def test_layers_called_twice_several_outputs_and_batches():
    table = estimate_sensitivity(simulation(), data(3), (4, 8))
    assert {row.name for row in table} == {name for name, _ in simulation().named_quantizers()}
    assert table.samples == 12
    assert all(row.loss > 0 for row in table)

    class Two(nn.Module):
        def forward(self, x):
            return {"a": torch.tanh(x), "b": [x.exp().sum(1)]}

    sim = QuantizationSimModel(Two(), sample(4))
    sim.compute_encodings([sample(64)])
    names = {row.name for row in estimate_sensitivity(sim, [sample(64)], (8,))}
    assert {"tanh.output_quantizers.0", "exp.output_quantizers.0"} <= names


def test_errors():
    sim = simulation()
    with pytest.raises(ValueError, match=r"`loss` must be one of .*, got 'mse'"):
        estimate_sensitivity(sim, data(), loss="mse")
    with pytest.raises(ValueError, match="`bitwidths` must not be empty"):
        estimate_sensitivity(sim, data(), ())
    with pytest.raises(ValueError, match="no batch"):
        estimate_sensitivity(sim, [])
