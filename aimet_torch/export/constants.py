"""Parameters that the model splits, transposes or joins before it uses them, as constants.

Attention with separate inputs splits one weight into three; ONNX wants the gates of a recurrent
layer in another order than torch. A target wants each layer's weight to be a constant, so what is
moved becomes a constant with the encoding of what it is moved from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from aimet_torch.encodings.tensor_encoding import TensorEncoding
from aimet_torch.export.encoded_graph import EncodedGraph


def fold_moved_parameters(graph: EncodedGraph) -> None:
    """Compute operators that move constants with one scale, or none, in place."""
    for node in list(graph.model.graph):
        if node.domain != "" or node.op_type not in _MOVES:
            continue
        sources = list(node.inputs) if node.op_type == "Concat" else list(node.inputs[:1])
        if not all(map(_is_constant, sources)):
            continue
        encodings = [graph.get(value) for value in sources]
        if any(value.is_graph_output() for value in node.outputs) or not _are_alike(encodings):
            continue
        pieces = _MOVES[node.op_type](node, [value.const_value.numpy() for value in sources])
        if pieces is None:
            continue
        for value, piece in zip(node.outputs, pieces, strict=True):
            constant = graph.add_constant(f"{sources[0].name}_{value.name}", piece)
            graph.encodings.pop(value, None)
            if encodings[0] is not None:
                graph.encodings[constant] = encodings[0]
            value.replace_all_uses_with(constant)
        graph.model.graph.remove(node, safe=True)
        for source in dict.fromkeys(sources):
            if not source.uses():
                graph.encodings.pop(source, None)
                graph.model.graph.initializers.pop(source.name, None)


def _is_constant(value: ir.Value | None) -> bool:
    return (
        value is not None
        and value.is_initializer()
        and value.const_value is not None
        and not value.is_graph_output()
        and value.const_value.dtype.is_floating_point()
    )


def _are_alike(encodings: Sequence[TensorEncoding | None]) -> bool:
    """Whether one grid with one scale holds all of the numbers, or none does."""
    first = encodings[0]
    if first is None:
        return all(encoding is None for encoding in encodings)
    return first.is_per_tensor and all(
        encoding is not None and encoding.has_same_grid(first) for encoding in encodings
    )


Arrays = list[np.ndarray]


def _transpose(node: ir.Node, arrays: Arrays) -> Arrays:
    order = node.attributes["perm"].as_ints() if "perm" in node.attributes else None
    return [np.transpose(arrays[0], order)]


def _split(node: ir.Node, arrays: Arrays) -> Arrays | None:
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 0
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        sizes = _integers(node, 1)
        return None if sizes is None else np.split(arrays[0], np.cumsum(sizes)[:-1], axis)
    return np.array_split(arrays[0], len(node.outputs), axis)


def _concat(node: ir.Node, arrays: Arrays) -> Arrays:
    return [np.concatenate(arrays, node.attributes["axis"].as_int())]


def _unsqueeze(node: ir.Node, arrays: Arrays) -> Arrays | None:
    axes = _integers(node, 1)
    return None if axes is None else [np.expand_dims(arrays[0], tuple(axes))]


def _slice(node: ir.Node, arrays: Arrays) -> Arrays | None:
    starts, ends = _integers(node, 1), _integers(node, 2)
    axes = _integers(node, 3) if len(node.inputs) > 3 else range(len(starts or ()))
    steps = _integers(node, 4) if len(node.inputs) > 4 else [1] * len(starts or ())
    if starts is None or ends is None or axes is None or steps is None or min(steps) < 1:
        return None
    cuts = [slice(None)] * arrays[0].ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cuts[axis] = slice(start, end, step)
    return [arrays[0][tuple(cuts)]]


def _integers(node: ir.Node, position: int) -> list[int] | None:
    value = node.inputs[position]
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return None if tensor is None else [int(x) for x in tensor.numpy().reshape(-1)]


_MOVES: dict[str, Callable[[ir.Node, Arrays], Arrays | None]] = {
    "Concat": _concat,
    "Slice": _slice,
    "Split": _split,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
