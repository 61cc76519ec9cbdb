"""What is left of a budget: ratios between candidates, larger ones, and the time of a model."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from aimet_torch.common.collectives import Ranks
from aimet_torch.common.defs import CostMetric
from aimet_torch.compression.low_rank_scheme import LowRankScheme
from aimet_torch.compression.pruning_scheme import PruningScheme
from aimet_torch.compression.refinement import (
    choose_by_time,
    choose_exactly,
    choose_greedily,
)
from aimet_torch.compression.schemes import Candidate, Unit
from aimet_torch.compression.selection import (
    Choice,
    monotonic,
    select_exactly,
    select_greedily,
)
from aimet_torch.compression.sensitivity import measure_sensitivities
from benchmarks import fashion_mnist
from tests.python.compression.networks import images
from tests.python.compression.prices import Priced, priced_units

pytestmark = pytest.mark.usefixtures("one_thread")
ALONE = Ranks(None, "test")


class Continuous(Priced):
    """Costs of 40 x ratio; what a unit loses is the square of what it saves."""

    def __init__(self, step=1e-4):
        super().__init__()
        self.step = step
        self.asked = []

    def candidates(self, unit, ratios):
        self.asked += [(unit, ratio) for ratio in ratios]
        found = {}
        for asked in ratios:
            ratio = math.ceil(asked / self.step - 1e-9) * self.step
            found.setdefault(round(ratio, 6), Candidate(ratio, 40 * ratio, dict, (1 - ratio) ** 2))
        return list(found.values())


def continuous(scheme, ratios=(0.8, 0.6, 0.4, 0.2)):
    return [Unit(name, 40.0, scheme.candidates(name, ratios)) for name in "ab"]


def test_ratios_between_candidates_use_up_the_budget():
    scheme = Continuous()
    units = continuous(scheme)
    # Twice as bad for `a`: at the best ratios, its share of what is saved is a third.
    table = torch.tensor(
        [[2 * c.lost for c in units[0].candidates], [c.lost for c in units[1].candidates]]
    )
    for target in (0.5, 0.63, 0.77, 0.9):
        coarse = select_exactly(scheme, units, table, target)
        found = choose_exactly(scheme, units, table, target)
        assert target * 0.99 < found.ratio <= target
        saved = (1 - target) * 100 / 40
        best = 2 * (saved / 3) ** 2 + (2 * saved / 3) ** 2
        assert best <= found.value < 1.06 * best
        assert found.value - best < coarse.value - best
        assert found.value == pytest.approx(sum(found.values.values()))
        assert not found.note
        assert found.curve[-1] == (1.0, 0.0)


def test_greedy_gives_back_what_its_threshold_leaves():
    scheme = Continuous()
    units = continuous(scheme)
    scores = torch.tensor([[90.0, 80.0, 70.0, 60.0], [90.5, 85.0, 84.0, 83.0]])
    plain = select_greedily(scheme, units, scores, 0.64)
    found = choose_greedily(scheme, units, scores, 0.64)
    assert found.value == plain.value
    assert 0.99 * 0.64 < found.ratio <= 0.64
    assert plain.ratio == pytest.approx(0.6)
    for name, candidate in found.candidates.items():
        assert candidate.ratio >= plain.candidates[name].ratio
        assert found.values[name] >= found.value
    scheme.asked.clear()
    coarse = choose_greedily(scheme, units, scores, 0.64, refines=False)
    assert not scheme.asked
    assert plain.ratio <= coarse.ratio <= 0.64


def test_a_coarse_grid_says_why_the_ratio_is_not_reached():
    scheme = Continuous(step=0.5)
    units = continuous(scheme, (0.5,))
    table = torch.tensor([[2.0], [1.0]])
    found = choose_exactly(scheme, units, table, 0.75)
    assert {name: c.cost for name, c in found.candidates.items()} == {"a": 20, "b": 20}
    assert found.ratio == pytest.approx(0.6)
    assert found.note.startswith(
        "0.6 instead of 0.75: the next larger size of any layer costs more"
    )


@pytest.mark.parametrize(("error", "ratio"), [(4.1, 0.8), (9.0, 0.7)])
def test_a_choice_that_is_much_nearer_may_lose_a_little_more(error, ratio):
    # The least is lost by `b` at 10; both at 30 lose `error`.
    errors = torch.tensor([[error - 1, 20.0, 20.0], [1.0, 9.0, 4.0]])
    found = choose_exactly(Priced(), priced_units(), errors, 0.8, refines=False)
    assert found.ratio == pytest.approx(ratio)
    assert found.value == pytest.approx(min(error, 4.1) if ratio == 0.8 else 4)
    assert bool(found.note) == (ratio == 0.7)


def test_no_ratio_beside_one_without_a_value():
    scheme = Continuous()
    units = continuous(scheme)
    table = torch.tensor([[1.0, math.nan, 3.0, 4.0], [math.nan] * 4])
    found = choose_exactly(scheme, units, table, 0.85)
    (ratio,) = (candidate.ratio for candidate in found.candidates.values())
    assert ratio <= 0.4 or ratio >= 0.8
    assert list(found.candidates) == ["a"]


class Branches(nn.Module):
    """Inverted residual blocks of MobileNetV2's shape: 1 x 1, depthwise, 1 x 1, some added."""

    def __init__(self):
        super().__init__()
        layers, inputs = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6()], 8
        for outputs, stride in ((12, 1), (12, 1), (20, 2), (20, 1)):
            layers.append(Inverted(inputs, outputs, stride))
            inputs = outputs
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 10))

    def forward(self, x):
        return self.body(x)


