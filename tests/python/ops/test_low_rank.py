"""Low-rank factors: ranks, truncation, and the fit to data, against NumPy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from aimet_torch.ops.low_rank import (
    FACTORIZATIONS,
    LowRankCost,
    low_rank_cost,
    low_rank_fit,
    low_rank_fits,
    low_rank_product,
    low_rank_split,
    rank_of_cost_ratio,
)


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def slotted(weight: np.ndarray, factorization: str) -> np.ndarray:
    """The matrix (inputs of the first layer, outputs of the second) of a Conv2d's weight."""
    _, m, h, w = weight.shape
    order = {
        "spatial": (1, 2, 0, 3),
        "spatial_horizontal": (1, 3, 0, 2),
        "weight": (1, 0, 2, 3),
        "weight_output": (1, 2, 3, 0),
    }[factorization]
    rows = {"spatial": m * h, "spatial_horizontal": m * w, "weight": m, "weight_output": m * h * w}
    return weight.transpose(order).reshape(rows[factorization], -1)


def data_problem(outputs=10, inputs=6, kernel=9, positions=300, seed=0):
    """A target and a Gram matrix of correlated inputs, (1, o, d) and (1, d, d)."""
    d = inputs * kernel
    mixing = random(d, d, seed=seed, dtype=torch.float64)
    x = mixing @ random(d, positions, seed=seed + 1, dtype=torch.float64)
    gram = (x @ x.t() / positions + 0.1 * torch.eye(d, dtype=torch.float64)).unsqueeze(0)
    return random(1, outputs, d, seed=seed + 2, dtype=torch.float64), gram


def error_of(target, gram, weight):
    difference = target - weight.reshape(target.shape)
    return float((difference @ gram * difference).sum())


# ---------------------------------------------------------------------------- ranks


@pytest.mark.parametrize(
    ("shape", "factorization", "stride", "ratio", "rank"),
    [
        ((64, 64, 3, 3), "spatial", (1, 1), 0.5, 48),  # AIMET's own nightly tests, and aimet.md
        ((64, 64, 3, 3), "weight", (1, 1), 0.5, 28),
        ((128, 64, 3, 3), "spatial", (1, 1), 0.5, 64),
        ((128, 128, 3, 3), "spatial", (1, 1), 0.42, 80),
        ((64, 3, 7, 7), "spatial", (1, 1), 0.5, 10),
        ((128, 64, 3, 3), "spatial", (2, 2), 0.5, 48),
        ((1000, 512), "weight", (), 0.4, 135),
        ((64, 64, 3, 3), "spatial", (1, 1), 1e-6, 1),
    ],
)
def test_ranks_are_those_of_aimet(shape, factorization, stride, ratio, rank):
    assert rank_of_cost_ratio(low_rank_cost(shape, factorization, stride=stride), ratio) == rank


def test_costs_count_what_both_layers_do():
    # Weights (out 8, in 6 / groups 2 -> 3, 3, 5), stride (2, 3), for each position of the output.
    shape, options = (8, 3, 3, 5), {"stride": (2, 3), "groups": 2}
    expected = {
        "spatial": 2 * (3 * 3 * 3 + 4 * 5),  # the first layer has not strided horizontally yet
        "spatial_horizontal": 2 * (3 * 5 * 2 + 4 * 3),
        "weight": 2 * (3 * 2 * 3 + 4 * 15),
        "weight_output": 2 * (3 * 15 + 4),
    }
    for name, cost in expected.items():
        assert low_rank_cost(shape, name, **options)[:2] == (cost, 8 * 3 * 15)
    weights = low_rank_cost(shape, "spatial", counts_macs=False, **options)
    assert weights == LowRankCost(2 * (3 * 3 + 4 * 5), 360, 9)
    # Transposed, for each position of the input: the second layer works where the first has
    # strided.
    transposed = low_rank_cost((6, 4, 3, 5), "spatial", transposed=True, **options)
    assert transposed[:2] == (2 * (3 * 3 + 4 * 5 * 2), 6 * 4 * 15)
    output = low_rank_cost((6, 4, 3, 5), "weight_output", transposed=True, **options)
    assert output.per_rank == 2 * (3 * 15 + 4 * 2 * 3)


