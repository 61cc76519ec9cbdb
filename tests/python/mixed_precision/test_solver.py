from __future__ import annotations

import itertools

import numpy as np
import pytest

from aimet_torch.mixed_precision.solver import solve


def best_by_trying_all(losses, costs, budgets) -> tuple[float, tuple[int, ...]] | None:
    found = None
    for choice in itertools.product(*(range(len(group)) for group in losses)):
        totals = [sum(g[i] for g, i in zip(cost, choice, strict=True)) for cost in costs]
        if any(t > b * (1 + 1e-9) for t, b in zip(totals, budgets, strict=True)):
            continue
        loss = sum(g[i] for g, i in zip(losses, choice, strict=True))
        if found is None or loss < found[0]:
            found = loss, choice
    return found


@pytest.mark.parametrize("budget_count", [1, 2, 3])
@pytest.mark.parametrize("seed", range(12))
def test_it_finds_what_trying_all_finds(seed: int, budget_count: int) -> None:
    rng = np.random.default_rng(seed)
    groups = [int(rng.integers(1, 5)) for _ in range(6)]
    losses = [rng.exponential(size=n).tolist() for n in groups]
    costs = [[rng.exponential(size=n).tolist() for n in groups] for _ in range(budget_count)]
    if seed % 3 == 0:  # ties and integers
        losses = [[round(4 * x) for x in group] for group in losses]
        costs = [[[round(4 * x) for x in group] for group in cost] for cost in costs]
    least = [sum(min(g) for g in cost) for cost in costs]
    most = [sum(max(g) for g in cost) for cost in costs]
    for share in (0.0, 0.1, 0.4, 1.0):
        budgets = [low + share * (high - low) for low, high in zip(least, most, strict=True)]
        expected = best_by_trying_all(losses, costs, budgets)
        found = solve(losses, costs, budgets)
        if expected is None:
            assert found is None
            continue
        assert found is not None
        assert found.is_optimal
        assert found.loss == pytest.approx(expected[0], abs=1e-9)
        for total, budget in zip(found.costs, budgets, strict=True):
            assert total <= budget * (1 + 1e-9) + 1e-12


def test_nothing_fits() -> None:
    assert solve([[0, 1]], [[[3, 2]]], [1]) is None


def test_groups_without_a_choice_and_no_groups() -> None:
    assert solve([], [[]], [1]).choice == ()
    assert solve([[2.0], [3.0]], [[[1], [1]]], [2]).choice == (0, 0)


def test_a_network_of_two_hundred_groups_takes_no_time() -> None:
    rng = np.random.default_rng(0)
    groups = 200
    macs = rng.lognormal(sigma=1.5, size=groups)
    noise = rng.lognormal(sigma=2.0, size=groups)
    bits = np.array([64.0, 32.0, 16.0])
    losses = (noise[:, None] * np.array([0, 1, 17.0])).tolist()
    costs = [(macs[:, None] * bits).tolist()]
    found = solve(losses, costs, [0.5 * macs.sum() * 64])
    assert found is not None
    assert found.is_optimal
    # Moving any single group cannot help within what is left of the budget.
    for g, i in enumerate(found.choice):
        for j in range(3):
            fits = found.costs[0] - costs[0][g][i] + costs[0][g][j] <= 0.5 * macs.sum() * 64
            assert not fits or losses[g][j] >= losses[g][i] - 1e-9
