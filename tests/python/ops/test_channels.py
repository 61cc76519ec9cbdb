"""Selection of channels: errors, greedy elimination and the LASSO, against NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from aimet_torch.ops.channels import (
    ChannelReader,
    channel_errors,
    channel_lasso,
    channel_lasso_order,
    channel_magnitude,
    channel_quadratic,
    eliminate_channels,
)

UNITS = 6


def reader(outputs=4, kernel=2, seed=0, scale=1.0, strangers=3):
    """Inputs in a shuffled order, some of which belong to no unit."""
    generator = torch.Generator().manual_seed(seed)
    d = UNITS * kernel + strangers
    unit = torch.cat([torch.arange(UNITS).repeat(kernel), torch.full((strangers,), -1)])
    unit = unit[torch.randperm(d, generator=generator)]
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    gram = mixing @ mixing.t() / d + 0.05 * torch.eye(d, dtype=torch.float64)
    weight = torch.randn(outputs, d, generator=generator, dtype=torch.float64)
    return ChannelReader(weight, gram, unit, scale)


READERS = [reader(scale=0.5), reader(outputs=3, kernel=1, seed=1, scale=2.0, strangers=0)]
BASE = torch.linspace(0.1, 0.6, UNITS, dtype=torch.float64)
FREE = torch.zeros(UNITS, dtype=torch.bool)


def error_of(removed, refits, readers=READERS, base=BASE):
    """What it costs to remove some units, straight from its definition."""
    total = sum(float(base[u]) for u in removed)
    for weight, gram, unit, scale in readers:
        w, h = weight.numpy(), gram.numpy()
        gone = np.isin(unit.numpy(), list(removed))
        left = ~gone
        if refits:  # min over v of tr((w - v) h (w - v)^T), v = 0 at what is gone
            v = np.zeros_like(w)
            v[:, left] = np.linalg.solve(h[np.ix_(left, left)], (w @ h)[:, left].T).T
            difference = w - v
        else:
            difference = w * gone
        total += scale * np.trace(difference @ h @ difference.T)
    return total


@pytest.mark.parametrize("refits", [True, False])
def test_errors_of_an_order(refits):
    order = torch.tensor([4, 1, 0, 5])
    errors = channel_errors(READERS, BASE, order, refits=refits)
    wanted = [error_of(order[:k].tolist(), refits) for k in range(5)]
    np.testing.assert_allclose(errors.numpy(), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("refits", [True, False])
def test_elimination_takes_the_best_unit_every_time(refits):
    order, errors = eliminate_channels(READERS, BASE, FREE, 1, refits=refits)
    removed: list[int] = []
    for unit in order.tolist():
        options = {u: error_of([*removed, u], refits) for u in range(UNITS) if u not in removed}
        assert unit == min(options, key=options.__getitem__)
        removed.append(unit)
    assert len(removed) == UNITS - 1
    wanted = [error_of(order[:k].tolist(), refits) for k in range(UNITS)]
    np.testing.assert_allclose(errors.numpy(), wanted, rtol=1e-9, atol=1e-12)


def test_elimination_is_close_to_the_best_of_all_subsets():
    _, errors = eliminate_channels(READERS, 0 * BASE, FREE)
    for k in range(1, UNITS):
        best = min(
            error_of(s, True, base=0 * BASE) for s in itertools.combinations(range(UNITS), k)
        )
        assert best - 1e-9 <= float(errors[k]) <= 1.5 * best


def test_fixed_units_stay():
    fixed = torch.tensor([True, False, False, True, False, False])
    assert sorted(eliminate_channels(READERS, BASE, fixed, 1)[0].tolist()) == [1, 2, 4, 5]
    assert len(eliminate_channels(READERS, BASE, fixed, 4)[0]) == 2
    assert len(eliminate_channels([], BASE, FREE, 6)[0]) == 0


def test_units_that_nobody_reads_go_first():
    weight, gram, unit, _ = READERS[0]
    order, errors = eliminate_channels(
        [ChannelReader(weight, gram, torch.where(unit == 3, -1, unit))], 0 * BASE, FREE
    )
    assert order[0] == 3
    assert errors[1] == 0


def test_same_bits_with_any_number_of_threads():
    threads = torch.get_num_threads()
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(eliminate_channels(READERS, BASE, FREE))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_magnitude():
    weight, _, unit, _ = READERS[0]
    squares = channel_magnitude(weight, unit, UNITS)
    wanted = [float(weight[:, unit == u].square().sum()) for u in range(UNITS)]
    np.testing.assert_allclose(squares.numpy(), wanted, rtol=1e-12)


# ---------------------------------------------------------------------------- LASSO

QUADRATIC = channel_quadratic(READERS, UNITS)
NORM = torch.linspace(1.0, 1.5, UNITS, dtype=torch.float64)


def test_quadratic():
    ones = torch.ones(UNITS, dtype=torch.float64)
    for removed in ((), (2,), (0, 4), (1, 2, 3)):
        mask = torch.zeros_like(ones)
        mask[list(removed)] = 1
        wanted = error_of(removed, False, base=0 * BASE)
        assert float(mask @ QUADRATIC @ mask) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("count", range(1, UNITS + 1))
def test_lasso_keeps_the_wanted_number_and_meets_its_conditions(count):
    beta, penalty = channel_lasso(QUADRATIC, NORM, FREE, count)
    chosen = beta != 0
    assert int(chosen.sum()) == count
    slope = QUADRATIC @ (1 - beta)  # of the quadratic part, negated
    kept = (penalty * NORM * beta.sign())[chosen]
    # Coordinate descent stops when no coefficient moves by 1e-6.
    np.testing.assert_allclose(slope[chosen].numpy(), kept.numpy(), atol=1e-4)
    assert bool((slope[~chosen].abs() <= penalty * NORM[~chosen] + 1e-4).all())


def test_lasso_without_correlations_is_a_threshold():
    quadratic = torch.tensor([4.0, 1.0, 9.0, 0.25]).double().diag()
    ones = torch.ones(4, dtype=torch.float64)
    beta, penalty = channel_lasso(quadratic, ones, FREE[:4], 2)
    wanted = (1 - float(penalty) / quadratic.diagonal()).clamp_min(0)
    np.testing.assert_allclose(beta.numpy(), wanted.numpy(), atol=1e-5)
    assert channel_lasso_order(quadratic, ones, FREE[:4]).tolist() == [3, 1, 0, 2]


def test_lasso_keeps_fixed_units():
    fixed = torch.tensor([True, False, False, False, False, True])
    beta, _ = channel_lasso(QUADRATIC, NORM, fixed, 2)
    assert beta.nonzero().flatten().tolist() == [0, 5]
    assert sorted(channel_lasso_order(QUADRATIC, NORM, fixed).tolist()) == [1, 2, 3, 4]


# ---------------------------------------------------------------------------- operators


def test_opcheck():
    columns = [list(column) for column in zip(*READERS, strict=True)]
    weight, _, unit, _ = READERS[0]
    calls = {
        "channel_magnitude": (weight, unit, UNITS),
        "channel_quadratic": (*columns, UNITS),
        "eliminate_channels": (*columns, BASE, FREE, 1, True),
        "channel_errors": (*columns, BASE, torch.tensor([1, 2]), True),
        "channel_lasso": (QUADRATIC, NORM, FREE, 3),
        "channel_lasso_order": (QUADRATIC, NORM, FREE, 20),
    }
    for name, arguments in calls.items():
        overload = getattr(torch.ops.aimet, name).default
        torch.library.opcheck(overload, arguments, test_utils=("test_schema",))


WEIGHT, GRAM, UNIT, _ = READERS[1]


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (
            lambda: channel_magnitude(WEIGHT, UNIT[:3], UNITS),
            ValueError,
            r"channel_magnitude: `weight` must be \(o, d\) and `unit` \(d,\)",
        ),
        (
            lambda: channel_magnitude(WEIGHT.long(), UNIT, UNITS),
            TypeError,
            "channel_magnitude: `weight` must be floating-point",
        ),
        (
            lambda: channel_magnitude(WEIGHT, UNIT, 3),
            ValueError,
            "channel_magnitude: `unit` must be within -1 and 2",
        ),
        (
            lambda: channel_quadratic([ChannelReader(WEIGHT, GRAM[:2], UNIT)], UNITS),
            ValueError,
            r"channel_quadratic: `gram` must have shape \(6, 6\), got \[2, 6\]",
        ),
        (
            lambda: channel_quadratic([ChannelReader(WEIGHT, GRAM, UNIT)], 2),
            ValueError,
            "channel_quadratic: `unit` must be within -1 and 1, got ",
        ),
        (
            lambda: eliminate_channels([ChannelReader(WEIGHT, GRAM, UNIT, -1.0)], BASE, FREE),
            ValueError,
            "eliminate_channels: `scale` must not be negative, got -1",
        ),
        (
            lambda: eliminate_channels(READERS, BASE, FREE, 7),
            ValueError,
            "eliminate_channels: `least` must be within 0 and 6, got 7",
        ),
        (
            lambda: eliminate_channels(READERS, BASE[:2], FREE),
            ValueError,
            r"eliminate_channels: `base` must have shape \(6\)",
        ),
        (
            lambda: eliminate_channels(READERS, BASE, FREE.long()),
            ValueError,
            r"eliminate_channels: `fixed` must be \(units,\) bool",
        ),
        (
            lambda: channel_errors(READERS, BASE, torch.tensor([1, 1])),
            ValueError,
            "channel_errors: `order` must name different units below 6, got 1",
        ),
        (
            lambda: channel_lasso(QUADRATIC, NORM, FREE, 0),
            ValueError,
            "channel_lasso: `count` must be within 1 and 6, got 0",
        ),
        (
            lambda: channel_lasso(QUADRATIC, 0 * NORM, FREE, 3),
            ValueError,
            "channel_lasso: `norm` must be positive, got 0",
        ),
        (
            lambda: channel_lasso(QUADRATIC[:2], NORM, FREE, 3),
            ValueError,
            r"channel_lasso: `quadratic` must be \(units, units\)",
        ),
        (
            lambda: channel_lasso(torch.nan * QUADRATIC, NORM, FREE, 3),
            ValueError,
            "channel_lasso: `quadratic` must be finite",
        ),
        (
            lambda: channel_lasso_order(QUADRATIC, NORM, FREE, 0),
            ValueError,
            "channel_lasso_order: `steps` must be positive, got 0",
        ),
    ],
)
def test_errors(function, error, message):
    with pytest.raises(error, match=message):
        function()
