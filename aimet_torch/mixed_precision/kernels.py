"""What a target computes as one operation, and which number formats it has that in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from aimet_torch.graph import GRID_PRESERVING_OPS, ModelGraph, OpNode, Value
from aimet_torch.mixed_precision.precision import Precision
from aimet_torch.mixed_precision.sites import Site, SiteMap
from aimet_torch.quantsim.config import KernelType, QuantSimConfig
from aimet_torch.quantsim.fusion import TRANSPARENT_OPS
from aimet_torch.quantsim.placement import Plan

__all__ = [
    "FusedKernel",
    "describe",
    "fused_kernels",
    "is_supported",
    "only_moves",
    "supported_types",
]


@dataclass(eq=False)
class FusedKernel:
    """Operators between which nothing is quantized: they run in one precision.

    Attributes:
        ops: in the order of execution; often one.
    """

    ops: list[OpNode] = field(default_factory=list)

    def inputs(self, sites: SiteMap) -> list[Site]:
        """What governs the tensors that enter, each once."""
        return list(dict.fromkeys(s for op in self.ops for _, s in sites.activations(op)))

    def outputs(self, sites: SiteMap) -> list[Site]:
        """What governs the tensors that leave."""
        return [site for op in self.ops for site in sites.outputs(op) if site is not None]


def fused_kernels(graph: ModelGraph, plan: Plan) -> dict[OpNode, FusedKernel]:
    """The kernel of every operator.

    Operators that only move numbers are kernels of their own: their precision is that of whoever
    made their input.
    """
    found: dict[OpNode, FusedKernel] = {}
    for op in graph.ops:
        joined = [] if only_moves(op) else [found[p] for p in _fused_producers(op, plan)]
        kernel = joined[0] if joined else FusedKernel()
        for other in joined[1:]:
            if other is not kernel:
                kernel.ops.extend(other.ops)
                found.update(dict.fromkeys(other.ops, kernel))
        kernel.ops.append(op)
        found[op] = kernel
    return found


def only_moves(op: OpNode) -> bool:
    """Whether an operator hands numbers on as they are, on the grid that they came on."""
    return op.op_type in GRID_PRESERVING_OPS or op.op_type in TRANSPARENT_OPS


def _fused_producers(op: OpNode, plan: Plan) -> Iterable[OpNode]:
    """Whose results `op` reads before they are rounded."""
    for value in op.inputs:
        source = _behind_moves(value, plan)
        producer = source.producer
        if producer is None or producer.is_boundary or only_moves(producer):
            continue
        decision = plan.outputs.get((producer.name, producer.outputs.index(source)))
        if source.is_float and decision is not None and not decision.is_quantized:
            yield producer


def _behind_moves(value: Value, plan: Plan) -> Value:
    while value.producer is not None and only_moves(value.producer) and value.producer.inputs:
        decision = plan.outputs.get((value.producer.name, value.producer.outputs.index(value)))
        if decision is not None and decision.is_quantized:
            break
        value = value.producer.inputs[0]
    return value


def supported_types(config: QuantSimConfig, op_type: str) -> Sequence[KernelType]:
    """The precisions that the configuration lists for an operator; empty: it does not say."""
    own = config.op_rule(op_type).supported_kernels
    return config.supported_kernels if own is None else own


def is_supported(
    kernels: Sequence[KernelType], activation: Precision | None, param: Precision | None
) -> bool:
    """Whether a kernel exists for this precision of an operand and of the weight.

    Args:
        kernels: from `supported_types`; empty allows everything.
        activation: of an operand; None: the operator has none on a grid.
        param: of the weight; None: the operator has none.
    """
    return not kernels or any(
        activation in (None, _precision(kernel.activation_dtype, kernel.activation_bitwidth))
        and (
            param is None
            or kernel.param_bitwidth is None
            or param == _precision(kernel.param_dtype, kernel.param_bitwidth)
        )
        for kernel in kernels
    )


def describe(kernel: KernelType) -> str:
    """A kernel in words, as messages show it."""
    activation = _precision(kernel.activation_dtype, kernel.activation_bitwidth)
    if kernel.param_bitwidth is None:
        return f"activations {activation}"
    return (
        f"activations {activation}, weights {_precision(kernel.param_dtype, kernel.param_bitwidth)}"
    )


def _precision(data_type: str | None, bitwidth: int) -> Precision:
    return Precision(bitwidth, data_type == "float")
