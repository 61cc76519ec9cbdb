"""Quantize the weights of a network layer by layer, each on the inputs that it will really get.

In the order of the graph every layer is solved so that from its inputs in the network whose earlier
layers are quantized already it gives what it gave in the original network (asymmetric
reconstruction, Nagel et al. 2020, arXiv 2004.10568, section 3.3). The graph is walked once.
"""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx, nn

from aimet_torch.common.collectives import Ranks
from aimet_torch.common.tables import text_table
from aimet_torch.graph import ModelGraph, OpNode, skip_identity, trace
from aimet_torch.ops.reconstruction import LayerSums
from aimet_torch.ptq.checkpoint import Checkpoint
from aimet_torch.ptq.layer_rounding import LayerResult
from aimet_torch.ptq.layer_targets import clamp_of, importance_of, residual_of
from aimet_torch.ptq.layer_view import LayerView, WeightGrid, run_layer
from aimet_torch.ptq.layers import LAYER_TYPES, LayerType, ModuleUses
from aimet_torch.ptq.replay import Replay
from aimet_torch.ptq.sharded_layers import solve_rows
from aimet_torch.ptq.value_cache import ValueCache

__all__ = ["Call", "LayerTask", "LayerWalk", "LayerwiseReport", "quantize_layers", "set_range"]

Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclasses.dataclass
class LayerTask:
    """What a solver knows of a layer.

    Attributes:
        name: Dotted name of the layer.
        view: The layer as matrices.
        grid: Of its weight.
        sums: Second moments of its inputs and wanted outputs over all batches.
        clamp: What the activation behind it clamps to, infinite where there is none.
        batches: Gives (input, wanted output before the activation) of each batch.
    """

    name: str
    view: LayerView
    grid: WeightGrid
    sums: LayerSums
    clamp: tuple[float, float]
    batches: Callable[[], Iterator[tuple[Tensor, Tensor]]]


@dataclasses.dataclass(repr=False)  # tensors of every layer are no summary
class LayerwiseReport:
    """What became of the layers.

    Attributes:
        results: Result by layer, in the order of the graph.
        weights: Quantized weight by layer.
        skipped: Why a layer was left out, by layer.
        peak_cache: Most bytes of activations held in memory.
        spilled: Bytes of activations written to disk.
    """

    results: dict[str, LayerResult] = dataclasses.field(default_factory=dict)
    weights: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)
    peak_cache: int = 0
    spilled: int = 0

    def __repr__(self) -> str:
        rows = [
            [name, f"{result.nearest_error:.3g}", f"{result.error:.3g}"]
            for name, result in self.results.items()
        ]
        header = ["layer", "error of rounding to nearest", "error now"]
        left = [f"{name} was left out: {reason}" for name, reason in self.skipped.items()]
        return "\n".join([text_table(header, rows), *left])


def quantize_layers(
    model: nn.Module,
    dummy_input: Any,
    calls: list[Call],
    quantizers: Mapping[str, Any],
    solve: Callable[[LayerTask], LayerResult],
    *,
    cache_budget: int | None = None,
    checkpoint: Checkpoint | None = None,
    description: str = "Rounding weights",
    on_original_inputs: bool = False,
    weighs_positions: bool = True,
    ranks: Ranks | None = None,
) -> LayerwiseReport:
    """Solve every layer that has a quantizer; set the quantizers' ranges.

    Args:
        model: Original model, left as it is.
        dummy_input: Example input for the trace.
        calls: What the model is called with, batch by batch.
        quantizers: Weight quantizer by layer name; others stay in floating point.
        solve: Solves one layer.
        cache_budget: Bytes of activations in memory; None: a quarter of what is free.
        checkpoint: Where finished layers are kept and found.
        description: Of the progress bar.
        on_original_inputs: Collect moments on the inputs that layers have in the original network.
        weighs_positions: Positions that the activation cuts off count less where they can.
        ranks: Who solves the layers together, each with calls of its own.
    """
    walk = LayerWalk(model, dummy_input, quantizers, solve, checkpoint)
    walk.ranks = ranks or walk.ranks
    walk.on_changed_inputs = not on_original_inputs
    walk.weighs_positions = weighs_positions
    with ValueCache(cache_budget, walk.ranks.count_on_this_machine()) as cache:
        walk.run(calls, cache, description)
    walk.warn_of_skipped(description, stacklevel=4)
    return walk.report


