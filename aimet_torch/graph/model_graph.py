"""The graph of a traced model: operations, the values between them, and how to run it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn

from aimet_torch.graph import rewrite
from aimet_torch.graph.op_types import op_type_of_function, op_type_of_module
from aimet_torch.graph.structure import leaves
from aimet_torch.graph.torch_functions import getitem


@dataclasses.dataclass(eq=False)
class Value:
    """A tensor that flows through the graph.

    Attributes:
        name: Unique: of an input its argument's name, of a parameter or buffer its dotted name, of
            an activation its producer's name, with ``.1``, ``.2``, ... for further outputs.
        kind: ``input``, ``activation``, ``parameter``, ``buffer`` or ``constant``.
        shape: Shape in the trace.
        dtype: Dtype in the trace.
        producer: The operation that computes it; None for inputs, parameters, buffers, constants.
        consumers: (operation, index among its tensor inputs).
        parameter_name: Dotted name in the model, for parameters, buffers and constants.
        is_model_output: Whether the model returns it.
        varies: Whether it can depend on the model's input or on a parameter.
        finite: False when the trace saw inf or NaN in it (attention masks).
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    fx_node: fx.Node | None
    producer: OpNode | None = None
    consumers: list[tuple[OpNode, int]] = dataclasses.field(default_factory=list)
    parameter_name: str | None = None
    is_model_output: bool = False
    varies: bool = True
    finite: bool = True

    @property
    def is_float(self) -> bool:
        """Whether it is a floating-point tensor, which can have a quantizer."""
        return self.dtype.is_floating_point

    def __repr__(self) -> str:
        return f"Value({self.name!r}, {self.kind}, {list(self.shape)})"


@dataclasses.dataclass(eq=False)
class OpNode:
    """One call of a module or function on tensors.

    Attributes:
        name: Unique dotted name: the module's for its first call, with ``.1``, ``.2`` for further
            calls.
        op_type: ONNX name of the operation, or the name of the function or class.
        fx_node: Its node in ``ModelGraph.fx_graph``.
        module: The module that computes it; of functional operations only after
            ``ModelGraph.to_module()``.
        module_name: Dotted name of ``module``.
        call_index: 0 for the first call of the module, 1 for the second, ...
        function: The function, for functional operations.
        inputs: Tensor inputs in the order of the flattened arguments, repetitions kept.
        outputs: Tensor outputs in the order of the flattened result.
    """

    name: str
    op_type: str
    fx_node: fx.Node | None
    module: nn.Module | None = None
    module_name: str | None = None
    call_index: int = 0
    function: Callable[..., Any] | None = None
    inputs: list[Value] = dataclasses.field(default_factory=list)
    outputs: list[Value] = dataclasses.field(default_factory=list)

    @property
    def is_boundary(self) -> bool:
        """Whether this is a module that could not be traced into."""
        return self.op_type == "Boundary"

    @property
    def touches_floats(self) -> bool:
        """Whether any input or output is a floating-point tensor."""
        return any(v.is_float for v in (*self.inputs, *self.outputs))

    def producers(self) -> list[OpNode]:
        """The operations whose outputs this one reads, each once, in input order."""
        return list(dict.fromkeys(v.producer for v in self.inputs if v.producer is not None))

    def consumers(self) -> list[OpNode]:
        """The operations that read this one's outputs, each once, in execution order."""
        return list(dict.fromkeys(op for v in self.outputs for op, _ in v.consumers))

    def next_op(self) -> OpNode | None:
        """The only consumer; None when there are several or the model returns an output."""
        uses = [op for v in self.outputs for op, _ in v.consumers]
        if len(uses) != 1 or any(v.is_model_output for v in self.outputs):
            return None
        return uses[0]

    def __repr__(self) -> str:
        return f"OpNode({self.name!r}, {self.op_type})"


@dataclasses.dataclass
class Boundary:
    """A module that runs its own Python code because it could not be traced into.

    Attributes:
        name: Dotted name; empty for the whole model.
        reason: What could not be traced, and where.
        unquantized_ops: Functional operations with floating outputs seen inside, ``name -> calls``.
        ops: The leaf modules called inside, one unconnected OpNode each, in order of their first
            call.
    """

    name: str
    reason: str
    unquantized_ops: dict[str, int]
    ops: list[OpNode]


