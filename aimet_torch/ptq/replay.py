"""Run a network operation by operation, as it was and as it becomes, over all batches at once.

Techniques that treat one layer after the other need what reaches a layer in the original network
and in the one whose earlier layers have been changed. Walking the graph once gives both: every
operation runs over all batches before the next one starts, so that no part of the network runs
twice, however many layers there are.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn

from aimet_torch.common.collectives import Ranks
from aimet_torch.common.progress import progress
from aimet_torch.graph import ModelGraph, OpNode, bind_inputs
from aimet_torch.ptq.value_cache import ValueCache

__all__ = ["OnChange", "Replay", "call_node", "count_inputs", "record_inputs"]


class _RecordedError(Exception):
    """Ends a forward pass once its inputs are known."""


def count_inputs(model: nn.Module, dummy_input: Any) -> int:
    """How many positional inputs an example input gives: the `input_count` of `record_inputs`."""
    return max(1, len(bind_inputs(model, dummy_input)[0]))


def record_inputs(
    model: nn.Module,
    batches: Iterable[Any],
    forward_fn: Callable[[nn.Module, Any], Any] | None,
    num_batches: int | None,
    input_count: int = 1,
    ranks: Ranks | None = None,
) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """What ``model`` is called with for each batch.

    Args:
        model: Not run further than its inputs.
        batches: A data loader or other iterable.
        forward_fn: ``forward_fn(model, batch)``; None: a batch is an input, a mapping of keyword
            arguments, or a tuple or list whose first ``input_count`` entries are inputs.
        num_batches: How many batches; None: all.
        input_count: Positional inputs of the model.
        ranks: Who else has a part of the data; then one of them may have none.

    Raises:
        ValueError: No batch on any rank, or ``forward_fn`` does not call the model.
    """
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append((args, kwargs))
        raise _RecordedError

    handle = model.register_forward_pre_hook(record, with_kwargs=True)
    try:
        for index, batch in enumerate(batches):
            if num_batches is not None and index >= num_batches:
                break
            if forward_fn is None:
                calls.append(_inputs_of(model, batch, input_count))
                continue
            try:
                forward_fn(model, batch)
            except _RecordedError:
                continue
            raise ValueError(
                "`forward_fn` must call the model that it is given; it returned without doing so"
            )
    finally:
        handle.remove()
    if ranks is not None:
        ranks.require_equal(model.parameters())
    if not any([len(calls)] if ranks is None else ranks.gather(len(calls))):
        raise ValueError("`data_loader` gave no batch")
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    to_device = torch.utils._pytree.tree_map
    return to_device(lambda x: x.to(device) if isinstance(x, Tensor) else x, calls)


def _inputs_of(
    model: nn.Module, batch: Any, input_count: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(batch, Tensor):
        return (batch,), {}
    if isinstance(batch, tuple | list):
        return tuple(batch[:input_count]), {}
    if isinstance(batch, Mapping):
        known = inspect.signature(model.forward).parameters
        return bind_inputs(model, {k: v for k, v in batch.items() if k in known} or batch)
    return (batch,), {}


class OnChange(Protocol):
    """What else the changed network does, such as quantizing activations."""

    def concerns(self, node: fx.Node) -> bool:
        """Whether it does anything at a node."""
        ...

    def inputs(
        self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the node gets in place of its arguments."""
        ...

    def output(self, node: fx.Node, value: Any) -> Any:
        """What becomes of its result."""
        ...


