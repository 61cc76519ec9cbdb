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

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from aimet_torch.compression.layers import (
    Choice,
    factor_modules,
    obstacle,
    scale_outputs,
    truncated,
    with_parameters,
)
from aimet_torch.compression.results import LayerFactorization
from aimet_torch.graph import ModelGraph, OpNode, skip_identity
from aimet_torch.ops.algorithms import merge_batch_norm_statistics
from aimet_torch.ops.low_rank import low_rank_fit, low_rank_product
from aimet_torch.ops.reconstruction import LayerSums, bias_of_means, rounding_problem
from aimet_torch.ptq.layer_rounding import Damping
from aimet_torch.ptq.layer_targets import residual_of
from aimet_torch.ptq.layer_view import LayerView
from aimet_torch.ptq.layers import LAYER_TYPES, ModuleUses, bias_or_zeros, replace_modules
from aimet_torch.ptq.replay import Replay
from aimet_torch.ptq.value_cache import ValueCache

__all__ = ["DAMPING", "FittingWalk", "Moments", "Outputs"]

# What is added to the diagonal of the inputs' second moments. Smaller than for rounding: factors
# follow the data with many more degrees of freedom than codes next to a weight.
DAMPING = Damping(least=1e-3, by_ratio=0.3)
_SWEEPS = 30
_FEW_SWEEPS = 6  # of layers that are so large that a sweep takes seconds
_LARGE = 2e9


@dataclasses.dataclass
class Moments:
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


