"""Two smaller layers in place of one: typed functions over the operators of low-rank factors.

Factorizations are ``spatial`` (a kernel of ``(kh, 1)``, then ``(1, kw)``), ``spatial_horizontal``
(the other way round), ``weight`` (1 x 1, then the kernel) and ``weight_output`` (the kernel, then
1 x 1). Formulas: ``docs/low_rank.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "FACTORIZATIONS",
    "LowRankCost",
    "low_rank_cost",
    "low_rank_fit",
    "low_rank_fits",
    "low_rank_product",
    "low_rank_split",
    "rank_of_cost_ratio",
]

FACTORIZATIONS = ("spatial", "spatial_horizontal", "weight", "weight_output")


class LowRankCost(NamedTuple):
    """What the ranks of a layer cost, in one unit."""

    per_rank: int
    """Of both factors, for each rank."""
    full: int
    """Of the layer itself."""
    max_rank: int
    """The full rank of the weight."""


def low_rank_cost(
    weight_shape: Sequence[int],
    factorization: str,
    *,
    stride: Sequence[int] = (),
    groups: int = 1,
    transposed: bool = False,
    counts_macs: bool = True,
) -> LowRankCost:
    """What low-rank factors of a layer cost, rank by rank.

    Args:
        weight_shape: As torch.nn stores the weight.
        factorization: One of the four.
        stride: Of the layer, one entry a dimension of the kernel; none for Linear.
        groups: Of the layer.
        transposed: It is a transposed convolution.
        counts_macs: Count multiply-accumulates for each position of the output (of the input, if
            ``transposed``); False: weights.

    Raises:
        ValueError: Lengths do not fit.
        NotImplementedError: A spatial factorization of a kernel without two dimensions.

    >>> low_rank_cost((64, 64, 3, 3), "spatial", stride=(1, 1))
    LowRankCost(per_rank=384, full=36864, max_rank=192)
    """
    return LowRankCost(
        *torch.ops.aimet.low_rank_cost(
            weight_shape, factorization, groups, transposed, stride, counts_macs
        )
    )


def rank_of_cost_ratio(cost: LowRankCost, ratio: float, multiplicity: int = 1) -> int:
    """The largest rank that costs at most ``ratio`` of the layer, and at least 1.

    Args:
        cost: From :func:`low_rank_cost`.
        ratio: Cost of both factors over that of the layer, in (0, 1].
        multiplicity: Then up to a multiple of this, at most to the full rank.

    Raises:
        ValueError: An argument is out of range.

    >>> rank_of_cost_ratio(LowRankCost(384, 36864, 192), 0.5)
    48
    """
    return torch.ops.aimet.rank_of_cost_ratio(*cost, ratio, multiplicity)


def low_rank_split(
    weight: Tensor, factorization: str, rank: int, *, groups: int = 1, transposed: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """The factors next to a weight: its truncated SVD, computed in float64.

    Args:
        weight: As torch.nn stores it, floating-point.
        factorization: One of the four. Spatial ones give each factor the square root of the
            singular values, the others give them to the second one.
        rank: Channels between both layers, of each group.
        groups: Of the convolution.
        transposed: It is a transposed convolution.

    Returns:
        ``(first, second, error)``: both weights as torch.nn stores them, in the dtype of
        ``weight``, and the share of the squared weights that is lost, () float64.

    Raises:
        TypeError: ``weight`` is not floating-point.
        ValueError: ``rank`` is not within 1 and the full one, or ``weight`` is not finite.
        NotImplementedError: A spatial factorization of a kernel without two dimensions.

    Source: Tai et al. 2016 (arXiv 1511.06067), theorem 1.
    """
    return torch.ops.aimet.low_rank_split(weight, factorization, rank, groups, transposed)


def low_rank_fit(
    target: Tensor,
    gram: Tensor,
    kernel_size: Sequence[int],
    factorization: str,
    rank: int,
    *,
    transposed: bool = False,
    max_sweeps: int = 30,
    tolerance: float = 1e-3,
    max_products: int = 8,
) -> tuple[Tensor, Tensor, Tensor]:
    """The factors with the least error of a layer's outputs.

    Minimizes the trace of ``(target - W) gram (target - W)^T``. Where the second layer is 1 x 1
    this is the global optimum; otherwise the factors are improved in turn.

    Args:
        target: (groups, o, d), as :func:`aimet_torch.ops.reconstruction.rounding_problem` gives it.
        gram: (groups, d, d), positive definite; from there too.
        kernel_size: Of the layer; empty for Linear.
        factorization: One of the four.
        rank: Channels between both layers, of each group.
        transposed: It is a transposed convolution.
        max_sweeps: Alternations between both factors.
        tolerance: Stop when a sweep lowers the error by less than this share.
        max_products: Steps of conjugate gradients in each sweep.

    Returns:
        ``(first, second, error)``, float64 on the CPU: weights as torch.nn stores them, and the
        minimum, summed over the groups. The same bits with any number of threads.

    Raises:
        TypeError: Not floating-point.
        ValueError: Shapes do not fit, or a number is out of range.
        NotImplementedError: A spatial factorization of a kernel without two dimensions.

    Source: Zhang et al. 2015 (arXiv 1505.06798), section 3.1.
    """
    return torch.ops.aimet.low_rank_fit(
        target, gram, kernel_size, factorization, rank, transposed, max_sweeps, tolerance,
        max_products,
    )  # fmt: skip


def low_rank_fits(
    target: Tensor,
    gram: Tensor,
    kernel_size: Sequence[int],
    factorization: str,
    ranks: Sequence[int],
    *,
    transposed: bool = False,
    max_sweeps: int = 30,
    tolerance: float = 1e-3,
    max_products: int = 8,
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """What :func:`low_rank_fit` gives for some ranks; decompositions are made once for all.

    Args:
        target: As there, and so are all others.
        gram: (groups, d, d).
        kernel_size: Of the layer.
        factorization: One of the four.
        ranks: Channels between both layers, of each group, in any order.
        transposed: It is a transposed convolution.
        max_sweeps: Alternations between both factors; 0: the second factor alone is solved for.
        tolerance: When to stop.
        max_products: Steps of conjugate gradients in each sweep.

    Returns:
        ``(first, second, error)`` for each rank, float64 on the CPU.

    Raises:
        TypeError: Not floating-point.
        ValueError: Shapes do not fit, or a number is out of range.
        NotImplementedError: A spatial factorization of a kernel without two dimensions.
    """
    found = torch.ops.aimet.low_rank_fits(
        target, gram, kernel_size, factorization, ranks, transposed, max_sweeps, tolerance,
        max_products,
    )  # fmt: skip
    return list(zip(*found, strict=True))


def low_rank_product(
    first: Tensor, second: Tensor, factorization: str, *, groups: int = 1, transposed: bool = False
) -> Tensor:
    """The weight that two factors stand for.

    Args:
        first: Weight of the first layer, as torch.nn stores it.
        second: Of the second layer.
        factorization: That made them.
        groups: Of both layers.
        transposed: The layer that they replace is a transposed convolution.

    Returns:
        The weight of one layer, as torch.nn stores it.

    Raises:
        ValueError: The factors do not fit each other.
    """
    return torch.ops.aimet.low_rank_product(first, second, factorization, groups, transposed)
