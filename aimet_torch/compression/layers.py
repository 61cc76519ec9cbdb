"""Which layers can be factorized, into what, and the modules that take their place."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.common.defs import CostMetric
from aimet_torch.graph import ModelGraph
from aimet_torch.ops.low_rank import (
    LowRankCost,
    low_rank_cost,
    low_rank_split,
    rank_of_cost_ratio,
)
from aimet_torch.ptq.layers import LAYER_TYPES, LayerType, ModuleUses, is_transposed

__all__ = [
    "SCHEMES",
    "Choice",
    "choices_for",
    "factor_modules",
    "leading_ranks",
    "obstacle",
    "singular_values",
    "truncated",
    "with_parameters",
]

SCHEMES = {
    "spatial": ("spatial",),
    "weight": ("weight",),
    "spatial_horizontal": ("spatial_horizontal",),
    "weight_output": ("weight_output",),
    "auto": ("spatial", "spatial_horizontal", "weight", "weight_output"),
}
"""Factorizations that are tried, by the name of the scheme."""

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclasses.dataclass(frozen=True)
class Choice:
    """A factorization with its rank, and what it costs."""

    factorization: str
    rank: int
    cost: LowRankCost

    @property
    def ratio(self) -> float:
        """Cost of the factors over that of the layer."""
        return self.rank * self.cost.per_rank / self.cost.full


def obstacle(graph: ModelGraph, uses: ModuleUses, name: str, layer: nn.Module) -> str | None:
    """Why a layer of the traced model cannot be replaced, in words; None when it can."""
    if isinstance(layer, LAYER_TYPES) and "weight" not in layer._parameters:
        return "its weight is computed (a parametrization)"
    if type(layer) not in LAYER_TYPES:
        kind = type(layer).__name__
        if isinstance(layer, LAYER_TYPES):
            return f"a {kind} may compute something else than its base class"
        return f"a {kind} is no convolution or linear layer"
    if not name:
        return "it is the whole model; put it into an nn.Sequential"
    owner = graph.model.get_submodule(name.rpartition(".")[0])
    is_of_torch = type(owner).__module__.startswith("torch.nn")
    if is_of_torch and not isinstance(owner, _CONTAINERS):
        return f"the {type(owner).__name__} around it reads its weight"
    weight: Any = layer.weight
    if weight.numel() == 0:
        return "its weight has no elements"
    if not bool(torch.isfinite(weight).all()):
        return "its weight holds NaN or infinities"
    if layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks:
        return "it has hooks"
    for op in graph.calls_of(layer):
        if op.fx_node is not None and (len(op.fx_node.args) != 1 or op.fx_node.kwargs):
            return f"`{op.name}` is called with more than its input"
    return uses.sharing(layer)


def choices_for(
    layer: LayerType, scheme: str, ratio: float, metric: CostMetric, multiplicity: int
) -> list[Choice] | str:
    """What a layer can become at a cost ratio, or in words why nothing does."""
    geometry: Any = layer  # a Linear has none
    is_linear = isinstance(layer, nn.Linear)
    kernel = () if is_linear else tuple(geometry.kernel_size)
    names: Sequence[str] = SCHEMES[scheme]
    if scheme == "auto" and all(size == 1 for size in kernel):
        names = ("weight_output",)  # all four are the same, but here the first layer strides
    if len(kernel) != 2:
        names = [name for name in names if not name.startswith("spatial")]
        if not names:
            return f"spatial factorizations need two kernel dimensions, not {len(kernel)}"
    found, least = [], float("inf")
    for name in names:
        cost = low_rank_cost(
            tuple(layer.weight.shape),
            name,
            stride=() if is_linear else tuple(geometry.stride),
            groups=1 if is_linear else geometry.groups,
            transposed=is_transposed(layer),
            counts_macs=metric is CostMetric.mac,
        )
        least = min(least, cost.per_rank / cost.full)
        choice = Choice(name, rank_of_cost_ratio(cost, ratio, multiplicity), cost)
        # Rounding up to a multiple may pass the ratio; rank 1 without it may not.
        if cost.per_rank <= ratio * cost.full and choice.ratio < 1:
            found.append(choice)
    if not found and least <= ratio:
        return f"rounded up to a multiple of {multiplicity}, its rank costs as much as the layer"
    return found or f"rank 1 already costs {least:.0%} of it"


def truncated(layer: LayerType, choice: Choice) -> tuple[Tensor, Tensor, Tensor]:
    """The factors next to the weight of ``layer``, and the share of its squares that is lost."""
    return low_rank_split(
        layer.weight.detach(),
        choice.factorization,
        choice.rank,
        groups=1 if isinstance(layer, nn.Linear) else layer.groups,
        transposed=is_transposed(layer),
    )


def leading_ranks(
    layer: LayerType, factorization: str, first: Tensor, second: Tensor, rank: int
) -> tuple[Tensor, Tensor]:
    """Factors of a lower rank from those of :func:`truncated`: their leading parts."""
    made = []
    for weight, rank_leads in zip((first, second), _rank_leads(layer, factorization), strict=True):
        if rank_leads:  # (groups * ranks, ...)
            made.append(_grouped(layer, weight)[:, :rank].flatten(0, 1))
        else:
            made.append(weight[:, :rank])
    return made[0], made[1]


def singular_values(layer: LayerType, factorization: str, first: Tensor, second: Tensor) -> Tensor:
    """Those of the weight that factors from :func:`truncated` hold, (groups, ranks) float64."""
    product = torch.ones((), dtype=torch.float64)
    for weight, rank_leads in zip((first, second), _rank_leads(layer, factorization), strict=True):
        grouped = _grouped(layer, weight.double())
        by_rank = grouped if rank_leads else grouped.movedim(2, 1)
        # The singular vectors have length 1, so the lengths of both parts are factors of the value.
        product = product * by_rank.flatten(2).norm(dim=2)
    return product


def _rank_leads(layer: LayerType, factorization: str) -> tuple[bool, bool]:
    """Whether the first dimension of each factor's weight holds the ranks, of all groups."""
    transposed = is_transposed(layer)
    return (
        not (transposed and factorization != "weight"),
        transposed and factorization != "weight_output",
    )


