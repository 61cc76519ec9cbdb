"""The FP32 ONNX graph with the encodings of its tensors beside it.

`encode` turns marked nodes into entries of a table, so that the graph computes what the user's
model computes. A tensor has at most one encoding under its name; where the simulation rounds one
tensor to two grids, or rounds it for one reader only, an Identity node gives the second reading a
name of its own.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as ir_passes

from aimet_torch.encodings.tensor_encoding import TensorEncoding
from aimet_torch.export.capture import (
    DEFAULT_OPSET,
    MARKER_DOMAIN,
    Capture,
    is_marker,
    marker_index,
)

# They read a tensor's size, not its numbers.
_SIZE_READERS = frozenset({"Shape", "Size"})

# Every number of the first output is a number of the first input, or zero, which every grid holds.
GRID_PRESERVING = frozenset(
    {
        "DepthToSpace",
        "Dropout",
        "Expand",
        "Flatten",
        "Gather",
        "GatherElements",
        "GatherND",
        "GlobalMaxPool",
        "Identity",
        "MaxPool",
        "ReduceMax",
        "ReduceMin",
        "Relu",
        "Reshape",
        "Slice",
        "SpaceToDepth",
        "Split",
        "Squeeze",
        "Tile",
        "Transpose",
        "Trilu",
        "Unsqueeze",
    }
)


# Their results lie between 0 and 1.
_GATES = frozenset({"Sigmoid", "HardSigmoid"})


@dataclass
class EncodedGraph:
    """An ONNX model without quantizers, and the encoding of each of its quantized tensors.

    Attributes:
        model: the graph.
        encodings: by tensor.
        opset: what the file shall be written for; older than the model's own where torch.onnx knows
            only later ones.
    """

    model: ir.Model
    encodings: dict[ir.Value, TensorEncoding] = field(default_factory=dict)
    opset: int = DEFAULT_OPSET

    def __post_init__(self) -> None:
        graph = self.model.graph
        values = [*graph.inputs, *graph.initializers.values()]
        values += [value for node in graph for value in node.outputs]
        self._names = {value.name for value in values}

    def unique_name(self, name: str) -> str:
        """`name`, with a number behind it when some tensor has that name already."""
        candidate, count = name, 0
        while candidate in self._names:
            count += 1
            candidate = f"{name}_{count}"
        self._names.add(candidate)
        return candidate

    def add_constant(
        self, name: str, array: np.ndarray, dtype: ir.DataType | None = None
    ) -> ir.Value:
        """A new initializer; it gets a number behind its name when that is taken."""
        name = self.unique_name(name)
        stored = np.array(array, order="C")
        if dtype is not None:
            stored = stored.astype(dtype.numpy())
        tensor = ir.Tensor(stored, dtype=dtype, name=name)
        value = ir.val(name, const_value=tensor)
        self.model.graph.register_initializer(value)
        return value

    def get(self, value: ir.Value | None) -> TensorEncoding | None:
        """The encoding of a tensor, or None."""
        return None if value is None else self.encodings.get(value)

    def integer(self, value: ir.Value | None) -> TensorEncoding | None:
        """The encoding of a tensor on an integer grid, or None."""
        encoding = self.get(value)
        return None if encoding is None or encoding.is_float else encoding


def encode(capture: Capture, output_names: Collection[str] = ()) -> EncodedGraph:
    """Take the markers out of a captured graph and tell which tensor has which encoding.

    Args:
        capture: graph with markers; its model is changed in place.
        output_names: names that the caller chose for the model's outputs; other outputs get the
            name of the operator's tensor, as in an export of the unquantized model.

    Returns:
        The graph, with encodings spread over operators that only move numbers.
    """
    graph = EncodedGraph(capture.model, opset=capture.opset)
    _merge_repeated(capture)
    _give_each_reading_a_constant(graph)
    plan = [
        (node, _has_exclusive_input(node, capture))
        for node in capture.model.graph
        if is_marker(node)
    ]
    for node, is_exclusive in plan:
        encoding = capture.encoding(marker_index(node))
        if is_exclusive:
            graph.encodings.setdefault(_take_out(node, output_names), encoding)
        else:
            graph.encodings[_turn_into_identity(node, graph)] = encoding
    _tidy(capture.model)
    _fold_weight_transposes(graph)
    spread(graph)
    _encode_gates(graph)
    return graph


def _merge_repeated(capture: Capture) -> None:
    """Rounding twice to one grid is rounding once; two equal readings of a tensor are one."""
    earlier: dict[ir.Value, list[ir.Node]] = {}
    for node in list(capture.model.graph):
        if not is_marker(node):
            continue
        source = node.inputs[0]
        producer = source.producer()
        twins = [producer] if producer is not None and is_marker(producer) else []
        twins += earlier.setdefault(source, [])
        earlier[source].append(node)
        if node.outputs[0].is_graph_output():
            continue
        encoding = capture.encoding(marker_index(node))
        twin = next(
            (t for t in twins if capture.encoding(marker_index(t)).has_same_grid(encoding)), None
        )
        if twin is not None:
            node.outputs[0].replace_all_uses_with(twin.outputs[0])
            earlier[source].remove(node)
            capture.model.graph.remove(node, safe=True)


def _give_each_reading_a_constant(graph: EncodedGraph) -> None:
    """Store a parameter that is read on several grids once for each: no Identity needed."""
    for value in list(graph.model.graph.initializers.values()):
        markers = [node for node in value.consumers() if is_marker(node)]
        readings = [[(node, 0)] for node in markers]
        plain = [(use.node, use.idx) for use in value.uses() if use.node not in markers]
        if markers and plain:
            readings.append(plain)
        for reading in readings[1:]:
            name = f"{value.name}_copy"
            copy = graph.add_constant(name, value.const_value.numpy(), value.const_value.dtype)
            for node, index in reading:
                node.replace_input_with(index, copy)


def _has_exclusive_input(node: ir.Node, capture: Capture) -> bool:
    """Whether all who read the marker's input read it rounded to the marker's grid."""
    source, output = node.inputs[0], node.outputs[0]
    producer = source.producer()
    if source.is_graph_output() or (producer is not None and is_marker(producer)):
        return False
    if output.is_graph_output() and producer is None:
        return False
    encoding = capture.encoding(marker_index(node))
    readers = [user for user in source.consumers() if user.op_type not in _SIZE_READERS]
    return all(
        is_marker(user) and capture.encoding(marker_index(user)).has_same_grid(encoding)
        for user in readers
    )


def _take_out(node: ir.Node, output_names: Collection[str]) -> ir.Value:
    source, output = node.inputs[0], node.outputs[0]
    if output.is_graph_output() and output.name in output_names:
        source.name = output.name
    output.replace_all_uses_with(source, replace_graph_outputs=True)
    node.graph.remove(node, safe=True)
    return source


def _turn_into_identity(node: ir.Node, graph: EncodedGraph) -> ir.Value:
    source, output = node.inputs[0], node.outputs[0]
    name = (
        output.name if output.is_graph_output() else graph.unique_name(f"{source.name}_requantized")
    )
    copy = ir.node("Identity", [source], name=f"node_{name}")
    copy.outputs[0].type, copy.outputs[0].shape = output.type, output.shape
    node.graph.insert_before(node, copy)
    output.replace_all_uses_with(copy.outputs[0], replace_graph_outputs=True)
    node.graph.remove(node, safe=True)
    copy.outputs[0].name = name
    return copy.outputs[0]


def _tidy(model: ir.Model) -> None:
    """No leftover of the markers, and none of the exporter's notes about source files."""
    model.opset_imports.pop(MARKER_DOMAIN, None)
    ir.passes.Sequential(
        ir_passes.RemoveUnusedNodesPass(),
        ir_passes.RemoveUnusedFunctionsPass(),
        ir_passes.ClearMetadataAndDocStringPass(),
    )(model)
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    for value in [*model.graph.inputs, *model.graph.initializers.values()]:
        value.metadata_props.clear()
    for node in model.graph:
        for value in node.outputs:
            value.metadata_props.clear()


