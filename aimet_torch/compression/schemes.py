"""What a choice of ratios needs of a way to make layers smaller: one class for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from aimet_torch.common.defs import CostMetric
from aimet_torch.compression.cost import ModelCost, estimate_cost
from aimet_torch.compression.latency import measure_latency
from aimet_torch.graph import bind_inputs, macs_of_module, op_type_of_module

__all__ = ["Applied", "Candidate", "CostTable", "Scheme", "Unit", "record_layer_inputs"]


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A ratio that a unit may have.

    Attributes:
        ratio: What the scheme is asked for.
        cost: Of the unit then.
        build: Makes the modules that take the place of the unit's layers, by name: what the model
            computes with them is what it computes when the ratio is applied to it.
        lost: What the unit itself loses then, in a measure that rises as the ratio falls: errors of
            ratios between two candidates follow from it.
        error: Where weights are fitted in the end, and not in ``build``: the share of the variance
            of the layers' outputs that is lost then, summed over the layers.
    """

    ratio: float
    cost: float
    build: Callable[[], dict[str, nn.Module]]
    lost: float
    error: float | None = None


@dataclasses.dataclass(frozen=True)
class Unit:
    """A layer, or layers whose channels go together, with its candidates.

    Attributes:
        name: Of the layer that stands for it.
        cost: As it is.
        candidates: From the largest ratio to the smallest; no two are the same in effect.
    """

    name: str
    cost: float
    candidates: list[Candidate]


@dataclasses.dataclass(frozen=True)
class Applied:
    """A model with ratios applied to it.

    Attributes:
        model: The copy.
        layers: What became of layers, and what to know about them, in words, by name.
        before: What the model costs.
        after: What the copy costs.
    """

    model: nn.Module
    layers: dict[str, tuple[str, str]]
    before: ModelCost
    after: ModelCost


class Scheme(Protocol):
    """A way to make layers smaller.

    Attributes:
        name: For tables and files.
        left: Why layers have no candidates, by name.
        total: Cost of the model as it is, in the unit of the metric.
        adds_up: Whether what units save adds up.
    """

    name: str
    left: dict[str, str]
    total: float
    adds_up: bool

    def units(self, ratios: Sequence[float]) -> list[Unit]:
        """What can become smaller, in the order in which the model calls it.

        Args:
            ratios: That are tried, in (0, 1).
        """
        ...

    def candidates(self, unit: str, ratios: Sequence[float]) -> list[Candidate]:
        """Those of one unit; of ratios that are the same in effect, the first.

        Args:
            unit: Name of one that :meth:`units` gave.
            ratios: From the largest to the smallest.
        """
        ...

    def cost(self, choice: Mapping[str, Candidate]) -> float:
        """Cost of the whole model when these units have these candidates."""
        ...

    def shaped(self, model: nn.Module, choice: Mapping[str, Candidate]) -> nn.Module:
        """A copy of the model whose layers have the sizes of a choice, for measuring its time."""
        ...

    def apply(
        self, model: nn.Module, ratios: Mapping[str, float], *, by_layer: bool = False
    ) -> Applied:
        """A copy of a model with these ratios.

        Args:
            model: The one that this was made for, or one in which other units have been compressed.
            ratios: By name of the unit.
            by_layer: By name of the layer instead, where a unit is something else.
        """
        ...

    def key(self) -> dict[str, Any]:
        """What the effect of a ratio depends on, besides the model; for saved scores."""
        ...


def record_layer_inputs(
    model: nn.Module, input: Any, layers: Iterable[str]
) -> dict[str, list[Tensor]]:
    """First argument of every call of some layers in one run, in the order of their first call."""
    found: dict[str, list[Tensor]] = {}
    handles = []

    def hook(name: str) -> Any:
        def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = args[0] if args else next(iter(kwargs.values()))
            found.setdefault(name, []).append(given.detach())

        return record

    for name in layers:
        module = model.get_submodule(name)
        handles.append(module.register_forward_pre_hook(hook(name), with_kwargs=True))
    try:
        args, kwargs = bind_inputs(model, input)
        with torch.no_grad():
            model(*args, **kwargs)
    finally:
        for handle in handles:
            handle.remove()
    return found


class CostTable:
    """What modules cost in the place of a model's layers.

    Args:
        model: In evaluation mode.
        input: Example input.
        metric: Multiply-accumulates, parameters, or seconds measured on this machine.
        layers: Names of the layers in question.

    Attributes:
        before: What the model costs, layer by layer.
        total: In the unit of the metric.
        order: Those of the layers that the model calls, in the order of their first call.
    """

    def __init__(
        self, model: nn.Module, input: Any, metric: CostMetric, layers: Iterable[str]
    ) -> None:
        self.metric = metric
        self.before: ModelCost = estimate_cost(model, input)
        self._inputs = record_layer_inputs(model, input, layers)
        self._model = model
        self._seconds: dict[str, float] = {}
        self._own: dict[str, float] = {}
        self.order = list(self._inputs)
        if metric is CostMetric.mac:
            self.total = float(self.before.macs)
        elif metric is CostMetric.memory:
            self.total = float(self.before.parameters)
        else:
            self.total = measure_latency(model, input).seconds

    def of_layer(self, name: str) -> float:
        """The layer as it is."""
        if name not in self._own:
            self._own[name] = self.of(name, self._model.get_submodule(name))
        return self._own[name]

    def of(self, name: str, module: nn.Module) -> float:
        """``module`` in the place of the layer: one of its type, or a Sequential of such."""
        if self.metric is CostMetric.memory:
            return float(sum(p.numel() for p in module.parameters()))
        inputs = self._inputs[name]
        if self.metric is CostMetric.mac:
            return float(sum(_macs(module, x.shape, x.dtype) for x in inputs))
        if name not in self._seconds:
            layer = self._model.get_submodule(name)
            self._seconds[name] = sum(measure_latency(layer, x).seconds for x in inputs)
        if module is self._model.get_submodule(name):
            return self._seconds[name]
        # By ratios of pairs: a machine that is slower for a moment slows both.
        layer = self._model.get_submodule(name)
        speedup = measure_latency(module, inputs[0], baseline=layer, rounds=15).speedup
        assert speedup is not None
        return self._seconds[name] / speedup


def _macs(module: nn.Module, shape: Sequence[int], dtype: torch.dtype) -> int:
    x, count = torch.empty(shape, dtype=dtype, device="meta"), 0
    for part in module if isinstance(module, nn.Sequential) else (module,):
        parameters = {name: p.detach().to("meta") for name, p in part.named_parameters()}
        y = torch.func.functional_call(part, parameters, (x,))
        count += macs_of_module(op_type_of_module(part), part, [x.shape], [y.shape])
        x = y
    return count
