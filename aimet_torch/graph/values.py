"""Which graph node holds the present value of each tensor of a running model.

User code may write into tensors. A graph whose nodes are values cannot: a write makes a new node,
and every tensor that shares memory with the written one gets a new node too, as soon as it is used
again.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import torch
from torch import Tensor, fx

from aimet_torch.graph import runtime


class Untraceable(BaseException):
    """The model does what no graph can hold. User code must not swallow this."""

    def __init__(self, reason: str, path: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = path


@dataclasses.dataclass(eq=False)
class Memory:
    """Tensors that share one storage."""

    persistent: (
        bool  # a parameter or buffer of the model: writes to it are real, they outlive the call
    )
    version: int = 0
    written: Tracked | None = None  # a view that was written to; its bases do not know yet


@dataclasses.dataclass(eq=False)
class Tracked:
    """A tensor and the node of its value. It is current while ``version`` equals its memory's."""

    tensor: Tensor  # held, so that its id stays unique
    node: fx.Node
    memory: Memory
    version: int
    base: Tracked | None = None
    template: fx.Node | None = None  # the node that made this view from `base`
    template_base: fx.Node | None = None  # the node of `base` that `template` reads
    path: tuple[Any, ...] = ()  # index of this tensor in the template's result
    item_meta: dict[str, Any] = dataclasses.field(
        default_factory=dict
    )  # of the node that takes the item at `path`


def storage_key(tensor: Tensor) -> int | None:
    """The identity of a tensor's memory; None for tensors without one (sparse, nested)."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return None


def version_of(tensor: Tensor) -> int:
    """How often a tensor was written to; always 0 for inference tensors, which do not count."""
    return 0 if tensor.is_inference() else int(tensor._version)


class Values:
    """Table of tracked tensors of one trace."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.tracked: dict[int, Tracked] = {}
        self.memories: dict[int, Memory] = {}

    def __contains__(self, tensor: Tensor) -> bool:
        return id(tensor) in self.tracked

    def is_persistent(self, tensor: Tensor) -> bool:
        """Whether ``tensor`` is (a view of) a parameter, buffer or constant of the model."""
        entry = self.tracked.get(id(tensor))
        return entry is not None and entry.memory.persistent

    def node(self, tensor: Tensor) -> fx.Node | None:
        """The node that holds the present value of ``tensor``; None when it is unknown."""
        entry = self.tracked.get(id(tensor))
        if entry is None:
            return None
        self._refresh(entry)
        return entry.node

    def define(self, tensor: Tensor, node: fx.Node, *, persistent: bool = False) -> None:
        """``tensor`` is new, and its value is that of ``node``."""
        key = storage_key(tensor)
        memory = None if key is None else self.memories.get(key)
        if memory is None:
            memory = Memory(persistent)
            if key is not None:
                self.memories[key] = memory
        self.tracked[id(tensor)] = Tracked(tensor, node, memory, memory.version)

    def define_view(
        self,
        tensor: Tensor,
        node: fx.Node,
        base: Tensor,
        template: fx.Node,
        base_node: fx.Node,
        path: tuple[Any, ...],
    ) -> None:
        """``tensor`` is a new view of ``base``; ``template`` made it from ``base_node``."""
        parent = self.tracked[id(base)]
        self.tracked[id(tensor)] = Tracked(
            tensor,
            node,
            parent.memory,
            parent.memory.version,
            parent,
            template,
            base_node,
            path,
            dict(node.meta),
        )

    def write(self, tensor: Tensor, node: fx.Node) -> None:
        """``tensor`` was written to; its value is that of ``node`` now."""
        entry = self.tracked[id(tensor)]
        memory = entry.memory
        memory.version += 1
        entry.version = memory.version
        entry.node = node
        memory.written = entry if entry.base is not None else None

    def _refresh(self, entry: Tracked) -> None:
        memory = entry.memory
        if entry.version == memory.version:
            return
        if memory.written is not None:
            self._write_back(memory.written)
            memory.written = None
            if entry.version == memory.version:
                return
        if entry.base is None or entry.template is None:
            raise Untraceable(
                "a tensor is used after its memory was written to through another tensor"
            )
        self._refresh(entry.base)
        current, old = entry.base.node, entry.template_base
        node = self.graph.node_copy(entry.template, lambda n: current if n is old else n)
        for index in entry.path:
            node = self.graph.call_function(operator.getitem, (node, index))
        if entry.path:
            node.meta.update(entry.item_meta)
        entry.node, entry.version = node, memory.version

    def _write_back(self, entry: Tracked) -> None:
        """Tell the bases of a written view."""
        while entry.base is not None:
            base, template = entry.base, entry.template
            assert template is not None
            view = _callable_of(template)
            if view is None or not template.args or template.args[0] is not entry.template_base:
                raise Untraceable(f"in-place write into a view that `{template.target}` made")
            node = self.graph.call_function(
                runtime.write_through,
                (
                    base.node,
                    entry.node,
                    view,
                    entry.path,
                    tuple(template.args[1:]),
                    dict(template.kwargs),
                ),
            )
            node.meta.update(entry.node.meta)
            node.meta["function"] = runtime.write_through
            node.meta["basename"] = "set_view"
            node.meta["outputs"] = [((), tuple(base.tensor.shape), base.tensor.dtype)]
            base.node, base.version = node, base.memory.version
            entry = base


def _callable_of(node: fx.Node) -> Any:
    if node.op == "call_method":
        return getattr(torch.Tensor, str(node.target))
    return node.target if node.op == "call_function" else None
