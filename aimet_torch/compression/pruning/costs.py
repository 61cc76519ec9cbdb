"""What a model costs with fewer channels, without making it; and how many channels reach a cost."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from aimet_torch.common.defs import CostMetric
from aimet_torch.compression.cost import ModelCost
from aimet_torch.compression.pruning.structure import ChannelGroup, ChannelStructure

__all__ = ["PruningCosts"]

_CANDIDATES = 48  # numbers of units of a group that are tried
_CLOSE = 0.005  # of the ratio: near enough
_TRADES = 4  # rounds of giving some units of one group for those of others


@dataclasses.dataclass(frozen=True)
class _Entry:
    """Something that costs: a layer, a normalization or a parameter.

    Attributes:
        inputs: Groups among its input channels, with how many of them each unit is.
        outputs: Groups among its output channels.
        input_count: All its input channels.
        output_count: All its output channels.
        is_grouped: Its cost goes with its output channels alone.
        macs: With all channels.
        weight: Parameters that go with both.
        others: Parameters that go with the outputs.
    """

    inputs: list[tuple[str, float]]
    outputs: list[tuple[str, float]]
    input_count: int
    output_count: int
    is_grouped: bool
    macs: float
    weight: int
    others: int


class PruningCosts:
    """Multiply-accumulates and parameters as functions of how many units each group keeps.

    Args:
        structure: Of the original model.
        before: What that costs.
        multiplicity: Channels that stay come in multiples of this, where a group has so many.
    """

    def __init__(self, structure: ChannelStructure, before: ModelCost, multiplicity: int) -> None:
        self.structure = structure
        self.before = before
        self.multiplicity = multiplicity
        model = structure.graph.model
        rows = {row.name: row for row in before.layers}
        named = dict(model.named_parameters(remove_duplicate=False))
        self._entries: list[_Entry] = []
        for layer in structure.layers:
            row = rows.get(layer.name)
            self._entries.append(
                _Entry(
                    self._places(layer.inputs),
                    self._places(layer.outputs),
                    len(layer.inputs),
                    len(layer.outputs),
                    layer.removes_groups,
                    float((row.macs if row is not None else 0) or 0),
                    named[layer.weight].numel(),
                    len(layer.outputs) if layer.bias is not None else 0,
                )
            )
        for name, atoms in structure.labels.axes.items():
            count = sum(p.numel() for p in model.get_submodule(name).parameters(recurse=False))
            self._entries.append(self._plain_entry(atoms, count))
        for name, atoms in structure.labels.elements.items():
            if name in named:
                self._entries.append(self._plain_entry(atoms.flatten(), atoms.numel()))
        self._rest_macs = before.macs - sum(entry.macs for entry in self._entries)
        self._rest_parameters = before.parameters - sum(
            entry.weight + entry.others for entry in self._entries
        )
        self._touched: dict[str, list[_Entry]] = {
            name: [
                entry
                for entry in self._entries
                if name in {n for n, _ in (*entry.inputs, *entry.outputs)}
            ]
            for name in structure.groups
        }

    def _plain_entry(self, atoms: Tensor, parameters: int) -> _Entry:
        places = self._places(atoms)
        return _Entry([], places, 1, len(atoms), True, 0.0, 0, parameters)

    def _places(self, atoms: Tensor) -> list[tuple[str, float]]:
        """How many of the channels each group has, a unit on average."""
        found = []
        for name, group in self.structure.groups.items():
            count = int((self.structure.places(group, atoms) >= 0).sum())
            if count:
                found.append((name, count / group.size))
        return found

    def cost(self, kept: Mapping[str, int], metric: CostMetric) -> float:
        """Cost of the whole model, with all units of groups that are not in ``kept``."""
        rest = self._rest_macs if metric is CostMetric.mac else self._rest_parameters
        return rest + sum(self._entry_cost(entry, kept, metric) for entry in self._entries)

    def ratio(self, kept: Mapping[str, int], metric: CostMetric) -> float:
        """Cost over that of the original model."""
        return self.cost(kept, metric) / self._full(metric)

    def _full(self, metric: CostMetric) -> int:
        return max(self.before.macs if metric is CostMetric.mac else self.before.parameters, 1)

    def _change(self, kept: dict[str, int], name: str, count: int, metric: CostMetric) -> float:
        """By how much the ratio changes if one group keeps ``count`` units."""
        entries = self._touched[name]
        now = sum(self._entry_cost(entry, kept, metric) for entry in entries)
        old, kept[name] = kept[name], count
        then = sum(self._entry_cost(entry, kept, metric) for entry in entries)
        kept[name] = old
        return (then - now) / self._full(metric)

    def shares(self, kept: Mapping[str, int]) -> dict[str, tuple[float, float]]:
        """Share of its input and of its output channels that each layer keeps."""
        pairs = zip(self.structure.layers, self._entries, strict=False)  # layers come first
        return {layer.name: self._entry_shares(entry, kept) for layer, entry in pairs}

    def _entry_shares(self, entry: _Entry, kept: Mapping[str, int]) -> tuple[float, float]:
        groups = self.structure.groups
        shares = []
        for places, count in (
            (entry.inputs, entry.input_count),
            (entry.outputs, entry.output_count),
        ):
            gone = sum((groups[n].size - kept[n]) * each for n, each in places if n in kept)
            shares.append(1 - gone / count)
        return shares[0], shares[1]

    def _entry_cost(self, entry: _Entry, kept: Mapping[str, int], metric: CostMetric) -> float:
        shares = self._entry_shares(entry, kept)
        both = shares[1] if entry.is_grouped else shares[0] * shares[1]
        if metric is CostMetric.mac:
            return entry.macs * both
        return entry.weight * both + entry.others * shares[1]

    def candidates(self, group: ChannelGroup) -> list[int]:
        """How many units of a group can stay, ascending."""
        step = self.multiplicity // math.gcd(self.multiplicity, group.width)
        first = math.ceil(group.least / step) * step
        return sorted({*range(first, group.size + 1, step), group.size})

    def round_up(self, group: ChannelGroup, units: int) -> int:
        """The least candidate that is not below ``units``."""
        return next(count for count in self.candidates(group) if count >= min(units, group.size))

    def least_ratio(self, metric: CostMetric) -> float:
        """The lowest ratio that can be reached."""
        least = {n: self.candidates(g)[0] for n, g in self.structure.groups.items()}
        return self.ratio(least, metric)

    # ---------------------------------------------------------------------- choosing

    def uniform(self, ratio: float, metric: CostMetric) -> dict[str, int]:
        """About the same share of every group, at a cost of at most ``ratio``."""
        groups = self.structure.groups

        def at(share: float) -> dict[str, int]:
            return {n: self.round_up(g, math.floor(share * g.size)) for n, g in groups.items()}

        low, high = 0.0, 1.0
        for _ in range(30):
            middle = (low + high) / 2
            if self.ratio(at(middle), metric) <= ratio:
                low = middle
            else:
                high = middle
        kept = at(low)
        # What is left of the budget goes to single groups, the largest steps first.
        return self._close(kept, ratio, metric, dict.fromkeys(groups))

    def by_errors(
        self, ratio: float, metric: CostMetric, errors: Mapping[str, Tensor]
    ) -> dict[str, int]:
        """Units go where they cost least for what they save, down to a cost of ``ratio``.

        Args:
            ratio: Of the original cost.
            metric: What is compared.
            errors: Of each group, what its first k units cost together.
        """
        groups = self.structure.groups
        kept = {name: group.size for name, group in groups.items()}
        steps = {
            name: _hull(self.candidates(group), group.size, errors[name])
            for name, group in groups.items()
        }
        now = 1.0
        while now > ratio:
            best: tuple[float, str, float] | None = None
            for name, rest in steps.items():
                if not rest:
                    continue
                count, added = rest[-1]
                saved = -self._change(kept, name, count, metric)
                if saved > 0 and (best is None or added / saved < best[0]):
                    best = (added / saved, name, saved)
            if best is None:
                break
            kept[best[1]] = steps[best[1]].pop()[0]
            now -= best[2]
        return self._close(kept, ratio, metric, errors)

    def _close(
        self,
        kept: dict[str, int],
        ratio: float,
        metric: CostMetric,
        errors: Mapping[str, Tensor | None],
    ) -> dict[str, int]:
        """Use up the budget: where no step fits any more, a step of one group for others'."""
        best = self._fill(dict(kept), ratio, metric, errors)
        reached = self.ratio(best, metric)
        for _ in range(_TRADES):
            start = best
            for name, group in self.structure.groups.items():
                for fewer in [c for c in self.candidates(group) if c < start[name]][-3:]:
                    if reached >= (1 - _CLOSE) * ratio:
                        return best
                    trial = self._fill({**start, name: fewer}, ratio, metric, errors, name)
                    after = self.ratio(trial, metric)
                    if after > reached:
                        best, reached = trial, after
            if best is start:
                break
        return best

    def _fill(
        self,
        kept: dict[str, int],
        ratio: float,
        metric: CostMetric,
        errors: Mapping[str, Tensor | None],
        held: str | None = None,
    ) -> dict[str, int]:
        """Give units back, not to the group ``held``, while the cost stays within the ratio."""
        groups = {n: g for n, g in self.structure.groups.items() if n != held}
        candidates = {name: self.candidates(group) for name, group in groups.items()}
        left = ratio - self.ratio(kept, metric)
        while True:
            best: tuple[float, str, int, float] | None = None
            for name, group in groups.items():
                more = next((count for count in candidates[name] if count > kept[name]), None)
                if more is None:
                    continue
                change = self._change(kept, name, more, metric)
                if change > left:
                    continue
                curve = errors[name]
                gain = change  # the largest step that fits
                if curve is not None:
                    gain = float(curve[group.size - kept[name]] - curve[group.size - more])
                if best is None or gain > best[0]:
                    best = (gain, name, more, change)
            if best is None:
                return kept
            kept[best[1]] = best[2]
            left -= best[3]


def _hull(candidates: list[int], size: int, errors: Tensor) -> list[tuple[int, float]]:
    """The numbers of units on the lower convex hull of the errors, and what each adds.

    Returns:
        (units, error beyond the next larger one), ascending; the full size is left out.
    """
    points = [(size - count, float(errors[size - count])) for count in reversed(candidates)]
    hull: list[tuple[int, float]] = []
    for x, y in _thinned(points):
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2:]
            if (y1 - y0) * (x - x0) < (y - y0) * (x1 - x0):
                break
            hull.pop()
        hull.append((x, y))
    added = [(size - x, y - y0) for (_, y0), (x, y) in itertools.pairwise(hull)]
    return added[::-1]


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most a few dozen of the points, the first and the last among them."""
    if len(points) <= _CANDIDATES:
        return points
    picks = torch.linspace(0, len(points) - 1, _CANDIDATES).round().long().unique()
    return [points[i] for i in picks.tolist()]
