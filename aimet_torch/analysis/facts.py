"""What a simulation's graph and tensors say about each quantizer: the input of the advice."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aimet_torch import ops
from aimet_torch.analysis.advice import TensorFacts
from aimet_torch.analysis.histograms import TensorHistogram
from aimet_torch.analysis.sensitivity import Sensitivity
from aimet_torch.analysis.switching import Switchboard
from aimet_torch.graph import OpNode
from aimet_torch.quantization.affine import AffineQuantizerBase
from aimet_torch.quantization.base import plain_tensor
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.quantsim.fusion import is_foldable_batch_norm
from aimet_torch.quantsim.placement import WEIGHT_OPERAND_AXIS

__all__ = ["GraphNode", "graph_nodes", "operators_of_quantizers", "tensor_facts", "unfolded"]

_NORMS = frozenset({"LayerNormalization", "RMSNormalization"})
_TAIL_SHARE = 0.999


@dataclass(frozen=True)
class GraphNode:
    """One operator of the network, for a picture of it.

    Attributes:
        name: dotted name of the call.
        op_type: ONNX name of the operator.
        reads: positions, in the list of nodes, of the operators whose results it reads.
        module: name of the module that computes it.
        call: which call of the module, from 0.
    """

    name: str
    op_type: str
    reads: tuple[int, ...]
    module: str | None
    call: int = 0


def graph_nodes(sim: QuantizationSimModel) -> list[GraphNode]:
    """The operators of a simulation's graph, in execution order."""
    position = {id(op): index for index, op in enumerate(sim.graph.ops)}
    return [
        GraphNode(
            op.name,
            op.op_type,
            tuple(position[id(producer)] for producer in op.producers()),
            op.module_name,
            op.call_index,
        )
        for op in sim.graph.ops
    ]


def operators_of_quantizers(sim: QuantizationSimModel) -> dict[str, OpNode]:
    """The operator that a quantizer's module computes, by the name of the quantizer."""
    by_module: dict[str, list[OpNode]] = {}
    for op in [*sim.graph.ops, *(op for b in sim.graph.boundaries for op in b.ops)]:
        if op.module_name is not None:
            by_module.setdefault(op.module_name, []).append(op)
    found = {}
    for name, _ in sim.named_quantizers():
        module, kind, key = name.rsplit(".", 2)
        calls = by_module.get(module, [])
        if not calls:
            continue
        per_call = 0
        if kind != "param_quantizers":
            owner: Any = sim.model.get_submodule(module)
            is_input = kind == "input_quantizers"
            per_call = owner.inputs_per_call if is_input else owner.outputs_per_call
        call = int(key) // per_call if per_call else 0
        found[name] = calls[min(call, len(calls) - 1)]
    return found


def unfolded(sim: QuantizationSimModel) -> list[str]:
    """Batch norms that could be folded into the layer before them."""
    return [op.name for op in sim.graph.ops if is_foldable_batch_norm(op)]


def tensor_facts(
    board: Switchboard, sensitivity: Sensitivity, histograms: Iterable[TensorHistogram]
) -> list[TensorFacts]:
    """Facts of every quantizer whose sensitivity was estimated at its own bits."""
    operators = operators_of_quantizers(board.sim)
    tails = {h.name: _tail(h) for h in histograms}
    own = {
        row.name: row for row in sensitivity if row.bitwidth == board.quantizers[row.name].bitwidth
    }
    losses = {(row.name, row.bitwidth): row.loss for row in sensitivity}
    total = sum(row.loss for row in own.values()) or 1.0
    facts = []
    for name, row in own.items():
        quantizer, op = board.quantizers[name], operators.get(name)
        op_type = op.op_type if op is not None else "unknown"
        parameter = board.parameter(name)
        better = losses.get((name, 8 if row.bitwidth < 8 else 16))
        facts.append(
            TensorFacts(
                name,
                op_type,
                row.is_param,
                row.bitwidth,
                math.prod(quantizer.shape),
                row.loss / total,
                row.sqnr_db,
                row.clipped,
                1.0 if parameter is None else _spread(parameter, op_type),
                1.0 if row.is_param else tails.get(name, 1.0),
                None if better is None or row.loss == 0 else better / row.loss,
                op is not None and not row.is_param and _is_before_norm(op),
                isinstance(quantizer, AffineQuantizerBase) and not quantizer.is_overwrite_allowed(),
            )
        )
    return facts


def _is_before_norm(op: OpNode) -> bool:
    return any(reader.op_type in _NORMS for value in op.outputs for reader, _ in value.consumers)


@torch.no_grad()
def _spread(parameter: Tensor, op_type: str) -> float:
    """Largest range of an output channel over the median one."""
    if parameter.dim() < 2 or not parameter.numel():
        return 1.0
    axis = WEIGHT_OPERAND_AXIS.get(op_type, 0) % parameter.dim()
    shape = [1] * parameter.dim()
    shape[axis] = parameter.shape[axis]
    low, high = ops.min_max(plain_tensor(parameter), shape)
    ranges = torch.maximum(low.abs(), high.abs()).flatten()
    median = float(ranges[ranges > 0].median()) if bool((ranges > 0).any()) else 0.0
    return float(ranges.max()) / median if median else 1.0


def _tail(histogram: TensorHistogram) -> float:
    """Largest magnitude over that which `_TAIL_SHARE` of the values stay below."""
    width = (histogram.upper - histogram.lower) / len(histogram.counts)
    edges = [histogram.lower + i * width for i in range(len(histogram.counts) + 1)]
    magnitudes = sorted(
        (max(abs(left), abs(right)), count)
        for left, right, count in zip(edges, edges[1:], histogram.counts, strict=False)
    )
    wanted, seen = _TAIL_SHARE * sum(histogram.counts), 0
    largest = max(abs(histogram.lower), abs(histogram.upper))
    for magnitude, count in magnitudes:
        seen += count
        if seen >= wanted:
            return largest / magnitude if magnitude > 0 else 1.0
    return 1.0
