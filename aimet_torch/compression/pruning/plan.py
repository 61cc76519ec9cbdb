"""Pruning in two steps: what can be pruned and what it costs, then the smaller model."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.common.defs import CostMetric
from aimet_torch.compression.cost import ModelCost, estimate_cost
from aimet_torch.compression.pruning.costs import PruningCosts
from aimet_torch.compression.pruning.fitting import Fit, fit_weights
from aimet_torch.compression.pruning.propagation import Layer
from aimet_torch.compression.pruning.results import LayerPruning, PrunedGroup, PrunedModel
from aimet_torch.compression.pruning.selection import (
    GroupOrder,
    check_selection,
    order_groups,
)
from aimet_torch.compression.pruning.structure import ChannelGroup, ChannelStructure
from aimet_torch.compression.pruning.surgery import remove_channels
from aimet_torch.graph import trace
from aimet_torch.ptq.replay import count_inputs, record_inputs

__all__ = ["PruningPlan", "prune"]

ALLOCATIONS = ("auto", "uniform", "errors")


class PruningPlan:
    """What can be pruned of a model, in which order, and what it costs.

    Made once, it gives smaller models for any numbers of channels: nothing is traced or measured
    again. Arguments are those of :func:`prune`, and ``keep_inputs``: layers whose input channels
    stay, while their outputs may go (depthwise ones, which mix no channels, are as others).

    Attributes:
        structure: Groups of channels, and why the others stay.
        costs: Multiply-accumulates and parameters for any numbers of channels, at once.
        orders: Of each group, the order in which its units go and what that costs.
        before: What the original costs.
    """

    def __init__(
        self,
        model: nn.Module,
        dummy_input: Any,
        *,
        data: Iterable[Any] | None = None,
        selection: str = "auto",
        reconstruct: bool = True,
        multiplicity: int = 1,
        modules_to_ignore: Iterable[nn.Module] = (),
        keep_inputs: Iterable[nn.Module] = (),
        forward_fn: Callable[[nn.Module, Any], Any] | None = None,
        num_batches: int | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"prune: `model` must be an nn.Module, got {type(model).__name__}")
        if multiplicity < 1:
            raise ValueError(f"prune: `multiplicity` must be positive, got {multiplicity}")
        selection = check_selection(selection, data)
        self.model = model
        self.dummy_input = dummy_input
        self.fits = reconstruct and data is not None
        work = copy.deepcopy(model)  # what is traced, so that the user's model stays as it is
        copies = {
            id(own): copied for own, copied in zip(model.modules(), work.modules(), strict=True)
        }
        self.structure = ChannelStructure(
            trace(work, dummy_input),
            [copies[id(module)] for module in modules_to_ignore if id(module) in copies],
            [copies[id(module)] for module in keep_inputs if id(module) in copies],
        )
        self.before = estimate_cost(model, dummy_input)
        self.costs = PruningCosts(self.structure, self.before, multiplicity)
        self.calls = None
        if data is not None:
            count = count_inputs(work, dummy_input)
            self.calls = record_inputs(work, data, forward_fn, num_batches, count)
        self.has_data = data is not None
        self.orders = order_groups(self.structure, selection, self.fits, self.calls)

    @property
    def groups(self) -> dict[str, ChannelGroup]:
        """The channels that can be pruned, by the name of the first layer that makes them."""
        return self.structure.groups

    def error(self, kept: Mapping[str, int]) -> float:
        """What keeping so many units of some groups costs, summed over the groups."""
        return sum(
            float(self.orders[name].errors[self.groups[name].size - count])
            for name, count in kept.items()
        )

    def group_of(self, layer: str) -> list[str]:
        """The groups among a layer's input channels."""
        return [
            name
            for name, group in self.groups.items()
            if any(reader.name == layer for reader in group.readers)
        ]

    def counts(
        self, ratio: float, metric: CostMetric = CostMetric.mac, allocation: str = "auto"
    ) -> dict[str, int]:
        """How many units of each group to keep for a cost of the whole model.

        Args:
            ratio: Cost over that of the original, in (0, 1].
            metric: What is compared.
            allocation: ``errors``: units go where they cost least for what they save; ``uniform``:
                the same share of every group; ``auto``: ``errors`` with data.

        Raises:
            ValueError: The ratio cannot be reached, or an argument is not valid.
        """
        if not 0 < ratio <= 1:
            raise ValueError(f"prune: `ratios` must be in (0, 1], got {ratio}")
        if allocation not in ALLOCATIONS:
            raise ValueError(
                f"prune: `allocation` must be one of {', '.join(ALLOCATIONS)}, got {allocation!r}"
            )
        least = self.costs.least_ratio(metric)
        if ratio < least:
            what = "multiply-accumulates" if metric is CostMetric.mac else "parameters"
            raise ValueError(
                f"prune: `ratios` of {ratio:g} cannot be reached: with one channel of everything "
                f"that can be pruned the model still has {least:.1%} of its {what}; ask for more, "
                "or factorize the layers that stay"
            )
        by_errors = self.has_data if allocation == "auto" else allocation == "errors"
        if not by_errors:
            return self.costs.uniform(ratio, metric)
        errors = {name: order.errors for name, order in self.orders.items()}
        return self.costs.by_errors(ratio, metric, errors)

    def counts_of_layers(self, ratios: Mapping[str, float]) -> dict[str, int]:
        """How many units to keep so that layers keep a share of their input channels.

        Where several layers read a group, the least of what they are to keep.

        Raises:
            ValueError: A ratio or name is not valid.
        """
        names = {layer.name for layer in self.structure.layers}
        kept: dict[str, int] = {}
        for layer, ratio in ratios.items():
            if layer not in names:
                raise ValueError(
                    f"prune: `ratios` names {layer!r}, which is no convolution or linear layer "
                    "that the traced model calls"
                )
            if not 0 < ratio <= 1:
                raise ValueError(f"prune: `ratios` must be in (0, 1], got {ratio} for {layer!r}")
            for name in self.group_of(layer):
                group = self.groups[name]
                wanted = self.costs.round_up(group, math.floor(ratio * group.size + 1e-9))
                kept[name] = min(kept.get(name, group.size), wanted)
        return kept

    def apply(
        self,
        kept: Mapping[str, int],
        *,
        reconstruct: bool | None = None,
        asked: Mapping[str, float] | None = None,
    ) -> PrunedModel:
        """The smaller model.

        Args:
            kept: Units that each group keeps; groups that are not named keep all.
            reconstruct: Solve for the weights again; None: as the plan was made.
            asked: Share of a layer's input channels that was asked for, for the table.

        Raises:
            ValueError: A name or number is not valid, or there is no data to solve with.
        """
        fits = self.fits if reconstruct is None else reconstruct
        if fits and self.calls is None:
            raise ValueError("PruningPlan.apply: `reconstruct` needs `data` in the plan")
        stays: dict[str, Tensor] = {}
        for name, count in kept.items():
            group = self.groups.get(name)
            if group is None:
                raise ValueError(f"PruningPlan.apply: `kept` names {name!r}, which is no group")
            if not group.least <= count <= group.size:
                raise ValueError(
                    f"PruningPlan.apply: `kept` must be within {group.least} and {group.size}, got "
                    f"{count} for {name!r}"
                )
            stays[name] = self.orders[name].stays(group, count)
        keep = self.structure.keep(stays)
        if self.groups:
            self.structure.labels.check(keep)
        smaller = copy.deepcopy(self.model)
        remove_channels(smaller, self.structure, keep)
        fitted: dict[str, Fit] = {}
        if fits and self.calls is not None:
            modes = [(module, module.training) for module in smaller.modules()]
            with torch.no_grad():
                fitted = fit_weights(smaller.eval(), self.structure, keep, self.calls)
            for module, mode in modes:
                module.training = mode
        after = self._cost_of(smaller)
        asked = asked or {}
        return PrunedModel(
            smaller,
            [self._row(layer, keep, fitted, asked) for layer in self.structure.layers],
            [self._group(group, kept) for group in self.groups.values()],
            self.before,
            after,
            self._notes(),
        )

    def _cost_of(self, smaller: nn.Module) -> ModelCost:
        try:
            return estimate_cost(smaller, self.dummy_input)
        except Exception as error:
            raise RuntimeError(
                "prune: the smaller model does not run, though all that its graph holds fits: code "
                f"of the model whose result nothing uses is not in it ({type(error).__name__}: "
                f"{error}); take that code out, or name the layers around it in `modules_to_ignore`"
            ) from error

    def _row(
        self, layer: Layer, keep: Tensor, fits: Mapping[str, Fit], asked: Mapping[str, float]
    ) -> LayerPruning:
        fit = fits.get(layer.name, Fit())
        return LayerPruning(
            layer.name,
            layer.kind,
            asked.get(layer.name),
            len(layer.inputs),
            int(keep[layer.inputs].sum()),
            len(layer.outputs),
            int(keep[layer.outputs].sum()),
            fit.plain_error,
            fit.output_error,
            fit.note or self.structure.obstacles.get(layer.name, ""),
        )

    def _group(self, group: ChannelGroup, kept: Mapping[str, int]) -> PrunedGroup:
        order: GroupOrder = self.orders[group.name]
        count = kept.get(group.name, group.size)
        return PrunedGroup(
            group.name,
            [layer.name for layer in group.makers],
            [layer.name for layer in group.readers],
            group.size,
            count,
            float(order.errors[group.size - count]),
        )

    def _notes(self) -> list[str]:
        graph = self.structure.graph
        notes = [f"not traced: {b.name or 'the model'}: {b.reason}" for b in graph.boundaries]
        called = {op.module_name for op in graph.ops}
        called |= {op.module_name for b in graph.boundaries for op in b.ops}
        named = dict(graph.model.named_modules())
        read = {value.parameter_name for value in graph.values()}
        idle = [
            name
            for name, module in named.items()
            if name not in called and any(f"{name}.{key}" not in read for key in module._parameters)
        ]
        if idle:
            shown = ", ".join(idle[:5]) + (", ..." if len(idle) > 5 else "")
            notes.append(
                f"not called in evaluation mode, so left as they are and perhaps of no use in "
                f"training: {shown}"
            )
        if not self.groups:
            notes.append("no channels can be pruned")
        return notes


