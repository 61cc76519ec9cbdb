"""Low-rank factors as a scheme: each layer is decomposed once, every ratio truncates that."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from aimet_torch.common.defs import CostMetric
from aimet_torch.compression.factorize import factorize
from aimet_torch.compression.layers import (
    Choice,
    choices_for,
    factor_modules,
    leading_ranks,
    obstacle,
    singular_values,
    truncated,
)
from aimet_torch.compression.schemes import Applied, Candidate, CostTable, Unit
from aimet_torch.graph import trace
from aimet_torch.ptq.layers import LAYER_TYPES, LayerType, ModuleUses, replace_modules

__all__ = ["LowRankScheme"]

_FACTOR = "it is a factor of an earlier compression"


@dataclasses.dataclass
class _Decomposition:
    """The factors of a layer at the largest rank that is asked for, which hold all lower ones.

    Attributes:
        first: Weight of the first layer.
        second: Weight of the second layer.
        lost: Squares of the weights that are lost, at rank 1, 2, ....
    """

    first: Tensor
    second: Tensor
    lost: Tensor

    @classmethod
    def of(cls, layer: LayerType, choice: Choice) -> _Decomposition:
        first, second, _ = truncated(layer, choice)
        energy = singular_values(layer, choice.factorization, first, second).square().sum(0)
        total = layer.weight.detach().double().square().sum()
        return cls(first, second, (total - energy.cumsum(0)).clamp(min=0))

    def lost_at(self, rank: int) -> float:
        return float(self.lost[rank - 1])

    def modules(self, name: str, layer: LayerType, choice: Choice) -> dict[str, nn.Module]:
        kind, bias = choice.factorization, layer.bias
        factors = leading_ranks(layer, kind, self.first, self.second, choice.rank)
        return {name: factor_modules(layer, kind, *factors, bias)}


def _is_factor(model: nn.Module, name: str) -> bool:
    """Whether a layer is one of two that stand alone in a Sequential, as `factorize` leaves them.

    Two layers in a row with nothing between them, and no bias on the first: a user's own would be
    as good as one.
    """
    parent = model.get_submodule(name.rpartition(".")[0])
    if type(parent) is not nn.Sequential or len(parent) != 2:
        return False
    first: Any = parent[0]
    return all(type(child) in LAYER_TYPES for child in parent) and first.bias is None


class LowRankScheme:
    """Layers as two smaller ones: :func:`aimet_torch.compression.factorize`.

    Args:
        model: Left as it is.
        dummy_input: What it is traced on and costs are counted for.
        scheme: ``spatial``, ``weight`` or ``auto``.
        metric: What ratios compare. Measured time: candidates are those of multiply-accumulates.
        multiplicity: Ranks are rounded up to multiples of this.
        modules_to_ignore: Layers that keep their shape.
        data: Batches that the final model is fitted to; None: plain truncation.
        num_batches: How many of them.
    """

    adds_up = True

    def __init__(
        self,
        model: nn.Module,
        dummy_input: Any,
        scheme: str,
        metric: CostMetric,
        *,
        multiplicity: int = 1,
        modules_to_ignore: Iterable[nn.Module] = (),
        data: Iterable[Any] | None = None,
        num_batches: int | None = None,
    ) -> None:
        self.name = scheme
        self.left: dict[str, str] = {}
        self._input = dummy_input
        self._metric = CostMetric.memory if metric is CostMetric.memory else CostMetric.mac
        self._multiplicity = multiplicity
        self._data, self._num_batches = data, num_batches
        ignored = {id(module) for module in modules_to_ignore}
        names = [
            name
            for name, module in model.named_modules()
            if isinstance(module, LAYER_TYPES) and id(module) not in ignored
        ]
        self._model = copy.deepcopy(model).eval()
        graph = trace(self._model, dummy_input)
        uses = ModuleUses(graph)
        self._layers: dict[str, Any] = {}
        self._decompositions: dict[tuple[str, str], _Decomposition] = {}
        self._ranks_cost: dict[tuple[str, str], tuple[float, float]] = {}  # of ranks 1 and 2
        for name in names:
            layer = self._model.get_submodule(name)
            reason = _FACTOR if _is_factor(self._model, name) else None
            reason = reason or obstacle(graph, uses, name, layer)
            if reason is None:
                self._layers[name] = layer
            else:
                self.left[name] = reason
        self._costs = CostTable(self._model, dummy_input, metric, self._layers)
        self.total = self._costs.total
        for name in set(self._layers) - set(self._costs.order):
            self.left[name] = "the model does not call it"

    def units(self, ratios: Sequence[float]) -> list[Unit]:
        """Layers that some ratio makes smaller; a layer that none does is in ``left``."""
        units = []
        for name in self._costs.order:
            candidates = self.candidates(name, sorted(ratios, reverse=True))
            if candidates:
                units.append(Unit(name, self._costs.of_layer(name), candidates))
                continue
            # Whatever the smallest ratio does not reach, no other one does.
            found = choices_for(
                self._layers[name], self.name, min(ratios), self._metric, self._multiplicity
            )
            self.left[name] = found if isinstance(found, str) else "no ratio makes it smaller"
        return units

    def candidates(self, unit: str, ratios: Sequence[float]) -> list[Candidate]:
        """Factors of a layer at some ratios, from the largest to the smallest."""
        layer = self._layers[unit]
        candidates: list[Candidate] = []
        last = None
        for ratio in ratios:
            choices = choices_for(layer, self.name, ratio, self._metric, self._multiplicity)
            if isinstance(choices, str):
                continue
            found = [(self._decomposition(unit, choice), choice) for choice in choices]
            decomposition, best = min(found, key=lambda pair: pair[0].lost_at(pair[1].rank))
            if (best.factorization, best.rank) == last:
                continue
            last = (best.factorization, best.rank)
            build = functools.partial(decomposition.modules, unit, layer, best)
            cost = self._cost(unit, decomposition, best)
            candidates.append(Candidate(ratio, cost, build, decomposition.lost_at(best.rank)))
        return candidates

    def _decomposition(self, name: str, choice: Choice) -> _Decomposition:
        """At the largest rank that saves anything, so that it holds all others."""
        key = (name, choice.factorization)
        if key not in self._decompositions:
            saves = (choice.cost.full - 1) // choice.cost.per_rank
            largest = dataclasses.replace(choice, rank=min(saves, choice.cost.max_rank))
            self._decompositions[key] = _Decomposition.of(self._layers[name], largest)
        return self._decompositions[key]

    def _cost(self, name: str, decomposition: _Decomposition, choice: Choice) -> float:
        """Time is measured; all else grows by the same amount with every rank."""
        layer = self._layers[name]

        def of(rank: int) -> float:
            made = decomposition.modules(name, layer, dataclasses.replace(choice, rank=rank))
            return self._costs.of(name, made[name])

        if self._costs.metric is CostMetric.latency or len(decomposition.lost) < 2:
            return of(choice.rank)
        key = (name, choice.factorization)
        if key not in self._ranks_cost:
            self._ranks_cost[key] = of(1), of(2)
        first, second = self._ranks_cost[key]
        return first + (choice.rank - 1) * (second - first)

    def cost(self, choice: Mapping[str, Candidate]) -> float:
        """Cost of the whole model: those of layers add up."""
        saved = (self._costs.of_layer(name) - found.cost for name, found in choice.items())
        return self.total - sum(saved)

    def shaped(self, model: nn.Module, choice: Mapping[str, Candidate]) -> nn.Module:
        """A copy of the model with truncated layers."""
        made = copy.deepcopy(model)
        built = [candidate.build() for candidate in choice.values()]
        modules = {made.get_submodule(n): new for each in built for n, new in each.items()}
        replace_modules(made, modules)
        return made.eval()

    def apply(
        self, model: nn.Module, ratios: Mapping[str, float], *, by_layer: bool = False
    ) -> Applied:
        """Factorize a copy of a model; units are layers."""
        result = factorize(
            model,
            self._input,
            ratios,
            scheme=self.name,
            metric=self._metric,
            multiplicity=self._multiplicity,
            data=self._data,
            num_batches=self._num_batches,
        )
        rows = {
            row.name: (
                ""
                if row.factorization is None
                else f"{row.factorization}, rank {row.rank} of {row.full_rank}",
                row.note,
            )
            for row in result.layers
        }
        return Applied(result.model, rows, result.before, result.after)

    def key(self) -> dict[str, Any]:
        """What decides a rank, besides the layer and the ratio."""
        return {
            "scheme": self.name,
            "ranks by": self._metric.name,
            "multiplicity": self._multiplicity,
        }
