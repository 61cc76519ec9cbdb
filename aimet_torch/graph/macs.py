"""Multiply-accumulates of an operation, from the shapes that the trace saw: one place for all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from aimet_torch.graph.model_graph import OpNode
from aimet_torch.graph.torch_functions import base_name

__all__ = ["macs_of_module", "multiply_accumulates"]

Shape = Sequence[int]

_RECURRENT = ("LSTM", "GRU", "RNN")
_RECURRENT_FUNCTIONS = frozenset({
    "lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell",
    "rnn_relu_cell",
})  # fmt: skip
_WITH_BIAS_FIRST = ("addmm", "addmv", "baddbmm")
_CELLS = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)


def multiply_accumulates(op: OpNode) -> int | None:
    """Products that one call of an operation adds up, for the shapes of the trace.

    Zeros of a padding count like inputs, as in every published figure; biases, normalizations,
    activations and elementwise operations count as 0.

    Args:
        op: An operation of a traced graph, of a module or functional.

    Returns:
        The count; None where it is not known: a part that could not be traced, an ``einsum`` of
        more than two tensors.
    """
    if op.is_boundary:
        return None
    inputs = [value.shape for value in op.inputs]
    outputs = [value.shape for value in op.outputs]
    module = op.module
    has_weights = op.op_type in _RECURRENT or isinstance(module, _CELLS)
    if module is not None and (has_weights or getattr(module, "weight", None) is not None):
        # A packed sequence is no tensor: its sizes are not known.
        return macs_of_module(op.op_type, module, inputs, outputs) if inputs else None
    if op.op_type in ("Conv", "ConvTranspose"):
        return _convolution(op.op_type, inputs[1], inputs[0], outputs[0])
    if op.op_type in ("Gemm", "MatMul"):
        # The sum runs over the last dimension of the left factor: linear(x, w), addmm(b, x, w).
        left = inputs[1] if _function_name(op) in _WITH_BIAS_FIRST else inputs[0]
        return math.prod(outputs[0]) * left[-1]
    if op.op_type == "Einsum":
        return _einsum(op, inputs)
    if _function_name(op) in _RECURRENT_FUNCTIONS:
        weights = [v.shape for v in op.inputs if v.kind == "parameter" and len(v.shape) > 1]
        return math.prod(inputs[0][:-1]) * sum(math.prod(shape) for shape in weights)
    return 0


def macs_of_module(
    op_type: str, module: nn.Module, inputs: Sequence[Shape], outputs: Sequence[Shape]
) -> int:
    """Products of one call of a leaf module.

    Args:
        op_type: From :func:`aimet_torch.graph.op_type_of_module`.
        module: The module; its weight's shape is read.
        inputs: Shapes of its tensor inputs.
        outputs: Shapes of its tensor outputs.
    """
    if op_type in _RECURRENT or isinstance(module, _CELLS):
        steps = math.prod(inputs[0][:-1])  # time and batch, in either order
        return steps * _matrix_elements(module)
    weight: Any = getattr(module, "weight", None)
    if weight is None:
        return 0
    if op_type in ("Conv", "ConvTranspose"):
        return _convolution(op_type, tuple(weight.shape), inputs[0], outputs[0])
    if op_type == "Gemm":
        return math.prod(outputs[0]) * weight.shape[-1]
    if op_type == "Bilinear":
        rows = math.prod(outputs[0][:-1])
        return rows * weight.shape[0] * (weight.shape[1] + 1) * weight.shape[2]
    return 0


def _convolution(op_type: str, weight: Shape, input: Shape, output: Shape) -> int:
    # (out, in / groups, *kernel) for each output; transposed: (in, out / groups, *kernel) for each
    # input.
    positions = output if op_type == "Conv" else input
    return math.prod(positions) * math.prod(weight[1:])


def _matrix_elements(module: nn.Module) -> int:
    return sum(p.numel() for name, p in module.named_parameters() if name.startswith("weight"))


def _function_name(op: OpNode) -> str:
    function = op.function or getattr(op.module, "function", None)
    return "" if function is None else base_name(function)


def _einsum(op: OpNode, inputs: Sequence[Shape]) -> int | None:
    equation = next((a for a in _arguments(op) if isinstance(a, str)), None)
    if equation is None or len(inputs) > 2:
        return None
    terms = equation.replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, inputs, strict=True):
        head, dots, tail = term.partition("...")
        end = len(shape) - len(tail)
        if dots:  # broadcast dimensions are aligned at their end
            for place, size in enumerate(reversed(shape[len(head) : end])):
                sizes[f"...{place}"] = max(size, sizes.get(f"...{place}", 1))
        named = [*zip(head, shape[: len(head)], strict=True), *zip(tail, shape[end:], strict=True)]
        for letter, size in named:
            sizes[letter] = max(size, sizes.get(letter, 1))
    return math.prod(sizes.values())


def _arguments(op: OpNode) -> tuple[Any, ...]:
    return () if op.fx_node is None else (*op.fx_node.args, *op.fx_node.kwargs.values())