def _fold_weight_transposes(graph: EncodedGraph) -> None:
    """Store a weight in the order in which it is read: its name stays on the operand."""
    for value in list(graph.model.graph.initializers.values()):
        readers = value.consumers()
        if (
            not readers
            or value.is_graph_output()
            or any(node.op_type != "Transpose" for node in readers)
        ):
            continue
        orders = {
            tuple(node.attributes["perm"].as_ints())
            for node in readers
            if "perm" in node.attributes
        }
        if len(orders) != 1 or any("perm" not in node.attributes for node in readers):
            continue
        (order,) = orders
        array = np.ascontiguousarray(np.transpose(value.const_value.numpy(), order))
        value.const_value = ir.tensor(array, name=value.name)
        value.shape = ir.Shape(array.shape)
        for node in list(readers):
            node.outputs[0].replace_all_uses_with(value)
            node.graph.remove(node, safe=True)
        encoding = graph.get(value)
        if encoding is not None:
            graph.encodings[value] = encoding.transposed(order)


def spread(graph: EncodedGraph) -> None:
    """Give the output of each operator that only moves numbers the encoding of its input."""
    for node in graph.model.graph:
        encoding = _preserved(node, graph)
        if encoding is None:
            continue
        outputs = node.outputs if node.op_type == "Split" else node.outputs[:1]
        for value in outputs:
            graph.encodings.setdefault(value, encoding)


