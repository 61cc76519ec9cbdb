"""Factors with the least error of each layer's outputs, in one walk through the network.

In the order of the graph every layer is solved so that from its inputs in the compressed network it
gives what it gave in the original one. All sums over the data are those of AdaRound and GPTQ here:
second moments of inputs and wanted outputs, in memory that does not grow with the data.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from aimet_torch.compression.layers import (
    Choice,
    factor_modules,
    obstacle,
    truncated,
    with_parameters,
)
from aimet_torch.compression.results import LayerFactorization
from aimet_torch.graph import ModelGraph, OpNode, skip_identity
from aimet_torch.ops.low_rank import low_rank_fit, low_rank_product
from aimet_torch.ops.reconstruction import LayerSums, bias_of_means, rounding_problem
from aimet_torch.ptq.layer_rounding import Damping
from aimet_torch.ptq.layer_targets import clamp_of, importance_of, residual_of
from aimet_torch.ptq.layer_view import LayerView, run_layer
from aimet_torch.ptq.layers import LAYER_TYPES, ModuleUses, bias_or_zeros, replace_modules
from aimet_torch.ptq.replay import Replay
from aimet_torch.ptq.value_cache import ValueCache

__all__ = ["FittingWalk"]

# What is added to the diagonal of the inputs' second moments. Smaller than for rounding: factors
# follow the data with many more degrees of freedom than codes next to a weight.
_DAMPING = Damping(least=1e-3, by_ratio=0.3)
_SWEEPS = 30
_FEW_SWEEPS = 6  # of layers that are so large that a sweep takes seconds
_LARGE = 2e9


@dataclasses.dataclass
class _Moments:
    """What the error of a layer's outputs depends on."""

    sums: LayerSums
    power: float = 0.0

    def lost(self, weight: Tensor, bias: Tensor) -> float:
        """Share of the outputs' variance that a weight (groups, o, d) and bias (out,) lose."""
        gram, cross, input_sum, output_sum, total = self.sums
        weight = weight.double().cpu()
        b = bias.detach().double().cpu().view(output_sum.shape)
        reached = (weight @ input_sum.unsqueeze(2)).squeeze(2)
        error = (weight @ gram * weight).sum() - 2 * (weight * cross).sum()
        error += (b * (2 * reached - 2 * output_sum + b * total.unsqueeze(1))).sum()
        share = output_sum.square() / total.clamp(min=1e-300).unsqueeze(1)
        variance = self.power - float(share.sum())
        return max(float(error) + self.power, 0.0) / max(variance, 1e-300)