def test_ranks_are_rounded_up_to_a_multiple_but_not_beyond_the_full_rank():
    cost = LowRankCost(10, 1000, 60)
    assert [rank_of_cost_ratio(cost, 0.41, m) for m in (1, 8, 32)] == [41, 48, 60]
    # 0.1 is a little more than a tenth and 0.3 a little less than three: both reach the rank.
    assert [rank_of_cost_ratio(LowRankCost(1, 10, 10), r / 10) for r in range(1, 11)] == list(
        range(1, 11)
    )


# ---------------------------------------------------------------------------- truncation


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
@pytest.mark.parametrize("rank", [1, 3])
def test_truncation_is_that_of_numpy(factorization, rank):
    weight = random(8, 6, 3, 5, dtype=torch.float64)
    first, second, error = low_rank_split(weight, factorization, rank)
    matrix = slotted(weight.numpy(), factorization)
    u, s, vh = np.linalg.svd(matrix, full_matrices=False)
    nearest = (u[:, :rank] * s[:rank]) @ vh[:rank]
    product = low_rank_product(first, second, factorization)
    np.testing.assert_allclose(slotted(product.numpy(), factorization), nearest, atol=1e-12)
    assert float(error) == pytest.approx(np.sum(s[rank:] ** 2) / np.sum(s**2), rel=1e-12)
    # Who gets the singular values: half each, or all to the second factor.
    norms = first.flatten(1).norm(dim=1).numpy()
    expected = np.sqrt(s[:rank]) if factorization.startswith("spatial") else np.ones(rank)
    np.testing.assert_allclose(norms, expected, rtol=1e-12)


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_full_rank_loses_nothing(factorization, transposed, groups):
    weight = random(8, 6, 3, 5, dtype=torch.float64)
    options = {"groups": groups, "transposed": transposed}
    cost = low_rank_cost(tuple(weight.shape), factorization, stride=(1, 1), **options)
    first, second, error = low_rank_split(weight, factorization, cost.max_rank, **options)
    product = low_rank_product(first, second, factorization, **options)
    torch.testing.assert_close(product, weight, rtol=0, atol=1e-13)
    assert float(error) < 1e-25


def test_dtype_follows_the_weight_and_zeros_are_no_problem():
    first, second, error = low_rank_split(torch.zeros(4, 3, dtype=torch.float16), "weight", 2)
    assert first.dtype == second.dtype == torch.float16
    assert float(error) == 0
    assert not second.any()


# ---------------------------------------------------------------------------- fit to data


@pytest.mark.parametrize("factorization", ["weight_output", "weight"])
def test_fit_of_one_slot_is_the_optimum(factorization):
    # A Linear: truncated SVD of T L with H = L L^T, and then back.
    target, gram = data_problem(kernel=1, inputs=20)
    first, second, error = low_rank_fit(target, gram, (), factorization, 4)
    lower = np.linalg.cholesky(gram[0].numpy())
    u, s, vh = np.linalg.svd(target[0].numpy() @ lower, full_matrices=False)
    best = (u[:, :4] * s[:4]) @ vh[:4] @ np.linalg.inv(lower)
    np.testing.assert_allclose((second @ first).numpy(), best, atol=1e-9)
    assert float(error) == pytest.approx(np.sum(s[4:] ** 2), rel=1e-9)
    assert error_of(target, gram, second @ first) == pytest.approx(float(error), rel=1e-9)


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
@pytest.mark.parametrize("rank", [2, 5])
def test_fit_loses_less_than_truncation_of_either_matrix(factorization, rank):
    target, gram = data_problem()
    first, second, error = low_rank_fit(target, gram, (3, 3), factorization, rank)
    product = low_rank_product(first, second, factorization)
    assert error_of(target, gram, product) == pytest.approx(float(error), rel=1e-8)
    plain = low_rank_split(target.reshape(10, 6, 3, 3), factorization, rank)
    truncated = low_rank_product(plain[0], plain[1], factorization)
    assert float(error) < 0.9 * error_of(target, gram, truncated)


