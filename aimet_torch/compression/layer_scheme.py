"""What schemes share that put other layers in the place of one: a unit is a layer."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from aimet_torch.common.defs import CostMetric
from aimet_torch.compression.factorize import factorize
from aimet_torch.compression.layers import obstacle
from aimet_torch.compression.schemes import Applied, Candidate, CostTable, Unit
from aimet_torch.graph import trace
from aimet_torch.ptq.layers import LAYER_TYPES, ModuleUses, replace_modules

__all__ = ["LayerScheme"]

_FACTOR = "it is a factor of an earlier compression"


def _is_factor(model: nn.Module, name: str) -> bool:
    """Whether a layer is one of those that stand alone in a Sequential, as `factorize` leaves them.

    Two layers or more in a row with nothing between them, and a bias on the last alone: a user's
    own would be as good as these.
    """
    parent = model.get_submodule(name.rpartition(".")[0])
    if type(parent) is not nn.Sequential or len(parent) < 2:
        return False
    layers: list[Any] = list(parent)
    if not all(type(layer) in LAYER_TYPES for layer in layers):
        return False
    return all(layer.bias is None for layer in layers[:-1])


class LayerScheme:
    """A scheme of :func:`aimet_torch.compression.factorize`.

    Args:
        model: Left as it is.
        dummy_input: What it is traced on and costs are counted for.
        scheme: Of ``factorize``.
        metric: What ratios compare. Measured time: candidates are those of multiply-accumulates.
        multiplicity: Ranks are rounded up to multiples of this.
        modules_to_ignore: Layers that keep their shape.
        data: Batches that the final model is fitted to; None: factors next to the weights.
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
        # Read once: it may be an iterator, and it is needed again.
        self._data = None if data is None else list(itertools.islice(data, num_batches))
        ignored = {id(module) for module in modules_to_ignore}
        names = [
            name
            for name, module in model.named_modules()
            if isinstance(module, LAYER_TYPES) and id(module) not in ignored
        ]
        self._model = copy.deepcopy(model).eval()
        self._graph = trace(self._model, dummy_input)
        self._uses = ModuleUses(self._graph)
        self._layers: dict[str, Any] = {}
        for name in names:
            layer = self._model.get_submodule(name)
            reason = _FACTOR if _is_factor(self._model, name) else None
            reason = reason or obstacle(self._graph, self._uses, name, layer)
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
            else:  # whatever the smallest ratio does not reach, no other one does
                self.left[name] = self._reason(name, min(ratios)) or "no ratio makes it smaller"
        return units

    def candidates(self, unit: str, ratios: Sequence[float]) -> list[Candidate]:
        """What can take the place of a layer at some ratios, from the largest to the smallest."""
        raise NotImplementedError

    def _reason(self, name: str, ratio: float) -> str | None:
        """Why nothing can at a ratio, in words."""
        raise NotImplementedError

    def cost(self, choice: Mapping[str, Candidate]) -> float:
        """Cost of the whole model: those of layers add up."""
        saved = (self._costs.of_layer(name) - found.cost for name, found in choice.items())
        return self.total - sum(saved)

    def shaped(self, model: nn.Module, choice: Mapping[str, Candidate]) -> nn.Module:
        """A copy of the model with the candidates' layers."""
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
            scheme=self.name if by_layer else self._schemes(ratios),
            metric=self._metric,
            multiplicity=self._multiplicity,
            data=self._data,
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

    def _schemes(self, ratios: Mapping[str, float]) -> str | Mapping[str, str]:
        """By name of the layer, where candidates are of different kinds."""
        return self.name

    def key(self) -> dict[str, Any]:
        """What decides a rank, besides the layer and the ratio."""
        return {
            "scheme": self.name,
            "ranks by": self._metric.name,
            "multiplicity": self._multiplicity,
        }
