"""A model that remembers what it computed before a layer, and starts there on the same inputs.

With one layer changed, all that runs before it is as it was. So while the candidates of one layer
are evaluated, the model's values before that layer are kept, batch by batch; and when the next
layer's turn comes, they are carried on from there. Altogether the part in front of the layers runs
once instead of once for each candidate.
"""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree

from aimet_torch.graph import trace
from aimet_torch.ptq.replay import call_node
from aimet_torch.ptq.value_cache import free_memory

__all__ = ["PrefixCache"]


class _Entry:
    """What one call of an evaluation leaves.

    Attributes:
        inputs: Its arguments, flattened.
        structure: Their structure.
        start: The first node that has not run.
        values: Results of earlier nodes that are still read.
    """

    def __init__(self, inputs: list[Any], structure: Any) -> None:
        self.inputs = inputs
        self.structure = structure
        self.start = 0
        self.values: dict[fx.Node, Any] = {}

    def is_for(self, inputs: Sequence[Any], structure: Any) -> bool:
        return structure == self.structure and all(
            _is_same(a, b) for a, b in zip(inputs, self.inputs, strict=True)
        )


class PrefixCache:
    """A copy of a model for evaluations with some of its layers replaced.

    Args:
        model: Left as it is; the copy shares its parameters.
        dummy_input: What it is traced on. A model that cannot be traced as a whole runs from its
            beginning every time.
        layers: Those that will be replaced.
        budget: Bytes that may be kept; None: a quarter of what is free.

    Attributes:
        model: The copy, of the same class and with the same submodules, in evaluation mode.
        runs: Calls of the model so far.
        resumed: How many of them began behind the model's beginning.
    """

    def __init__(
        self,
        model: nn.Module,
        dummy_input: Any,
        layers: Iterable[str],
        budget: int | None = None,
    ) -> None:
        self.model = _copy_with_same_tensors(model).eval().requires_grad_(False)
        self.runs = 0
        self.resumed = 0
        self._forward = self.model.forward
        self._budget = free_memory() // 4 if budget is None else budget
        self._entries: dict[int, _Entry] = {}
        self._call = 0
        self._start = 0
        self._originals = {name: self.model.get_submodule(name) for name in layers}
        traced = _copy_with_same_tensors(model).eval().requires_grad_(False)
        graph = trace(traced, dummy_input)
        self._is_on = not graph.is_one_boundary
        self._traced = graph.to_module().eval()
        self._nodes: list[fx.Node] = [] if not self._is_on else list(graph.fx_graph.nodes)
        self._parameters = inspect.signature(self._forward)
        index = {node: i for i, node in enumerate(self._nodes)}
        self._last_use = {
            node: max((index[user] for user in node.users), default=-1) for node in self._nodes
        }
        self._first_call: dict[str, int] = {}
        for i, node in enumerate(self._nodes):
            if node.op == "call_module":
                for name in self._originals:
                    if name == node.target or name.startswith(f"{node.target}."):
                        self._first_call.setdefault(name, i)
        if self._is_on:
            # An attribute of the instance: the class, and what users' code asks it, stay.
            self.model.forward = self._replay_forward()

    def _replay_forward(self) -> Any:
        @functools.wraps(self._forward)
        def forward(*args: Any, **kwargs: Any) -> Any:
            return self._run(*args, **kwargs)

        return forward

    def begin(self, replacements: Mapping[str, nn.Module]) -> nn.Module:
        """The model for one evaluation, with these modules in place of layers."""
        for name, layer in self._originals.items():
            module = replacements.get(name, layer)
            for owner in (self.model, self._traced) if self._is_on else (self.model,):
                parent = owner.get_submodule(name.rpartition(".")[0])
                setattr(parent, name.rpartition(".")[2], module.eval().requires_grad_(False))
        self._call = 0
        self._start = min((self._first_call.get(name, 0) for name in replacements), default=0)
        return self.model

    def _run(self, *args: Any, **kwargs: Any) -> Any:
        self.runs += 1
        inputs, structure = _pytree.tree_flatten((args, kwargs))
        needs_gradients = any(isinstance(x, Tensor) and x.requires_grad for x in inputs)
        if not self._is_on or self.model.training or needs_gradients:
            return self._forward(*args, **kwargs)
        key, self._call = self._call, self._call + 1
        entry = self._entries.get(key)
        if entry is None or entry.start > self._start or not entry.is_for(inputs, structure):
            entry = self._entries[key] = _Entry([_kept(x) for x in inputs], structure)
        self.resumed += entry.start > 0
        try:
            with torch.no_grad():
                return self._walk(entry, args, kwargs)
        except Exception:
            # Something that the trace did not see, such as another size of the batch. If it is the
            # model's own error, it comes again.
            self._turn_off()
            return self._forward(*args, **kwargs)

    def _walk(self, entry: _Entry, args: Any, kwargs: Any) -> Any:
        bound = self._parameters.bind(*args, **kwargs)
        bound.apply_defaults()
        values = dict(entry.values)
        for node in self._nodes:
            if node.op == "placeholder":
                values[node] = bound.arguments[str(node.target).lstrip("*")]
        versions = _versions(entry.values)
        for position in range(entry.start, len(self._nodes)):
            node = self._nodes[position]
            if position == self._start > entry.start:
                self._advance(entry, values)
                versions = _versions(entry.values)
            given, named = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            if node.op == "output":
                if versions != _versions(entry.values):
                    self._turn_off()  # a module wrote into its input
                return given[0]
            if node.op == "get_attr":
                values[node] = _attribute(self._traced, str(node.target))
            elif node.op != "placeholder":
                values[node] = call_node(self._traced, node, given, named)
            for used in node.all_input_nodes:
                if self._last_use[used] == position:
                    values.pop(used, None)
        raise AssertionError("a graph ends with its output")

    def _advance(self, entry: _Entry, values: dict[fx.Node, Any]) -> None:
        live = {
            node: value
            for node, value in values.items()
            if node.op != "placeholder" and self._last_use[node] >= self._start
        }
        others = sum(_size(e.values) for e in self._entries.values() if e is not entry)
        if others + _size(live) <= self._budget:  # otherwise it goes on from where it did
            entry.values, entry.start = live, self._start

    def _turn_off(self) -> None:
        self._is_on = False
        self._entries.clear()


def _copy_with_same_tensors(model: nn.Module) -> nn.Module:
    tensors = itertools.chain(model.parameters(), model.buffers())
    made = {}
    for tensor in tensors:
        same = tensor.detach()
        is_parameter = isinstance(tensor, nn.Parameter)
        made[id(tensor)] = nn.Parameter(same, requires_grad=False) if is_parameter else same
    return copy.deepcopy(model, made)


def _kept(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _is_same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
            return False
        return a.device == b.device and a.dtype == b.dtype and torch.equal(a, b)
    return bool(a is b or a == b)


def _tensors(value: Any) -> list[Tensor]:
    leaves = _pytree.tree_leaves(list(value.values()) if isinstance(value, dict) else value)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _versions(values: dict[fx.Node, Any]) -> list[int]:
    """How often each tensor was written to; inference tensors do not count."""
    return [-1 if t.is_inference() else t._version for t in _tensors(values)]


def _size(values: dict[fx.Node, Any]) -> int:
    return sum(tensor.nbytes for tensor in _tensors(values))


def _attribute(model: nn.Module, path: str) -> Any:
    value: Any = model
    for part in path.split("."):
        value = getattr(value, part)
    return value