@pytest.mark.parametrize("factorization", ["spatial", "spatial_horizontal", "weight"])
def test_alternation_ends_where_no_factor_can_improve(factorization):
    target, gram = data_problem()
    options = {"max_sweeps": 3000, "tolerance": 0.0, "max_products": 40}
    first, second, error = low_rank_fit(target, gram, (3, 3), factorization, 3, **options)
    # The gradient of both factors vanishes, by autograd through an independent product.
    first, second = first.requires_grad_(), second.requires_grad_()
    if factorization == "weight":
        weight = torch.einsum("rm,nrhw->nmhw", first[:, :, 0, 0], second)
    elif factorization == "spatial":
        weight = torch.einsum("rmh,nrw->nmhw", first[:, :, :, 0], second[:, :, 0])
    else:
        weight = torch.einsum("rmw,nrh->nmhw", first[:, :, 0], second[:, :, :, 0])
    difference = target - weight.reshape(target.shape)
    loss = (difference @ gram * difference).sum()
    assert float(loss.detach()) == pytest.approx(float(error), rel=1e-8)
    loss.backward()
    scale = float((target @ gram).norm())
    assert float(first.grad.norm()) < 1e-3 * scale
    assert float(second.grad.norm()) < 1e-6 * scale  # solved for exactly


def test_with_an_identity_the_fit_is_the_truncated_svd():
    target, _ = data_problem()
    identity = torch.eye(54, dtype=torch.float64).unsqueeze(0)
    _, _, error = low_rank_fit(target, identity, (3, 3), "spatial", 4)
    _, _, lost = low_rank_split(target.reshape(10, 6, 3, 3), "spatial", 4)
    assert float(error) == pytest.approx(float(lost * target.square().sum()), rel=1e-9)


@pytest.mark.parametrize("factorization", FACTORIZATIONS)
@pytest.mark.parametrize("sweeps", [0, 5])
def test_several_ranks_at_once_are_the_same_bits(factorization, sweeps):
    pairs = [data_problem(seed=seed) for seed in (0, 10)]
    target, gram = (torch.cat(t) for t in zip(*pairs, strict=True))
    ranks = [5, 1, 3]
    found = low_rank_fits(target, gram, (3, 3), factorization, ranks, max_sweeps=sweeps)
    for rank, several in zip(ranks, found, strict=True):
        one = low_rank_fit(target, gram, (3, 3), factorization, rank, max_sweeps=sweeps)
        assert all(a.equal(b) for a, b in zip(several, one, strict=True))
    assert float(found[1][2]) > float(found[2][2]) > float(found[0][2])


def test_groups_are_fitted_one_by_one():
    pairs = [data_problem(seed=seed) for seed in (0, 10)]
    target, gram = (torch.cat(t) for t in zip(*pairs, strict=True))
    first, second, error = low_rank_fit(target, gram, (3, 3), "spatial", 3)
    singles = [low_rank_fit(t, g, (3, 3), "spatial", 3) for t, g in pairs]
    assert first.equal(torch.cat([single[0] for single in singles]))
    assert second.equal(torch.cat([single[1] for single in singles]))
    assert float(error) == pytest.approx(sum(float(single[2]) for single in singles))


def test_a_singular_gram_matrix_is_survived():
    target, _ = data_problem()
    gram = torch.zeros(1, 54, 54, dtype=torch.float64)
    gram[0, :20, :20] = data_problem(inputs=20, kernel=1)[1]
    for factorization in FACTORIZATIONS:
        first, second, _ = low_rank_fit(target, gram, (3, 3), factorization, 4)
        assert bool(torch.isfinite(first).all() and torch.isfinite(second).all())


def test_same_bits_with_any_number_of_threads():
    pairs = [data_problem(seed=seed) for seed in range(3)]
    target, gram = (torch.cat(t) for t in zip(*pairs, strict=True))
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(low_rank_fit(target, gram, (3, 3), "spatial", 4))
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*results, strict=True):
        assert one.equal(two)


# ---------------------------------------------------------------------------- registration, errors


def test_schemas():
    operators = torch.ops.aimet
    weight = random(8, 6, 3, 3)
    target, gram = data_problem()
    first, second, _ = low_rank_split(weight, "spatial", 2)
    cases = [
        (operators.low_rank_split.default, (weight, "weight", 2)),
        (operators.low_rank_fit.default, (target, gram, [3, 3], "spatial", 2)),
        (operators.low_rank_fits.default, (target, gram, [3, 3], "spatial", [2, 1])),
        (operators.low_rank_product.default, (first, second, "spatial")),
    ]
    for overload, arguments in cases:
        torch.library.opcheck(overload, arguments, test_utils=("test_schema",))


