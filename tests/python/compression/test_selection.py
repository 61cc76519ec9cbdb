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
from aimet_torch.compression.schemes import record_layer_inputs
from aimet_torch.compression.selection import (
    monotonic,
    select_exactly,
    select_greedily,
)
from aimet_torch.compression.sensitivity import measure_sensitivities
from tests.python.compression.networks import images, small
from tests.python.compression.prices import Priced, priced_units

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


# ---------------------------------------------------------------------------- fitted candidates


@pytest.mark.parametrize("name", ["spatial", "weight"])
def test_candidates_are_fitted_to_the_data(name):
    """Each layer alone, on the inputs of the original: what is left of its outputs' error."""
    model, data = small(), [images(48, seed=seed) for seed in (1, 2)]
    schemes = [
        LowRankScheme(model, images(2), name, CostMetric.mac, data=iter(batches))
        if batches
        else scheme_of(model, name)
        for batches in ([], data)
    ]
    plain, fitted = (scheme.units([0.3, 0.5, 0.8]) for scheme in schemes)
    assert [u.name for u in plain] == [u.name for u in fitted]
    inputs = record_layer_inputs(model, torch.cat(data), [u.name for u in plain])
    for before, after in zip(plain, fitted, strict=True):
        layer, (x,) = model.get_submodule(before.name), inputs[before.name]
        with torch.no_grad():
            y = layer(x)
            lost = [
                [float((c.build()[u.name].eval()(x) - y).square().mean()) for c in u.candidates]
                for u in (before, after)
            ]
        assert [c.ratio for c in before.candidates] == [c.ratio for c in after.candidates]
        assert [c.cost for c in before.candidates] == [c.cost for c in after.candidates]
        assert all(b < a for a, b in zip(*lost, strict=True))
        assert lost[1] == sorted(lost[1])


def test_a_fitted_candidate_is_what_is_applied():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16)).train()
    data = [torch.randn(64, 12) @ torch.randn(12, 12) for _ in range(2)]
    for batch in data:
        model(batch)
    scheme = LowRankScheme(model.eval(), data[0][:2], "weight", CostMetric.mac, data=data)
    (unit,) = scheme.units([0.5])
    applied = scheme.apply(model, {"0": 0.5}).model
    with torch.no_grad():
        torch.testing.assert_close(
            unit.candidates[0].build()["0"](data[0]), applied[0](data[0]), rtol=1e-4, atol=1e-4
        )


def test_layers_that_cannot_be_fitted_are_truncated():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x):
            return self.fc(self.fc(x))

    torch.manual_seed(0)
    model, data = Twice().eval(), torch.randn(32, 8)
    units = [
        LowRankScheme(model, data[:2], "weight", CostMetric.mac, data=batches).units([0.5])[0]
        for batches in (None, [data])
    ]
    with torch.no_grad():
        results = [unit.candidates[0].build()["fc"](data) for unit in units]
    torch.testing.assert_close(*results)


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
