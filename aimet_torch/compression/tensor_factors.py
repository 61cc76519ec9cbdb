"""Tucker-2 and CP decompositions of convolutions, computed by tensorly.

Tucker-2 (Kim et al. 2016, arXiv 1511.06530): 1 x 1, the kernel between fewer channels, 1 x 1.
CP (Lebedev et al. 2015, arXiv 1412.6553): 1 x 1, one depthwise kernel for each dimension, 1 x 1.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.common.defs import CostMetric
from aimet_torch.compression.layers import with_parameters
from aimet_torch.compression.results import LayerFactorization

__all__ = [
    "TENSOR_SCHEMES",
    "Ranks",
    "decompose",
    "modules_of",
    "ranks_at",
    "require_tensorly",
    "singular_values",
]

TENSOR_SCHEMES = ("tucker", "cp")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclasses.dataclass(frozen=True)
class _Geometry:
    """What ranks cost: multiply-accumulates for each output, or weights."""

    inputs: int
    outputs: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def full(self) -> int:
        return self.inputs * self.outputs * math.prod(self.kernel)

    def tucker(self, first: int, second: int) -> int:
        """Ranks of the inputs and the outputs."""
        core = first * second * math.prod(self.kernel)
        return self.inputs * first * math.prod(self.stride) + core + second * self.outputs

    def cp(self, rank: int) -> int:
        cost = self.inputs * math.prod(self.stride) + self.outputs
        for dim, size in enumerate(self.kernel):
            cost += size * math.prod(self.stride[dim + 1 :])  # later dimensions stride later
        return rank * cost

    def tucker_ranks(self, share: float, multiplicity: int) -> tuple[int, int]:
        first, second = (
            min(max(1, math.floor(share * count)), count) for count in (self.inputs, self.outputs)
        )
        return (
            min(-(-first // multiplicity) * multiplicity, self.inputs),
            min(-(-second // multiplicity) * multiplicity, self.outputs),
        )


@dataclasses.dataclass(frozen=True)
class Ranks:
    """The ranks of a layer's decomposition; those of CP are the same.

    Attributes:
        first: Channels behind the first 1 x 1.
        second: Channels before the last.
        reached: Cost over that of the layer.
    """

    first: int
    second: int
    reached: float


def ranks_at(
    layer: nn.Module, scheme: str, ratio: float, metric: CostMetric, multiplicity: int
) -> Ranks | str:
    """The largest ranks within a cost ratio, or in words why there are none.

    Args:
        layer: Left as it is.
        scheme: ``tucker``, whose ranks are the same share of both channel counts, or ``cp``.
        ratio: Cost of the factors over that of the layer.
        metric: What is compared.
        multiplicity: Ranks are rounded up to multiples of this.
    """
    if not isinstance(layer, _CONVOLUTIONS) or layer.groups != 1:
        return f"{scheme} is for convolutions of one group that are not transposed"
    stride = layer.stride if metric is not CostMetric.memory else (1,) * len(layer.kernel_size)
    size = _Geometry(layer.in_channels, layer.out_channels, tuple(layer.kernel_size), tuple(stride))
    if scheme == "cp":
        rank = math.floor(ratio * size.full / size.cp(1))
        first = second = -(-rank // multiplicity) * multiplicity
        reached = size.cp(second) / size.full
    else:
        # Both ranks grow with the share, and the cost with them.
        shares = [step / 1000 for step in range(1, 1001)]
        rank = bisect.bisect_right(
            shares, ratio * size.full, key=lambda share: size.tucker(*size.tucker_ranks(share, 1))
        )
        first, second = size.tucker_ranks(shares[max(rank - 1, 0)], multiplicity)
        reached = size.tucker(first, second) / size.full
    if rank < 1 or reached >= 1:
        return "no rank costs less than the layer"
    return Ranks(first, second, reached)


def modules_of(
    layer: Any, scheme: str, ranks: Ranks, *, empty: bool = False
) -> tuple[nn.Sequential, float]:
    """The layers in the place of one, and the share of its squared weights that is lost.

    Args:
        layer: Left as it is.
        scheme: ``tucker`` or ``cp``.
        ranks: From :func:`ranks_at`.
        empty: Layers of these sizes, with zeros for weights: what costs are counted for.

    Raises:
        ImportError: tensorly is not installed.
    """
    weight = layer.weight.detach()
    if empty:
        return _modules(layer, _zeros(weight.shape, scheme, ranks), scheme), 1.0
    if scheme == "tucker":
        factors = _tucker(weight, (ranks.first, ranks.second))
    else:
        factors = _cp(weight, ranks.first)
    wanted = weight.double().cpu()
    lost = (wanted - _product(factors, scheme)).square().sum() / wanted.square().sum()
    return _modules(layer, factors, scheme), float(lost)


def decompose(
    name: str, layer: Any, scheme: str, ratio: float, metric: CostMetric, multiplicity: int
) -> tuple[LayerFactorization, nn.Sequential | None]:
    """What becomes of a layer, and the layers in its place; None where it keeps its shape.

    Args:
        name: Of the layer, for the table.
        layer: Left as it is.
        scheme: ``tucker`` or ``cp``.
        ratio: Cost of the factors over that of the layer. The ranks are the largest within it;
            those of Tucker-2 are the same share of both channel counts.
        metric: What is compared.
        multiplicity: Ranks are rounded up to multiples of this.

    Raises:
        ImportError: tensorly is not installed.
    """
    row = LayerFactorization(name, type(layer).__name__, ratio)
    ranks = ranks_at(layer, scheme, ratio, metric, multiplicity)
    if isinstance(ranks, str):
        return dataclasses.replace(row, note=ranks), None
    made, lost = modules_of(layer, scheme, ranks)
    row = dataclasses.replace(
        row,
        reached=ranks.reached,
        factorization=scheme,
        rank=ranks.second,
        full_rank=layer.out_channels,
        weight_error=lost,
        note=f"ranks {ranks.first} and {ranks.second}" if scheme == "tucker" else "",
    )
    return row, made


def require_tensorly(op: str) -> Any:
    """The package.

    Raises:
        ImportError: It is not installed.
    """
    try:
        import tensorly
        import tensorly.decomposition
    except ImportError as error:
        raise ImportError(
            f"{op}: Tucker and CP decompositions need tensorly; install it with `pip install "
            "aimet-torch[tensor]`, or use a spatial or weight SVD"
        ) from error
    return tensorly


def singular_values(layer: Any) -> tuple[Tensor, Tensor]:
    """Of a weight unfolded by its inputs and by its outputs, float64, descending.

    Tucker-2 of ranks (r1, r2) loses at most the squares of those behind r1 and r2 together (De
    Lathauwer et al. 2000, A Multilinear Singular Value Decomposition, property 10).
    """
    weight = layer.weight.detach().double().cpu()
    by_inputs, by_outputs = weight.transpose(0, 1).flatten(1), weight.flatten(1)
    return torch.linalg.svdvals(by_inputs), torch.linalg.svdvals(by_outputs)


def _tucker(weight: Tensor, ranks: tuple[int, int]) -> list[Tensor]:
    """Weights of the three layers: (r1, in, 1...), (r2, r1, *kernel), (out, r2, 1...)."""
    values = weight.double().cpu().numpy()
    (core, (outputs, inputs)), _ = require_tensorly("factorize").decomposition.partial_tucker(
        values, rank=[ranks[1], ranks[0]], modes=[0, 1], init="svd", tol=1e-8
    )
    first, second = torch.from_numpy(inputs.T.copy()), torch.from_numpy(outputs.copy())
    ones = [1] * (weight.dim() - 2)
    return [
        first.view(*first.shape, *ones),
        torch.from_numpy(core.copy()),
        second.view(*second.shape, *ones),
    ]


def _cp(weight: Tensor, rank: int) -> list[Tensor]:
    """Weights: (R, in, 1...), for each dimension (R, 1, ...) with its kernel, (out, R, 1...)."""
    values = weight.double().cpu().numpy()
    scales, (outputs, inputs, *kernels) = require_tensorly("factorize").decomposition.parafac(
        values, rank, n_iter_max=200, init="random", random_state=0, tol=1e-8, l2_reg=1e-6
    )
    dims = weight.dim() - 2
    first = torch.from_numpy(inputs.T.copy())
    last = torch.from_numpy((outputs * scales).copy())
    middle = []
    for dim, kernel in enumerate(kernels):
        shape = [1] * dims
        shape[dim] = kernel.shape[0]
        middle.append(torch.from_numpy(kernel.T.copy()).reshape(rank, 1, *shape))
    ones = [1] * dims
    return [first.view(*first.shape, *ones), *middle, last.view(*last.shape, *ones)]


def _zeros(shape: torch.Size, scheme: str, ranks: Ranks) -> list[Tensor]:
    """Weights of the shapes that the two functions above give."""
    outputs, inputs, *kernel = shape
    ones = [1] * len(kernel)
    middle = [(ranks.second, ranks.first, *kernel)]
    if scheme == "cp":
        middle = [
            (ranks.first, 1, *ones[:dim], size, *ones[dim + 1 :]) for dim, size in enumerate(kernel)
        ]
    shapes = [(ranks.first, inputs, *ones), *middle, (outputs, ranks.second, *ones)]
    return [torch.zeros(shape) for shape in shapes]


def _product(factors: list[Tensor], scheme: str) -> Tensor:
    """The weight that they stand for."""
    first, *middle, last = factors
    inputs, outputs = first.flatten(1), last.flatten(1)
    if scheme == "tucker":
        return torch.einsum("or,rs...,si->oi...", outputs, middle[0], inputs)
    kernel = middle[0]
    for other in middle[1:]:
        kernel = kernel * other
    return torch.einsum("or,r...,ri->oi...", outputs, kernel.squeeze(1), inputs)


def _modules(layer: Any, factors: list[Tensor], scheme: str) -> nn.Sequential:
    dims = len(layer.kernel_size)
    made: list[nn.Module] = []
    for index, weight in enumerate(factors):
        is_end = index in (0, len(factors) - 1)
        owns = [not is_end and (scheme == "tucker" or dim == index - 1) for dim in range(dims)]
        groups = 1 if is_end or scheme == "tucker" else weight.shape[0]
        made.append(_layer(layer, weight, owns, groups, index == len(factors) - 1))
    return nn.Sequential(*made).train(layer.training)


def _layer(layer: Any, weight: Tensor, owns: list[bool], groups: int, is_last: bool) -> nn.Module:
    """A convolution with the geometry of ``layer`` in the dimensions that it owns."""

    def part(values: Any, otherwise: int) -> tuple[int, ...]:
        return tuple(v if own else otherwise for v, own in zip(values, owns, strict=True))

    is_named = isinstance(layer.padding, str)
    padding = (layer.padding if any(owns) else 0) if is_named else part(layer.padding, 0)
    bias = layer.bias if is_last else None
    with torch.device("meta"):
        made = type(layer)(
            weight.shape[1] * groups,
            weight.shape[0],
            tuple(weight.shape[2:]),
            stride=part(layer.stride, 1),
            padding=padding,
            dilation=part(layer.dilation, 1),
            groups=groups,
            bias=bias is not None,
            padding_mode=layer.padding_mode if any(owns) else "zeros",
        )
    return with_parameters(made, layer, weight, bias)