TARGET, GRAM = data_problem()
NAN = torch.full((4, 4), math.nan)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (
            lambda: low_rank_split(random(4, 4), "svd", 1),
            ValueError,
            "low_rank_split: `factorization` must be 'spatial', .* got 'svd'",
        ),
        (
            lambda: low_rank_split(random(4, 4), "weight", 5),
            ValueError,
            "low_rank_split: `rank` must be within 1 and 4, the full rank of the weight, got 5",
        ),
        (
            lambda: low_rank_split(random(4, 4), "spatial", 1),
            NotImplementedError,
            "low_rank_split: a spatial factorization needs a kernel of two dimensions .* got 0",
        ),
        (
            lambda: low_rank_split(NAN, "weight", 1),
            ValueError,
            "low_rank_split: `weight` must be finite",
        ),
        (
            lambda: low_rank_split(torch.ones(4, 4, dtype=torch.int64), "weight", 1),
            TypeError,
            "low_rank_split: `weight` must have a floating-point dtype, got Long",
        ),
        (
            lambda: low_rank_cost((4, 4, 3, 3), "weight", stride=(1,)),
            ValueError,
            "low_rank_cost: `stride` must have one entry a dimension of the kernel, got 1",
        ),
        (
            lambda: low_rank_cost((4, 4, 3, 3), "weight", stride=(1, 1), groups=3),
            ValueError,
            "low_rank_cost: `groups` must be positive and divide the channels, got 3",
        ),
        (
            lambda: rank_of_cost_ratio(LowRankCost(1, 10, 10), 1.5),
            ValueError,
            r"rank_of_cost_ratio: `ratio` must be in \(0, 1\], got 1.5",
        ),
        (
            lambda: rank_of_cost_ratio(LowRankCost(1, 10, 10), 0.5, 0),
            ValueError,
            "rank_of_cost_ratio: `multiplicity` must be positive, got 0",
        ),
        (
            lambda: low_rank_fit(TARGET, GRAM[:, :9, :9], (3, 3), "spatial", 1),
            ValueError,
            r"low_rank_fit: `gram` must have shape \(1, 54, 54\)",
        ),
        (
            lambda: low_rank_fit(TARGET, GRAM, (5, 5), "spatial", 1),
            ValueError,
            "low_rank_fit: the elements of `kernel_size` must divide the inputs of an output, 54",
        ),
        (
            lambda: low_rank_fit(TARGET, GRAM, (3, 3), "spatial", 1, max_products=0),
            ValueError,
            "low_rank_fit: `max_sweeps` and `tolerance` must not be negative",
        ),
        (
            lambda: low_rank_fit(TARGET * math.nan, GRAM, (3, 3), "spatial", 1),
            ValueError,
            "low_rank_fit: `target` and `gram` must be finite",
        ),
        (
            lambda: low_rank_product(random(2, 6, 3, 1), random(8, 3, 1, 3), "spatial"),
            ValueError,
            "low_rank_product: `second` must read what `first` gives, 2 channels",
        ),
        (
            lambda: low_rank_product(random(2, 6, 1, 3), random(8, 2, 3, 1), "spatial"),
            ValueError,
            "low_rank_product: kernels .* are not those of this `factorization`",
        ),
    ],
)
def test_errors(function, error, message):
    with pytest.raises(error, match=message):
        function()


# ---------------------------------------------------------------------------- parity


@pytest.mark.parametrize("name", ["spatial", "spatial_wide", "weight", "linear"])
def test_factors_are_those_of_aimet_up_to_signs(name):
    # In float32 there, in float64 here.
    with np.load(Path(__file__).parents[2] / "golden" / "low_rank_2_42.npz") as arrays:
        weight, *wanted = (
            torch.from_numpy(arrays[f"{name}.{key}"]) for key in ("weight", "first", "second")
        )
    factorization = "spatial" if name.startswith("spatial") else "weight"
    found = low_rank_split(weight, factorization, wanted[0].shape[0])[:2]
    ours, theirs = (factors[0].flatten(1) for factors in (found, wanted))
    signs = (ours * theirs).sum(1).sign()
    torch.testing.assert_close(ours * signs.unsqueeze(1), theirs, rtol=0, atol=1e-5)
    dims = [1] * (weight.dim() - 2)
    torch.testing.assert_close(found[1] * signs.view(1, -1, *dims), wanted[1], rtol=0, atol=1e-5)
