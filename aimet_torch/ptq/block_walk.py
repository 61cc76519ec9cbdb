"""The walk that solves layers one by one and, at the end of each block, its layers together."""

from __future__ import annotations

import dataclasses
import logging
import math
import warnings
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from aimet_torch.ptq.activation_sites import ActivationSites, Draws
from aimet_torch.ptq.block_solver import (
    BlockData,
    BlockSettings,
    SoftLayer,
    block_error,
    forward_block,
    optimize_block,
)
from aimet_torch.ptq.blocks import Block, find_blocks
from aimet_torch.ptq.layer_rounding import LayerResult, round_layer
from aimet_torch.ptq.layer_view import LayerView
from aimet_torch.ptq.layerwise import Call, LayerTask, LayerWalk, LayerwiseReport
from aimet_torch.ptq.replay import Replay
from aimet_torch.ptq.value_cache import ValueCache
from aimet_torch.quantsim import QuantizationSimModel

if TYPE_CHECKING:
    from aimet_torch.ptq.block_reconstruction import BlockReconstructionParameters

__all__ = ["BlockReport", "BlockResult", "BlockWalk"]

#: Share of the batches that are not optimized on but decide whether a block's result is taken.
_HELD_OUT = 1 / 8
#: Learning rates of scales, biases and ranges of the whole network, beside those of a block.
_NETWORK_RATE = 0.3
#: Numbers that draws of one block may use up.
_DRAWS = 1 << 32

_logger = logging.getLogger(__name__)


@dataclasses.dataclass
class BlockResult:
    """What became of a block.

    Attributes:
        layers: Names of its layers.
        start_error: Mean squared error of its output with layers solved one by one, on the batches
            that were not optimized on (on all of them, where there are fewer than four).
        error: The same at the end; never above ``start_error``, whose weights stay otherwise.
    """

    layers: list[str]
    start_error: float
    error: float


@dataclasses.dataclass(repr=False)
class BlockReport(LayerwiseReport):
    """What became of layers and blocks.

    Attributes:
        blocks: Result by name of the operation that ends the block, in the order of the graph.
        network: Result of the whole network's scales and biases, where they were optimized.
    """

    blocks: dict[str, BlockResult] = dataclasses.field(default_factory=dict)
    network: BlockResult | None = None