def prune(
    model: nn.Module,
    dummy_input: Any,
    ratios: float | Mapping[str, float],
    *,
    data: Iterable[Any] | None = None,
    selection: str = "auto",
    reconstruct: bool = True,
    allocation: str = "auto",
    metric: CostMetric = CostMetric.mac,
    multiplicity: int = 1,
    modules_to_ignore: Iterable[nn.Module] = (),
    forward_fn: Callable[[nn.Module, Any], Any] | None = None,
    num_batches: int | None = None,
) -> PrunedModel:
    """Take channels out of a copy of ``model``: an ordinary smaller network of the same classes.

    Channels that are coupled, by an addition or a depthwise convolution, go together. Where it is
    not known what becomes of a channel, where code of the model holds its number, or where it is
    an input or output of the model, it stays, and the table says why.

    Args:
        model: Left as it is.
        dummy_input: A tensor, a tuple or list of positional arguments, or a dict: what the model is
            traced on and costs are counted for.
        ratios: Cost of the whole smaller model over that of the original, in (0, 1]; or, by dotted
            name of a convolution or linear layer, the share of its input channels that stay
            (AIMET's).
        data: Batches without labels: inputs, or tuples that begin with them; None: no data.
        selection: Which channels stay. ``magnitude``: those with the largest weights behind them
            (AIMET's). ``lasso``: of He et al. 2017. ``gram``: every time the one goes that adds
            least to the error of the outputs. ``auto``: ``gram`` with data, else ``magnitude``.
        reconstruct: With data, solve for the weights that stay, so that layers give what they gave.
        allocation: For one ratio: ``errors``: channels go where that costs least for what it saves;
            ``uniform``: the same share everywhere; ``auto``: ``errors`` with data.
        metric: What one ratio compares: multiply-accumulates or parameters.
        multiplicity: Numbers of channels that stay are rounded up to multiples of this.
        modules_to_ignore: Layers that keep their shape.
        forward_fn: ``forward_fn(model, batch)``, where a batch is something else.
        num_batches: How many batches; None: all.

    Returns:
        The copy, what became of each layer, and what both models cost.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: A ratio cannot be reached, data hold NaN, or an argument is not valid.
        RuntimeError: Code of the model whose result nothing uses needs the channels.
    """
    plan = PruningPlan(
        model,
        dummy_input,
        data=data,
        selection=selection,
        reconstruct=reconstruct,
        multiplicity=multiplicity,
        modules_to_ignore=modules_to_ignore,
        forward_fn=forward_fn,
        num_batches=num_batches,
    )
    if isinstance(ratios, Mapping):
        return plan.apply(plan.counts_of_layers(ratios), asked=ratios)
    return plan.apply(plan.counts(float(ratios), metric, allocation))
