"""Which channels of a network stand and fall together: labels sent through its whole graph.

The same walk serves twice. First it finds out which channels are one (`Propagation.analyze`): every
operation either moves labels, or unites those that meet in it, or, where it is not known what it
does to them, fixes them. Then it runs once more with some channels taken away, every size in the
user's code computed from the smaller tensors (`Propagation.check`): what the first walk promised
must come out, operation by operation. What does not, such as a size written as a number, is fixed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from aimet_torch.compression.pruning.labels import (
    FIXED,
    NEUTRAL,
    Partition,
    compact,
    kept_indices,
    varying,
)
from aimet_torch.graph import ModelGraph, OpNode
from aimet_torch.graph.structure import rebuild
from aimet_torch.ptq.replay import call_node

__all__ = ["BlockedError", "Layer", "ParameterRef", "Propagation"]

_LARGEST_PARAMETER = 1 << 20  # entries that get labels of their own


class BlockedError(Exception):
    """With some channels removed an operation does not give what it should."""

    def __init__(self, op: OpNode | None, labels: list[Tensor], reason: str) -> None:
        super().__init__(reason)
        self.op = op
        self.labels = labels
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class ParameterRef:
    """A parameter, buffer or constant that the code of the model reads."""

    name: str


@dataclasses.dataclass(eq=False)
class Layer:
    """A convolution or linear layer whose channels have labels.

    Attributes:
        name: Of its module, or of the first functional call.
        module: None for functional calls.
        weight: Dotted name of its weight.
        bias: Dotted name of the module's bias; None without.
        groups: Of the convolution.
        transposed: It is a transposed convolution.
        inputs: Atom of each input channel.
        outputs: Atom of each output channel.
        calls: Its calls.
    """

    name: str
    kind: str
    module: nn.Module | None
    weight: str
    bias: str | None
    groups: int
    transposed: bool
    inputs: Tensor
    outputs: Tensor
    calls: list[OpNode] = dataclasses.field(default_factory=list)

    @property
    def removes_groups(self) -> bool:
        """Whether channels go with their whole group; otherwise all groups lose the same ones."""
        group_in, group_out = len(self.inputs) // self.groups, len(self.outputs) // self.groups
        if self.module is None:  # its groups are a number in the code of the model
            return False
        return self.groups > 1 and self.groups >= min(group_in, group_out)


class Propagation:
    """Labels of all values of a traced model.

    Args:
        graph: Of the model, before ``to_module()``.
        rules: ``rules(propagation, op, args, kwargs)`` gives the labels of an operation's result.

    Attributes:
        partition: Which atoms are one.
        layers: By the dotted name of their weight.
        axes: Atoms of modules with one entry a channel, by the module's name.
        elements: Atoms of parameters and buffers that the code reads, in their shape.
        fixed: Atoms that must stay, with the reason.
    """

    def __init__(
        self,
        graph: ModelGraph,
        rules: Callable[[Propagation, OpNode, tuple[Any, ...], dict[str, Any]], Any],
    ) -> None:
        self.graph = graph
        self.partition = Partition()
        self.layers: dict[str, Layer] = {}
        self.axes: dict[str, Tensor] = {}
        self.elements: dict[str, Tensor] = {}
        self.fixed: list[tuple[Tensor, str]] = []
        self.full: dict[fx.Node, Any] = {}
        self.keep: Tensor | None = None  # by atom; None while analyzing
        self._rules = rules
        self._outside: dict[fx.Node, int] = {}
        self._decisions: dict[fx.Node | None, list[Any]] = {}
        self._node: fx.Node | None = None
        self._decided = 0
        self._ops = {op.fx_node: op for op in graph.ops if op.fx_node is not None}
        self._named = dict(graph.model.named_parameters(remove_duplicate=False))
        self._named.update(graph.model.named_buffers(remove_duplicate=False))  # type: ignore[arg-type]

    # ---------------------------------------------------------------------- the two walks

    def analyze(self) -> None:
        """Label everything and find what is one and what must stay."""
        self.keep = None
        self.full = self._walk()

    def check(self, keep: Tensor) -> None:
        """Run with less.

        Args:
            keep: Which classes stay, bool, one entry an atom; all atoms of a class say the same.

        Raises:
            BlockedError: An operation does not give what it should.
        """
        self.keep = keep
        try:
            self._walk()
        finally:
            self.keep = None

    def keep_of(self, labels: Tensor) -> Tensor:
        """Which elements stay."""
        assert self.keep is not None
        return self.keep[labels.long().clamp_min(FIXED)]

    def frozen(self) -> dict[int, str]:
        """The classes that must stay, with the reason."""
        reasons: dict[int, str] = {}
        for atoms, reason in self.fixed:
            for name in self.partition.root[atoms].unique().tolist():
                reasons.setdefault(name, reason)
        return reasons

    # ---------------------------------------------------------------------- what rules call

    def unite(self, op: OpNode, a: Tensor, b: Tensor) -> None:
        """Labels that must be the same, element by element."""
        a, b = torch.broadcast_tensors(a, b)
        if self.keep is None:
            for dim in range(a.dim()):
                if a.stride(dim) == 0 and b.stride(dim) == 0:
                    a, b = a.narrow(dim, 0, 1), b.narrow(dim, 0, 1)
            self.partition.unite(a, b)
            return
        one, two = self.partition.classes(a), self.partition.classes(b)
        if bool(((one != two) & (one >= 0) & (two >= 0)).any()):
            raise BlockedError(op, [a, b], "other channels would meet in it than before")

    def fix(self, labels: Tensor, reason: str, op: OpNode | None = None) -> None:
        """Labels whose channels must stay."""
        atoms = compact(labels).long().unique()
        atoms = atoms[atoms >= 0]
        if self.keep is None:
            self.fixed.append((atoms, reason))
        elif not bool(self.keep[atoms].all()):
            raise BlockedError(op, [labels], reason)

    def decide(self, make: Callable[[], Any]) -> Any:
        """What is found out about an operation while analyzing; when checking, the same again.

        With one channel left, everything looks as if it were meant for all channels.
        """
        made = self._decisions.setdefault(self._node, [])
        if self.keep is None:
            made.append(make())
            return made[-1]
        self._decided += 1
        return made[self._decided - 1]

    def varying(self, labels: Tensor) -> list[int]:
        """The dimensions along which channels differ."""
        return list(self.decide(lambda: varying(self.partition.classes(labels))))

    def axis(self, name: str, count: int) -> Tensor:
        """The atoms of a module's channels; while checking, of those that stay."""
        if name not in self.axes:
            self.axes[name] = self.partition.new(count)
        return self.left(self.axes[name])

    def left(self, atoms: Tensor) -> Tensor:
        """Of atoms in a line, those that stay."""
        return atoms if self.keep is None else atoms[self.keep[atoms]]

    def resolve(self, value: Any) -> Any:
        """Labels in place of a parameter that is read."""
        if not isinstance(value, ParameterRef):
            return value
        if value.name not in self.elements:
            tensor = self._named.get(value.name)
            if tensor is None or tensor.numel() <= 1:  # a constant
                constant: Any = self.graph.constants.get(value.name, tensor)
                shape = () if constant is None else tuple(constant.shape)
                return _filled(shape, NEUTRAL)
            if tensor.numel() > _LARGEST_PARAMETER:
                return self.nothing(tuple(tensor.shape))
            self.new_elements(value.name, tuple(tensor.shape))
        atoms = self.elements[value.name]
        if self.keep is not None:
            indices = kept_indices(self.keep[atoms])
            if indices is None:
                raise BlockedError(None, [atoms], f"what stays of `{value.name}` is no rectangle")
            atoms = select(atoms, indices)
        return atoms.double()

    def new_elements(self, name: str, shape: tuple[int, ...]) -> None:
        """Give each entry of a parameter, buffer or shape an atom, unless it has one."""
        if name not in self.elements:
            self.elements[name] = self.partition.new(math.prod(shape)).view(shape)

    def nothing(self, shape: tuple[int, ...]) -> Tensor:
        """Labels of a tensor all of which stays."""
        return _filled(shape, FIXED)

    def outside(self, op: OpNode, args: Any, reason: str) -> Any:
        """The result of an operation that nothing is known of; its inputs stay as they are."""
        for labels in _tensors(self, args):
            self.fix(labels, reason, op)
        node = op.fx_node
        assert node is not None
        if node not in self._outside:
            self._outside[node] = int(self.partition.new(1))
            self.fixed.append((torch.tensor([self._outside[node]]), reason))
        atom = float(self._outside[node])
        return _nested([(path, _filled(shape, atom)) for path, shape, _ in node.meta["outputs"]])

    # ---------------------------------------------------------------------- the walk

    def _walk(self) -> dict[fx.Node, Any]:
        values: dict[fx.Node, Any] = {}
        for node in self.graph.fx_graph.nodes:
            op = self._ops.get(node)
            self._node, self._decided = node, 0
            try:
                values[node] = self._value(node, op, values)
            except BlockedError as error:
                raise BlockedError(op, self._upstream(node) + error.labels, error.reason) from error
            except Exception as error:
                if self.keep is None and op is None:
                    raise
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
                if self.keep is not None:
                    raise BlockedError(op, self._upstream(node), reason) from error
                assert op is not None
                inputs = [values[used] for used in node.all_input_nodes]
                values[node] = self.outside(op, inputs, reason)
            if op is not None and self.keep is not None:
                self._compare(op, values[node])
        return values

    def _value(self, node: fx.Node, op: OpNode | None, values: dict[fx.Node, Any]) -> Any:
        if node.op == "output":
            for labels in _tensors(self, rebuild(node.args, lambda leaf: _look(leaf, values))):
                self.fix(labels, "the model returns it")
            return None
        if node.op == "get_attr":
            return ParameterRef(str(node.target))
        if "input_name" in node.meta:
            labels = self.nothing(node.meta["outputs"][0][1])
            self.fix(labels, "it is an input of the model")
            return labels
        if node.op == "placeholder":
            return None
        args, kwargs = rebuild((node.args, node.kwargs), lambda leaf: _look(leaf, values))
        if op is not None:
            return self._rules(self, op, args, kwargs)
        if any(isinstance(values[n], type(None)) for n in node.all_input_nodes):
            return None  # checks of arguments that are no tensors
        return call_node(self.graph.model, node, args, kwargs)

    def _upstream(self, node: fx.Node) -> list[Tensor]:
        """All labels of what a node computes something from, through numbers too."""
        found: list[Tensor] = []
        pending, seen = list(node.all_input_nodes), set()
        while pending:
            used = pending.pop()
            if used in seen:
                continue
            seen.add(used)
            value = self.full.get(used)
            if isinstance(value, ParameterRef):
                labels = [self.elements[value.name]] if value.name in self.elements else []
            else:
                labels = _tensors(self, value)
                pending += [] if labels else used.all_input_nodes
            found += labels
        return found

    def _compare(self, op: OpNode, result: Any) -> None:
        """What is left of the labels of an operation is what the smaller operation gave."""
        expected = _tensors(self, self.full[op.fx_node])  # type: ignore[index]
        for before, after in zip(expected, _tensors(self, result), strict=True):
            keep = self.keep_of(before)
            indices = kept_indices(keep)
            if indices is None:
                raise BlockedError(op, [before], "what stays in it is no rectangle")
            wanted = select(before, indices)
            if wanted.shape != after.shape or wanted.numel() == 0:
                shapes = f"{tuple(after.shape)} instead of {tuple(wanted.shape)}"
                raise BlockedError(op, [before], f"its shape would be {shapes}")
            self._same(op, wanted, after)

    def _same(self, op: OpNode, wanted: Tensor, after: Tensor) -> None:
        for dim in range(wanted.dim()):
            if wanted.stride(dim) == 0 and after.stride(dim) == 0:
                wanted, after = wanted.narrow(dim, 0, 1), after.narrow(dim, 0, 1)
        one, two = self.partition.classes(wanted), self.partition.classes(after)
        if not torch.equal(one, two):
            raise BlockedError(op, [wanted, after], "its channels would change places")


