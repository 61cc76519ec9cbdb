"""How ratios are chosen: cached prefixes, sensitivities, scores that rise, both searches."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aimet_torch.common.collectives import Ranks
from aimet_torch.common.defs import CostMetric
from aimet_torch.compression.low_rank_scheme import LowRankScheme
from aimet_torch.compression.prefix_cache import PrefixCache
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
from tests.python.compression.networks import images, small

pytestmark = pytest.mark.usefixtures("one_thread")
RATIOS = [0.3, 0.6]
ALONE = Ranks(None, "test")


def scheme_of(model, name="auto"):
    return LowRankScheme(model, images(2), name, CostMetric.mac)


def replaced(model, modules):
    for name, module in modules.items():
        setattr(model, name, module)
    return model.eval()


# ---------------------------------------------------------------------------- cached prefixes


@pytest.mark.parametrize("no_grad", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_prefix_runs_once_and_the_outputs_are_the_same(no_grad):
    model = small()
    units = scheme_of(model).units(RATIOS)
    assert [unit.name for unit in units] == ["stem", "conv1", "conv2", "down", "fc"]
    cache = PrefixCache(model, images(2), [unit.name for unit in units])
    batches = images(40).split(16)
    for unit in units:
        for candidate in unit.candidates:
            with no_grad():
                evaluated = cache.begin(candidate.build())
                outputs = [evaluated(batch) for batch in batches]
                wanted = replaced(small(), candidate.build())
                for batch, output in zip(batches, outputs, strict=True):
                    torch.testing.assert_close(output, wanted(batch), rtol=0, atol=0)
    candidates = sum(len(unit.candidates) for unit in units)
    assert cache.runs == 3 * candidates
    assert cache.resumed == 3 * (candidates - 1)  # all but the very first


def test_other_inputs_are_computed_anew():
    model, x = small(), images(8)
    cache = PrefixCache(model, x, ["down"])
    down = nn.Conv2d(12, 24, 3, stride=2, padding=1)
    with torch.no_grad():
        for inputs in (x, x, images(8, seed=3), images(4, seed=3), x):
            wanted = replaced(small(), {"down": down})(inputs)
            torch.testing.assert_close(cache.begin({"down": down})(inputs), wanted, rtol=0, atol=0)
    assert cache.resumed == 1
    kept = cache.begin({"down": down})
    kept.train()
    assert kept(x).requires_grad is False
    assert type(kept) is type(model)


def test_nothing_is_kept_beyond_the_budget():
    model, x = small(), images(8)
    cache = PrefixCache(model, x, ["down"], budget=100)
    with torch.no_grad():
        for _ in range(3):
            cache.begin({"down": model.down})(x)
    assert cache.resumed == 0


class WritesIntoItsInput(nn.Module):
    """A part that no trace looks into, which changes what others read."""

    def forward(self, x):
        return x.add_(1) if float(x.detach().sum()) != 0.5 else x


def test_modules_that_write_into_their_input():
    def make():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), WritesIntoItsInput())

    model, x = make().eval(), torch.randn(3, 4)
    cache = PrefixCache(model, x, ["2"])
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(cache.begin({"2": model[2]})(x.clone()), model(x.clone()))


# ---------------------------------------------------------------------------- sensitivities


def test_sensitivities_are_those_of_the_outputs():
    torch.manual_seed(0)
    # Linear, so that the first order is all there is.
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 5)
    ).eval()
    data = images(1024)
    units = scheme_of(model).units([0.3, 0.5, 0.8])
    table = measure_sensitivities(model, [((data,), {})], units, ALONE)
    with torch.no_grad():
        wanted = model(data)
        power = (wanted - wanted.mean(0)).square().sum()
        for unit, row in zip(units, table, strict=True):
            for candidate, found in zip(unit.candidates, row, strict=False):
                modules = dict(enumerate(model))
                modules.update({int(k): v for k, v in candidate.build().items()})
                changed = nn.Sequential(*modules.values())(data)
                true = float((changed - wanted).square().sum() / power)
                # 1,024 random projections: a deviation of some sqrt(2 / 1024) = 4 %, and chunks
                # of 32 estimate the power of the outputs, which is 3 % too small.
                assert float(found) == pytest.approx(true, rel=0.25)


def test_without_gradients_the_layers_own_outputs_count():
    class Labels(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)

        def forward(self, x):
            return self.fc(x).argmax(1).float()

    torch.manual_seed(0)
    model, data = Labels().eval(), torch.randn(64, 6)
    scheme = LowRankScheme(model, data[:2], "weight", CostMetric.mac)
    units = scheme.units([0.5, 0.9])
    (row,) = measure_sensitivities(model, [((data,), {})], units, ALONE)
    assert row[0] > 0
    made = units[0].candidates[0].build()["fc"]
    with torch.no_grad():
        y = model.fc(data)
        shares = [
            (made(x) - model.fc(x)).square().sum()
            / (model.fc(x) - model.fc(x).mean(0)).square().sum()
            for x in data.split(32)
        ]
    assert y.shape == (64, 6)
    assert float(row[0]) == pytest.approx(float(sum(shares)) / 2, rel=1e-5)


def test_inputs_and_calls_of_any_kind():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 6)
            self.last = nn.Linear(6, 6)

        def forward(self, x, *, gain):
            y = F.relu_(self.fc(self.fc(x))) * gain
            return {"a": self.last(y), "n": torch.arange(3)}

    torch.manual_seed(0)
    model = Twice().eval()
    example = {"x": torch.randn(4, 6), "gain": torch.tensor(2.0)}
    scheme = LowRankScheme(model, example, "weight", CostMetric.mac)
    units = scheme.units([0.4, 0.8])
    assert [unit.name for unit in units] == ["fc", "last"]
    table = measure_sensitivities(model, [((), example)], units, ALONE)
    assert bool((table > 0).all())


# ---------------------------------------------------------------------------- rising scores


def pooled(values):
    """Isotonic regression by pooling neighbors that violate the order."""
    blocks = []
    for value in values:
        blocks.append([value, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, m), (b, n) = blocks[-2:]
            blocks[-2:] = [[(a * m + b * n) / (m + n), m + n]]
    return [value for value, count in blocks for _ in range(count)]


def test_the_monotonic_fit_is_isotonic_regression():
    scores = torch.rand(6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scores[2, 5:] = math.nan
    fitted = monotonic(scores)
    for row, found in zip(scores, fitted, strict=True):
        wanted = pooled(row[row.isfinite()].flip(0).tolist())[::-1]
        assert found[: len(wanted)].tolist() == pytest.approx(wanted)
        assert bool(found[len(wanted) :].isnan().all())


# ---------------------------------------------------------------------------- searches


class Priced:
    """A scheme with nothing but prices."""

    name, total = "priced", 100.0

    def __init__(self, interaction=0.0):
        self.adds_up = interaction == 0
        self.left = {"x": "a reason"}
        self.interaction = interaction

    def cost(self, choice):
        saved = sum(40 - candidate.cost for candidate in choice.values())
        return 100 - saved + self.interaction * max(len(choice) - 1, 0)


def priced_units():
    costs = (30.0, 20.0, 10.0)
    return [
        Unit(name, 40.0, [Candidate(cost / 40, cost, dict, 40 - cost) for cost in costs])
        for name in "ab"
    ]


SCORES = torch.tensor([[90.0, 80.0, 85.0], [89.0, 70.0, 20.0]])


@pytest.mark.parametrize(
    ("target", "chosen", "threshold"),
    [
        (1.0, {"a": 30}, 90),  # the highest threshold: what loses nothing is compressed anyway
        (0.8, {"a": 30, "b": 30}, 89),
        (0.7, {"a": 10, "b": 30}, 85),  # the smallest ratio's score lifts the one before it
        (0.5, {"a": 10, "b": 20}, 70),
        (0.4, {"a": 10, "b": 10}, 20),
    ],
)
def test_greedy_takes_the_highest_threshold(target, chosen, threshold):
    found = select_greedily(Priced(), priced_units(), SCORES, target)
    assert {name: c.cost for name, c in found.candidates.items()} == chosen
    assert found.value == threshold
    assert found.ratio <= target
    assert len(found.curve) == 6


def test_exact_takes_the_least_sum():
    errors = torch.tensor([[1.0, 2.0, 9.0], [0.5, 4.0, 5.0]])
    for target, chosen in ((0.9, {"b": 30}), (0.8, {"a": 30, "b": 30}), (0.5, {"a": 20, "b": 10})):
        found = select_exactly(Priced(), priced_units(), errors, target)
        assert {name: c.cost for name, c in found.candidates.items()} == chosen
        assert found.is_exact
    assert found.value == 7
    assert found.curve[-1] == (1.0, 0.0)


def test_costs_that_do_not_add_up_still_keep_the_budget():
    errors = torch.tensor([[1.0, 2.0, 9.0], [0.5, 4.0, 5.0]])
    found = select_exactly(Priced(interaction=10), priced_units(), errors, 0.6)
    assert {name: c.cost for name, c in found.candidates.items()} == {"a": 20, "b": 10}
    assert found.ratio == 0.6


@pytest.mark.parametrize("select", [select_greedily, select_exactly])
def test_what_cannot_be_reached(select):
    message = r"got 0.3; the smallest with them is 0.4. Layers that keep their shape: x: a reason"
    with pytest.raises(ValueError, match=message):
        select(Priced(), priced_units(), SCORES, 0.3)


# ---------------------------------------------------------------------------- using up the budget


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
