"""Low-rank factors as a scheme: each layer is decomposed once, every ratio truncates that."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from aimet_torch.common.defs import CostMetric
from aimet_torch.compression.candidate_fits import CandidateFits
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
from aimet_torch.compression.schemes import Candidate, Unit
from aimet_torch.ops import fingerprint
from aimet_torch.ptq.layers import LayerType
from aimet_torch.ptq.replay import count_inputs, record_inputs

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
    """Layers as two smaller ones: ``spatial``, ``weight`` or ``auto``.

    Each is decomposed once, every ratio truncates that. With data, candidates are fitted to them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._decompositions: dict[tuple[str, str], _Decomposition] = {}
        self._fits: CandidateFits | None = None
        self._ranks_cost: dict[tuple[str, str], tuple[float, float]] = {}  # of ranks 1 and 2

    def _reason(self, name: str, ratio: float) -> str | None:
        layer = self._layers[name]
        found = choices_for(layer, self.name, ratio, self._metric, self._multiplicity)
        return found if isinstance(found, str) else None

    def units(self, ratios: Sequence[float]) -> list[Unit]:
        """Layers that some ratio makes smaller; with data, their candidates are fitted to them."""
        units = super().units(ratios)
        if self._data is not None:
            count = count_inputs(self._model, self._input)
            calls = record_inputs(self._model, self._data, None, None, count)
            self._fits = CandidateFits(self._graph, self._uses, calls)
            descending = sorted(ratios, reverse=True)
            self._fits.fit(
                {
                    unit.name: [choice for _, choice in self._choices(unit.name, descending)]
                    for unit in units
                }
            )
        return units

    def candidates(self, unit: str, ratios: Sequence[float]) -> list[Candidate]:
        """Factors of a layer at some ratios, from the largest to the smallest."""
        return [
            Candidate(
                ratio,
                self._cost(unit, choice),
                functools.partial(self._modules, unit, choice),
                self._decomposition(unit, choice).lost_at(choice.rank),
            )
            for ratio, choice in self._choices(unit, ratios)
        ]

    def key(self) -> dict[str, Any]:
        """The same, and the data that candidates are fitted to."""
        if self._data is None:
            return super().key()
        leaves = [leaf for leaf in tree_leaves(self._data) if isinstance(leaf, Tensor)]
        return {**super().key(), "data": fingerprint([leaf.detach().cpu() for leaf in leaves])}

    def _choices(self, name: str, ratios: Sequence[float]) -> list[tuple[float, Choice]]:
        """The factorization and the rank of each ratio; of the same ones, the first."""
        found: dict[tuple[str, int], tuple[float, Choice]] = {}
        for ratio in ratios:
            best = self._best(name, ratio)
            if best is not None:
                found.setdefault((best.factorization, best.rank), (ratio, best))
        return list(found.values())

    def _modules(self, name: str, choice: Choice) -> dict[str, nn.Module]:
        """Fitted factors where there are some, else those next to the weight."""
        layer = self._layers[name]
        fitted = None if self._fits is None else self._fits.modules(name, layer, choice)
        if fitted is not None:
            return {name: fitted}
        return self._decomposition(name, choice).modules(name, layer, choice)

    def _best(self, name: str, ratio: float) -> Choice | None:
        """What a layer becomes at a ratio; None: nothing that costs no more."""
        layer = self._layers[name]
        choices = choices_for(layer, self.name, ratio, self._metric, self._multiplicity)
        if isinstance(choices, str):
            return None
        return min(choices, key=lambda c: self._decomposition(name, c).lost_at(c.rank))

    def _schemes(self, ratios: Mapping[str, float]) -> str | Mapping[str, str]:
        """The kinds of factors whose costs were counted, although data may prefer others."""
        if len(SCHEMES[self.name]) == 1:
            return self.name
        known = [(name, ratio) for name, ratio in ratios.items() if name in self._layers]
        best = {name: self._best(name, ratio) for name, ratio in known}
        return {name: found.factorization for name, found in best.items() if found is not None}

    def _decomposition(self, name: str, choice: Choice) -> _Decomposition:
        """At the largest rank that saves anything, so that it holds all others."""
        key = (name, choice.factorization)
        if key not in self._decompositions:
            saves = (choice.cost.full - 1) // choice.cost.per_rank
            largest = dataclasses.replace(choice, rank=min(saves, choice.cost.max_rank))
            self._decompositions[key] = _Decomposition.of(self._layers[name], largest)
        return self._decompositions[key]

    def _cost(self, name: str, choice: Choice) -> float:
        """Time is measured; all else grows by the same amount with every rank."""
        layer, decomposition = self._layers[name], self._decomposition(name, choice)

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