class ModelGraph:
    """Connected graph of a traced model.

    Attributes:
        model: The traced model, unchanged until ``to_module()``.
        fx_graph: The ``torch.fx`` graph.
        ops: All operations in execution order.
        inputs: Tensor inputs of the model, flattened.
        outputs: Tensor outputs of the model, flattened.
        boundaries: What could not be traced into.
        specializations: Decisions of Python code that the trace fixed, as text.
    """

    def __init__(
        self,
        model: nn.Module,
        fx_graph: fx.Graph,
        signature: rewrite.Signature,
        boundaries: list[Boundary],
        specializations: list[str],
        constants: dict[str, torch.Tensor],
    ) -> None:
        self.model = model
        self.fx_graph = fx_graph
        self.signature = signature
        self.boundaries = boundaries
        self.specializations = specializations
        self.constants = constants
        self.is_rewritten = False
        self.ops: list[OpNode] = []
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self._values: dict[fx.Node, list[Value]] = {}
        self._build()

    # ---------------------------------------------------------------------- queries

    def find_ops(self, *op_types: str) -> list[OpNode]:
        """The operations of the given types, in execution order."""
        return [op for op in self.ops if op.op_type in op_types]

    def op_for_module(self, name: str) -> OpNode | None:
        """The first call of the module with this dotted name."""
        return next((op for op in self.ops if op.module_name == name), None)

    def calls_of(self, module: nn.Module) -> list[OpNode]:
        """All calls of a module, in execution order."""
        return [op for op in self.ops if op.module is module]

    def values(self) -> Iterator[Value]:
        """All values: inputs, parameters read by code, outputs of operations."""
        seen: set[int] = set()
        for group in self._values.values():
            for value in group:
                if id(value) not in seen:
                    seen.add(id(value))
                    yield value

    def value(self, name: str) -> Value:
        """The value of this name.

        Raises:
            KeyError: there is none.
        """
        for value in self.values():
            if value.name == name:
                return value
        raise KeyError(f"ModelGraph.value: no value is called {name!r}")

    # ---------------------------------------------------------------------- running

    def to_module(self) -> nn.Module:
        """Make the model, in place, run this graph; every operation becomes a module.

        Returns:
            ``self.model``: same parameters, buffers and names; its class is a subclass of its
            former class.
        """
        if not self.is_rewritten and not self.is_one_boundary:
            rewrite.install(self)
        self.is_rewritten = True
        return self.model

    def recompile(self) -> None:
        """Make the model's forward run ``fx_graph`` as it is now, after it was edited."""
        if not self.is_one_boundary:
            rewrite.compile_forward(self.model, self.fx_graph, self.signature)

    @property
    def is_one_boundary(self) -> bool:
        """Whether nothing could be traced: the model keeps its own forward."""
        return any(b.name == "" for b in self.boundaries)

    def __reduce__(self) -> Any:
        """Copies hold the model and the graph; operations and values follow from them."""
        packed = rewrite.pack_graph(self.fx_graph, with_meta=True)
        rest = (
            self.signature,
            self.boundaries,
            self.specializations,
            self.constants,
            self.is_rewritten,
        )
        return (_restore, (self.model, packed, *rest))

    # ---------------------------------------------------------------------- construction

    def _build(self) -> None:
        if self.is_one_boundary:
            self.ops.append(OpNode("", "Boundary", None, self.model, ""))
            return
        self.modules = dict(self.model.named_modules(remove_duplicate=False))
        self._used = {name for name, _ in self.model.named_modules()} | {""}
        boundary_names = {b.name for b in self.boundaries}
        calls: dict[str, int] = {}
        for node in self.fx_graph.nodes:
            if node.op == "output":
                for result in leaves(node.args, fx.Node):
                    for value in self._values.get(result, ()):
                        value.is_model_output = True
                        self.outputs.append(value)
            elif (
                node.op == "call_function"
                and node.target in (getitem, getattr)
                and "basename" not in node.meta
            ):
                self._select(node)
            elif "basename" in node.meta:
                self._add_op(node, calls, boundary_names)
            elif node.meta.get("outputs"):
                self._add_source(node)
        for op in self.ops:
            for index, value in enumerate(op.inputs):
                value.consumers.append((op, index))

    def _add_source(self, node: fx.Node) -> None:
        _, shape, dtype = node.meta["outputs"][0]
        kind = node.meta.get("kind", "input")
        if node.op == "get_attr":
            name = str(node.target)
            kind = self._kind_of(name)
            value = Value(
                name, kind, shape, dtype, node, parameter_name=name, varies=kind == "parameter"
            )
        else:
            value = Value(node.meta["input_name"], kind, shape, dtype, node)
            self.inputs.append(value)
        self._values[node] = [value]

    def _kind_of(self, name: str) -> str:
        owner, _, attribute = name.rpartition(".")
        module = self.modules.get(owner)
        if module is not None and attribute in module._parameters:
            return "parameter"
        return "buffer" if module is not None and attribute in module._buffers else "constant"

    def _select(self, node: fx.Node) -> None:
        """A node that takes one entry of a tuple, list, dict or dataclass."""
        if "output_index" not in node.meta:
            if node.meta.get("outputs"):  # an entry of a nested input
                self._add_source(node)
            return
        root: Any = node.args[0]
        while "basename" not in root.meta:
            root = root.args[0]
        self._values[node] = [self._values[root][node.meta["output_index"]]]

    def _add_op(self, node: fx.Node, calls: dict[str, int], boundary_names: set[str]) -> None:
        op = (
            self._module_op(node, calls, boundary_names)
            if node.op == "call_module"
            else self._function_op(node)
        )
        op.inputs = [
            v for n in leaves((node.args, node.kwargs), fx.Node) for v in self._values.get(n, ())
        ]
        finite = node.meta.get("finite", [])
        for index, (_, shape, dtype) in enumerate(node.meta["outputs"]):
            name = op.name
            if index:
                separator = ":" if f"{op.name}.{index}" in self._used else "."
                name = f"{op.name}{separator}{index}"
            value = Value(name, "activation", shape, dtype, node, op)
            value.varies = node.meta.get("varies", True)
            value.finite = finite[index] if index < len(finite) else True
            op.outputs.append(value)
        self._values[node] = op.outputs
        node.meta["op_name"] = op.name
        self.ops.append(op)

    def _module_op(self, node: fx.Node, calls: dict[str, int], boundary_names: set[str]) -> OpNode:
        target = str(node.target)
        index = calls.get(target, 0)
        calls[target] = index + 1
        module = self.modules[target]
        op_type = node.meta.get("op_type")
        if target in boundary_names:
            op_type = "Boundary"
        elif op_type is None:
            op_type = op_type_of_module(module, node.args, node.kwargs)
        name = target if index == 0 else self._unique(f"{target}.{index}")
        return OpNode(name, op_type, node, module, target, index, node.meta.get("function"))

    def _function_op(self, node: fx.Node) -> OpNode:
        base, owner = node.meta["basename"], node.meta["owner"]
        op_type = op_type_of_function(base, node.args, node.kwargs)
        while owner and isinstance(
            self.modules[owner], (nn.Sequential, nn.ModuleList, nn.ModuleDict)
        ):
            # A container iterates over its children: an operation among them would be run as a
            # layer.
            owner, _, last = owner.rpartition(".")
            base = f"{last}_{base}"
        parent = self.modules[owner]
        candidate, count = base, 0
        while (
            hasattr(parent, candidate) or (f"{owner}." if owner else "") + candidate in self._used
        ):
            count += 1
            candidate = f"{base}_{count}"
        name = self._unique((f"{owner}." if owner else "") + candidate)
        return OpNode(name, op_type, node, function=node.meta["function"])

    def _unique(self, name: str) -> str:
        candidate, count = name, 0
        while candidate in self._used:
            count += 1
            candidate = f"{name}_{count}"
        self._used.add(candidate)
        return candidate


def _restore(
    model: nn.Module,
    packed: Any,
    signature: Any,
    boundaries: Any,
    notes: Any,
    constants: Any,
    is_rewritten: bool,
) -> ModelGraph:
    graph = rewrite.unpack_graph(packed)
    restored = ModelGraph(model, graph, signature, boundaries, notes, constants)
    restored.is_rewritten = is_rewritten
    if is_rewritten:
        restored.recompile()
    return restored


def skip_identity(op: OpNode | None) -> OpNode | None:
    """``op``, or the first operation on its single path that is no Identity or Dropout."""
    while op is not None and op.op_type in ("Identity", "Dropout"):
        op = op.next_op()
    return op