class BlockWalk(LayerWalk):
    """Solves layers one by one, and at the end of each block optimizes its layers together."""

    report: BlockReport

    def __init__(
        self,
        sim: QuantizationSimModel,
        original: nn.Module,
        quantizers: dict[str, Any],
        params: BlockReconstructionParameters,
    ) -> None:
        super().__init__(original, sim.dummy_input, quantizers, self._solve, None)
        self.report = BlockReport(skipped=self.report.skipped)
        self.params = params
        self.graph.model.requires_grad_(False)
        self.sites: ActivationSites | None = None
        if params.activation_drop is not None:
            self.sites = ActivationSites(self.graph, sim.model)
        found = find_blocks(
            self.graph, lambda op: op.module_name in self.grids, params.max_block_layers
        )
        self.blocks = {block.exit: block for block in found}

    def _solve(self, task: LayerTask) -> LayerResult:
        return round_layer(
            task.view,
            task.grid,
            task.sums,
            search_scales=self.params.learns_scales,
            keeps_target=True,
        )

    def make_replay(self, calls: list[Call], cache: ValueCache) -> Replay:
        """A replay that stops at the end of each block."""
        self._cache = cache
        self._replay = Replay(
            self.graph,
            calls,
            cache,
            on_change=self.sites,
            holds={exit: block.inputs for exit, block in self.blocks.items()},
            done=self._end_block,
        )
        if self.params.weighting == "squared_gradient":
            self._collect_importance()
        return self._replay

    def run(self, calls: list[Call], cache: ValueCache, description: str) -> None:
        """Solve all layers and blocks, then the network's scales and biases."""
        super().run(calls, cache, description)
        if self.params.network_iterations > 0:
            with torch.no_grad():
                self._settle()

    def _settle(self) -> None:
        """Optimize scales and biases of all layers, against the outputs of the network."""
        outputs, graph = self.graph.outputs, self.graph
        nodes = [n for n in graph.fx_graph.nodes if n.op.startswith("call_")]
        obstacle = None
        if graph.boundaries:
            obstacle = f"`{graph.boundaries[0].name}` could not be traced"
        elif len(outputs) != 1 or not outputs[0].is_float or outputs[0].fx_node not in nodes:
            obstacle = "it does not return one floating-point tensor"
        if obstacle is not None:
            warnings.warn(
                f"apply_block_reconstruction: `network_iterations` has no effect here: {obstacle}",
                stacklevel=4,
            )
            return
        exit, replay = outputs[0].fx_node, self._replay
        assert exit is not None
        nodes = nodes[: nodes.index(exit) + 1]
        inputs = [n for n in graph.fx_graph.nodes if n.op in ("placeholder", "get_attr")]
        layers = {
            op.fx_node: op
            for op in graph.ops
            if op.module_name in self.report.results and op.fx_node is not None
        }
        block = Block(outputs[0].name, nodes, inputs, layers)
        weights = {
            node: self.take(name, LayerView(op.module), self.report.results[name])  # type: ignore[arg-type]
            for node, op in layers.items()
            for name in (str(op.module_name),)
        }
        for batch in range(replay.batch_count):
            for node in inputs:
                self._cache.put((node, batch, False), replay.source(node, batch))
            values, _ = replay.run_original(batch, [exit])
            self._cache.put((exit, batch, False), values[0])
            given = self._inputs(block, batch, None)
            started = forward_block(graph.model, block, given, weights, self.sites)
            replay.put_changed(exit, batch, started)
        self._reconstruct(block, "network", fixes_codes=True)

    def _end_block(self, exit: fx.Node) -> None:
        block = self.blocks[exit]
        self._reconstruct(block, f"block {block.name}")

    # -- one block ---------------------------------------------------------------------------------

    def _reconstruct(self, block: Block, key: str, fixes_codes: bool = False) -> None:
        exit, replay = block.exit, self._replay
        names = {node: str(op.module_name) for node, op in block.layers.items()}
        views = {node: LayerView(op.module) for node, op in block.layers.items()}  # type: ignore[arg-type]
        state = self.checkpoint.load_content(key) if self.checkpoint is not None else None
        if state is None:
            layers = {
                node: SoftLayer(
                    views[node],
                    self.grids[name],
                    self.report.results[name],
                    self.params.learns_scales,
                )
                for node, name in names.items()
            }
            state = self._optimize(block, layers, fixes_codes)
            if self.checkpoint is not None:
                self.checkpoint.save_content(key, state)
        found = BlockResult(list(names.values()), state["start_error"], state["error"])
        if fixes_codes:
            self.report.network = found
        else:
            self.report.blocks[block.name] = found
        weights: dict[fx.Node, tuple[Tensor, Tensor | None]] = {}
        for node, name in names.items():
            result = dataclasses.replace(self.report.results[name], target=None)
            if name in state["layers"]:
                changes = dict(state["layers"][name])
                changes["codes"] = changes["codes"].double()
                result = dataclasses.replace(result, **changes)
            weights[node] = self.take(name, views[node], result)
        if self.sites is not None and state["layers"]:
            for quantizer, (low, high) in zip(
                self.sites.learnable(block.nodes), state["ranges"], strict=True
            ):
                quantizer.set_range(low, high)
        for batch in range(replay.batch_count if state["layers"] else 0):
            inputs = self._inputs(block, batch, None)
            replay.put_changed(
                exit, batch, forward_block(self.graph.model, block, inputs, weights, self.sites)
            )
        for batch in range(replay.batch_count):
            self._cache.drop((exit, batch, "importance"))

    def _optimize(
        self, block: Block, layers: dict[fx.Node, SoftLayer], fixes_codes: bool
    ) -> dict[str, Any]:
        """Optimize a block; the state to keep: errors and, where it gained, layers and ranges."""
        replay, params = self._replay, self.params
        count = params.network_iterations if fixes_codes else params.num_iterations
        training, held_out = _divided(replay.batch_count)
        seed = params.seed + zlib.crc32(block.name.encode())
        generator = torch.Generator().manual_seed(seed)
        epochs = -(-count // len(training))
        order = [
            training[i]
            for _ in range(epochs)
            for i in torch.randperm(len(training), generator=generator).tolist()
        ][:count]
        draws = None
        if params.activation_drop is not None and not fixes_codes:
            draws = Draws(params.activation_drop, seed * _DRAWS % (1 << 62))

        def importance(batch: int) -> Tensor | None:
            key = (block.exit, batch, "importance")
            return self._cache.get(key) if key in self._cache else None

        def error(outputs: Callable[[int], Tensor], batches: list[int]) -> float:
            return sum(
                float(
                    block_error(
                        outputs(batch), replay.value(block.exit, batch, False), importance(batch)
                    )
                )
                for batch in batches
            ) / len(batches)

        def started(batch: int) -> Tensor:
            return replay.value(block.exit, batch, True)

        data = BlockData(
            inputs=lambda batch: self._inputs(block, batch, draws),
            wanted=lambda batch: replay.value(block.exit, batch, False),
            importance=importance,
            order=order,
        )
        rate = _NETWORK_RATE if fixes_codes else 1.0
        settings = BlockSettings(
            count,
            params.learning_rate or max(6 / count, 1e-3),
            rate * params.scale_learning_rate,
            rate * params.range_learning_rate,
            params.reg_param,
            params.beta_range,
            params.warm_start,
            fixes_codes,
        )
        ranges = [] if self.sites is None else self.sites.learnable(block.nodes)
        before = [(q.min.detach().clone(), q.max.detach().clone()) for q in ranges]
        start_error = error(started, held_out)
        scale = error(started, training)
        if self.sites is not None:
            self.sites.draws = draws
        try:
            with torch.enable_grad():
                optimize_block(self.graph.model, block, layers, data, scale, settings, self.sites)
        finally:
            if self.sites is not None:
                self.sites.draws = None
        weights = {}
        with torch.no_grad():
            for node, layer in layers.items():
                weight, bias = layer.prepare(True)
                weights[node] = (weight, bias)

        def ended(batch: int) -> Tensor:
            inputs = self._inputs(block, batch, None)
            return forward_block(self.graph.model, block, inputs, weights, self.sites)

        with torch.no_grad():
            end_error = error(ended, held_out)
        state: dict[str, Any] = {"start_error": start_error, "error": start_error, "layers": {}}
        after = [(q.min.detach().clone(), q.max.detach().clone()) for q in ranges]
        for quantizer, limits in zip(ranges, before, strict=True):
            quantizer.set_range(*limits)
        if not end_error < start_error:  # NaN too
            return state
        _logger.info("block %s: error %.3g -> %.3g", block.name, start_error, end_error)
        state.update(error=end_error, ranges=after)
        for node, layer in layers.items():
            result = layer.result()
            state["layers"][str(block.layers[node].module_name)] = {
                "codes": result.codes.to(torch.int32),
                "min": result.min,
                "max": result.max,
                "bias": result.bias,
            }
        return state

    def _inputs(self, block: Block, batch: int, draws: Draws | None) -> dict[fx.Node, Any]:
        """What the block reads in the quantized network; with draws, mixed with the original."""
        values: dict[fx.Node, Any] = {}
        for node in block.inputs:
            value = self._replay.value(node, batch, True)
            if draws is not None and self._replay.is_changed(node) and _is_float(value):
                value = draws(self._replay.value(node, batch, False), value)
            values[node] = value
        return values

    def _collect_importance(self) -> None:
        """Squared gradients of random mixtures of the outputs, for the exit of each block."""
        exits = list(self.blocks)
        generator = torch.Generator().manual_seed(self.params.seed)
        self.graph.model.requires_grad_(True)
        try:
            for batch in range(self._replay.batch_count):
                with torch.enable_grad():
                    values, result = self._replay.run_original(batch, exits)
                    total = _random_mixture(result, generator)
                    gradients = torch.autograd.grad(total, values, allow_unused=True)
                for exit, gradient in zip(exits, gradients, strict=True):
                    if gradient is not None:
                        square = gradient.square()
                        square = square / square.mean().clamp_min(1e-30)
                        self._cache.put((exit, batch, "importance"), square)
        finally:
            self.graph.model.requires_grad_(False)


def _divided(count: int) -> tuple[list[int], list[int]]:
    """Batches to optimize on and batches that judge; all of them both where there are few."""
    if count < 4:
        return list(range(count)), list(range(count))
    kept = max(1, math.ceil(count * _HELD_OUT))
    return list(range(count - kept)), list(range(count - kept, count))


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _random_mixture(result: Any, generator: torch.Generator) -> Tensor:
    leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(result) if _is_float(leaf)]
    terms = [
        (leaf * torch.randn(leaf.shape, generator=generator).to(leaf)).sum()
        for leaf in leaves
        if leaf.requires_grad
    ]
    return torch.stack(terms).sum()