class LayerWalk:
    """The walk through a network; arguments as for :func:`quantize_layers`."""

    def __init__(
        self,
        model: nn.Module,
        dummy_input: Any,
        quantizers: Mapping[str, Any],
        solve: Callable[[LayerTask], LayerResult],
        checkpoint: Checkpoint | None,
    ) -> None:
        self.graph: ModelGraph = trace(copy.deepcopy(model), dummy_input)
        self.graph.to_module().eval()
        self.solve = solve
        self.checkpoint = checkpoint
        self.report = LayerwiseReport()
        self.on_changed_inputs = True
        self.weighs_positions = True
        self.ranks = Ranks(None, "quantize_layers")
        self.grids: dict[str, WeightGrid] = {}
        uses = ModuleUses(self.graph)
        inside = {op.module_name for b in self.graph.boundaries for op in b.ops}
        for name, quantizer in quantizers.items():
            layer = self.graph.model.get_submodule(name)
            reason = self._obstacle(uses, layer, name in inside)
            if reason is None and _is_layer(layer):
                grid = LayerView(layer).grid_of(quantizer)
                if isinstance(grid, str):
                    reason = grid
                else:
                    self.grids[name] = grid
            if reason is not None:
                self.report.skipped[name] = reason

    def warn_of_skipped(self, description: str, stacklevel: int) -> None:
        """Say which layers keep their weights, and why."""
        if self.report.skipped:
            reasons = "; ".join(f"{name}: {why}" for name, why in self.report.skipped.items())
            message = f"{description}: these layers are left out: {reasons}"
            warnings.warn(message, stacklevel=stacklevel)

    @staticmethod
    def _obstacle(uses: ModuleUses, layer: nn.Module, is_inside: bool) -> str | None:
        if not _is_layer(layer):
            return f"a {type(layer).__name__} is no convolution or linear layer"
        if is_inside:
            if uses.call_count(layer) > 1:
                return f"it is called {uses.call_count(layer)} times"
            return uses.sharing(layer)
        return uses.obstacle(layer)

    # -- the walk ----------------------------------------------------------------------------------

    def make_replay(self, calls: list[Call], cache: ValueCache) -> Replay:
        """What runs the graph; never called where there is none."""
        return Replay(self.graph, calls, cache)

    def run(self, calls: list[Call], cache: ValueCache, description: str) -> None:
        """Solve all layers; the results are in ``report``."""
        self._run(calls, cache, description)
        self.report.peak_cache, self.report.spilled = cache.peak, cache.spilled

    def _run(self, calls: list[Call], cache: ValueCache, description: str) -> None:
        if self.graph.is_one_boundary:
            changed = copy.deepcopy(self.graph.model)
            names = [op.module_name for b in self.graph.boundaries for op in b.ops]
            with torch.no_grad():
                for name in _unique(names, self.grids):
                    self._solve_inside(self.graph.model, changed, "", name, calls, calls)
            return
        replay = self.make_replay(calls, cache)
        inner = {
            b.name: _unique((op.module_name for op in b.ops), self.grids)
            for b in self.graph.boundaries
        }

        def is_wanted(op: OpNode) -> bool:
            return op.module_name in self.grids or bool(inner.get(op.module_name or ""))

        for op in replay.layers(is_wanted, description):
            if op.module_name in self.grids:
                self._solve_layer(replay, op)
            else:
                assert op.module_name is not None
                self._solve_boundary(replay, op, inner[op.module_name])

    def _solve_layer(self, replay: Replay, op: OpNode) -> None:
        name, layer = str(op.module_name), op.module
        assert _is_layer(layer)
        skip = residual_of(replay, op)
        view = LayerView(layer)
        sums = view.new_sums()
        is_known = self.checkpoint is not None and self.checkpoint.has(name)

        def wanted(batch: int) -> Tensor:
            assert op.fx_node is not None
            output: Tensor = replay.value(op.fx_node, batch, False)
            if skip is not None:
                # What is added to this layer's output has an error by now: undo it here.
                output = output + replay.value(skip, batch, False) - replay.value(skip, batch, True)
            return output

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for batch in range(replay.batch_count):
                yield replay.operands(op, batch, self.on_changed_inputs)[0], wanted(batch)

        clamp = clamp_of(skip_identity(op.next_op()))
        for batch in range(replay.batch_count):
            replay.put_original(op, batch, layer(*replay.operands(op, batch, False)))
            if not is_known:
                x = replay.operands(op, batch, self.on_changed_inputs)[0]
                y = wanted(batch)
                importance = importance_of(view, y, clamp) if self.weighs_positions else None
                view.add_batch(sums, x, y, importance)
        if not is_known:
            self.ranks.sum_(sums)
        task = LayerTask(name, view, self.grids[name], sums, clamp, batches)
        weight, bias = self._finish(task)
        replay.finish(op, lambda args: run_layer(layer, weight, bias, args))

    def _solve_boundary(self, replay: Replay, op: OpNode, names: list[str]) -> None:
        module, node = op.module, op.fx_node
        assert module is not None
        assert node is not None
        changed = copy.deepcopy(module)

        def call(batch: int, of_changed: bool) -> Call:
            kwargs = fx.map_arg(node.kwargs, lambda n: replay.value(n, batch, of_changed))
            return replay.operands(op, batch, of_changed), dict(kwargs)

        indices = range(replay.batch_count)
        before, after = ([call(i, c) for i in indices] for c in (False, True))
        for index, (args, kwargs) in enumerate(before):
            replay.put_original(op, index, module(*args, **kwargs))
        for name in names:
            self._solve_inside(module, changed, f"{op.module_name}.", name, before, after)
        results = iter(after)

        def run(_: tuple[Any, ...]) -> Any:
            args, kwargs = next(results)
            return changed(*args, **kwargs)

        replay.finish(op, run)

    def _solve_inside(
        self,
        module: nn.Module,
        changed: nn.Module,
        prefix: str,
        name: str,
        before: list[Call],
        after: list[Call],
    ) -> None:
        """Solve a layer of a part that runs as Python: once over all batches for each layer."""
        layer: Any = module.get_submodule(name.removeprefix(prefix))
        target: Any = changed.get_submodule(name.removeprefix(prefix))
        view = LayerView(layer)
        sums = view.new_sums()

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            for (args, kwargs), (new_args, new_kwargs) in zip(before, after, strict=True):
                seen: dict[str, Tensor] = {}
                hooks = [
                    layer.register_forward_hook(_keeps(seen, "output")),
                    target.register_forward_hook(_keeps(seen, "input")),
                ]
                try:
                    module(*args, **kwargs)
                    changed(*new_args, **new_kwargs)
                finally:
                    for hook in hooks:
                        hook.remove()
                if len(seen) == 2:  # a layer that this batch does not reach has nothing to say
                    yield seen["input"], seen["output"]

        if self.checkpoint is None or not self.checkpoint.has(name):
            for x, y in batches():
                view.add_batch(sums, x, y)
            self.ranks.sum_(sums)
            if not bool(sums.total.any()):
                self.report.skipped[name] = "no batch reaches it"
                return
        weight, bias = self._finish(
            LayerTask(name, view, self.grids[name], sums, clamp_of(None), batches)
        )
        target.weight.data.copy_(weight)
        if bias is not None:
            target.bias.data.copy_(bias)

    def _finish(self, task: LayerTask) -> tuple[Tensor, Tensor | None]:
        """Solve or look up, and take the result."""
        result = self.checkpoint.load(task.name) if self.checkpoint is not None else None
        if result is None:
            result = solve_rows(self.solve, task, self.ranks)
            if self.checkpoint is not None:
                self.checkpoint.save(task.name, result)
        return self.take(task.name, task.view, result)

    def take(self, name: str, view: LayerView, result: LayerResult) -> tuple[Tensor, Tensor | None]:
        """Make a result that of a layer; return weight and bias on the grid."""
        grid = self.grids[name]
        scale, offset = set_range(grid.quantizer, result.min, result.max)
        scale, offset = (view.spread(grid, t.detach().cpu()) for t in (scale, offset))
        like = view.layer.weight
        weight = view.weight_of((result.codes.float() + offset) * scale).to(like)
        bias = None if result.bias is None else result.bias.to(like)
        self.report.results[name] = result
        self.report.weights[name] = weight
        return weight, bias


def set_range(quantizer: Any, minimum: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor]:
    """Set a range that an encodings file gives back to the last bit; return scale and offset.

    A file holds scales, a quantizer limits, both rounded to float32: a few rounds settle them.
    """
    quantizer.set_range(minimum, maximum)
    for _ in range(8):
        scale, offset = quantizer.get_scale().double(), quantizer.get_offset().double()
        limits = [(limit + offset) * scale for limit in (quantizer.qmin, quantizer.qmax)]
        quantizer.set_range(*limits)
        if quantizer.get_scale().double().equal(scale):
            break
    return quantizer.get_scale(), quantizer.get_offset()


def _keeps(seen: dict[str, Tensor], what: str) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        seen[what] = args[0] if what == "input" else output

    return hook


def _is_layer(module: nn.Module | None) -> TypeGuard[LayerType]:
    return isinstance(module, LAYER_TYPES)


def _unique(names: Iterable[str | None], known: Mapping[str, Any]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name is not None and name in known]
