"""Linear layers on tensors of more than two axes as one Gemm, which holds its bias.

torch.onnx writes them as MatMul and Add. On an integer target that is two operators with a
floating-point tensor between them; a Gemm between two Reshapes is one, and its bias is an int32 in
the accumulator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from aimet_torch.export.encoded_graph import EncodedGraph

# What a target fuses into the linear layer before it rounds: applied to the Gemm's result, before
# the second Reshape.
_ACTIVATIONS = frozenset(
    {"Relu", "Clip", "LeakyRelu", "HardSwish", "HardSigmoid", "Sigmoid", "Tanh", "Elu", "Gelu"}
)


@dataclass(frozen=True)
class _Linear:
    matmul: ir.Node
    add: ir.Node
    bias: ir.Value


def merge_linear_layers(graph: EncodedGraph) -> None:
    """Rewrite each MatMul by a constant matrix and the Add of a constant vector as a Gemm.

    Only where the simulation does not round between the two.
    """
    for node in list(graph.model.graph):
        found = _match(node, graph)
        if found is not None:
            _rewrite(found, graph)


def _match(node: ir.Node, graph: EncodedGraph) -> _Linear | None:
    if node.op_type != "MatMul" or node.domain != "":
        return None
    source, weight = node.inputs
    product = node.outputs[0]
    if (
        weight is None
        or weight.const_value is None
        or weight.shape is None
        or weight.shape.rank() != 2
    ):
        return None
    users = list(product.uses())
    if graph.get(product) is not None or product.is_graph_output() or len(users) != 1:
        return None
    add = users[0].node
    if add.op_type != "Add" or source is None or source.shape is None or source.shape.rank() < 2:
        return None
    bias = next((value for value in add.inputs if value is not product), None)
    is_vector = (
        bias is not None
        and bias.const_value is not None
        and bias.shape is not None
        and bias.shape.rank() == 1
        and bias.shape[0] == weight.shape[1]
    )
    return _Linear(node, add, bias) if is_vector and add.outputs[0].shape is not None else None


def _rewrite(found: _Linear, graph: EncodedGraph) -> None:
    source, weight = found.matmul.inputs
    old = found.add.outputs[0]
    tail = [found.add, *_fused_activations(old, graph)]
    result = tail[-1].outputs[0]
    shape, encoding = old.shape, graph.get(result)
    rank = source.shape.rank()
    columns = int(weight.shape[0])
    rows_shape = ir.Shape([None, columns])
    anchor = tail[-1]
    if rank > 2:
        target = graph.add_constant(f"{old.name}_rows_shape", np.array([-1, columns], np.int64))
        rows = _insert(
            graph, anchor, "Reshape", [source, target], f"{old.name}_rows", rows_shape, source
        )
        _share_encoding(graph, source, rows)
    else:
        rows = source
    flat = ir.Shape([None, int(weight.shape[1])])
    name = f"{old.name}_gemm" if rank > 2 else f"{old.name}_merged"
    value = _insert(graph, anchor, "Gemm", [rows, weight, found.bias], name, flat, old)
    for node in tail[1:]:
        value = _insert(
            graph,
            anchor,
            node.op_type,
            [value, *node.inputs[1:]],
            f"{node.outputs[0].name}_rows",
            flat,
            old,
        )
        value.producer().attributes.update({a.name: a for a in node.attributes.values()})
    if encoding is not None:
        graph.encodings[value] = encoding
    if rank > 2:
        value = _insert(
            graph,
            anchor,
            "Reshape",
            [value, _result_shape(graph, anchor, source, shape, old)],
            "",
            shape,
            old,
        )
    graph.encodings.pop(result, None)
    name = result.name
    result.replace_all_uses_with(value, replace_graph_outputs=True)
    result.name = None
    value.name = name
    if encoding is not None:
        graph.encodings[value] = encoding
    for node in reversed([found.matmul, *tail]):
        node.graph.remove(node, safe=True)


def _fused_activations(value: ir.Value, graph: EncodedGraph) -> list[ir.Node]:
    """Elementwise operators that follow without rounding in between."""
    nodes: list[ir.Node] = []
    while graph.get(value) is None and not value.is_graph_output():
        users = list(value.uses())
        if len(users) != 1 or users[0].node.op_type not in _ACTIVATIONS or users[0].idx != 0:
            break
        nodes.append(users[0].node)
        value = nodes[-1].outputs[0]
    return nodes


def _result_shape(
    graph: EncodedGraph, anchor: ir.Node, source: ir.Value, shape: ir.Shape, old: ir.Value
) -> ir.Value:
    """The second Reshape's target: constant unless two sizes or more are known only at run time."""
    sizes = [size if isinstance(size, int) else -1 for size in shape]
    if sizes.count(-1) <= 1:
        return graph.add_constant(f"{old.name}_shape", np.array(sizes, np.int64))
    name = old.name
    all_sizes = _insert(
        graph, anchor, "Shape", [source], f"{name}_source_shape", ir.Shape([len(sizes)]), None
    )
    last = graph.add_constant(f"{name}_last", np.array([-1], np.int64))
    first = graph.add_constant(f"{name}_first", np.array([0], np.int64))
    leading = _insert(
        graph,
        anchor,
        "Slice",
        [all_sizes, first, last],
        f"{name}_leading",
        ir.Shape([len(sizes) - 1]),
        None,
    )
    width = graph.add_constant(f"{name}_width", np.array([sizes[-1]], np.int64))
    target = _insert(
        graph, anchor, "Concat", [leading, width], f"{name}_shape", ir.Shape([len(sizes)]), None
    )
    target.producer().attributes["axis"] = ir.AttrInt64("axis", 0)
    return target


def _insert(
    graph: EncodedGraph,
    anchor: ir.Node,
    op_type: str,
    inputs: list[ir.Value | None],
    name: str,
    shape: ir.Shape,
    like: ir.Value | None,
) -> ir.Value:
    node = ir.node(op_type, inputs, name=f"node_{name}" if name else None)
    value = node.outputs[0]
    value.name = graph.unique_name(name) if name else None
    value.shape = shape
    value.type = like.type if like is not None else ir.TensorType(ir.DataType.INT64)
    anchor.graph.insert_before(anchor, node)
    return value


def _share_encoding(graph: EncodedGraph, source: ir.Value, target: ir.Value) -> None:
    encoding = graph.get(source)
    if encoding is not None:
        graph.encodings[target] = encoding
