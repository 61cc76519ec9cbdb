"""Evaluations that resume in the middle of a network give the same bits, and run less of it."""

import pytest
import torch
from torch import nn

from aimet_torch.analysis import Switchboard, evaluate_settings
from aimet_torch.analysis.prefix import PrefixRunner
from aimet_torch.quantsim import QuantizationSimModel
from tests.python.analysis.networks import Branches, data, simulation


class Residual(nn.Module):
    """In-place activations, a dict of outputs, a skip over several layers, an extra argument."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x, scale=2.0):
        y = self.act(self.a(x))
        z = self.act(self.b(y)) + x
        return {"y": y * scale, "z": [self.c(z)]}


def simulated(make):
    if make is Branches:
        return simulation()
    torch.manual_seed(0)
    sim = QuantizationSimModel(make().eval(), data()[0])
    sim.compute_encodings(data())
    return sim


def score(model):
    total = 0.0
    for x in data():
        out = model(x)
        out = out["y"].mean() + out["z"][0].square().mean() if isinstance(out, dict) else out.mean()
        total += out.item()
    return total


@pytest.mark.parametrize("make", [Branches, Residual])
@pytest.mark.parametrize("is_on", [False, True])
def test_scores_are_the_same_bits(make, is_on):
    board = Switchboard(simulated(make))
    off = dict.fromkeys(board.quantizers)
    settings, base = {}, off if is_on else {}
    for layer, names in board.by_layer().items():
        on = {name: board.precision(name) for name in names}
        settings[layer] = {**off, **on} if is_on else dict.fromkeys(names)
    expected = evaluate_settings(board, settings, score)
    assert evaluate_settings(board, settings, score, base=base) == expected
    assert list(expected) == list(settings)
    assert "forward" not in board.sim.model.__dict__


def test_less_of_the_network_runs():
    board, counts = Switchboard(simulated(Branches)), []
    handle = board.sim.model.stem.register_forward_hook(lambda *_: counts.append(1))
    settings = {layer: dict.fromkeys(names) for layer, names in board.by_layer().items()}
    evaluate_settings(board, settings, score, base={})
    handle.remove()
    # For the first layer, for the next one, and once to compare with the model's own forward.
    assert len(counts) <= 2 * len(data()) + 1 < len(settings) * len(data())


def test_other_data_run_as_a_whole():
    board = Switchboard(simulated(Branches))
    settings = {layer: dict.fromkeys(names) for layer, names in board.by_layer().items()}
    generator = torch.Generator().manual_seed(0)
    seen = []

    def shuffled(model):
        x = data()[int(torch.randint(0, 3, (), generator=generator))]
        seen.append(x)
        return model(x).mean().item()

    found = evaluate_settings(board, settings, shuffled, base={})
    for (layer, setting), x in zip(settings.items(), seen, strict=True):
        with torch.no_grad(), board.at(setting):
            assert found[layer] == board.sim.model(x).mean().item(), layer


def test_without_memory_everything_runs_as_a_whole():
    sim = simulated(Branches)
    runner = PrefixRunner(sim.graph, budget=0)
    with torch.no_grad():
        expected = sim.model(data()[0])
        for module in ("left", "fc"):
            with runner.resuming_at(runner.position_of({module})):
                assert torch.equal(sim.model(data()[0]), expected)
    assert runner.saved == 0


def test_positions():
    runner = PrefixRunner(simulated(Branches).graph)
    positions = [runner.position_of({name}) for name in ("stem", "left", "again", "fc")]
    assert positions == sorted(set(positions))
    assert runner.position_of({"fc", "stem"}) == positions[0]
    assert runner.position_of({"nothing"}) == 0