def _encode_gates(graph: EncodedGraph) -> None:
    """Give the gate inside SiLU and GLU, which ONNX spells x * Sigmoid(y), the grid of [0, 1].

    The simulation rounds only the product. Rounding the gate as well moves the product by at most
    half a step of its own, and without it a target would compute both in floating point.
    """
    for node in graph.model.graph:
        product = graph.integer(node.outputs[0])
        if node.op_type != "Mul" or product is None:
            continue
        for gate in node.inputs:
            maker = gate.producer() if gate is not None else None
            is_gate = maker is not None and maker.op_type in _GATES and len(gate.consumers()) == 1
            if is_gate and graph.get(gate) is None and not gate.is_graph_output():
                levels = 2**product.bitwidth - 1
                graph.encodings[gate] = TensorEncoding(
                    source=f"{product.source} (gate)",
                    is_param=False,
                    bitwidth=product.bitwidth,
                    qmax=levels,
                    scale=np.float32(1.0 / levels).reshape(()),
                    offset=np.zeros((), np.int64),
                )


def _preserved(node: ir.Node, graph: EncodedGraph) -> TensorEncoding | None:
    if node.domain != "" or not node.inputs:
        return None
    encoding = graph.get(node.inputs[0])
    if encoding is None:
        return None
    if node.op_type == "Transpose" and not encoding.is_per_tensor and "perm" in node.attributes:
        return encoding.transposed(tuple(node.attributes["perm"].as_ints()))
    if not encoding.is_per_tensor:
        return encoding if node.op_type == "Identity" else None
    is_kept = (
        node.op_type in GRID_PRESERVING
        or (node.op_type == "Concat" and all(_is_alike(v, encoding, graph) for v in node.inputs))
        or (node.op_type == "Pad" and _pads_with_zero(node))
        or (node.op_type == "Resize" and _mode(node, "nearest") == "nearest")
    )
    return encoding if is_kept else None


def _is_alike(value: ir.Value | None, encoding: TensorEncoding, graph: EncodedGraph) -> bool:
    other = graph.get(value)
    return other is not None and other.has_same_grid(encoding)


def _mode(node: ir.Node, default: str) -> str:
    return node.attributes["mode"].as_string() if "mode" in node.attributes else default


def _pads_with_zero(node: ir.Node) -> bool:
    if _mode(node, "constant") != "constant":
        return True
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return True
    filler = ir.convenience.get_const_tensor(node.inputs[2])
    return filler is not None and not np.any(filler.numpy())
