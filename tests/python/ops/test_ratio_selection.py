"""The choice of candidates within a budget, against trying all of them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from aimet_torch.ops.ratio_selection import select_candidates


def random_tables(layers, candidates, seed):
    generator = torch.Generator().manual_seed(seed)
    costs = torch.rand(layers, candidates, generator=generator, dtype=torch.float64)
    errors = torch.rand(layers, candidates, generator=generator, dtype=torch.float64)
    errors[torch.rand(layers, candidates, generator=generator) < 0.2] = math.inf
    errors[:, 0] = 0.5
    return costs, errors


def best_of_all(costs, errors, budget):
    best = math.inf
    layers = range(len(costs))
    for choice in itertools.product(range(costs.shape[1]), repeat=len(costs)):
        if sum(float(costs[i, c]) for i, c in zip(layers, choice, strict=True)) <= budget:
            best = min(best, sum(float(errors[i, c]) for i, c in zip(layers, choice, strict=True)))
    return best


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_best_of_all_choices(seed):
    costs, errors = random_tables(5, 4, seed)
    exists = errors.isfinite()
    least = float(torch.where(exists, costs, math.inf).min(1).values.sum())
    budgets = torch.tensor([least, least + 0.3, least + 0.9, 10.0], dtype=torch.float64)
    choices, sums, is_exact = select_candidates(costs, errors, budgets)
    assert is_exact
    for budget, choice, total in zip(budgets, choices, sums, strict=True):
        # Sums in another order: the last bits.
        assert float(total) == pytest.approx(best_of_all(costs, errors, float(budget) + 1e-12))
        assert float(errors.gather(1, choice[:, None]).sum()) == pytest.approx(float(total))
        assert float(costs.gather(1, choice[:, None]).sum()) <= float(budget) + 1e-12


def test_thinned_lists_stay_within_the_budget_and_their_bound():
    costs, errors = random_tables(12, 8, 7)
    errors = costs.max() - costs + 0.1 * torch.rand(12, 8, dtype=torch.float64)
    width = 12 * float(costs.max(1).values.sum()) / 200
    budgets = torch.tensor([4.0, 4.0 - width], dtype=torch.float64)
    exact = select_candidates(costs, errors, budgets, max_states=10_000_000)
    thinned = select_candidates(costs, errors, budgets, max_states=200)
    assert exact.is_exact
    assert not thinned.is_exact
    assert float(costs.gather(1, thinned.choices[0, :, None]).sum()) <= 4
    assert float(exact.errors[0]) <= float(thinned.errors[0]) <= float(exact.errors[1])


def test_the_cheapest_of_equal_errors():
    costs, errors = torch.tensor([[5.0, 3.0, 4.0]]), torch.zeros(1, 3)
    assert select_candidates(costs, errors, torch.tensor([9.0])).choices.tolist() == [[1]]


def test_no_layers_cost_nothing():
    nothing = torch.zeros(0, 3)
    choices, sums, _ = select_candidates(nothing, nothing, torch.tensor([1.0]))
    assert choices.shape == (1, 0)
    assert sums.tolist() == [0]


def test_schema():
    arguments = (torch.rand(3, 2), torch.rand(3, 2), torch.tensor([9.0]))
    overload = torch.ops.aimet.select_candidates.default
    torch.library.opcheck(overload, arguments, test_utils=("test_schema",))


ONE, BUDGET = torch.ones(2, 2), torch.tensor([9.0])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((ONE.int(), ONE, BUDGET), TypeError, "`costs` must have a floating-point dtype, got Int"),
        ((ONE, ONE[0], BUDGET), ValueError, r"must both have shape \(layers, candidates\)"),
        ((ONE, ONE, BUDGET[0]), ValueError, r"`budgets` must have shape \(budgets,\)"),
        ((-ONE, ONE, BUDGET), ValueError, "`costs` must not be negative, got -1 for candidate 0"),
        ((ONE, ONE * math.nan, BUDGET), ValueError, "none is of layer 0"),
        ((ONE, ONE, BUDGET - 8), ValueError, "`budgets` must be at least 2, .* got 1"),
    ],
)
def test_errors(arguments, error, message):
    with pytest.raises(error, match=f"select_candidates: .*{message}"):
        select_candidates(*arguments)


def test_states_must_be_positive():
    with pytest.raises(ValueError, match="`max_states` must be positive and below 2"):
        select_candidates(ONE, ONE, BUDGET, max_states=0)