def call_node(
    model: nn.Module, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """The result of a node that calls something, for these arguments."""
    if node.op == "call_module":
        return model.get_submodule(str(node.target))(*args, **kwargs)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    assert callable(node.target)
    return node.target(*args, **kwargs)


class Replay:
    """The values of a network's graph for all batches, before and after a change of its layers.

    Args:
        graph: Traced graph after ``to_module()``, in evaluation mode.
        calls: From :func:`record_inputs`.
        cache: Holds the values that are still needed.
        on_change: What else the changed network does.
        holds: For some nodes, values that must stay until the node is done, all its results there.
        done: Called with each of these nodes then.
    """

    def __init__(
        self,
        graph: ModelGraph,
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]],
        cache: ValueCache,
        on_change: OnChange | None = None,
        holds: Mapping[fx.Node, Sequence[fx.Node]] | None = None,
        done: Callable[[fx.Node], None] | None = None,
    ) -> None:
        self.graph = graph
        self.batch_count = len(calls)
        self._cache = cache
        self._calls = calls
        self._changed: set[fx.Node] = set()
        self._on_change = on_change
        self._holds = holds or {}
        self._done = done

    def layers(self, is_layer: Callable[[OpNode], bool], description: str) -> Iterator[OpNode]:
        """Walk the graph; yield each operation that ``is_layer``, its inputs being there.

        After the yield the operation must have been passed to :meth:`finish`.
        """
        ops = {op.fx_node: op for op in self.graph.ops}
        nodes = list(self.graph.fx_graph.nodes)
        users = {node: len(node.users) for node in nodes}
        for held in self._holds.values():
            for node in held:
                users[node] += 1
        layers = [n for n in nodes if n in ops and is_layer(ops[n])]
        bar = iter(progress(layers, description, unit="layer"))
        with torch.no_grad():
            for node in nodes:
                if node.op == "output":
                    break
                if node in layers:
                    next(bar)
                    yield ops[node]
                else:
                    self._run(node)
                held = self._holds.get(node, ())
                if node in self._holds and self._done is not None:
                    self._done(node)
                for used in (*node.all_input_nodes, *held):
                    users[used] -= 1
                    if users[used] == 0:
                        self._forget(used)
                if not node.users:
                    self._forget(node)
        for _ in bar:
            pass

    def operands(self, op: OpNode, batch: int, changed: bool) -> tuple[Any, ...]:
        """Positional arguments of an operation in the original or the changed network."""
        assert op.fx_node is not None
        return self.arguments(op.fx_node, batch, changed)[0]

    def arguments(
        self, node: fx.Node, batch: int, changed: bool
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """All arguments of a node in the original or the changed network."""
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: self.value(n, batch, changed))
        if changed and self._on_change is not None:
            return self._on_change.inputs(node, args, kwargs)
        return args, kwargs

    def value(self, node: fx.Node, batch: int, changed: bool) -> Any:
        """The result of a node."""
        return self._cache.get((node, batch, changed and node in self._changed))

    def is_changed(self, node: fx.Node) -> bool:
        """Whether the node's result differs between the two networks."""
        return node in self._changed

    def is_known(self, node: fx.Node, batch: int = 0) -> bool:
        """Whether the result of a node is there already."""
        return (node, batch, False) in self._cache

    def put_original(self, op: OpNode, batch: int, value: Any) -> None:
        """Keep the result of a layer in the original network."""
        self._cache.put((op.fx_node, batch, False), value)

    def put_changed(self, node: fx.Node, batch: int, value: Any) -> None:
        """Replace the result of a node in the changed network."""
        self._cache.put((node, batch, True), value)
        self._changed.add(node)

    def finish(self, op: OpNode, run: Callable[[tuple[Any, ...]], Any]) -> None:
        """Run a changed layer over all batches; its original results have been put."""
        assert op.fx_node is not None
        for batch in range(self.batch_count):
            result = run(self.operands(op, batch, True))
            if self._on_change is not None:
                result = self._on_change.output(op.fx_node, result)
            self._cache.put((op.fx_node, batch, True), result)
        self._changed.add(op.fx_node)

    def run_original(self, batch: int, wanted: Sequence[fx.Node]) -> tuple[list[Any], Any]:
        """One run of the original network by itself: the values of some nodes, and the result."""
        values: dict[fx.Node, Any] = {}
        for node in self.graph.fx_graph.nodes:
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            if node.op == "output":
                return [values[n] for n in wanted], args[0]
            if node.op in ("placeholder", "get_attr"):
                values[node] = self.source(node, batch)
            else:
                values[node] = call_node(self.graph.model, node, args, kwargs)
        raise AssertionError("a graph ends with its output")

    def _run(self, node: fx.Node) -> None:
        is_changed = any(used in self._changed for used in node.all_input_nodes)
        is_changed |= self._on_change is not None and self._on_change.concerns(node)
        for batch in range(self.batch_count):
            self._cache.put((node, batch, False), self._evaluate(node, batch, False))
            if is_changed:
                self._cache.put((node, batch, True), self._evaluate(node, batch, True))
        if is_changed:
            self._changed.add(node)

    def source(self, node: fx.Node, batch: int) -> Any:
        """The value of an input, parameter or constant."""
        if node.op == "placeholder":
            return self._argument(node, batch)
        value: Any = self.graph.model
        for part in str(node.target).split("."):
            value = getattr(value, part)
        return value

    def _evaluate(self, node: fx.Node, batch: int, changed: bool) -> Any:
        if node.op in ("placeholder", "get_attr"):
            return self.source(node, batch)
        result = call_node(self.graph.model, node, *self.arguments(node, batch, changed))
        if changed and self._on_change is not None:
            result = self._on_change.output(node, result)
        return result

    def _argument(self, node: fx.Node, batch: int) -> Any:
        args, kwargs = self._calls[batch]
        bound = inspect.signature(self.graph.model.forward).bind(*args, **kwargs)
        bound.apply_defaults()
        name = str(node.target).lstrip("*")
        return bound.arguments[name]

    def _forget(self, node: fx.Node) -> None:
        for batch in range(self.batch_count):
            for changed in (False, True):
                self._cache.drop((node, batch, changed))