class Inverted(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        wide = 6 * inputs
        self.block = nn.Sequential(
            nn.Conv2d(inputs, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False), nn.BatchNorm2d(wide),
            nn.ReLU6(), nn.Conv2d(wide, outputs, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x):
        y = self.block(x)
        return x + y if self.adds else y


def plain_cnn():
    return nn.Sequential(
        nn.Conv2d(1, 64, 3, 2, 1), nn.ReLU(), nn.Conv2d(64, 80, 3, padding=1), nn.ReLU(),
        nn.Conv2d(80, 96, 3, padding=1), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(384, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


@pytest.mark.parametrize("make", [plain_cnn, fashion_mnist.residual, Branches])
@pytest.mark.parametrize("scheme", ["spatial", "pruning"])
@pytest.mark.parametrize("target", [0.5, 0.66, 0.75])
def test_both_searches_come_within_one_percent(make, scheme, target):
    torch.manual_seed(0)
    model = make().eval()
    data = images(16) if make is Branches else torch.randn(16, 1, 28, 28)
    if scheme == "spatial":
        made = LowRankScheme(model, data[:2], scheme, CostMetric.mac)
    else:
        made = PruningScheme(model, data[:2], CostMetric.mac, data=[data], selection="gram")
    units = made.units([step / 10 for step in range(1, 10)])
    table = measure_sensitivities(model, [((data,), {})], units, ALONE)
    table = -monotonic(-table)
    for found in (
        choose_exactly(made, units, table, target),
        choose_greedily(made, units, -table, target),
    ):
        assert target * 0.99 <= found.ratio <= target
        ratios = {name: candidate.ratio for name, candidate in found.candidates.items()}
        smaller = made.apply(model, ratios)
        assert smaller.after.macs / smaller.before.macs == pytest.approx(found.ratio)


def test_a_choice_by_time_corrects_what_does_not_add_up():
    asked = []

    def choose(aim):
        asked.append(aim)
        if aim < 0.3:
            raise ValueError("too small")
        return Choice({}, aim, 1.0, [])

    found = choose_by_time(choose, lambda choice: 1.3 * choice.ratio, 0.5)
    assert found.ratio == pytest.approx(0.5, rel=0.02)
    assert not found.note
    assert asked == pytest.approx([0.5, 0.5 / 1.3])
    # What cannot be measured to be that fast: the nearest, and a note.
    found = choose_by_time(choose, lambda choice: max(choice.ratio, 0.8), 0.5)
    assert found.ratio == 0.8
    assert found.note.startswith("0.8 of the time instead of 0.5")
    with pytest.raises(ValueError, match="too small"):
        choose_by_time(choose, lambda choice: choice.ratio, 0.2)
