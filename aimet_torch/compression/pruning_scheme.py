"""Channel pruning as a scheme: its units are groups of channels that go together."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from aimet_torch.common.defs import CostMetric
from aimet_torch.compression.pruning import PruningPlan
from aimet_torch.compression.pruning.latency import PruningLatency
from aimet_torch.compression.pruning.results import LayerPruning, PrunedModel
from aimet_torch.compression.pruning.structure import ChannelGroup
from aimet_torch.compression.schemes import Applied, Candidate, Unit
from aimet_torch.ops import fingerprint
from aimet_torch.ptq.layers import LAYER_TYPES, LayerType, is_transposed

__all__ = ["PruningScheme"]


class PruningScheme:
    """Fewer channels: :func:`aimet_torch.compression.prune`.

    A unit is a group of channels that are removed together, named after the first layer that makes
    them; its ratio is the share of them that stays. While ratios are chosen, the weights that read
    the others are zeros in a network of the old shape, which computes the same.

    Args:
        model: Left as it is.
        dummy_input: What it is traced on and costs are counted for.
        metric: What ratios of the whole model compare. Time is measured on this machine.
        multiplicity: Channel counts are rounded up to multiples of this.
        modules_to_ignore: Layers whose input channels stay.
        data: Batches that weights are solved for on; None: weights keep their values.
        selection: Which channels stay: ``magnitude``, ``lasso``, ``gram`` or ``auto``.
    """

    name = "channel_pruning"
    adds_up = False  # a layer between two groups is smaller by the product of both ratios

    def __init__(
        self,
        model: nn.Module,
        dummy_input: Any,
        metric: CostMetric,
        *,
        multiplicity: int = 1,
        modules_to_ignore: Iterable[nn.Module] = (),
        data: Iterable[Any] | None = None,
        selection: str = "magnitude",
    ) -> None:
        self._options: dict[str, Any] = {
            "selection": selection,
            "multiplicity": multiplicity,
            "data": None if data is None else list(data),
        }
        self._input = dummy_input
        self._model = model
        self._ignored = list(modules_to_ignore)
        self._plan = PruningPlan(model, dummy_input, keep_inputs=self._ignored, **self._options)
        self.left = dict(self._plan.structure.obstacles)
        costs = self._plan.costs
        self._cost: Callable[[Mapping[str, int]], float]
        if metric is CostMetric.latency:
            self._cost = PruningLatency(costs, model, dummy_input).cost
        else:
            self._cost = functools.partial(costs.cost, metric=metric)
        self.total = self._cost({})

    def units(self, ratios: Sequence[float]) -> list[Unit]:
        """Groups that some ratio makes smaller."""
        found = []
        for group in self._plan.groups.values():
            others = [r.name for r in group.readers if not self._is_layer(r.name)]
            if others:
                self.left[group.name] = f"`{others[0]}` reads its channels and is no module"
                continue
            candidates = self.candidates(group.name, sorted(ratios, reverse=True))
            if candidates:
                found.append(Unit(group.name, self.total, candidates))
            else:
                self.left.setdefault(group.name, "its channels cannot become fewer")
        return found

    def candidates(self, unit: str, ratios: Sequence[float]) -> list[Candidate]:
        """A group with some shares of its channels, from the largest to the smallest."""
        group = self._plan.groups[unit]
        candidates: list[Candidate] = []
        last = group.size
        for ratio in ratios:
            count = self._count(group, ratio)
            if count < last:
                kept = {unit: count}
                cost = self._cost(kept)
                build = functools.partial(self._masked, group, count)
                lost = self._plan.error(kept)
                error = lost if self._plan.fits else None
                candidates.append(Candidate(ratio, cost, build, lost, error))
                last = count
        return candidates

    def _is_layer(self, name: str) -> bool:
        return isinstance(dict(self._model.named_modules()).get(name), LAYER_TYPES)

    def _count(self, group: ChannelGroup, ratio: float) -> int:
        return self._plan.costs.round_up(group, math.floor(ratio * group.size + 1e-9))

    def _counts(self, ratios: Mapping[str, float]) -> dict[str, int]:
        return {name: self._count(self._plan.groups[name], ratio) for name, ratio in ratios.items()}

    def _masked(self, group: ChannelGroup, count: int) -> dict[str, nn.Module]:
        """The layers that read a group, with zeros where they read channels that go."""
        stays = self._plan.orders[group.name].stays(group, count)
        keep = self._plan.structure.keep({group.name: stays})
        made: dict[str, nn.Module] = {}
        for reader in group.readers:
            layer: Any = self._model.get_submodule(reader.name)
            made[reader.name] = _with_zeros(layer, keep[reader.inputs])
        return made

    def cost(self, choice: Mapping[str, Candidate]) -> float:
        """Cost of the whole model."""
        ratios = {name: candidate.ratio for name, candidate in choice.items()}
        return self._cost(self._counts(ratios))

    def shaped(self, model: nn.Module, choice: Mapping[str, Candidate]) -> nn.Module:
        """A copy of the model with fewer channels, whose weights keep their values."""
        ratios = {name: candidate.ratio for name, candidate in choice.items()}
        return self._plan.apply(self._counts(ratios), reconstruct=False).model.eval()

    def apply(
        self, model: nn.Module, ratios: Mapping[str, float], *, by_layer: bool = False
    ) -> Applied:
        """Prune a copy of a model; by layer, a ratio is the share of its input channels."""
        plan = self._plan
        if model is not self._model:
            names = {id(module): name for name, module in self._model.named_modules()}
            ignored = [model.get_submodule(names[id(module)]) for module in self._ignored]
            plan = PruningPlan(model, self._input, keep_inputs=ignored, **self._options)
        kept = plan.counts_of_layers(ratios) if by_layer else self._counts(ratios)
        result: PrunedModel = plan.apply(kept)
        rows = {row.name: (_detail(row), row.note) for row in result.layers}
        return Applied(result.model, rows, result.before, result.after)

    def key(self) -> dict[str, Any]:
        """What decides which channels stay, besides the ratio."""
        errors = [order.errors for order in self._plan.orders.values()]
        return {
            "scheme": self.name,
            "selection": self._options["selection"],
            "multiplicity": self._options["multiplicity"],
            "data": fingerprint(errors),
        }


def _with_zeros(layer: LayerType, keep: Tensor) -> nn.Module:
    """A copy of ``layer`` that reads only some of its input channels, (inputs,) bool."""
    made = copy.deepcopy(layer)
    weight = layer.weight.detach()
    keep = keep.to(weight)
    rest = [1] * (weight.dim() - 2)
    if is_transposed(layer):
        masked = weight * keep.view(-1, 1, *rest)
    else:
        groups: Any = 1 if isinstance(layer, nn.Linear) else layer.groups
        grouped = weight.unflatten(0, (groups, -1))
        masked = (grouped * keep.view(groups, 1, -1, *rest)).flatten(0, 1)
    made.weight = nn.Parameter(masked, requires_grad=layer.weight.requires_grad)
    return made


def _detail(row: LayerPruning) -> str:
    parts = [
        f"{kept} of {count} {what}"
        for kept, count, what in (
            (row.kept_inputs, row.inputs, "inputs"),
            (row.kept_outputs, row.outputs, "outputs"),
        )
        if kept != count
    ]
    return ", ".join(parts)