class FittingWalk:
    """Fits factors of some layers and, where that is asked for, the weights of all others.

    Args:
        graph: Of a copy of the model, which it changes.
        uses: Of the graph before that.
        choices: What each layer may become.
        asked: Cost ratio of each layer.
        refit: Fit the weights of all other layers, too.

    Attributes:
        replacements: New module by layer.
        rows: What became of each of these layers.
    """

    def __init__(
        self,
        graph: ModelGraph,
        uses: ModuleUses,
        choices: Mapping[str, list[Choice]],
        asked: Mapping[str, float],
        refit: bool,
    ) -> None:
        self.graph = graph
        self.replacements: dict[str, nn.Module] = {}
        self.rows: dict[str, LayerFactorization] = {}
        self._choices = choices
        self._asked = asked
        self._uses = uses
        self._fitted = {
            op.module_name
            for op in graph.ops
            if op.module is not None
            and type(op.module) in LAYER_TYPES
            and (op.module_name in choices or refit)
            and uses.obstacle(op.module) is None
            and obstacle(graph, uses, str(op.module_name), op.module) is None
        }

    def reason_against(self, name: str) -> str | None:
        """Why a layer has to be truncated without data, in words; None when it is fitted."""
        if name in self._fitted:
            return None
        module = self.graph.model.get_submodule(name)
        return self._uses.obstacle(module) or "the traced model does not call it"

    def run(self, calls: list[Any], fixed: Mapping[str, nn.Module]) -> None:
        """Walk through the network.

        Args:
            calls: From :func:`aimet_torch.ptq.replay.record_inputs`.
            fixed: New modules that are there already, by name.
        """
        if self.graph.is_one_boundary:
            return
        self.graph.to_module().eval()
        changed = {name: copy.deepcopy(module).eval() for name, module in fixed.items()}
        for boundary in self.graph.boundaries:
            changed[boundary.name] = self._changed_boundary(boundary.name, fixed)
        with ValueCache() as cache:
            replay = Replay(self.graph, calls, cache)

            def is_wanted(op: OpNode) -> bool:
                return op.module_name in self._fitted or op.module_name in changed

            for op in replay.layers(is_wanted, "Factorizing layers"):
                if op.module_name in changed:
                    self._run_changed(replay, op, changed[str(op.module_name)])
                else:
                    self._fit(replay, op)

    def _changed_boundary(self, name: str, fixed: Mapping[str, nn.Module]) -> nn.Module:
        """A part that runs as Python, with its layers replaced."""
        module = copy.deepcopy(self.graph.model.get_submodule(name))
        prefix = f"{name}."
        inner = {
            module.get_submodule(key.removeprefix(prefix)): copy.deepcopy(new)
            for key, new in fixed.items()
            if key.startswith(prefix)
        }
        replace_modules(module, inner)
        return module.eval()

    def _run_changed(self, replay: Replay, op: OpNode, changed: nn.Module) -> None:
        node, module = op.fx_node, op.module
        assert node is not None
        assert module is not None
        keywords: list[dict[str, Any]] = []
        for batch in range(replay.batch_count):
            args, kwargs = replay.arguments(node, batch, False)
            replay.put_original(op, batch, module(*args, **kwargs))
            keywords.append(replay.arguments(node, batch, True)[1])
        rest = iter(keywords)
        replay.finish(op, lambda args: changed(*args, **next(rest)))

    def _fit(self, replay: Replay, op: OpNode) -> None:
        layer: Any = op.module
        name = str(op.module_name)
        node = op.fx_node
        assert node is not None
        choices = self._choices.get(name)
        for batch in range(replay.batch_count):
            replay.put_original(op, batch, layer(*replay.operands(op, batch, False)))
        if choices is None and not any(replay.is_changed(n) for n in node.all_input_nodes):
            return  # what it reads is what it read
        view = LayerView(layer)
        moments = self._moments(replay, op, view)
        if choices is None:
            weight, bias = self._refit(name, view, moments)
            replay.finish(op, lambda args: run_layer(layer, weight, bias, args))
        else:
            module = self._factorize(name, view, moments, choices)
            replay.finish(op, lambda args: module(*args))

    def _moments(self, replay: Replay, op: OpNode, view: LayerView) -> _Moments:
        moments = _Moments(view.new_sums())
        clamp = clamp_of(skip_identity(op.next_op()))
        skip = residual_of(replay, op)
        for batch in range(replay.batch_count):
            assert op.fx_node is not None
            y: Tensor = replay.value(op.fx_node, batch, False)
            if skip is not None:
                # What is added to this layer's output has an error by now: undo it here.
                y = y + replay.value(skip, batch, False) - replay.value(skip, batch, True)
            importance = importance_of(view, y, clamp)
            view.add_batch(moments.sums, replay.operands(op, batch, True)[0], y, importance)
            squares = y.double().square()
            moments.power += float((squares if importance is None else squares * importance).sum())
        return moments

    def _refit(self, name: str, view: LayerView, moments: _Moments) -> tuple[Tensor, Tensor]:
        layer = view.layer
        own = view.matrices(layer.weight.detach())
        target, _ = rounding_problem(moments.sums, own, True, _DAMPING(moments.sums))
        bias = bias_of_means(moments.sums, target)
        before = moments.lost(own, bias_or_zeros(layer))
        after = moments.lost(target, bias)
        weight = view.weight_of(target)
        made = _same_layer(layer)
        module = with_parameters(made, layer, weight, bias)
        row = LayerFactorization(
            name,
            type(layer).__name__,
            plain_error=before,
            output_error=after,
            note="weights fitted to its new inputs",
        )
        self.replacements[name] = module
        if name not in self.rows:
            self.rows[name] = row
        return module.weight.detach(), module.bias.detach()

    def _factorize(
        self, name: str, view: LayerView, moments: _Moments, choices: list[Choice]
    ) -> nn.Module:
        layer: Any = view.layer
        sums, own = moments.sums, view.matrices(layer.weight.detach())
        target, gram = rounding_problem(sums, own, True, _DAMPING(sums))
        kernel = () if isinstance(layer, nn.Linear) else tuple(layer.kernel_size)
        options: dict[str, Any] = {"groups": view.groups, "transposed": view.transposed}

        def fit(choice: Choice) -> tuple[Tensor, Tensor, Tensor]:
            cost = choice.rank * view.inputs**2
            return low_rank_fit(
                target, gram, kernel, choice.factorization, choice.rank,
                transposed=view.transposed, max_sweeps=_SWEEPS if cost < _LARGE else _FEW_SWEEPS,
            )  # fmt: skip

        fits = [fit(choice) for choice in choices]
        index = min(range(len(fits)), key=lambda i: float(fits[i][2]))
        choice, (first, second, _) = choices[index], fits[index]
        weight = view.matrices(low_rank_product(first, second, choice.factorization, **options))
        bias = bias_of_means(sums, weight)
        plain_first, plain_second, lost = truncated(layer, choice)
        plain = low_rank_product(plain_first, plain_second, choice.factorization, **options)
        plain_error = moments.lost(view.matrices(plain), bias_or_zeros(layer))
        module = factor_modules(layer, choice.factorization, first, second, bias)
        self.replacements[name] = module
        self.rows[name] = LayerFactorization(
            name,
            type(layer).__name__,
            self._asked[name],
            choice.ratio,
            choice.factorization,
            choice.rank,
            choice.cost.max_rank,
            float(lost),
            plain_error,
            moments.lost(weight, bias),
        )
        return copy.deepcopy(module).eval()


def _same_layer(layer: Any) -> Any:
    """A layer like ``layer`` with room for a bias."""
    made = copy.deepcopy(layer)
    made.bias = None  # set with the weight
    return made
