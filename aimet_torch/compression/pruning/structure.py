"""The groups of channels of a model that can be pruned, and why the others cannot."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from aimet_torch.compression.pruning.labels import FIXED
from aimet_torch.compression.pruning.propagation import BlockedError, Layer, Propagation
from aimet_torch.compression.pruning.rules import propagate
from aimet_torch.graph import ModelGraph
from aimet_torch.ptq.layers import ModuleUses

__all__ = ["ChannelGroup", "ChannelStructure"]


@dataclasses.dataclass(eq=False)
class ChannelGroup:
    """Channels of which some number stays: all outputs that are coupled, of one or more layers.

    Attributes:
        name: Of the first layer that makes them.
        units: What stays or goes as one, by the least atom, ascending: the channel of a plain
            convolution, or that channel in all layers of a residual stream.
        width: Channels of the first layer in each unit.
        fixed: Units that must stay, bool, (units,).
        makers: Layers whose outputs they are.
        readers: Layers that read them and mix them.
    """

    name: str
    units: Tensor
    width: int
    fixed: Tensor
    makers: list[Layer]
    readers: list[Layer]

    @property
    def size(self) -> int:
        """How many units there are."""
        return len(self.units)

    @property
    def least(self) -> int:
        """The fewest that can stay."""
        return max(1, int(self.fixed.sum()))


class ChannelStructure:
    """Everything about the channels of a traced model.

    Args:
        graph: Traced, not rewritten.
        ignored: Modules that keep their shape.
        keep_inputs: Layers whose input channels stay, and whose outputs may go. Depthwise ones mix
            no channels: theirs go with those around them.

    Attributes:
        groups: By name, in the order of the graph.
        obstacles: Why a layer's input channels stay, by layer.
    """

    def __init__(
        self,
        graph: ModelGraph,
        ignored: Iterable[nn.Module] = (),
        keep_inputs: Iterable[nn.Module] = (),
    ) -> None:
        self.graph = graph
        self.labels = Propagation(graph, propagate)
        self.groups: dict[str, ChannelGroup] = {}
        if not graph.is_one_boundary:
            self.labels.analyze()
            self._fix_layers({id(module) for module in ignored})
            self._fix_inputs({id(module) for module in keep_inputs})
            self._fix_what_fails()
            self._find_groups()
        self.obstacles = {
            layer.name: reason
            for layer in self.layers
            if (reason := self._obstacle(layer)) is not None
        }

    @property
    def layers(self) -> list[Layer]:
        """In the order of the graph."""
        return list(self.labels.layers.values())

    def keep(self, units: Mapping[str, Tensor]) -> Tensor:
        """What stays, by atom, where of some groups these units stay, (units,) bool each."""
        labels = self.labels
        classes = torch.ones(len(labels.partition.root), dtype=torch.bool)
        for name, stays in units.items():
            classes[self.groups[name].units] = stays | self.groups[name].fixed
        return classes[labels.partition.root]

    def places(self, group: ChannelGroup, atoms: Tensor) -> Tensor:
        """The unit of ``group`` at each of the atoms, -1 for others."""
        lookup = torch.full((len(self.labels.partition.root),), -1)
        lookup[group.units] = torch.arange(group.size)
        return lookup[self.labels.partition.root[atoms]]

    # ---------------------------------------------------------------------- what stays

    def _fix_layers(self, ignored: set[int]) -> None:
        labels = self.labels
        uses = ModuleUses(self.graph)
        parameters = dict(self.graph.model.named_parameters(remove_duplicate=False))
        for layer in self.layers:
            reason = None
            if layer.module is not None:
                reason = uses.sharing(layer.module)
            if id(layer.module) in ignored:
                reason = "it is to be ignored"
            elif layer.weight in labels.elements:
                reason = "other code of the model reads its weight"
            elif not bool(torch.isfinite(parameters[layer.weight]).all()):
                reason = "its weight holds NaN or infinities"
            if reason is not None:
                text = f"`{layer.name}`: {reason}"
                labels.fix(layer.inputs.double(), text)
                labels.fix(layer.outputs.double(), text)

    def _fix_inputs(self, kept: set[int]) -> None:
        for layer in self.layers:
            if id(layer.module) in kept and not (layer.groups > 1 and layer.removes_groups):
                text = f"`{layer.name}` reads it and is to be ignored"
                self.labels.fix(layer.inputs.double(), text)

    def _fix_what_fails(self) -> None:
        """Take channels away and see whether the network still fits together."""
        labels = self.labels
        for pattern in range(4):
            while True:
                classes = self._pattern(pattern)
                if bool(classes.all()):
                    return
                try:
                    labels.check(classes[labels.partition.root])
                    break
                except BlockedError as error:
                    name = error.op.name if error.op is not None else "a check of its sizes"
                    reason = f"with fewer channels `{name}` does not work: {error.reason}"
                    if not self._fix_units(error.labels, reason):
                        self._fix_units([labels.partition.root.double()], reason)

    def _pattern(self, pattern: int) -> Tensor:
        """Some classes, at least one of every layer's outputs: half, a third, all but one, one."""
        partition = self.labels.partition
        generator = torch.Generator().manual_seed(pattern)
        count = len(partition.root)
        if pattern < 2:
            classes = torch.rand(count, generator=generator) < (0.5, 0.3)[pattern]
        else:
            classes = torch.full((count,), pattern == 2)
        frozen = torch.tensor([FIXED, *self.labels.frozen()])
        made = torch.zeros(count, dtype=torch.bool)
        for layer in self.layers:
            own = partition.root[layer.outputs]
            made[own] = True
            if pattern == 2:
                classes[own[-1]] = False
        classes |= ~made
        for layer in self.layers:
            classes[partition.root[layer.outputs[0]]] = True
        classes[frozen] = True
        return classes

    def _fix_units(self, found: list[Tensor], reason: str) -> bool:
        frozen = self.labels.frozen()
        root = self.labels.partition.root
        is_new = False
        for labels in found:
            atoms = labels.long().unique()
            atoms = atoms[atoms >= 0]
            new = [a for a in atoms.tolist() if int(root[a]) not in frozen]
            if new:
                self.labels.fix(torch.tensor(new).double(), reason)
                is_new = True
        return is_new

    # ---------------------------------------------------------------------- groups

    def _find_groups(self) -> None:
        labels = self.labels
        root, frozen = labels.partition.root, labels.frozen()
        is_frozen = torch.zeros(len(root), dtype=torch.bool)
        is_frozen[torch.tensor([FIXED, *frozen])] = True
        # Makers that have a unit in common make one group.
        owner: dict[int, int] = {}
        members: list[list[Layer]] = []
        for layer in self.layers:
            classes = root[layer.outputs].unique()
            classes = classes[classes != FIXED].tolist()
            old = sorted({owner[c] for c in classes if c in owner})
            index = old[0] if old else len(members)
            if not old:
                members.append([])
            for other in old[1:]:
                members[index] += members[other]
                members[other] = []
                owner.update({c: index for c, o in owner.items() if o == other})
            members[index].append(layer)
            owner.update(dict.fromkeys(classes, index))
        order = {id(layer): i for i, layer in enumerate(self.layers)}
        for makers in members:
            if not makers:
                continue
            makers.sort(key=lambda layer: order[id(layer)])
            units = torch.cat([root[layer.outputs] for layer in makers]).unique()
            fixed = is_frozen[units]
            if bool(fixed.all()) or len(units) < 2:
                continue
            readers = [
                layer
                for layer in self.layers
                if bool(torch.isin(root[layer.inputs], units[~fixed]).any())
                and not (layer.groups > 1 and layer.removes_groups)
            ]
            first = makers[0]
            width = max(1, len(first.outputs) // len(root[first.outputs].unique()))
            name = first.name
            self.groups[name] = ChannelGroup(name, units, width, fixed, makers, readers)

    def _obstacle(self, layer: Layer) -> str | None:
        """Why the channels that a layer reads stay, in words; None when some can go."""
        root = self.labels.partition.root
        classes = root[layer.inputs].unique()
        for group in self.groups.values():
            if bool(torch.isin(classes, group.units[~group.fixed]).any()):
                return None
        frozen = self.labels.frozen()
        for name in classes.tolist():
            if name in frozen:
                return frozen[name]
        return "one unit: splits, shuffles or groups tie all its channels"
