"""What a model costs: multiply-accumulates, parameters and activations of each layer."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.common import tables
from aimet_torch.graph import ModelGraph, OpNode, macs_of_module, multiply_accumulates, trace
from aimet_torch.graph import bind_inputs as _bind_inputs

__all__ = ["LayerCost", "ModelCost", "estimate_cost"]


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """One module with all its calls, or one functional operation.

    Attributes:
        name: Dotted name of the module, or of the operation's call site.
        op_type: ONNX name of the operation.
        calls: How often one run of the model calls it.
        macs: Multiply-accumulates of all calls; None where they are not known.
        parameters: Its parameters; those that an earlier layer has too count there.
        parameter_bytes: Their size.
        activations: Elements of its outputs, all calls.
        activation_bytes: Their size.
        output_shape: Of the first call.
    """

    name: str
    op_type: str
    calls: int
    macs: int | None
    parameters: int
    parameter_bytes: int
    activations: int
    activation_bytes: int
    output_shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class ModelCost:
    """What a model costs for one input. `print` shows it as a table.

    Attributes:
        layers: In the order of their first call; operations without parameters and
            multiply-accumulates too.
        parameters: All parameters of the model, shared ones once.
        parameter_bytes: Their size.
        unknown: Names of the layers and operations whose multiply-accumulates are not counted.
    """

    layers: list[LayerCost]
    parameters: int
    parameter_bytes: int
    unknown: list[str] = dataclasses.field(default_factory=list)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a run, where they are known."""
        return sum(layer.macs or 0 for layer in self.layers)

    @property
    def activations(self) -> int:
        """Elements that all operations give."""
        return sum(layer.activations for layer in self.layers)

    @property
    def activation_bytes(self) -> int:
        """Size of what all operations give; not the peak, since most of it is freed in between."""
        return sum(layer.activation_bytes for layer in self.layers)

    def layer(self, name: str) -> LayerCost:
        """The row of a layer.

        Raises:
            KeyError: There is none of this name.
        """
        for row in self.layers:
            if row.name == name:
                return row
        raise KeyError(f"ModelCost.layer: no layer is called {name!r}")

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and dicts, for JSON."""
        totals = {
            "macs": self.macs,
            "activations": self.activations,
            "activation_bytes": self.activation_bytes,
        }
        return {**dataclasses.asdict(self), **totals}

    def write_json(self, path: str | os.PathLike[str]) -> Path:
        """Write it as JSON to ``path`` and return that."""
        return tables.write_json(path, tables.json_ready(self.to_dict()))

    def __str__(self) -> str:
        shown = [row for row in self.layers if row.macs is None or row.macs or row.parameters]
        cells = [_cells(row, self.macs) for row in shown]
        total = ("total", "", "", f"{self.macs:,}", "", f"{self.parameters:,}")
        cells.append((*total, f"{self.parameter_bytes:,}", f"{self.activations:,}"))
        lines = [tables.text_table(_HEADER, cells)]
        if self.unknown:
            lines.append(f"not counted: {', '.join(self.unknown)}")
        return "\n".join(lines)


_HEADER = ("layer", "type", "output", "MACs", "share", "parameters", "bytes", "activations")


def _cells(row: LayerCost, total: int) -> tuple[str, ...]:
    calls = "" if row.calls == 1 else f" (x{row.calls})"
    share = None if row.macs is None or not total else row.macs / total
    return (
        row.name + calls,
        row.op_type,
        "x".join(map(str, row.output_shape)),
        tables.NOTHING if row.macs is None else f"{row.macs:,}",
        tables.format_percent(share),
        f"{row.parameters:,}",
        f"{row.parameter_bytes:,}",
        f"{row.activations:,}",
    )


@dataclasses.dataclass
class _Call:
    """One call of a module or function, wherever it was seen."""

    name: str
    op_type: str
    parameters: list[Tensor]
    macs: int | None
    outputs: list[tuple[tuple[int, ...], torch.dtype]]


def estimate_cost(model: nn.Module, input: Any) -> ModelCost:
    """Count what one run of a model costs, layer by layer.

    A multiply-accumulate is one product that is added up: of convolutions, linear layers, matrix
    products and recurrent layers, as modules or functions. Normalizations, activations and
    elementwise operations count as 0. In parts that cannot be traced, modules are counted and
    functional operations are named in ``unknown``.

    Args:
        model: Any module that runs on ``input``; it is left as it is.
        input: A tensor, a tuple or list of positional arguments, or a dict of keyword arguments.
            Multiply-accumulates and activations are those of this whole batch.

    Raises:
        TypeError: ``model`` is not a module.
        Exception: Whatever the model raises on ``input``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"estimate_cost: `model` must be an nn.Module, got {type(model).__name__}; pass "
            "`sim.model` of a simulation"
        )
    graph = trace(model, input)
    calls, unknown = _calls_of(graph, input)
    rows: dict[str, list[_Call]] = {}
    for call in calls:
        rows.setdefault(call.name, []).append(call)
    seen: set[int] = set()
    layers = [_row(name, group, seen) for name, group in rows.items()]
    unknown = [*unknown, *(row.name for row in layers if row.macs is None)]
    own = list(model.parameters())
    return ModelCost(layers, _elements(own), _bytes(own), unknown)


