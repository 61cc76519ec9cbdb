"""Chains of operators that a target computes as one: only the last one's result is quantized.

Three kinds: the supergroups of a configuration (lists of operator types), foldable batch norms, and
the named patterns of `supergroup_pass_list` (a matrix product with a bias, normalizations written
out by hand).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aimet_torch.graph import ModelGraph, OpNode, Value
from aimet_torch.quantsim.config import QuantSimConfig

# Operators that are the identity in evaluation mode: fusion looks through them.
TRANSPARENT_OPS = frozenset({"Identity", "Dropout"})
_FOLDABLE_INTO = frozenset({"Conv", "ConvTranspose", "Gemm"})
_CONSTANT_KINDS = ("parameter", "buffer", "constant")


def fused_chains(graph: ModelGraph, config: QuantSimConfig) -> Iterator[list[OpNode]]:
    """Every chain, in the order of its operators; chains may overlap."""
    for op in graph.ops:
        for names in config.supergroups:
            if op.op_type == names[0]:
                followers = _match(op, names)
                if followers:
                    yield [op, *followers]
        if is_foldable_batch_norm(op):
            yield [*op.producers(), op]
        for name in config.supergroup_passes:
            chain = _PASSES[name](op)
            if chain:
                yield chain


def is_foldable_batch_norm(op: OpNode) -> bool:
    """Whether `op` is a batch norm that alone reads a convolution's or linear layer's output."""
    if op.op_type != "BatchNormalization" or not op.inputs:
        return False
    producer = op.inputs[0].producer
    if producer is None or producer.op_type not in _FOLDABLE_INTO or producer.next_op() is not op:
        return False
    # Its groups share the steps of the weight, which each would have to scale by itself.
    return producer.op_type != "ConvTranspose" or getattr(producer.module, "groups", 1) == 1


def _match(op: OpNode, names: tuple[str, ...]) -> list[OpNode] | None:
    """The operators after `op` up to the end of the supergroup `names`; None without a match."""
    followers: list[OpNode] = []
    current = op
    for name in names[1:]:
        following = current.next_op()
        while following is not None and following.op_type != name:
            if following.op_type not in TRANSPARENT_OPS and not is_foldable_batch_norm(following):
                return None
            followers.append(following)
            following = following.next_op()
        if following is None:
            return None
        followers.append(following)
        current = following
    return followers


def _is_constant(value: Value) -> bool:
    return value.kind in _CONSTANT_KINDS


def _matmul_add(op: OpNode) -> list[OpNode] | None:
    """A linear layer in two operators: a product with a constant matrix, plus a constant vector.

    The sum of attention scores and a constant mask is none: no target adds a matrix as a bias.
    """
    following = op.next_op() if op.op_type == "MatMul" else None
    if following is None or following.op_type != "Add" or not _is_constant(op.inputs[-1]):
        return None
    is_bias = any(_is_constant(value) and len(value.shape) == 1 for value in following.inputs)
    return [op, following] if is_bias else None


def _square_of(op: OpNode) -> Value | None:
    """The value that `op` squares: x ** 2, x * x."""
    node: Any = op.fx_node
    if op.op_type == "Pow" and len(op.inputs) == 1 and 2 in (*node.args[1:], *node.kwargs.values()):
        return op.inputs[0]
    if op.op_type == "Mul" and len(op.inputs) == 2 and op.inputs[0] is op.inputs[1]:
        return op.inputs[0]
    return None


def _inverse_root(square: OpNode) -> tuple[list[OpNode], OpNode] | None:
    """From x ** 2 over mean, + epsilon and root, and the operator that scales by the result."""
    chain = [square]
    for allowed in (("ReduceMean",), ("Add",), ("Sqrt", "Rsqrt", "Pow")):
        following = chain[-1].next_op()
        if following is None or following.op_type not in allowed:
            return None
        chain.append(following)
    following = chain[-1].next_op()
    if following is not None and following.op_type == "Reciprocal":
        chain.append(following)
        following = following.next_op()
    if following is None or following.op_type not in ("Mul", "Div"):
        return None
    return chain, following


def _affine_tail(last: OpNode) -> list[OpNode]:
    """A multiplication by and an addition of parameters behind a normalization."""
    tail: list[OpNode] = []
    for op_type in ("Mul", "Add"):
        following = (tail[-1] if tail else last).next_op()
        if (
            following is not None
            and following.op_type == op_type
            and any(map(_is_constant, following.inputs))
        ):
            tail.append(following)
    return tail


def _rms_normalization(op: OpNode) -> list[OpNode] | None:
    """Match x * rsqrt(mean(x ** 2) + epsilon), and the weight behind it."""
    normalized = _square_of(op)
    found = _inverse_root(op) if normalized is not None else None
    if found is None or normalized not in found[1].inputs:
        return None
    chain, scaling = found
    return [*chain, scaling, *_affine_tail(scaling)]


def _layer_normalization(op: OpNode) -> list[OpNode] | None:
    """Match (x - mean(x)) / sqrt(mean((x - mean(x)) ** 2) + epsilon), weight and bias behind it."""
    centered = _square_of(op)
    subtraction = centered.producer if centered is not None else None
    if subtraction is None or subtraction.op_type != "Sub" or len(subtraction.inputs) != 2:
        return None
    mean = subtraction.inputs[1].producer
    if mean is None or mean.op_type != "ReduceMean" or mean.inputs[0] is not subtraction.inputs[0]:
        return None
    found = _inverse_root(op)
    if found is None or centered not in found[1].inputs:
        return None
    chain, scaling = found
    return [mean, subtraction, *chain, scaling, *_affine_tail(scaling)]


_PASSES = {
    "MatmulAdd": _matmul_add,
    "LayerNormalization": _layer_normalization,
    "RMSNormalization": _rms_normalization,
}
