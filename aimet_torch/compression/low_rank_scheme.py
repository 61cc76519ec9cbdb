"""Low-rank factors as a scheme: each layer is decomposed once, every ratio truncates that."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from aimet_torch.common.defs import CostMetric
from aimet_torch.compression.layer_scheme import LayerScheme
from aimet_torch.compression.layers import (
    SCHEMES,
    Choice,
    choices_for,
    factor_modules,
    leading_ranks,
    singular_values,
    truncated,
)
from aimet_torch.compression.schemes import Candidate
from aimet_torch.ptq.layers import LayerType

__all__ = ["LowRankScheme"]


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


class LowRankScheme(LayerScheme):
    """Layers as two smaller ones: ``spatial``, ``weight`` or ``auto``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._decompositions: dict[tuple[str, str], _Decomposition] = {}
        self._ranks_cost: dict[tuple[str, str], tuple[float, float]] = {}  # of ranks 1 and 2

    def _reason(self, name: str, ratio: float) -> str | None:
        layer = self._layers[name]
        found = choices_for(layer, self.name, ratio, self._metric, self._multiplicity)
        return found if isinstance(found, str) else None

    def candidates(self, unit: str, ratios: Sequence[float]) -> list[Candidate]:
        """Factors of a layer at some ratios, from the largest to the smallest."""
        layer = self._layers[unit]
        candidates: list[Candidate] = []
        last = None
        for ratio in ratios:
            found = self._best(unit, ratio)
            if found is None:
                continue
            decomposition, best = found
            if (best.factorization, best.rank) == last:
                continue
            last = (best.factorization, best.rank)
            build = functools.partial(decomposition.modules, unit, layer, best)
            cost = self._cost(unit, decomposition, best)
            candidates.append(Candidate(ratio, cost, build, decomposition.lost_at(best.rank)))
        return candidates

    def _best(self, name: str, ratio: float) -> tuple[_Decomposition, Choice] | None:
        """What a layer becomes at a ratio; None: nothing that costs no more."""
        layer = self._layers[name]
        choices = choices_for(layer, self.name, ratio, self._metric, self._multiplicity)
        if isinstance(choices, str):
            return None
        found = [(self._decomposition(name, choice), choice) for choice in choices]
        return min(found, key=lambda pair: pair[0].lost_at(pair[1].rank))

    def _schemes(self, ratios: Mapping[str, float]) -> str | Mapping[str, str]:
        """The kinds of factors whose costs were counted, although data may prefer others."""
        if len(SCHEMES[self.name]) == 1:
            return self.name
        known = [(name, ratio) for name, ratio in ratios.items() if name in self._layers]
        best = {name: self._best(name, ratio) for name, ratio in known}
        return {name: found[1].factorization for name, found in best.items() if found is not None}

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
