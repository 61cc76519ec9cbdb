"""Which layers can be equalized together.

Runs of layers with nothing between them but operations that commute with a positive scale per
channel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from aimet_torch.graph import ModelGraph, OpNode
from aimet_torch.nn.modules.channelwise_clip import ChannelwiseClip
from aimet_torch.ptq.layers import (
    LAYER_TYPES,
    LayerType,
    ModuleUses,
    channel_axis,
    has_zero_padding,
    layer_of,
    single_reader,
    trace_model,
)

__all__ = ["ClsSetInfo", "ClsSetLayerPairInfo", "GraphSearchUtils", "Link", "is_depthwise"]

# f(x / s) = f(x) / s for every s > 0, whatever the channel.
_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "PRelu"})
_TRANSPARENT = frozenset({"Identity", "Dropout"})
# Work on each channel by itself, and commute with its scale.
_SPATIAL = frozenset(
    {
        "MaxPool", "AdaptiveMaxPool", "GlobalMaxPool", "AveragePool", "GlobalAveragePool",
        "Resize", "ResizeNearest", "Pad",
    }
)  # fmt: skip
_RESHAPES = frozenset({"Flatten", "Reshape", "Squeeze"})
# Of these, the ones that also commute with adding a constant to a channel.
_SHIFTABLE = frozenset({"MaxPool", "GlobalMaxPool", "GlobalAveragePool", "Identity", *_RESHAPES})


@dataclass(eq=False)
class Link:
    """Two layers whose common channels can be rescaled, and the operations between them."""

    first: OpNode
    second: OpNode
    path: list[OpNode]
    axis: int
    """Dimension of the channels in the output of ``first``."""

    @property
    def activations(self) -> list[OpNode]:
        """The operations of the path that are not linear."""
        return [op for op in self.path if op.op_type in _HOMOGENEOUS or op.op_type == "Clip"]

    @property
    def can_absorb(self) -> bool:
        """Whether a constant can move from the bias of the first layer to that of the second."""
        others = [op for op in self.path if op.op_type not in ("Relu", "Clip")]
        return (
            len(self.activations) <= 1
            and all(op.op_type in _SHIFTABLE for op in others)
            and not has_zero_padding(layer_of(self.second))
        )


@dataclass(eq=False)
class ClsSetLayerPairInfo:
    """Two equalized layers.

    Attributes:
        layer1: The first; its outputs were divided by ``scale_factor``.
        layer2: The second; its inputs were multiplied by it.
        scale_factor: (channels,), float64.
        relu_activation_between_layers: Whether a ReLU, or clipping, is between them.
        activation: The module of it, where it is a `ChannelwiseClip`.
        can_absorb: Whether the biases may be folded from one layer into the next.
    """

    layer1: LayerType
    layer2: LayerType
    scale_factor: Tensor
    relu_activation_between_layers: bool
    activation: ChannelwiseClip | None = None
    can_absorb: bool = True


_Pair = ClsSetLayerPairInfo  # the class below has an attribute of the long name


class ClsSetInfo:
    """The pairs of one equalized chain: one, two for a triplet with a depthwise layer, or more.

    Args:
        pairs: In execution order.
    """

    ClsSetLayerPairInfo = ClsSetLayerPairInfo

    def __init__(self, *pairs: _Pair) -> None:
        self.cls_pair_info_list: list[_Pair] = list(pairs)

    def __repr__(self) -> str:
        layers = [pair.layer1 for pair in self.cls_pair_info_list]
        layers += [pair.layer2 for pair in self.cls_pair_info_list[-1:]]
        return f"ClsSetInfo({', '.join(type(layer).__name__ for layer in layers)})"


def is_depthwise(layer: LayerType) -> bool:
    """Whether every channel has a kernel of its own, one output for one input."""
    if isinstance(layer, nn.Linear):
        return layer.in_features == layer.out_features == 1
    return layer.groups == layer.in_channels == layer.out_channels


class GraphSearchUtils:
    """Finds the layers of a model that can be equalized.

    Args:
        model: The model, or its graph if it is traced already.
        input_shapes: Shape of its input, or a list of shapes; None with ``dummy_input``.
        dummy_input: Input to trace the model with.
        folded: Batch normalizations that were folded after the trace: nothing happens there now.
        keeps_clips: A clipping activation (ReLU6, Hardtanh) ends a run, as in AIMET.
        keeps_negative_limits: One whose lower limit is not 0 ends a run.

    Attributes:
        links: By first layer, in execution order.
        skipped: Name of each layer that has no link behind it -> why.
    """

    def __init__(
        self,
        model: nn.Module | ModelGraph,
        input_shapes: Any = None,
        dummy_input: Any = None,
        *,
        folded: Sequence[nn.Module] = (),
        keeps_clips: bool = False,
        keeps_negative_limits: bool = False,
    ) -> None:
        self.graph = (
            model
            if isinstance(model, ModelGraph)
            else trace_model("GraphSearchUtils", model, input_shapes, dummy_input)
        )
        self.uses = ModuleUses(self.graph)
        self._folded = {id(norm) for norm in folded}
        self._keeps_clips = keeps_clips
        self._keeps_negative_limits = keeps_negative_limits
        self.links: dict[OpNode, Link] = {}
        self.skipped: dict[str, str] = {b.name: b.reason for b in self.graph.boundaries}
        for op in self.graph.ops:
            if isinstance(op.module, LAYER_TYPES) and op.call_index == 0:
                link = self._link(op)
                if isinstance(link, Link):
                    self.links[op] = link
                else:
                    self.skipped[op.name] = link

    def find_layer_groups_to_scale(self) -> list[list[OpNode]]:
        """Longest runs of linked layers, two or more, in execution order."""
        continued = {link.second for link in self.links.values()}
        groups = []
        for first in self.links:
            if first not in continued:
                group = [first]
                while group[-1] in self.links:
                    group.append(self.links[group[-1]].second)
                groups.append(group)
        return groups

    @staticmethod
    def convert_layer_group_to_cls_sets(layer_group: Sequence[OpNode]) -> list[list[OpNode]]:
        """Cut a run into sets in which all layers but the ends are depthwise."""
        sets, current = [], [layer_group[0]]
        for op in layer_group[1:]:
            current.append(op)
            if op is layer_group[-1] or not is_depthwise(layer_of(op)):
                sets.append(current)
                current = [op]
        return sets

    def find_cls_sets(self) -> list[list[OpNode]]:
        """All sets of the model, in execution order."""
        groups = self.find_layer_groups_to_scale()
        return [s for group in groups for s in self.convert_layer_group_to_cls_sets(group)]

    def is_relu_activation_present_in_cls_sets(
        self, cls_sets: Sequence[Sequence[OpNode]]
    ) -> list[list[bool]]:
        """For each pair of neighbors in each set: whether a ReLU or clipping is between them."""
        return [[bool(self.links[op].activations) for op in chain[:-1]] for chain in cls_sets]

    # ------------------------------------------------------------------------------------ the walk

    def _link(self, first: OpNode) -> Link | str:
        """The link behind a layer, or why there is none."""
        obstacle = self.uses.obstacle(layer_of(first))
        if obstacle is not None:
            return obstacle
        axis = channel_axis(layer_of(first), first.outputs[0])
        path: list[OpNode] = []
        reader = single_reader(first)
        while not isinstance(reader, str):
            op, index = reader
            if isinstance(op.module, LAYER_TYPES):
                return self._fit(Link(first, op, path, axis), index)
            if id(op.module) not in self._folded:
                obstacle = self._obstacle(op, index, axis)
                if obstacle is not None:
                    return f"`{op.name}` ({op.op_type}) follows{obstacle}"
                path.append(op)
            reader = single_reader(op)
        return reader

    def _fit(self, link: Link, index: int) -> Link | str:
        layer, name = layer_of(link.second), link.second.name
        obstacle = self.uses.obstacle(layer)
        if obstacle is not None:
            return f"`{name}` follows: {obstacle}"
        if index != 0 or channel_axis(layer, link.second.inputs[0]) != link.axis:
            return f"`{name}` follows, whose input channels are in another dimension"
        return link

    def _obstacle(self, op: OpNode, index: int, axis: int) -> str | None:
        """Why no scale can pass ``op``: the end of a sentence; None when one can."""
        if op.op_type in _TRANSPARENT:
            return None
        if index != 0:
            return ""
        if op.op_type == "Clip":
            return self._clip_obstacle(op)
        if op.op_type in _HOMOGENEOUS:
            return None
        before, after = op.inputs[0].shape, op.outputs[0].shape
        if op.op_type in _SPATIAL and axis == 1 and len(before) > 2:
            is_kept = before[1] == after[1] and len(op.outputs) == 1
            return None if is_kept and (op.op_type != "Pad" or _pads_with_zeros(op)) else ""
        if op.op_type in _RESHAPES and axis == 1:
            # (N, C, *positions) -> (N, C * positions): the positions of a channel stay together.
            return None if after == (before[0], math.prod(before[1:])) else ""
        return ""

    def _clip_obstacle(self, op: OpNode) -> str | None:
        if self._keeps_clips:
            return ", which is kept"
        if isinstance(op.module, ChannelwiseClip):
            return None
        if not isinstance(op.module, nn.Hardtanh):
            return " as a function call; only modules can get other limits (nn.ReLU6, nn.Hardtanh)"
        if self.uses.call_count(op.module) > 1:
            count = self.uses.call_count(op.module)
            return f"; its module is called {count} times, so it cannot get limits for one place"
        if self._keeps_negative_limits and op.module.min_val != 0:
            return f" with a lower limit of {op.module.min_val}, so no ReLU can replace it"
        return None


def _pads_with_zeros(op: OpNode) -> bool:
    """Whether a padding adds zeros or values from the same channel."""
    if op.module is not None:
        return getattr(op.module, "value", 0) == 0
    assert op.fx_node is not None
    given = dict(zip(("input", "pad", "mode", "value"), op.fx_node.args, strict=False))
    given.update(op.fx_node.kwargs)
    return given.get("mode", "constant") != "constant" or given.get("value") in (None, 0)
