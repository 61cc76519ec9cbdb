"""Turns a placement plan into quantized modules and quantizers, in place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from aimet_torch.common.defs import QuantizationDataType, QuantScheme
from aimet_torch.graph import ModelGraph, OpNode, Value
from aimet_torch.nn import QuantizationMixin
from aimet_torch.nn.eager import InputProducer, LastResult
from aimet_torch.quantization.affine import QuantizeDequantize
from aimet_torch.quantization.encoding_analyzer import (
    EncodingAnalyzer,
    MinMaxEncodingAnalyzer,
    MseEncodingAnalyzer,
    PercentileEncodingAnalyzer,
    TfEnhancedEncodingAnalyzer,
    ValuesMseEncodingAnalyzer,
)
from aimet_torch.quantization.float import FloatQuantizeDequantize
from aimet_torch.quantsim.boundary import leaf_decisions, observe_leaves
from aimet_torch.quantsim.config import QuantSimConfig
from aimet_torch.quantsim.placement import Decision, Plan

_ANALYZERS: dict[QuantScheme, type[EncodingAnalyzer]] = {
    QuantScheme.min_max: MinMaxEncodingAnalyzer,
    QuantScheme.training_range_learning: MinMaxEncodingAnalyzer,
    QuantScheme.training_range_learning_with_tf_init: MinMaxEncodingAnalyzer,
    QuantScheme.post_training_tf_enhanced: TfEnhancedEncodingAnalyzer,
    QuantScheme.training_range_learning_with_tf_enhanced_init: TfEnhancedEncodingAnalyzer,
    QuantScheme.post_training_percentile: PercentileEncodingAnalyzer,
    QuantScheme.post_training_mse: MseEncodingAnalyzer,
}


def analyzer_class(scheme: QuantScheme, is_param: bool = False) -> type[EncodingAnalyzer]:
    """The analyzer that finds ranges by a scheme."""
    if is_param and scheme == QuantScheme.post_training_mse:
        return ValuesMseEncodingAnalyzer
    return _ANALYZERS[scheme]


@dataclass
class Settings:
    """What the quantizers of a simulation have in common."""

    scheme: QuantScheme
    output_bitwidth: int
    param_bitwidth: int
    data_type: QuantizationDataType


@dataclass
class Realization:
    """Quantizers whose range the configuration limits: (quantizer, min or None, max or None)."""

    limits: list[tuple[QuantizeDequantize, float | None, float | None]] = field(
        default_factory=list
    )


def realize(
    model: nn.Module,
    graph: ModelGraph,
    plan: Plan,
    settings: Settings,
    config: QuantSimConfig,
    run: Callable[[], object],
) -> Realization:
    """Replace modules by their quantized classes and give them the planned quantizers.

    Args:
        model: the runnable module of `graph.to_module()`; changed in place.
        graph: its graph; `OpNode.module` afterwards is the quantized module.
        plan: decisions for this graph.
        settings: bit widths, range scheme and data type.
        config: rules for the leaf modules of untraceable parts.
        run: runs the model on its example input, in evaluation mode without gradients.

    Returns:
        What calibration must know beyond the quantizers themselves.
    """
    maker = QuantizerMaker(settings)
    boundaries = [op for op in graph.ops if op.is_boundary]
    leaf_uses = [use for op in boundaries for use in observe_leaves(op, run)]
    read_elsewhere = {v.parameter_name for v in graph.values() if v.kind == "parameter"}
    calls: dict[str, list[OpNode]] = defaultdict(list)
    for op in graph.ops:
        if op.module_name is not None and op.module is not None and not op.is_boundary:
            calls[op.module_name].append(op)
    for name, ops in calls.items():
        if _needs_quantized_class(ops, plan):
            _quantize_module(model, name, ops, plan, maker)
    for use in leaf_uses:
        operands, results, params = leaf_decisions(use, config)
        module = _replace_by_quantized(model, use.name, use.module)
        module.reserve_quantizers(len(operands), len(results))
        for quantizers, decisions in (
            (module.input_quantizers, operands),
            (module.output_quantizers, results),
        ):
            for index, decision in enumerate(decisions):
                quantizers[index] = maker.activation_or_none(decision)
        _quantize_params(module, params, maker)
        read_elsewhere |= {f"{use.name}.{name}" for name in use.params_read_elsewhere}
    _note_reads(model, read_elsewhere)
    _let_activations_overwrite(graph)
    graph.recompile()
    return maker.realization


def _note_reads(model: nn.Module, parameters: set[str | None]) -> None:
    """Tell quantized modules which of their parameters the model's code reads past them."""
    for full_name in parameters:
        owner, _, name = (full_name or "").rpartition(".")
        module = model.get_submodule(owner)
        if isinstance(module, QuantizationMixin):
            module.params_read_elsewhere |= {name}


def _let_activations_overwrite(graph: ModelGraph) -> None:
    """Tell activation functions which of them alone read what the layer before has made."""
    for op in graph.ops:
        producer, between = _maker_of_input(op)
        if producer is None:
            continue
        reader: Any = op.module
        maker: Any = producer.module
        if not (isinstance(reader, QuantizationMixin) and isinstance(maker, QuantizationMixin)):
            continue
        if reader._activation is None or not maker._returns_new or not reader.accepts_call_site:
            continue
        known = reader.input_producers or {}
        reader.input_producers = {**known, op.call_index: InputProducer(maker, between)}
        maker._last_result = LastResult()
        node: Any = op.fx_node
        node.kwargs = {**node.kwargs, "owns_input": True}


