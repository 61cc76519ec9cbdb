"""A QDQ graph cut at its quantized tensors: every group of operators between them on its own."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common as ir_passes

from aimet_torch.verification.qdq_file import Pair, QdqFile
from aimet_torch.verification.results import DEPTHWISE

_FED = "__fed"
#: Operators that compute nothing: not worth a name where another one is in the group.
_MOVES = frozenset(
    {
        *(
            "Cast",
            "Concat",
            "Constant",
            "Expand",
            "Flatten",
            "Gather",
            "Identity",
            "Pad",
            "Reshape",
        ),
        *("Shape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
    }
)
_GRIDS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_SHOWN = 4


@dataclass
class Groups:
    """The cut graph.

    Attributes:
        model: takes the integers of every quantized tensor, and what inputs of the model are still
            read; returns the integers that each group computes.
        inputs: name of the fed tensor by `Pair.quantized`.
        outputs: pairs whose integers are returned, in the order of the graph. Those of 4 bits and
            float8, which NumPy has not, are fed and returned dequantized.
        operators: types of the operators of each group, by `Pair.quantized`.
    """

    model: ir.Model
    inputs: dict[str, str]
    outputs: list[Pair]
    operators: dict[str, str]

    def feeds(
        self, codes: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """What to feed, from the simulation's integers and the inputs of the model."""
        by_name = {pair.quantized: pair for pair in self.outputs}
        wanted = {value.name: value for value in self.model.graph.inputs}
        result = {name: array for name, array in inputs.items() if name in wanted}
        for name, fed in self.inputs.items():
            if fed in wanted:
                pair = by_name[name]
                values = codes[name] if pair.is_array else pair.values(codes[name])
                result[fed] = _in_shape(values, wanted[fed].shape)
        return result


def cut(file: QdqFile, pairs: Collection[Pair]) -> Groups:
    """Cut a graph at the tensors of `pairs`; the file's own model stays."""
    model = file.model.clone()
    graph = model.graph
    values = {value.name: value for node in graph for value in node.outputs}
    inputs, results = {}, []
    for pair in pairs:
        cut_at = values[pair.returned]
        fed = ir.val(f"{cut_at.name}{_FED}", type=_type(pair), shape=cut_at.shape)
        for use in list(cut_at.uses()):
            use.node.replace_input_with(use.idx, fed)
        graph.inputs.append(fed)
        inputs[pair.quantized] = fed.name
        results.append(cut_at)
    graph.outputs.clear()
    graph.outputs.extend(results)
    for pair, value in zip(pairs, results, strict=True):
        value.type = value.type or _type(pair)
    ir_passes.RemoveUnusedNodesPass()(model)
    for value in list(graph.inputs):
        if not list(value.uses()) and not value.is_graph_output():
            graph.inputs.remove(value)
    operators = {
        pair.quantized: _operators(value) for pair, value in zip(pairs, results, strict=True)
    }
    return Groups(model, inputs, list(pairs), operators)


def _type(pair: Pair) -> ir.TensorType:
    return ir.TensorType(pair.dtype if pair.is_array else ir.DataType.FLOAT)


def _in_shape(values: np.ndarray, shape: ir.Shape | None) -> np.ndarray:
    """Values in the shape that the graph has the tensor in.

    A linear layer on three axes is a Gemm on two: the number of elements is the same.
    """
    if shape is None or shape.rank() == values.ndim:
        return values
    sizes = [size if isinstance(size, int) else -1 for size in shape]
    return values.reshape(sizes) if sizes.count(-1) <= 1 else values


def _operators(result: ir.Value) -> str:
    found, seen, open_nodes = [], set(), [result.producer()]
    while open_nodes:
        node = open_nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        found.append(node)
        open_nodes += [value.producer() for value in node.inputs if value is not None]
    order = {node: index for index, node in enumerate(result.producer().graph)}
    names = [_name(n) for n in sorted(found, key=order.__getitem__) if n.op_type not in _GRIDS]
    computing = [name for name in names if name not in _MOVES] or names[:1] or ["input"]
    computing = list(dict.fromkeys(computing))
    shown = computing[:_SHOWN] + (["..."] if len(computing) > _SHOWN else [])
    return "+".join(shown)


def _name(node: ir.Node) -> str:
    if node.op_type == "Conv" and "group" in node.attributes:
        weight = node.inputs[1]
        groups = node.attributes["group"].as_int()
        if groups > 1 and weight.shape is not None and weight.shape[1] == 1:
            return DEPTHWISE
    return str(node.op_type)


def with_inner_results(file: QdqFile, pairs: Collection[Pair]) -> ir.Model:
    """The whole graph, which also returns the quantized tensors of `pairs`."""
    model = file.model.clone()
    values = {value.name: value for node in model.graph for value in node.outputs}
    for pair in pairs:
        value = values[pair.returned]
        value.type = value.type or _type(pair)
        if not value.is_graph_output():
            model.graph.outputs.append(value)
    return model


def without_open_sizes(model: ir.Model, feeds: Sequence[Mapping[str, np.ndarray]]) -> None:
    """Give every input the sizes that are fed, and let the runtime infer the others, in place.

    Raises:
        ValueError: the calls have several shapes.
    """
    for value in model.graph.inputs:
        shapes = {call[value.name].shape for call in feeds if value.name in call}
        if len(shapes) > 1:
            raise ValueError(
                f"verify: the HTP has fixed sizes, and the calls in `inputs` have several for "
                f"`{value.name}`: {', '.join(str(list(s)) for s in sorted(shapes))}; verify the "
                "calls of each shape on their own"
            )
        if shapes:
            value.shape = ir.Shape(shapes.pop())
    for node in model.graph:
        for value in node.outputs:
            if value.shape is not None and not value.shape.is_static():
                value.shape = None
