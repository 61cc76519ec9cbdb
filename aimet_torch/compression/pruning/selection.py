"""In which order the channels of each group go, and what their loss costs."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.common.progress import progress
from aimet_torch.compression.fitting import DAMPING
from aimet_torch.compression.pruning.propagation import Layer
from aimet_torch.compression.pruning.sensitivity import output_sensitivities
from aimet_torch.compression.pruning.structure import ChannelGroup, ChannelStructure
from aimet_torch.ops.channels import (
    ChannelReader,
    channel_errors,
    channel_lasso,
    channel_lasso_order,
    channel_magnitude,
    channel_quadratic,
    eliminate_channels,
)
from aimet_torch.ops.reconstruction import LayerSums, rounding_problem
from aimet_torch.ptq.layer_view import LayerView
from aimet_torch.ptq.value_cache import free_memory

__all__ = ["MOST_INPUTS", "SELECTIONS", "GroupOrder", "order_groups"]

SELECTIONS = ("magnitude", "lasso", "gram")
MOST_INPUTS = 8192
"""Inputs of an output beyond which a layer's second moments take too much memory."""

# Of the share of the layer: the best of 0, 0.5, 0.7 and 1 on the networks of benchmarks.
_EXPONENT = 0.7


@dataclasses.dataclass
class GroupOrder:
    """How a group is pruned.

    Attributes:
        order: Its units, the first to go first, (n,) int64.
        errors: What the first k of them cost, (n + 1,) float64: without data the share of the
            squared weights, else what `docs/pruning.md` explains; summed over the readers.
        quadratic: For the LASSO: the problem in which the units are chosen once their number is
            known.
        norm: Its norms.
    """

    order: Tensor
    errors: Tensor
    quadratic: Tensor | None = None
    norm: Tensor | None = None

    def stays(self, group: ChannelGroup, kept: int) -> Tensor:
        """Which units stay, (units,) bool, if ``kept`` of them do."""
        if (
            self.quadratic is not None
            and self.norm is not None
            and group.least <= kept < group.size
        ):
            coefficient, _ = channel_lasso(self.quadratic, self.norm, group.fixed, kept)
            chosen = coefficient != 0
            if int(chosen.sum()) == kept:
                return chosen
        stays = torch.ones(group.size, dtype=torch.bool)
        stays[self.order[: group.size - kept]] = False
        return stays


def matrices(layer: Layer, weight: Tensor) -> Tensor:
    """The weight as (groups, o, d): one matrix a group, an output's weights in a row."""
    if layer.transposed:
        split = weight.reshape(layer.groups, -1, *weight.shape[1:])
        return split.transpose(1, 2).flatten(2)
    return weight.reshape(layer.groups, weight.shape[0] // layer.groups, -1)


def reader_units(structure: ChannelStructure, group: ChannelGroup, layer: Layer) -> Tensor:
    """The unit of each input, (groups, d)."""
    places = structure.places(group, layer.inputs).view(layer.groups, -1)
    weight = structure.graph.model.get_parameter(layer.weight)
    elements = weight[0, 0].numel() if weight.dim() > 2 else 1
    return places.repeat_interleave(elements, dim=1)


def order_groups(
    structure: ChannelStructure,
    selection: str,
    refits: bool,
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] | None,
) -> dict[str, GroupOrder]:
    """The order of every group.

    Args:
        structure: Of the original model.
        selection: One of SELECTIONS.
        refits: The readers' other weights will be solved for again.
        calls: Inputs of the model; None without data.

    Raises:
        ValueError: The data leads to NaN or infinities.
    """
    orders: dict[str, GroupOrder] = {}
    groups = list(structure.groups.values())
    weights: dict[str, Tensor] = {}
    if calls is not None:
        weights = output_sensitivities(structure.graph.model, structure.layers, calls)
    for batch in _by_memory(groups) if calls is not None else [groups]:
        readers = {layer.weight: layer for group in batch for layer in group.readers}
        sums = {} if calls is None else _sums(structure, list(readers.values()), calls)
        for group in progress(batch, "Choosing channels", unit="group"):
            orders[group.name] = _order(structure, group, selection, refits, sums, weights)
    return {group.name: orders[group.name] for group in groups}


def has_moments(layer: Layer) -> bool:
    """Whether the second moments of a layer's inputs can be had."""
    module: Any = layer.module
    return module is not None and _inputs(layer) <= MOST_INPUTS


def _inputs(layer: Layer) -> int:
    module: Any = layer.module
    return LayerView(module).inputs


def _by_memory(groups: list[ChannelGroup]) -> Iterator[list[ChannelGroup]]:
    """Groups whose readers' sums fit into memory together."""
    budget = free_memory() // 3
    batch: list[ChannelGroup] = []
    held: dict[str, int] = {}
    for group in groups:
        own = {
            layer.weight: 8 * layer.groups * _inputs(layer) ** 2
            for layer in group.readers
            if has_moments(layer)
        }
        if batch and sum({**held, **own}.values()) > budget:
            yield batch
            batch, held = [], {}
        batch.append(group)
        held.update(own)
    if batch:
        yield batch


