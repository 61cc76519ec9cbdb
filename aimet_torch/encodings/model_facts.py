"""What an ONNX model says about its tensors, as far as encodings files are concerned."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import onnx
from onnx import TensorProto

__all__ = ["TensorFacts", "facts_json", "model_facts"]

_FLOATS = frozenset(
    {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE}
)
# Operators that a target computes with integers when what they read has encodings.
_INTEGER_OPERATORS = frozenset(
    {
        *("Add", "AveragePool", "BatchNormalization", "Concat", "Conv", "ConvTranspose", "Gemm"),
        *("GlobalAveragePool", "GlobalMaxPool", "GroupNormalization", "InstanceNormalization"),
        *("LayerNormalization", "LpNormalization", "MatMul", "MaxPool", "Mul", "RMSNormalization"),
        *("ReduceMean", "Softmax"),
    }
)
# A batch norm or bias behind one of them becomes part of it on a target.
_LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Results of other types than their operands.
_NOT_FLOAT = frozenset(
    {"ArgMax", "ArgMin", "Equal", "Greater", "IsNaN", "Less", "NonZero", "Not", "Shape", "Size"}
)


@dataclass(frozen=True)
class TensorFacts:
    """What is known about one tensor.

    Attributes:
        shape: its sizes, -1 where one is open; None when they are not known.
        is_param: it is computed from constants alone.
        is_float: it is of a floating-point type; others have no encodings.
        reader: the operator that wants an encoding of it, "" when none does.
        channel_axis: of a weight: the axis of the output channels.
        block_axis: of a weight: the axis of the input channels.
        product_of: of a bias: input and weight, whose scales multiply to its own.
    """

    shape: tuple[int, ...] | None = None
    is_param: bool = False
    is_float: bool = True
    reader: str = ""
    channel_axis: int | None = None
    block_axis: int | None = None
    product_of: tuple[str, ...] = ()


def facts_json(model: str | os.PathLike[str] | Mapping[str, TensorFacts]) -> str:
    """The facts about a model as JSON text for the C++ library."""
    facts = model if isinstance(model, Mapping) else model_facts(model)
    return json.dumps({name: asdict(fact) for name, fact in facts.items()})


def model_facts(path: str | os.PathLike[str]) -> dict[str, TensorFacts]:
    """Read what an ONNX file says about its tensors; weights in files of their own are not read.

    Activations that Conv, Gemm, MatMul, Add, Mul, Concat, pooling, Softmax and normalizations
    read, weights of the first three, and the model's outputs want an encoding. A tensor between a
    linear operator and the batch norm or bias behind it wants none: targets fuse them.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no ONNX file.
    """
    try:
        model = onnx.load(os.fspath(path), load_external_data=False)
        graph = onnx.shape_inference.infer_shapes(_without_weights(model)).graph
    except OSError:
        raise
    except Exception as error:  # protobuf and onnx have exceptions of their own
        raise ValueError(f"model_facts: {os.fspath(path)}: no ONNX file: {error}") from error
    if not graph.node:
        raise ValueError(f"model_facts: {os.fspath(path)}: no ONNX file: it has no operators")
    return _Reader(graph).facts


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without the numbers of its floats, which shapes do not depend on."""
    for tensor in model.graph.initializer:
        if tensor.data_type in _FLOATS:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
            tensor.ClearField("external_data")
            tensor.ClearField("data_location")
    return model


