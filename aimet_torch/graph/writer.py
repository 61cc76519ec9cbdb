"""Writing graph nodes for tensors, numbers and results of a running model."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from aimet_torch.graph import runtime, torch_functions
from aimet_torch.graph.boundaries import BoundaryRecord
from aimet_torch.graph.frames import user_location
from aimet_torch.graph.structure import is_namedtuple, rebuild
from aimet_torch.graph.symbols import describe, is_symbol
from aimet_torch.graph.values import Untraceable, Values, storage_key

_LITERALS = (
    str, int, float, bool, complex, type(None), type(...), torch.dtype, torch.device, torch.layout,
    torch.memory_format, range, enum.Enum,
)  # fmt: skip


class GraphWriter:
    """A graph under construction.

    Attributes:
        graph: The nodes so far.
        values: Which node holds the value of which tensor.
        stack: Dotted names of the modules whose code is running, innermost last.
        constants: Tensors from outside that the graph reads, by the names they get.
        constant_owners: The module that was running when each of them appeared.
        specializations: What Python code decided on traced numbers.
        observed: The boundary that is running, whose contents are only counted.
        paused: Whether the recorder's own code, or a leaf's, is running.
        recording: Whether the model is running.
    """

    def __init__(self, model: nn.Module, tensor_names: dict[int, str]) -> None:
        super().__init__()
        self.model = model
        self.tensor_names = tensor_names
        self.graph = fx.Graph()
        self.values = Values(self.graph)
        self.stack: list[str] = []
        self.constants: dict[str, Tensor] = {}
        self.constant_owners: list[str] = []
        self.specializations: dict[tuple[Any, ...], str] = {}
        self.observed: BoundaryRecord | None = None
        self.paused = False
        self.recording = False
        self._symbol_nodes: dict[Any, fx.Node] = {}
        self._get_attr: dict[str, fx.Node] = {}

    @property
    def active(self) -> bool:
        """Whether operations are being recorded right now."""
        return self.recording and not self.paused and self.observed is None

    @property
    def owner(self) -> str:
        """Dotted name of the innermost module whose code is running."""
        return self.stack[-1] if self.stack else ""

    @contextlib.contextmanager
    def _pause(self) -> Iterator[None]:
        paused, self.paused = self.paused, True
        try:
            with torch._C.DisableTorchFunction():
                yield
        finally:
            self.paused = paused

    def fail(self, reason: str) -> Untraceable:
        """The exception for something that no graph can hold, found in the module that runs now."""
        return Untraceable(f"{reason} ({user_location()})", self.owner)

    # ---------------------------------------------------------------------- notes

    def name_of(self, tensor: Tensor) -> str:
        """The name of a tensor's node, for messages."""
        node = self.values.node(tensor)
        return "tensor" if node is None else str(node.meta.get("input_name", node.name))

    def specialize(self, value: Any, expected: Any, what: str) -> None:
        """Python code used a traced number: the graph holds while it equals ``expected``."""
        if not self.active:
            return
        node = self._symbol_node(value)
        if node.meta.get("dynamic"):
            raise self.fail("Python depends on a size that depends on the values of a tensor")
        text = describe(value)
        if self._note((node, expected), f"{what}: {text} was {expected!r}"):
            self.graph.call_function(
                runtime.check_specialization, (node, expected, f"`{text}` at {user_location()}")
            )

    def _note(self, key: tuple[Any, ...], text: str) -> bool:
        if key in self.specializations:
            return False
        self.specializations[key] = f"{text} ({self.owner or 'model'}, {user_location()})"
        return True

    # ---------------------------------------------------------------------- values and nodes

    def lower(self, value: Any) -> Any:
        """``value`` with tensors and traced numbers replaced by their nodes."""
        if isinstance(value, Tensor):
            return self._tensor_node(value)
        if is_symbol(value):
            return self._symbol_node(value)
        if isinstance(value, _LITERALS):
            return value
        if is_namedtuple(value):
            items = tuple(self.lower(v) for v in value)
            # A class with its own constructor (PackedSequence) cannot hold nodes: build it when the
            # graph runs.
            own = type(value).__bases__ != (tuple,)
            return self.graph.call_function(type(value), items) if own else type(value)(*items)
        if isinstance(value, (tuple, list)):
            return (list if isinstance(value, list) else tuple)(self.lower(v) for v in value)
        if type(value) is dict:
            return {k: self.lower(v) for k, v in value.items()}
        if isinstance(value, slice):
            return slice(self.lower(value.start), self.lower(value.stop), self.lower(value.step))
        if dataclasses.is_dataclass(value):
            fields = {
                f.name: self.lower(getattr(value, f.name))
                for f in dataclasses.fields(value)
                if f.init
            }
            return self.graph.call_function(type(value), (), fields)
        if isinstance(value, dict):
            return self.graph.call_function(
                type(value), ({k: self.lower(v) for k, v in value.items()},)
            )
        if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
            return value.item()
        raise self.fail(f"an argument of type {type(value).__name__} cannot be part of a graph")

    def _tensor_node(self, tensor: Tensor) -> fx.Node:
        node = self.values.node(tensor)
        if node is None:
            name = self.tensor_names.get(id(tensor))
            if name is None:
                name = self._free_name()
                self.constants[name] = tensor
                self.constant_owners.append(self.owner)
                self._note(
                    (name,),
                    "a tensor that the tracer did not see being made is a constant of the graph",
                )
            node = self.attribute(name)
            with self._pause():
                node.meta["outputs"] = [((), tuple(tensor.shape), tensor.dtype)]
            node.meta["varies"] = isinstance(tensor, nn.Parameter)
            self.values.define(tensor, node, persistent=True)
        return node

    def _free_name(self) -> str:
        count = len(self.constants)
        while hasattr(self.model, f"_tensor_constant{count}"):
            count += 1
        return f"_tensor_constant{count}"

    def attribute(self, name: str) -> fx.Node:
        """The node that reads a tensor of the model."""
        if name not in self._get_attr:
            self._get_attr[name] = self.graph.create_node("get_attr", name)
        return self._get_attr[name]

    def _symbol_node(self, value: Any) -> fx.Node:
        args = tuple(self.lower(a) for a in value.args)
        key = (value.function, args, type(value))
        node = self._symbol_nodes.get(key)
        if node is None:
            if isinstance(value.args[0], Tensor):
                node = self.graph.call_method(value.function.__name__, args)
            else:
                node = self.graph.call_function(value.function, args)
            node.meta["varies"] = False
            node.meta["sized"] = True
            node.meta["dynamic"] = any(n.meta.get("dynamic") for n in node.all_input_nodes)
            self._symbol_nodes[key] = node
        return node

    def _bind(
        self, node: fx.Node, result: Any, inputs: list[Tensor], name: str, func: Any = None
    ) -> Any:
        """Name the tensors of ``result``, which ``node`` computes from ``inputs``."""
        by_storage = {storage_key(t): t for t in reversed(inputs)}
        outputs: list[tuple[tuple[Any, ...], Tensor]] = []
        base_nodes = {id(t): self.values.node(t) for t in inputs}

        def bind(path: tuple[Any, ...], tensor: Tensor) -> Tensor:
            if tensor in self.values or id(tensor) in self.tensor_names:
                # An operation that returned a tensor we know: its result needs a name of its own.
                if storage_key(tensor) not in by_storage:
                    self.lower(tensor)
                    by_storage[storage_key(tensor)] = tensor
                    base_nodes[id(tensor)] = self.values.node(tensor)
                with self._pause():
                    tensor = tensor.detach()
            target = node
            for index in path:
                target = self._item(target, index)
            if path:
                target.meta["outputs"] = [((), tuple(tensor.shape), tensor.dtype)]
                target.meta["varies"] = varies
                target.meta["output_index"] = len(outputs)
            outputs.append((path, tensor))
            base = by_storage.get(storage_key(tensor))
            base_node = None if base is None else base_nodes[id(base)]
            if base is None or base_node is None:
                self.values.define(tensor, target)
            else:
                self.values.define_view(tensor, target, base, node, base_node, path)
            return tensor

        varies = self._varies(node)
        result = rebuild(result, bind, with_path=True)
        self._set_meta(node, func, name, outputs)
        return result

    def _item(self, node: fx.Node, index: Any) -> fx.Node:
        if isinstance(index, tuple):  # ("attr", name): a field of a dataclass
            return self.graph.call_function(getattr, (node, index[1]))
        return self.graph.call_function(torch_functions.getitem, (node, index))

    def _varies(self, node: fx.Node) -> bool:
        return any(n.meta.get("varies", True) for n in node.all_input_nodes)

    def _set_meta(
        self, node: fx.Node, func: Any, name: str, outputs: list[tuple[tuple[Any, ...], Tensor]]
    ) -> None:
        node.meta["owner"] = self.owner
        node.meta["function"] = node.target if node.op == "call_function" else func
        node.meta["basename"] = name
        node.meta["outputs"] = [(path, tuple(t.shape), t.dtype) for path, t in outputs]
        node.meta["sized"] = any(n.meta.get("sized") for n in node.all_input_nodes)
        node.meta["dynamic"] = any(t.dim() for _, t in outputs) and (
            torch_functions.has_dynamic_shape(name, node.args)
            or any(n.meta.get("dynamic") for n in node.all_input_nodes)
        )
        node.meta["finite"] = [func is None or _is_finite(t) for _, t in outputs]
        node.meta["varies"] = (
            node.op == "call_module" and bool(node.args or node.kwargs)
        ) or self._varies(node)


def _is_finite(tensor: Tensor) -> bool:
    with torch._C.DisableTorchFunction():
        if tensor.device.type == "meta" or not tensor.is_floating_point():
            return True
        return bool(torch.isfinite(tensor).all())
