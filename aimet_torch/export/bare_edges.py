"""The check that a QDQ graph leaves no island of floating point between its integer operators."""

from __future__ import annotations

import os
from dataclasses import dataclass

import onnx_ir as ir

# Operators that a target computes with integers when all that they read is dequantized.
_INTEGER_OPERATORS = frozenset(
    {
        "Add",
        "AveragePool",
        "BatchNormalization",
        "Concat",
        "Conv",
        "ConvTranspose",
        "Gemm",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "LpNormalization",
        "MatMul",
        "MaxPool",
        "Mul",
        "RMSNormalization",
        "ReduceMean",
        "Softmax",
    }
)
_FLOATS = frozenset(
    {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}
)


@dataclass(frozen=True)
class BareEdge:
    """An activation that an operator reads in floating point.

    Attributes:
        node: name of the reading operator.
        op_type: its type.
        tensor: name of the activation.
        producer: type of the operator that computes it, or None for an input of the model.
    """

    node: str
    op_type: str
    tensor: str
    producer: str | None


def activation_edges(model: ir.Model | str | os.PathLike[str]) -> tuple[list[BareEdge], int]:
    """Find the activations that reach integer operators without a DequantizeLinear before them.

    These are Conv, ConvTranspose, Gemm, MatMul, Add, Mul, Concat, pooling, ReduceMean, Softmax and
    the normalisations. What is computed from constants alone is no activation, nor is anything that
    is not floating point.

    Args:
        model: an ONNX model, or the path of one.

    Returns:
        The bare edges in the order of the graph, and how many edges were looked at.
    """
    if not isinstance(model, ir.Model):
        model = ir.load(model)
    varying = set(model.graph.inputs)
    bare, count = [], 0
    for node in model.graph:
        if not any(value in varying for value in node.inputs if value is not None):
            continue
        varying.update(node.outputs)
        if node.domain != "" or node.op_type not in _INTEGER_OPERATORS:
            continue
        for value in node.inputs:
            if value is None or value not in varying or not _is_float(value):
                continue
            count += 1
            producer = value.producer()
            if producer is None or producer.op_type != "DequantizeLinear":
                source = producer.op_type if producer is not None else None
                bare.append(BareEdge(node.name or "", node.op_type, value.name or "", source))
    return bare, count


def _is_float(value: ir.Value) -> bool:
    if value.dtype is not None:
        return value.dtype in _FLOATS
    producer = value.producer()
    # Sizes are the only integers that the exporter leaves without a type.
    return producer is None or producer.op_type not in ("Shape", "Size")
