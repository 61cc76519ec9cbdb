"""Parameters that the model splits or transposes before it uses them, as constants of their own.

Attention with separate inputs splits one weight into three. A target wants each layer's weight to
be a constant, so the pieces become constants with the encoding of the whole.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from aimet_torch.export.encoded_graph import EncodedGraph


def fold_moved_parameters(graph: EncodedGraph) -> None:
    """Compute Split and Transpose of constants with one scale, or none, in place."""
    for node in list(graph.model.graph):
        source = node.inputs[0] if node.inputs else None
        if node.domain != "" or source is None or source.const_value is None:
            continue
        encoding = graph.get(source)
        is_moved = node.op_type in ("Split", "Transpose") and source.is_initializer()
        if not is_moved or any(value.is_graph_output() for value in node.outputs):
            continue
        if encoding is not None and not encoding.is_per_tensor:
            continue
        pieces = _pieces(node, source.const_value.numpy())
        if pieces is None:
            continue
        for value, piece in zip(node.outputs, pieces, strict=True):
            constant = graph.add_constant(f"{source.name}_{value.name}", piece)
            graph.encodings.pop(value, None)
            if encoding is not None:
                graph.encodings[constant] = encoding
            value.replace_all_uses_with(constant)
        node.graph.remove(node, safe=True)
        if not source.uses():
            graph.encodings.pop(source, None)


def _pieces(node: ir.Node, array: np.ndarray) -> list[np.ndarray] | None:
    if node.op_type == "Transpose":
        order = node.attributes["perm"].as_ints() if "perm" in node.attributes else None
        return [np.transpose(array, order)]
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        sizes = ir.convenience.get_const_tensor(node.inputs[1])
        if sizes is None:
            return None
        return np.split(array, np.cumsum(sizes.numpy())[:-1], axis)
    return np.array_split(array, len(node.outputs), axis)
