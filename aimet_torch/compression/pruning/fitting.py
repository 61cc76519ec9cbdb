"""The weights that stay are solved for again, in one walk through both networks.

In the order of the graph every layer that reads fewer channels gets the weights with which it gives
what it gave in the original network, as far as its inputs in the smaller one can.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from aimet_torch.compression.fitting import DAMPING, Moments, Outputs
from aimet_torch.compression.layers import obstacle
from aimet_torch.compression.pruning.propagation import Layer
from aimet_torch.compression.pruning.selection import MOST_INPUTS
from aimet_torch.compression.pruning.structure import ChannelStructure
from aimet_torch.graph import OpNode
from aimet_torch.ops.reconstruction import bias_of_means, rounding_problem
from aimet_torch.ptq.layer_targets import residual_of
from aimet_torch.ptq.layer_view import LayerView
from aimet_torch.ptq.layers import ModuleUses, bias_or_zeros
from aimet_torch.ptq.replay import Replay, call_node
from aimet_torch.ptq.value_cache import ValueCache

__all__ = ["Fit", "fit_weights"]


@dataclasses.dataclass(frozen=True)
class Fit:
    """What solving again did for a layer.

    Attributes:
        plain_error: Share of the variance of its outputs that the weights as they were lose.
        output_error: Share that the new ones lose.
        note: Why there are none.
    """

    plain_error: float | None = None
    output_error: float | None = None
    note: str = ""


class _PairReplay(Replay):
    """Values of the original network and of the smaller one, which has modules of its own."""

    def __init__(self, smaller: nn.Module, changed: set[fx.Node], *args: Any) -> None:
        super().__init__(*args)
        self._smaller = smaller
        self._starts = changed
        self._on_change = self

    def concerns(self, node: fx.Node) -> bool:
        """Whether the node computes something else in the smaller network."""
        return node in self._starts

    def inputs(
        self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the node gets: what it is given."""
        return args, kwargs

    def output(self, node: fx.Node, value: Any) -> Any:
        """Its result as it is."""
        return value

    def _evaluate(self, node: fx.Node, batch: int, changed: bool) -> Any:
        if not changed or node.op == "placeholder":
            return super()._evaluate(node, batch, changed)
        if node.op == "get_attr":
            value: Any = self._smaller
            for part in str(node.target).split("."):
                value = getattr(value, part)
            return value
        return call_node(self._smaller, node, *self.arguments(node, batch, True))


def fit_weights(
    smaller: nn.Module,
    structure: ChannelStructure,
    keep: Tensor,
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]],
) -> dict[str, Fit]:
    """Solve for the weights of the layers of ``smaller``, in place.

    Args:
        smaller: The model without its channels, in evaluation mode.
        structure: Of the original.
        keep: Which atoms stay.
        calls: From :func:`aimet_torch.ptq.replay.record_inputs`.

    Returns:
        By layer, for those that read what has changed.
    """
    graph = structure.graph
    graph.model.eval()
    uses = ModuleUses(graph)
    layers = {layer.name: layer for layer in structure.layers if layer.module is not None}
    fits: dict[str, Fit] = {}
    with ValueCache() as cache:
        replay = _PairReplay(smaller, _changed_nodes(structure, keep), graph, calls, cache)

        def is_layer(op: OpNode) -> bool:
            return op.call_index == 0 and op.module_name in layers

        for op in replay.layers(is_layer, "Fitting layers"):
            layer = layers[str(op.module_name)]
            module: Any = layer.module
            node = op.fx_node
            assert node is not None
            for batch in range(replay.batch_count):
                replay.put_original(op, batch, module(*replay.operands(op, batch, False)))
            small: Any = smaller.get_submodule(layer.name)
            if not any(replay.is_changed(n) for n in node.all_input_nodes):
                if replay.concerns(node):  # fewer outputs
                    replay.finish(op, _calling(small))
                continue
            reason = uses.obstacle(module) or obstacle(graph, uses, layer.name, module)
            if reason is None and LayerView(small).inputs > MOST_INPUTS:
                reason = f"more than {MOST_INPUTS} inputs an output"
            if reason is None:
                fits[layer.name] = _fit(replay, op, layer, small, keep)
            else:
                fits[layer.name] = Fit(note=f"weights as they were: {reason}")
            replay.finish(op, _calling(small))
    return fits


def _calling(module: nn.Module) -> Callable[[tuple[Any, ...]], Any]:
    return lambda args: module(*args)


def _changed_nodes(structure: ChannelStructure, keep: Tensor) -> set[fx.Node]:
    """The nodes whose module or parameter is smaller."""
    labels = structure.labels
    names: set[str] = set()
    for layer in structure.layers:
        if not bool(keep[layer.inputs].all() and keep[layer.outputs].all()):
            names |= {layer.name, layer.weight, layer.bias or layer.weight}
    for name, atoms in (*labels.axes.items(), *labels.elements.items()):
        if not bool(keep[atoms].all()):
            names |= {name, name.rpartition(".")[0]}
    return {node for node in structure.graph.fx_graph.nodes if str(node.target) in names}


def _fit(replay: Replay, op: OpNode, layer: Layer, small: Any, keep: Tensor) -> Fit:
    full = LayerView(layer.module)  # type: ignore[arg-type]
    view = LayerView(small)
    stays = keep[layer.outputs].nonzero().flatten()
    outputs = Outputs.of(op, full)
    outputs = dataclasses.replace(
        outputs,
        scale=outputs.scale[stays],
        shift=outputs.shift[stays],
        is_alive=outputs.is_alive[stays],
    )
    moments = Moments(view.new_sums())
    skip = residual_of(replay, outputs.last)
    dim = -1 - outputs.size_dims
    node = op.fx_node
    assert node is not None
    for batch in range(replay.batch_count):
        error = None
        if skip is not None:
            # What is added to this layer's output has an error by now: undo it here.
            before = replay.value(skip, batch, False).index_select(dim, stays)
            error = before - replay.value(skip, batch, True)
        x = replay.operands(op, batch, True)[0]
        y = outputs.apply(replay.value(node, batch, False).index_select(dim, stays), error)
        view.add_batch(moments.sums, x, y)
        moments.power += float(y.double().square().sum())
    own = outputs.rows(view.matrices(small.weight.detach()))
    own_bias = outputs.fold_bias(bias_or_zeros(small))
    plain = moments.lost(own, own_bias)
    target, _ = rounding_problem(moments.sums, own, True, DAMPING(moments.sums))
    bias = bias_of_means(moments.sums, target)
    scale = outputs.scale.view(*target.shape[:2], 1)
    like = small.weight
    weight = view.weight_of(target / scale).to(like.device, like.dtype).contiguous()
    with torch.no_grad():
        small.weight = nn.Parameter(weight, requires_grad=like.requires_grad)
        new_bias = outputs.unfold_bias(bias).to(like.device, like.dtype)
        small.bias = nn.Parameter(new_bias, requires_grad=like.requires_grad)
    return Fit(plain, moments.lost(target, bias))