def _sums(
    structure: ChannelStructure,
    readers: list[Layer],
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]],
) -> dict[str, LayerSums]:
    """Second moments of what the readers get and give in the original model."""
    model = copy.deepcopy(structure.graph.model).eval()
    sums: dict[str, LayerSums] = {}

    def add(name: str, view: LayerView) -> Any:
        def hook(_: nn.Module, args: Any, output: Tensor) -> None:
            view.add_batch(sums[name], args[0], output)

        return hook

    for layer in readers:
        if has_moments(layer):
            module: Any = model.get_submodule(layer.name)
            view = LayerView(module)
            sums[layer.weight] = view.new_sums()
            module.register_forward_hook(add(layer.weight, view))
    with torch.no_grad():
        for args, kwargs in progress(calls, "Second moments", unit="batch"):
            model(*args, **kwargs)
    for layer in readers:
        own = sums.get(layer.weight)
        if own is not None and not bool(torch.isfinite(own.gram).all()):
            raise ValueError(
                f"prune: with `data`, the inputs of `{layer.name}` hold NaN or infinities; check "
                "the batches and the model"
            )
    return sums


def _order(
    structure: ChannelStructure,
    group: ChannelGroup,
    selection: str,
    refits: bool,
    sums: dict[str, LayerSums],
    weights: dict[str, Tensor],  # of each output channel's errors
) -> GroupOrder:
    model = structure.graph.model
    readers: list[ChannelReader] = []
    magnitude = torch.zeros(group.size, dtype=torch.float64)
    base = torch.zeros(group.size, dtype=torch.float64)
    norm = torch.zeros(group.size, dtype=torch.float64)
    for layer in group.readers:
        weight = matrices(layer, model.get_parameter(layer.weight).detach()).double().cpu()
        units = reader_units(structure, group, layer)
        squares = sum(
            (channel_magnitude(w, u, group.size) for w, u in zip(weight, units, strict=True)),
            torch.zeros(group.size, dtype=torch.float64),
        )
        share = squares / weight.square().sum().clamp_min(1e-300)
        magnitude += share
        own = sums.get(layer.weight)
        if own is None or float(own.total.sum()) == 0:
            base += share
            norm += share
            continue
        _, gram = rounding_problem(own, weight, refits, DAMPING(own))
        if layer.weight in weights:
            weight = weight * weights[layer.weight].sqrt().view(*weight.shape[:2], 1)
        power = float((weight @ gram * weight).sum())
        # A geometric mean of the shares of this layer's outputs and of the model's, where that is
        # known: neither which layers matter nor that large errors saturate is left out.
        exponent = _EXPONENT if layer.weight in weights else 1.0
        scale = power**-exponent if power > 0 else 0.0
        norm += scale * sum(
            channel_magnitude(w, u, group.size) for w, u in zip(weight, units, strict=True)
        )
        readers += [
            ChannelReader(*problem, scale) for problem in zip(weight, gram, units, strict=True)
        ]
    free = (~group.fixed).nonzero().flatten()
    if selection == "gram" and readers:
        order, errors = eliminate_channels(readers, base, group.fixed, group.least, refits=refits)
        return GroupOrder(order, errors)
    if selection == "lasso" and readers:
        quadratic = channel_quadratic(readers, group.size) + base.diag()
        norm = norm.sqrt().clamp_min(1e-6 * float(norm.max().sqrt()) + 1e-300)
        order = channel_lasso_order(quadratic, norm, group.fixed)
        errors = channel_errors(readers, base, order, refits=refits)
        return GroupOrder(order, errors, quadratic, norm)
    order = free[magnitude[free].argsort(stable=True)]
    if readers:
        return GroupOrder(order, channel_errors(readers, base, order, refits=refits))
    costs = torch.cat([torch.zeros(1, dtype=torch.float64), magnitude[order].cumsum(0)])
    return GroupOrder(order, costs)


def check_selection(selection: str, data: Iterable[Any] | None) -> str:
    """The selection to use; ``auto`` is ``gram`` with data and ``magnitude`` without.

    Raises:
        ValueError: It is none, or needs data.
    """
    if selection == "auto":
        return "magnitude" if data is None else "gram"
    if selection not in SELECTIONS:
        raise ValueError(
            f"prune: `selection` must be auto, {', '.join(SELECTIONS)}, got {selection!r}"
        )
    if data is None and selection != "magnitude":
        raise ValueError(
            f"prune: `selection` {selection!r} needs `data`: unlabelled batches of inputs"
        )
    return selection