@dataclasses.dataclass
class Outputs:
    """A layer's outputs as what follows sees them: through its batch norm, where there is one.

    A low-rank layer cannot have all outputs right, so it matters how much an error in each counts:
    behind the norm they are on one scale.

    Attributes:
        last: The layer's call, or that of the norm.
        scale: Of the norm, (out,) float64, never nearly 0.
        shift: Of the norm.
        is_alive: Where the norm lets something through.
        size_dims: Dimensions of the outputs behind that of the channels.
    """

    last: OpNode
    scale: Tensor
    shift: Tensor
    is_alive: Tensor
    size_dims: int

    @classmethod
    def of(cls, op: OpNode, view: LayerView) -> Outputs:
        """Those of the layer that ``op`` calls."""
        dims = view.layer.weight.dim() - 2
        ones = torch.ones(view.groups * view.outputs, dtype=torch.float64)
        following = skip_identity(op.next_op())
        norm: Any = None if following is None else following.module
        is_linear = isinstance(view.layer, nn.Linear)
        if (
            following is None
            or not isinstance(norm, _BatchNorm)
            or norm.running_mean is None
            or norm.running_var is None
            or (is_linear and len(op.outputs[0].shape) != 2)
        ):
            return cls(op, ones, 0 * ones, ones > 0, dims)
        statistics = (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        scale, shift = (
            t.detach().double().cpu() for t in merge_batch_norm_statistics(*statistics, norm.eps)
        )
        least = 1e-3 * float(scale.abs().max())
        if not least > 0:
            return cls(op, ones, 0 * ones, ones > 0, dims)
        is_alive = scale.abs() > least
        return cls(following, torch.where(is_alive, scale, least), shift, is_alive, dims)

    def apply(self, y: Tensor, skip_error: Tensor | None) -> Tensor:
        """Outputs (N, out, *size) through the norm, plus what an addition behind it has lost."""
        shape = (-1, *[1] * self.size_dims)
        result = y * self.scale.to(y).view(shape) + self.shift.to(y).view(shape)
        if skip_error is None:
            return result
        return result + skip_error * self.is_alive.to(y).view(shape)

    def rows(self, matrices: Tensor) -> Tensor:
        """Weights (groups, o, d) with the norm folded in."""
        return matrices.double().cpu() * self.scale.view(*matrices.shape[:2], 1)

    def unfold_bias(self, bias: Tensor) -> Tensor:
        """The bias of the layer for one behind the norm."""
        return (bias - self.shift) / self.scale

    def fold_bias(self, bias: Tensor) -> Tensor:
        """The inverse."""
        return bias.detach().double().cpu() * self.scale + self.shift


@dataclasses.dataclass
class _Solution:
    """What was found for a layer, with the norm behind it folded in.

    Attributes:
        weight: (groups, o, d).
        bias: (out,).
        choice: The factorization; None where the layer keeps its shape.
        first: Weight of the first factor.
        second: Weight of the second factor.
    """

    weight: Tensor
    bias: Tensor
    choice: Choice | None = None
    first: Tensor | None = None
    second: Tensor | None = None


@dataclasses.dataclass
class _Task:
    """A layer at its place in the walk."""

    name: str
    view: LayerView
    outputs: Outputs
    replay: Replay
    op: OpNode

    def product(self, first: Tensor, second: Tensor, choice: Choice) -> Tensor:
        """The weight that two factors stand for."""
        view = self.view
        return low_rank_product(
            first, second, choice.factorization, groups=view.groups, transposed=view.transposed
        )

    def moments(self) -> Moments:
        """Of the layer's new inputs and what it gave in the original network."""
        moments = Moments(self.view.new_sums())
        replay, op = self.replay, self.op
        skip = residual_of(replay, self.outputs.last)
        for batch in range(replay.batch_count):
            assert op.fx_node is not None
            error = None
            if skip is not None:
                # What is added to this layer's output has an error by now: undo it here.
                error = replay.value(skip, batch, False) - replay.value(skip, batch, True)
            x = replay.operands(op, batch, True)[0]
            y = self.outputs.apply(replay.value(op.fx_node, batch, False), error)
            self.view.add_batch(moments.sums, x, y)
            moments.power += float(y.double().square().sum())
        return moments


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
        task = _Task(name, view, Outputs.of(op, view), replay, op)
        moments = task.moments()
        own = task.outputs.rows(view.matrices(layer.weight.detach()))
        solution = self._solve(task, own, moments)
        self._keep(task, own, moments, solution)
        module = copy.deepcopy(self.replacements[name]).eval()
        replay.finish(op, lambda args: module(*args))

    def _solve(self, task: _Task, own: Tensor, moments: Moments) -> _Solution:
        """The factors, or the weight, with the least error of the targets in ``moments``."""
        sums, view = moments.sums, task.view
        target, gram = rounding_problem(sums, own, True, DAMPING(sums))
        choices = self._choices.get(task.name)
        if choices is None:
            return _Solution(target, bias_of_means(sums, target))
        kernel = () if isinstance(view.layer, nn.Linear) else tuple(view.layer.kernel_size)

        def fit(choice: Choice) -> tuple[Tensor, Tensor, Tensor]:
            cost = choice.rank * view.inputs**2
            return low_rank_fit(
                target, gram, kernel, choice.factorization, choice.rank,
                transposed=view.transposed, max_sweeps=_SWEEPS if cost < _LARGE else _FEW_SWEEPS,
            )  # fmt: skip

        fits = [fit(choice) for choice in choices]
        index = min(range(len(fits)), key=lambda i: float(fits[i][2]))
        first, second, _ = fits[index]
        weight = view.matrices(task.product(first, second, choices[index]))
        return _Solution(weight, bias_of_means(sums, weight), choices[index], first, second)

    def _keep(self, task: _Task, own: Tensor, moments: Moments, solution: _Solution) -> None:
        """Make a solution the layer's new module, and a row of the table."""
        layer: Any = task.view.layer
        outputs, choice = task.outputs, solution.choice
        bias = outputs.unfold_bias(solution.bias)
        own_bias = outputs.fold_bias(bias_or_zeros(layer))
        after = moments.lost(solution.weight, solution.bias)
        if choice is None:
            scale = outputs.scale.view(*solution.weight.shape[:2], 1)
            weight = task.view.weight_of(solution.weight / scale)
            self.replacements[task.name] = with_parameters(_same_layer(layer), layer, weight, bias)
            self.rows[task.name] = LayerFactorization(
                task.name,
                type(layer).__name__,
                plain_error=moments.lost(own, own_bias),
                output_error=after,
                note="weights fitted to its new inputs",
            )
            return
        assert solution.first is not None
        assert solution.second is not None
        plain_first, plain_second, lost = truncated(layer, choice)
        plain = outputs.rows(task.view.matrices(task.product(plain_first, plain_second, choice)))
        second = scale_outputs(layer, choice.factorization, solution.second, 1 / outputs.scale)
        self.replacements[task.name] = factor_modules(
            layer, choice.factorization, solution.first, second, bias
        )
        self.rows[task.name] = LayerFactorization(
            task.name,
            type(layer).__name__,
            self._asked[task.name],
            choice.ratio,
            choice.factorization,
            choice.rank,
            choice.cost.max_rank,
            float(lost),
            moments.lost(plain, own_bias),
            after,
        )


def _same_layer(layer: Any) -> Any:
    """A layer like ``layer`` with room for a bias."""
    made = copy.deepcopy(layer)
    made.bias = None  # set with the weight
    return made
