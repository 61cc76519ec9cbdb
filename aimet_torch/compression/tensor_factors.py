"""Tucker-2 and CP decompositions of convolutions, computed by tensorly.

Tucker-2 (Kim et al. 2016, arXiv 1511.06530): 1 x 1, the kernel between fewer channels, 1 x 1.
CP (Lebedev et al. 2015, arXiv 1412.6553): 1 x 1, one depthwise kernel for each dimension, 1 x 1.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.common.defs import CostMetric
from aimet_torch.compression.layers import with_parameters
from aimet_torch.compression.results import LayerFactorization

__all__ = ["TENSOR_SCHEMES", "decompose"]

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


def decompose(
    name: str, layer: nn.Module, scheme: str, ratio: float, metric: CostMetric, multiplicity: int
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
    kind = type(layer).__name__
    row = LayerFactorization(name, kind, ratio)
    if not isinstance(layer, _CONVOLUTIONS) or layer.groups != 1:
        note = f"{scheme} is for convolutions of one group that are not transposed"
        return dataclasses.replace(row, note=note), None
    weight = layer.weight.detach()
    stride = layer.stride if metric is not CostMetric.memory else (1,) * len(layer.kernel_size)
    size = _Geometry(weight.shape[1], weight.shape[0], tuple(weight.shape[2:]), tuple(stride))
    if scheme == "cp":
        rank = math.floor(ratio * size.full / size.cp(1))
        ranks = (-(-rank // multiplicity) * multiplicity,) * 2
        reached = size.cp(ranks[0]) / size.full
    else:
        shares = [step / 1000 for step in range(1, 1001)]
        fits = [s for s in shares if size.tucker(*size.tucker_ranks(s, 1)) <= ratio * size.full]
        rank = len(fits)
        ranks = size.tucker_ranks(max(fits, default=0.0), multiplicity)
        reached = size.tucker(*ranks) / size.full
    if rank < 1 or reached >= 1:
        return dataclasses.replace(row, note="no rank costs less than the layer"), None
    factors = _tucker(weight, ranks) if scheme == "tucker" else _cp(weight, ranks[0])
    lost = (
        weight.double() - _product(factors, scheme)
    ).square().sum() / weight.double().square().sum()
    row = dataclasses.replace(
        row,
        reached=reached,
        factorization=scheme,
        rank=ranks[1],
        full_rank=size.outputs,
        weight_error=float(lost),
        note=f"ranks {ranks[0]} and {ranks[1]}" if scheme == "tucker" else "",
    )
    return row, _modules(layer, factors, scheme)


def _tensorly() -> Any:
    try:
        import tensorly
        import tensorly.decomposition
    except ImportError as error:
        raise ImportError(
            "factorize: `scheme` 'tucker' and 'cp' need tensorly; install it with "
            "`pip install aimet-torch[tensor]`, or use 'spatial', 'weight' or 'auto'"
        ) from error
    return tensorly


def _tucker(weight: Tensor, ranks: tuple[int, int]) -> list[Tensor]:
    """Weights of the three layers: (r1, in, 1...), (r2, r1, *kernel), (out, r2, 1...)."""
    values = weight.double().cpu().numpy()
    (core, (outputs, inputs)), _ = _tensorly().decomposition.partial_tucker(
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
    scales, (outputs, inputs, *kernels) = _tensorly().decomposition.parafac(
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