def _calls_of(graph: ModelGraph, input: Any) -> tuple[list[_Call], list[str]]:
    inside = _calls_inside(graph, input)
    named = dict(graph.model.named_parameters(remove_duplicate=False))
    calls: list[_Call] = []
    for op in graph.ops:
        if op.is_boundary:
            calls += inside.get(op.module_name or "", [])
        else:
            calls.append(_call_of(op, named))
    unknown = [
        f"{boundary.name or 'model'}: {name} (x{count})"
        for boundary in graph.boundaries
        for name, count in boundary.unquantized_ops.items()
        if name in _PRODUCTS
    ]
    return calls, unknown


_PRODUCTS = frozenset({
    "matmul", "mm", "bmm", "mv", "dot", "addmm", "addmv", "baddbmm", "einsum", "bilinear",
    "tensordot", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d", "linear", "scaled_dot_product_attention",
})  # fmt: skip


def _call_of(op: OpNode, named: dict[str, nn.Parameter]) -> _Call:
    outputs = [(tuple(value.shape), value.dtype) for value in op.outputs]
    name = op.name if op.module is None else str(op.module_name)
    # Of a function: those among its arguments.
    read: list[Tensor] = [named[k] for v in op.inputs if (k := v.parameter_name) in named]
    own = [] if op.module is None else list(op.module.parameters())
    return _Call(name, op.op_type, own + read, multiply_accumulates(op), outputs)


def _calls_inside(graph: ModelGraph, input: Any) -> dict[str, list[_Call]]:
    """Calls of leaf modules in parts that cannot be traced, by the part's name: one run more."""
    if not graph.boundaries:
        return {}
    model = copy.deepcopy(graph.model).eval()
    names = {op.module_name: (op.op_type, b.name) for b in graph.boundaries for op in b.ops}
    calls: dict[str, list[_Call]] = {}

    def hook(name: str, op_type: str, boundary: str) -> Any:
        def record(module: nn.Module, args: Any, output: Any) -> None:
            shapes = [tuple(t.shape) for t in _tensors(args)]
            results = [(tuple(t.shape), t.dtype) for t in _tensors(output)]
            parameters: list[Tensor] = list(originals[name].parameters())
            macs = macs_of_module(op_type, module, shapes, [shape for shape, _ in results])
            calls.setdefault(boundary, []).append(_Call(name, op_type, parameters, macs, results))

        return record

    originals = dict(graph.model.named_modules())
    for name, module in model.named_modules():
        if name in names:
            module.register_forward_hook(hook(name, *names[name]))
    args, kwargs = _bind_inputs(model, input)
    with torch.no_grad():
        model(*args, **kwargs)
    return calls


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _row(name: str, calls: list[_Call], seen: set[int]) -> LayerCost:
    first = calls[0]
    own = []
    for parameter in (p for call in calls for p in call.parameters):
        if id(parameter) not in seen:
            seen.add(id(parameter))
            own.append(parameter)
    outputs = [output for call in calls for output in call.outputs]
    counts = [call.macs for call in calls]
    return LayerCost(
        name=name,
        op_type=first.op_type,
        calls=len(calls),
        macs=None if None in counts else sum(count or 0 for count in counts),
        parameters=_elements(own),
        parameter_bytes=_bytes(own),
        activations=sum(math.prod(shape) for shape, _ in outputs),
        activation_bytes=sum(math.prod(shape) * dtype.itemsize for shape, dtype in outputs),
        output_shape=first.outputs[0][0] if first.outputs else (),
    )


def _elements(parameters: Iterable[Tensor]) -> int:
    return sum(p.numel() for p in parameters)


def _bytes(parameters: Iterable[Tensor]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)
