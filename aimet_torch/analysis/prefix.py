"""Evaluations that differ late in a network begin late: what comes before is computed once.

Settings that switch one layer after the other have everything before that layer in common. While
they are evaluated in the order of execution, each call of the model resumes at the first operator
that differs from the setting that all have in common, from values that the evaluation before has
left there. The user's evaluation sees none of it: it calls the model as ever, and the results are
the same bits.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from aimet_torch.graph import ModelGraph
from aimet_torch.ptq.replay import call_node
from aimet_torch.ptq.value_cache import free_memory

__all__ = ["PrefixRunner"]

_tree_map = torch.utils._pytree.tree_map_only
_leaves = torch.utils._pytree.tree_leaves


@dataclass
class _Kept:
    """What is known of one call: its arguments, and the values in front of a node."""

    arguments: list[Any]
    position: int
    values: dict[fx.Node, Any]


class PrefixRunner:
    """Runs a traced model from where its last runs and this one begin to differ.

    Args:
        graph: Of a simulation, after ``to_module()``.
        budget: Bytes of values that may be kept; None: a quarter of what is free. Calls that do not
            fit run as a whole.
    """

    def __init__(self, graph: ModelGraph, budget: int | None = None) -> None:
        self._graph = graph
        self._model: nn.Module = graph.model
        self._budget = free_memory() // 4 if budget is None else budget
        self._nodes: list[fx.Node] = [] if graph.is_one_boundary else list(graph.fx_graph.nodes)
        self._position = {node: index for index, node in enumerate(self._nodes)}
        self._last_use = self._find_last_uses()
        self._calls: list[_Kept] = []
        self._used = 0
        self._is_checked = False
        self.is_possible = bool(self._nodes)
        self.saved = 0  # nodes that did not run

    def _find_last_uses(self) -> dict[fx.Node, int]:
        return {
            node: max((self._position[user] for user in node.users), default=-1)
            for node in self._nodes
        }

    def position_of(self, modules: set[str]) -> int:
        """Where the first node is that runs one of these modules, or something inside of it."""
        for index, node in enumerate(self._nodes):
            if node.op == "call_module":
                target = str(node.target)
                if any(name == target or name.startswith(f"{target}.") for name in modules):
                    return index
        return 0

    @contextlib.contextmanager
    def resuming_at(self, position: int) -> Iterator[None]:
        """Within this context calls of the model resume at a node.

        Positions must not fall from one context to the next, and everything in front of them must
        be the same in all.
        """
        if not self.is_possible or position == 0 or "forward" in self._model.__dict__:
            yield
            return
        original = self._model.forward
        signature = inspect.signature(original)
        count = 0

        def forward(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            index, count = count, count + 1
            if torch.is_grad_enabled() or not self.is_possible:
                return original(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return self._run(index, bound.arguments, position, lambda: original(*args, **kwargs))

        self._model.__dict__["forward"] = forward
        try:
            yield
        finally:
            del self._model.__dict__["forward"]

    def _run(self, index: int, arguments: Any, position: int, whole: Any) -> Any:
        leaves = _leaves(dict(arguments))
        known = self._calls[index] if index < len(self._calls) else None
        if known is None and (index > len(self._calls) or self._used >= self._budget):
            return whole()  # no room, or somebody skipped a call
        if known is not None and (known.position > position or not _same(known.arguments, leaves)):
            return whole()
        if known is None:
            known = _Kept(_tree_map(Tensor, torch.clone, leaves), 0, {})
            self._calls.append(known)
            self._used += _bytes(known.arguments)
        self.saved += known.position
        values = dict(known.values)
        for node in self._nodes[known.position : position]:
            self._step(node, values, arguments)
        self._keep(known, position, values)
        for node in self._nodes[position:]:
            if node.op == "output":
                result = fx.map_arg(node.args[0], values.__getitem__)
                return self._checked(result, whole)
            self._step(node, values, arguments)
        raise AssertionError("a graph ends with its output")

    def _checked(self, result: Any, whole: Any) -> Any:
        """The first result is compared with that of the model itself."""
        if self._is_checked:
            return result
        expected = whole()
        self._is_checked = True
        if type(result) is not type(expected) or not _same(_leaves(result), _leaves(expected)):
            self.is_possible = False
            self._calls.clear()
        return expected

    def _step(self, node: fx.Node, values: dict[fx.Node, Any], arguments: Any) -> None:
        if node.op == "placeholder":
            values[node] = arguments[str(node.target).lstrip("*")]
        elif node.op == "get_attr":
            value: Any = self._model
            for part in str(node.target).split("."):
                value = getattr(value, part)
            values[node] = value
        else:
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = call_node(self._model, node, args, kwargs)
        now = self._position[node]
        for used in (node, *node.all_input_nodes):
            if self._last_use[used] <= now:
                values.pop(used, None)

    def _keep(self, known: _Kept, position: int, values: dict[fx.Node, Any]) -> None:
        self._used -= sum(map(_bytes, known.values.values()))
        # Copies: an activation function may overwrite what it alone reads.
        known.values = {node: _tree_map(Tensor, torch.clone, v) for node, v in values.items()}
        known.position = position
        size = sum(map(_bytes, known.values.values()))
        if self._used + size > self._budget:
            known.values, known.position, size = {}, 0, 0
        self._used += size


def _bytes(value: Any) -> int:
    return sum(leaf.nbytes for leaf in _leaves(value) if isinstance(leaf, Tensor))


def _same(first: list[Any], second: list[Any]) -> bool:
    if len(first) != len(second):
        return False
    for a, b in zip(first, second, strict=True):
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            is_same = isinstance(a, Tensor) and isinstance(b, Tensor)
            if not is_same or a.dtype != b.dtype or a.device != b.device or not torch.equal(a, b):
                return False
        elif a is not b and a != b:
            return False
    return True