def _maker_of_input(op: OpNode) -> tuple[OpNode | None, tuple[nn.Module, ...]]:
    """The operation whose only result only ``op`` reads, and the modules that just hand it on.

    Batch norms that were folded leave an ``nn.Identity`` between a layer and its activation.
    """
    between: list[nn.Module] = []
    reader = op
    while len(reader.inputs) == 1:
        producer = reader.inputs[0].producer
        if producer is None or producer.next_op() is not reader or len(producer.outputs) != 1:
            break
        if not isinstance(producer.module, nn.Identity):
            return producer, tuple(between)
        between.append(producer.module)
        reader = producer
    return None, ()


def _needs_quantized_class(ops: list[OpNode], plan: Plan) -> bool:
    module: Any = ops[0].module
    is_user_visible = type(module).__module__.startswith("torch.nn.")
    return (
        is_user_visible
        or any(plan.outputs[op.name, j].is_quantized for op in ops for j in range(len(op.outputs)))
        or any((op.name, i) in plan.inputs for op in ops for i in range(len(op.inputs)))
        or any(True for _ in module.parameters(recurse=False))
    )


def _replace_by_quantized(model: nn.Module, name: str, module: Any) -> Any:
    quantized = QuantizationMixin.from_module(module)
    parent_name, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent_name), child, quantized)
    return quantized


def _quantize_params(module: Any, decisions: dict[str, Decision], maker: QuantizerMaker) -> None:
    for name in module.param_quantizers:
        decision, tensor = decisions.get(name), getattr(module, name)
        if decision is not None and decision.is_quantized and tensor is not None:
            module.param_quantizers[name] = maker.weight(decision, tuple(tensor.shape))


def _quantize_module(
    model: nn.Module, name: str, ops: list[OpNode], plan: Plan, maker: QuantizerMaker
) -> None:
    module = _replace_by_quantized(model, name, ops[0].module)
    input_count = max(len(op.inputs) for op in ops)
    output_count = max(len(op.outputs) for op in ops)
    module.reserve_quantizers(input_count, output_count, len(ops))
    for op in ops:
        op.module = module
        for i, value in enumerate(op.inputs):
            index = op.call_index * input_count + i
            module.input_quantizers[index] = maker.operand(plan.inputs.get((op.name, i)), value)
        for j in range(len(op.outputs)):
            index = op.call_index * output_count + j
            module.output_quantizers[index] = maker.activation_or_none(plan.outputs[op.name, j])
        if op.call_index > 0:
            node: Any = op.fx_node
            node.kwargs = {**node.kwargs, "call_site": op.call_index}
    first = ops[0].name
    _quantize_params(
        module, {key[1]: d for key, d in plan.params.items() if key[0] == first}, maker
    )


class QuantizerMaker:
    """Makes quantizers; an input or constant that several operators read gets one for all."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._by_value: dict[str, nn.Module] = {}
        self.realization = Realization()

    def operand(self, decision: Decision | None, value: Value) -> nn.Module | None:
        """The quantizer of an operand, the same for all who read it; None where there is none."""
        if decision is None or not decision.is_quantized:
            return None
        if value.name not in self._by_value:
            make = self.weight if decision.is_param else self.activation
            self._by_value[value.name] = make(decision, tuple(value.shape))
        return self._by_value[value.name]

    def activation_or_none(self, decision: Decision | None) -> nn.Module | None:
        """The quantizer of a result; None where there is none."""
        if decision is None or not decision.is_quantized:
            return None
        return self.activation(decision)

    def activation(self, decision: Decision, tensor_shape: tuple[int, ...] = ()) -> nn.Module:
        """A quantizer of an activation."""
        del tensor_shape  # one range, whatever the shape
        return self._make((), self._settings.output_bitwidth, decision)

    def weight(self, decision: Decision, tensor_shape: tuple[int, ...]) -> nn.Module:
        """A quantizer of a weight of this shape, with as many scales as were decided."""
        if decision.channel_axis is None or not tensor_shape:
            return self._make((), self._settings.param_bitwidth, decision)
        shape = [1] * len(tensor_shape)
        shape[decision.channel_axis] = tensor_shape[decision.channel_axis]
        return self._make(tuple(shape), self._settings.param_bitwidth, decision)

    def _make(self, shape: tuple[int, ...], bitwidth: int, decision: Decision) -> nn.Module:
        if self._settings.data_type == QuantizationDataType.float:
            return FloatQuantizeDequantize(dtype={16: torch.float16, 32: torch.float32}[bitwidth])
        analyzer = analyzer_class(self._settings.scheme, decision.is_param)(shape)
        quantizer = QuantizeDequantize(
            shape, bitwidth, decision.is_symmetric, encoding_analyzer=analyzer
        )
        low, high = decision.limits
        if low is not None or high is not None:
            self.realization.limits.append((quantizer, low, high))
        return quantizer