class _Reader:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self.facts: dict[str, TensorFacts] = {}
        self._producers = {name: node for node in graph.node for name in node.output if name}
        for tensor in graph.initializer:
            self.facts[tensor.name] = TensorFacts(
                tuple(tensor.dims), is_param=True, is_float=tensor.data_type in _FLOATS
            )
        for value in [*graph.input, *graph.value_info, *graph.output]:
            if value.name not in self.facts:
                self.facts[value.name] = _facts_of_value(value)
        self._add_results(graph)
        for node in graph.node:
            self._want(node)
        for value in graph.output:
            self._set_reader(value.name, "the caller of the model")

    def _add_results(self, graph: onnx.GraphProto) -> None:
        """Facts of what operators compute; of graphs inside of an operator the names alone."""
        for node in graph.node:
            is_constant = all(
                self.facts[name].is_param for name in node.input if name in self.facts
            )
            for attribute in node.attribute:
                for inner in [attribute.g, *attribute.graphs]:
                    is_constant = is_constant and not inner.node
                    self._add_inner(inner)
            for name in node.output:
                known = self.facts.get(name, TensorFacts(is_float=node.op_type not in _NOT_FLOAT))
                self.facts[name] = replace(known, is_param=is_constant)

    def _add_inner(self, graph: onnx.GraphProto) -> None:
        names = [t.name for t in graph.initializer] + [
            name for n in graph.node for name in n.output
        ]
        for name in names:
            self.facts.setdefault(name, TensorFacts())

    def _want(self, node: onnx.NodeProto) -> None:
        if node.domain or node.op_type not in _INTEGER_OPERATORS:
            return
        operands = [self.facts.get(name) for name in node.input]
        if node.op_type in _LINEAR:
            self._want_weight(node)
        for name, operand in zip(node.input, operands, strict=True):
            if operand is not None and not operand.is_param and not self._is_fused(name, node):
                self._set_reader(name, node.op_type)

    def _is_fused(self, name: str, node: onnx.NodeProto) -> bool:
        producer = self._producers.get(name)
        if producer is None or producer.op_type not in _LINEAR:
            return False
        others = [self.facts[other] for other in node.input if other not in ("", name)]
        is_bias = node.op_type == "Add" and all(
            other.is_param and other.shape is not None and len(other.shape) <= 1 for other in others
        )
        return node.op_type == "BatchNormalization" or is_bias

    def _want_weight(self, node: onnx.NodeProto) -> None:
        for position, name in enumerate(node.input[:2]):
            facts = self.facts.get(name)
            if facts is None or not facts.is_param or facts.shape is None or len(facts.shape) < 2:
                continue
            channel_axis, block_axis = _weight_axes(node, position, len(facts.shape))
            stored, order = self._source(name)
            self.facts[stored] = replace(
                self.facts[stored],
                reader=node.op_type,
                channel_axis=order[channel_axis],
                block_axis=order[block_axis],
            )
            if position == 1 and len(node.input) > 2 and node.input[2] in self.facts:
                bias = node.input[2]
                # Two layers that share a bias need it in two scales: neither is wrong.
                shared = bool(self.facts[bias].product_of)
                product = () if shared else (node.input[0], stored)
                self.facts[bias] = replace(self.facts[bias], product_of=product)

    def _source(self, name: str) -> tuple[str, list[int]]:
        """The stored tensor that a weight is a transpose of, and which of its axes each axis is."""
        axes = list(range(len(self.facts[name].shape or ())))
        producer = self._producers.get(name)
        if producer is None or producer.op_type != "Transpose":
            return name, axes
        orders = [list(a.ints) for a in producer.attribute if a.name == "perm"]
        return producer.input[0], orders[0] if orders else axes[::-1]

    def _set_reader(self, name: str, reader: str) -> None:
        facts = self.facts.get(name)
        if facts is not None and facts.is_float and not facts.reader and not facts.is_param:
            self.facts[name] = replace(facts, reader=reader)


def _facts_of_value(value: onnx.ValueInfoProto) -> TensorFacts:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return TensorFacts(is_float=tensor.elem_type in (*_FLOATS, TensorProto.UNDEFINED))
    shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim)
    return TensorFacts(shape, is_float=tensor.elem_type in (*_FLOATS, TensorProto.UNDEFINED))


def _weight_axes(node: onnx.NodeProto, position: int, rank: int) -> tuple[int, int]:
    """Axes of the output and the input channels of the constant operand at `position`."""
    if node.op_type == "Conv":
        return 0, 1
    if node.op_type == "ConvTranspose":
        return 1, 0
    transposed: Any = {a.name: a.i for a in node.attribute}.get(f"trans{'AB'[position]}", 0)
    # The operand is (sum, channels) on the right and (channels, sum) on the left.
    axes = (rank - 1, rank - 2) if position == 1 else (rank - 2, rank - 1)
    return (axes[1], axes[0]) if node.op_type == "Gemm" and transposed else axes