def select(tensor: Tensor, indices: list[Tensor | None]) -> Tensor:
    """The entries of ``tensor`` at some indices of each dimension; None: all of them."""
    for dim, index in enumerate(indices):
        if index is not None:
            tensor = tensor.index_select(dim, index.to(tensor.device))
    return tensor


def _filled(shape: tuple[int, ...], atom: float) -> Tensor:
    return torch.full((1,) * len(shape), float(atom), dtype=torch.float64).expand(shape)


def _look(leaf: Any, values: dict[fx.Node, Any]) -> Any:
    return values[leaf] if isinstance(leaf, fx.Node) else leaf


def _tensors(propagation: Propagation, value: Any) -> list[Tensor]:
    if isinstance(value, ParameterRef):
        value = propagation.resolve(value)
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [leaf for item in value for leaf in _tensors(propagation, item)]
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _tensors(propagation, item)]
    return []


class _Fields(dict[Any, Any]):
    """A nested result: entries by index, key or attribute."""

    def __getattr__(self, name: str) -> Any:
        return self["attr", name]


def _nested(entries: list[tuple[tuple[Any, ...], Tensor]]) -> Any:
    if len(entries) == 1 and entries[0][0] == ():
        return entries[0][1]
    result = _Fields()
    for path, value in entries:
        inner = result
        for key in path[:-1]:
            inner = inner.setdefault(key, _Fields())
        inner[path[-1]] = value
    return result
