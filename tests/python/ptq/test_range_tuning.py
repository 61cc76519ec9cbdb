"""Ranges of activations learned against the outputs of the network."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from aimet_torch.ptq import tune_activation_ranges
from aimet_torch.quantsim import QuantizationSimModel


class Network(nn.Module):
    """Two outputs of very different size; the first activation has outliers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Linear(8, 16)
        self.second = nn.Linear(16, 4)
        self.third = nn.Linear(16, 2)

    def forward(self, x):
        y = torch.relu(self.first(x)) ** 3
        return self.second(torch.tanh(y)), 1e4 * self.third(torch.tanh(y))


def batches(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(16, 8, generator=generator) for _ in range(6)]


def simulation(model, bits=4):
    sim = QuantizationSimModel(model, batches()[0], "min_max", default_output_bw=bits)
    sim.compute_encodings(batches())
    return sim


@torch.no_grad()
def relative_error(sim, model):
    """Straight from the definition."""
    given = [torch.cat(parts) for parts in zip(*(sim.model(x) for x in batches()), strict=True)]
    wanted = [torch.cat(parts) for parts in zip(*(model(x) for x in batches()), strict=True)]
    pairs = zip(given, wanted, strict=True)
    ratios = [(a - b).square().sum() / b.square().sum() for a, b in pairs]
    return float(sum(ratios) / len(ratios))


def state_of(sim):
    return {name: value.clone() for name, value in sim.model.state_dict().items()}


@pytest.mark.parametrize("bits", [4, 5])
def test_the_error_of_the_outputs_falls_and_only_ranges_of_activations_move(bits):
    model = Network().eval()
    sim = simulation(model, bits)
    before, state = relative_error(sim, model), state_of(sim)
    learns = {name: p.requires_grad for name, p in sim.model.named_parameters()}
    found = tune_activation_ranges(
        sim, model, batches(), num_iterations=120, learning_rate=1e-2, seed=1
    )
    assert found.error_before == pytest.approx(before, rel=1e-5)
    assert found.error_after == pytest.approx(relative_error(sim, model), rel=1e-5)
    assert found.error_after < 0.9 * before
    moved = {name for name, value in state_of(sim).items() if not torch.equal(value, state[name])}
    assert moved
    assert all("put_quantizers" in name for name in moved), moved
    assert found.ranges == sum(name.endswith("put_quantizers.0.min") for name in state)
    assert {name: p.requires_grad for name, p in sim.model.named_parameters()} == learns
    assert all(p.grad is None for p in sim.model.parameters())


def test_probabilities_of_a_classifier_come_closer():
    model = Network().eval()
    sim = simulation(model, 5)
    sim.model.third.output_quantizers[0] = None

    def divergence():
        """Straight from the definition: the sum of p log(p / q) over the classes."""
        total = 0.0
        for index in range(2):
            rows = []
            for x in batches():
                with torch.no_grad():
                    p, q = (net(x)[index].double().log_softmax(-1) for net in (model, sim.model))
                rows.append((p.exp() * (p - q)).sum(-1))
            total += float(torch.cat(rows).mean())
        return total / 2

    before = divergence()
    found = tune_activation_ranges(
        sim, model, batches(), num_iterations=120, learning_rate=1e-2, loss="cross_entropy"
    )
    assert found.error_before == pytest.approx(before, rel=1e-4)
    assert found.error_after == pytest.approx(divergence(), rel=1e-4)
    assert found.error_after < 0.9 * before


def test_the_same_seed_gives_the_same_ranges_in_any_mode():
    model = Network()
    sims = [simulation(model.train()), simulation(model.eval())]
    for sim in sims:
        training = sim.model.training
        with torch.no_grad():
            tune_activation_ranges(sim, model, batches(), num_iterations=9, seed=4)
        assert sim.model.training == training
    first, second = (state_of(sim) for sim in sims)
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_ranges_stay_where_learning_makes_it_worse():
    model = Network().eval()
    sim = simulation(model, 8)
    state = state_of(sim)
    found = tune_activation_ranges(sim, model, batches(), num_iterations=3, learning_rate=0.9)
    assert found.error_after == found.error_before
    assert all(torch.equal(value, state[name]) for name, value in state_of(sim).items())


def test_frozen_quantizers_keep_their_ranges():
    model = Network().eval()
    sim = simulation(model)
    sim.model.first.input_quantizers[0].freeze()
    state = state_of(sim)
    tune_activation_ranges(sim, model, batches(), num_iterations=6)
    after = state_of(sim)
    frozen = [name for name in state if name.startswith("first.input_quantizers")]
    assert frozen
    assert all(torch.equal(after[name], state[name]) for name in frozen)


def test_ranges_come_back_when_a_step_fails():
    model = Network().eval()
    sim = simulation(model)
    state, calls = state_of(sim), []

    def fail(module, args):
        calls.append(None)
        if len(calls) > 12:  # six batches measure before the first step
            raise KeyboardInterrupt

    handle = sim.model.third.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        tune_activation_ranges(sim, model, batches(), num_iterations=50)
    handle.remove()
    assert all(torch.equal(value, state[name]) for name, value in state_of(sim).items())


def test_bad_arguments():
    model = Network().eval()
    sim = simulation(model)
    with pytest.raises(TypeError, match=r"`model` must be an nn\.Module, got list"):
        tune_activation_ranges(sim, [], batches())
    with pytest.raises(ValueError, match="`num_iterations` must be positive, got 0"):
        tune_activation_ranges(sim, model, batches(), num_iterations=0)
    with pytest.raises(ValueError, match="`learning_rate` is a share"):
        tune_activation_ranges(sim, model, batches(), learning_rate=0.0)
    with pytest.raises(ValueError, match="`loss` must be one of"):
        tune_activation_ranges(sim, model, batches(), loss="mse")
    with pytest.raises(ValueError, match=r"outputs of shapes \[\(16, 16\)\]"):
        tune_activation_ranges(sim, model.first, batches())
    blank = QuantizationSimModel(copy.deepcopy(model), batches()[0])
    with pytest.raises(ValueError, match="no calibrated activation quantizer"):
        tune_activation_ranges(blank, model, batches())
