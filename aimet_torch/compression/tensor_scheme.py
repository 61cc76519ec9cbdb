"""Tucker-2 and CP as schemes whose ratios can be chosen."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.compression.layer_scheme import LayerScheme
from aimet_torch.compression.schemes import Candidate
from aimet_torch.compression.tensor_factors import (
    Ranks,
    modules_of,
    ranks_at,
    require_tensorly,
    singular_values,
)

__all__ = ["TensorScheme"]


class TensorScheme(LayerScheme):
    """Convolutions as three layers and more: ``tucker`` or ``cp``.

    Every candidate is decomposed once, when it is first built; its cost needs only its ranks.

    Raises:
        ImportError: tensorly is not installed.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        require_tensorly("compress_model")
        super().__init__(*args, **kwargs)
        self._made: dict[tuple[str, Ranks], nn.Sequential] = {}
        self._values: dict[str, tuple[Tensor, Tensor]] = {}

    def _ranks(self, name: str, ratio: float) -> Ranks | str:
        return ranks_at(self._layers[name], self.name, ratio, self._metric, self._multiplicity)

    def _reason(self, name: str, ratio: float) -> str | None:
        found = self._ranks(name, ratio)
        return found if isinstance(found, str) else None

    def candidates(self, unit: str, ratios: Sequence[float]) -> list[Candidate]:
        """Decompositions of a layer at some ratios, from the largest to the smallest."""
        found: dict[Ranks, Candidate] = {}
        for ratio in ratios:
            ranks = self._ranks(unit, ratio)
            if isinstance(ranks, str) or ranks in found:
                continue
            build = functools.partial(self._modules, unit, ranks)
            # What tensorly would find costs what modules of these sizes cost.
            empty = modules_of(self._layers[unit], self.name, ranks, empty=True)[0]
            cost = self._costs.of(unit, empty)
            found[ranks] = Candidate(ratio, cost, build, self._lost(unit, ranks))
        return list(found.values())

    def _modules(self, name: str, ranks: Ranks) -> dict[str, nn.Module]:
        key = (name, ranks)
        if key not in self._made:
            self._made[key] = modules_of(self._layers[name], self.name, ranks)[0]
        return {name: self._made[key]}

    def _lost(self, name: str, ranks: Ranks) -> float:
        """A bound for Tucker-2; of CP no more is known than that it rises as the ranks fall."""
        if self.name == "cp":
            return 1 - ranks.reached
        if name not in self._values:
            self._values[name] = singular_values(self._layers[name])
        inputs, outputs = self._values[name]
        lost = inputs[ranks.first :].square().sum() + outputs[ranks.second :].square().sum()
        return float(lost / torch.clamp(outputs.square().sum(), min=1e-300))