def _grouped(layer: LayerType, weight: Tensor) -> Tensor:
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    return weight.unflatten(0, (groups, -1))


def scale_outputs(layer: LayerType, factorization: str, second: Tensor, factor: Tensor) -> Tensor:
    """The weight of the second factor with output channels multiplied by ``factor``, (out,)."""
    dims = second.dim() - 2
    if is_transposed(layer) and factorization != "weight_output":
        groups: Any = layer.groups
        split = second.reshape(groups, -1, *second.shape[1:])
        return (split * factor.view(groups, 1, -1, *[1] * dims)).reshape(second.shape)
    return second * factor.view(-1, *[1] * (dims + 1))


def factor_modules(
    layer: LayerType, factorization: str, first: Tensor, second: Tensor, bias: Tensor | None
) -> nn.Sequential:
    """The two layers in place of ``layer``, on its device and in its dtype.

    Args:
        layer: Left as it is.
        factorization: That made the weights.
        first: Weight of the first layer.
        second: Weight of the second layer.
        bias: Of the second layer; None: none.
    """
    if isinstance(layer, nn.Linear):
        modules: list[nn.Module] = [
            _linear(layer, first, None),
            _linear(layer, second, bias),
        ]
    else:
        dims = range(len(layer.kernel_size))
        owners = {
            "spatial": [0, 1],
            "spatial_horizontal": [1, 0],
            "weight": [1] * len(dims),
            "weight_output": [0] * len(dims),
        }[factorization]
        modules = [
            _convolution(layer, weight, own_bias, [owners[i] == index for i in dims])
            for index, (weight, own_bias) in enumerate(((first, None), (second, bias)))
        ]
    return nn.Sequential(*modules).train(layer.training)


def _linear(layer: nn.Linear, weight: Tensor, bias: Tensor | None) -> nn.Linear:
    with torch.device("meta"):
        made = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    return with_parameters(made, layer, weight, bias)


def _convolution(
    layer: Any, weight: Tensor, bias: Tensor | None, owns: Sequence[bool]
) -> nn.Module:
    """One factor: it has the layer's geometry in the dimensions that it ``owns``, else none."""

    def part(values: Sequence[int], other: int) -> tuple[int, ...]:
        return tuple(v if own else other for v, own in zip(values, owns, strict=True))

    options: dict[str, Any] = {
        "kernel_size": part(layer.kernel_size, 1),
        "stride": part(layer.stride, 1),
        "dilation": part(layer.dilation, 1),
        "groups": layer.groups,
        "bias": bias is not None,
    }
    is_deconvolution = is_transposed(layer) and any(owns)
    if isinstance(layer.padding, str):
        options["padding"] = layer.padding if any(owns) else 0
    else:
        options["padding"] = part(layer.padding, 0)
    if any(owns):
        options["padding_mode"] = layer.padding_mode
    if is_deconvolution:
        options["output_padding"] = part(layer.output_padding, 0)
        cls = type(layer)
        channels = (weight.shape[0], weight.shape[1] * layer.groups)
    else:
        cls = getattr(nn, type(layer).__name__.replace("Transpose", ""))
        channels = (weight.shape[1] * layer.groups, weight.shape[0])
    with torch.device("meta"):
        made = cls(*channels, **options)
    return with_parameters(made, layer, weight, bias)


def with_parameters(made: Any, layer: LayerType, weight: Tensor, bias: Tensor | None) -> Any:
    """``made`` with these parameters, as ``layer`` keeps its own."""
    like = layer.weight
    for name, value in (("weight", weight), ("bias", bias)):
        if value is not None:
            parameter = value.detach().to(like.device, like.dtype).contiguous()
            setattr(made, name, nn.Parameter(parameter, requires_grad=like.requires_grad))
    return made.train(layer.training)
