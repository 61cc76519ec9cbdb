"""Where quantizers go: applies a quantsim configuration to a model's graph.

`plan` only decides, one `Decision` for every operand and result of every operator, with the reason
in words (the summary shows it). `realize.py` makes the quantizers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from aimet_torch.graph import GRID_PRESERVING_OPS, ModelGraph, OpNode, Value
from aimet_torch.quantsim.config import QuantSimConfig
from aimet_torch.quantsim.fusion import TRANSPARENT_OPS, fused_chains

# Operators whose second tensor operand is a weight when it is a parameter, with the axis of its
# output channels.
WEIGHT_OPERAND_AXIS = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0, "MatMul": -1}
# Generation of the HTP from which the second factor of a product of 16-bit activations is signed.
SIGNED_FACTORS_SINCE = 73


@dataclass
class Decision:
    """What happens to one tensor at one operator.

    Attributes:
        is_quantized: a quantizer sits here.
        reason: why, or why not, in a few words.
        is_symmetric: grid of the quantizer.
        is_param: the tensor is a weight: parameter bit width, `channel_axis` counts.
        channel_axis: axis with one scale each, or None for one scale.
        limits: fixed (min, max) of the range from the configuration; either may be None.
    """

    is_quantized: bool
    reason: str
    is_symmetric: bool = False
    is_param: bool = False
    channel_axis: int | None = None
    limits: tuple[float | None, float | None] = (None, None)


@dataclass
class Plan:
    """Decisions by operator name and index of the operand or result, or name of the parameter."""

    inputs: dict[tuple[str, int], Decision] = field(default_factory=dict)
    outputs: dict[tuple[str, int], Decision] = field(default_factory=dict)
    params: dict[tuple[str, str], Decision] = field(default_factory=dict)


def plan(graph: ModelGraph, config: QuantSimConfig, activation_bits: int = 8) -> Plan:
    """Decide for every tensor of the graph whether it gets a quantizer.

    Args:
        graph: the traced model after `to_module()`.
        config: the configuration.
        activation_bits: of the quantizers of activations, at first.

    Returns:
        The decisions; nothing is changed.
    """
    result = Plan()
    for op in graph.ops:
        for j, value in enumerate(op.outputs):
            result.outputs[op.name, j] = _output_decision(op, value, config)
        _decide_params(op, config, result)
    for chain in fused_chains(graph, config):
        _fuse(chain, result)
    for op in graph.ops:
        for i, value in enumerate(op.inputs):
            decision = _input_decision(op, i, value, config)
            if decision is not None:
                result.inputs[op.name, i] = decision
    generation = config.hw_generation
    if generation is not None and generation >= SIGNED_FACTORS_SINCE and activation_bits > 8:
        for op in graph.ops:
            if op.op_type == "MatMul" and len(op.inputs) > 1:
                _make_symmetric(op.inputs[1], result)
    return result


def _make_symmetric(value: Value, result: Plan) -> None:
    """Put the tensor that a matrix product has as its second factor on a grid about zero.

    From V73 on, the HTP multiplies two 16-bit activations if the second one is symmetric, and cuts
    it to 8 bits if it is not.
    """
    while value.producer is not None and value.producer.op_type in (
        *TRANSPARENT_OPS,
        *GRID_PRESERVING_OPS,
    ):
        value = value.producer.inputs[0]
    if value.producer is not None:
        index = next(i for i, v in enumerate(value.producer.outputs) if v is value)
        result.outputs[value.producer.name, index].is_symmetric = True
    for reader, position in value.consumers:
        decision = result.inputs.get((reader.name, position))
        if decision is not None and value.kind == "input":
            decision.is_symmetric = True


def _output_decision(op: OpNode, value: Value, config: QuantSimConfig) -> Decision:
    rule = config.op_rule(op.op_type)
    if not value.is_float:
        return Decision(False, "not floating point")
    if op.op_type == "Boundary":
        return Decision(False, "inside an untraceable module")
    if not value.finite:
        return Decision(False, "holds infinities (a mask)")
    is_forced = value.is_model_output and config.is_model_output_quantized
    if op.op_type in TRANSPARENT_OPS or (op.op_type in GRID_PRESERVING_OPS and not is_forced):
        return Decision(False, "same grid as its input")
    if len(op.outputs) > 1 and not value.consumers and not value.is_model_output:
        # The states of a recurrent layer, mostly. Its range would be learned without a gradient.
        return Decision(False, "read by nobody")
    if not is_forced and not config.is_output_quantized(op.op_type):
        return Decision(False, "off in the configuration")
    limits = (rule.encoding_min, rule.encoding_max)
    # A fixed range that is symmetric about zero (Tanh, Sin) fits a symmetric grid.
    is_balanced = rule.encoding_max is not None and rule.encoding_min == -rule.encoding_max
    return Decision(
        True,
        "output",
        is_symmetric=config.is_activation_symmetric(op.op_type) or is_balanced,
        limits=limits,
    )


def _input_decision(
    op: OpNode, index: int, value: Value, config: QuantSimConfig
) -> Decision | None:
    """Decide about an operand that no operator has produced, or that the configuration names."""
    if not value.is_float or not value.finite or op.op_type == "Boundary":
        return None
    rule = config.op_rule(op.op_type)
    if value.kind == "activation":
        if rule.is_input_quantized and not _is_on_a_grid(value):
            return Decision(
                True, "input, by the configuration", config.is_activation_symmetric(op.op_type)
            )
        return None
    if op.op_type in TRANSPARENT_OPS:
        return None
    if value.kind == "input":
        if config.is_model_input_quantized:
            return Decision(True, "model input", config.is_activation_symmetric(op.op_type))
        return Decision(False, "model input, off in the configuration")
    if value.kind == "parameter":
        op, index = _destination(op, index)
    weight_position = 1
    if value.kind == "parameter" and index == weight_position and op.op_type in WEIGHT_OPERAND_AXIS:
        return _weight_decision(op.op_type, config)
    if value.kind == "parameter" and index > weight_position and op.op_type in WEIGHT_OPERAND_AXIS:
        named = config.param_rule(op.op_type, "bias")
        return Decision(bool(named.is_quantized), "bias", bool(named.is_symmetric), is_param=True)
    return Decision(True, f"{value.kind} as an operand", config.is_activation_symmetric(op.op_type))


def _destination(op: OpNode, index: int) -> tuple[OpNode, int]:
    """Where a parameter arrives that `op` may only cut into parts, as attention does with its own.

    The operator and the position of the operand: those of all parts if they agree.
    """
    if op.op_type == "Split":
        ends = [end for part in op.outputs for end in part.consumers]
        if len({(end.op_type, position) for end, position in ends}) == 1:
            return ends[0]
    return op, index


def _is_on_a_grid(value: Value) -> bool:
    return value.producer is not None and value.producer.op_type not in TRANSPARENT_OPS


def _weight_decision(op_type: str, config: QuantSimConfig, name: str = "weight") -> Decision:
    rule = config.param_rule(op_type, name)
    axis = WEIGHT_OPERAND_AXIS.get(op_type, 0) if config.is_per_channel(op_type) else None
    reason = "parameter" if rule.is_quantized else "off in the configuration"
    return Decision(
        bool(rule.is_quantized), reason, bool(rule.is_symmetric), is_param=True, channel_axis=axis
    )


def _decide_params(op: OpNode, config: QuantSimConfig, result: Plan) -> None:
    if op.module is None or op.op_type == "Boundary" or op.call_index > 0:
        return
    for name, decision in param_decisions(op.module, op.op_type, config).items():
        result.params[op.name, name] = decision


def param_decisions(module: nn.Module, op_type: str, config: QuantSimConfig) -> dict[str, Decision]:
    """Decisions for the floating-point parameters that a leaf module owns, by name."""
    decisions = {}
    for name, parameter in module.named_parameters(recurse=False):
        if not parameter.is_floating_point():
            continue
        # Recurrent layers have several: bias_ih_l0, bias_hh_l0_reverse.
        is_bias = isinstance(module, nn.RNNBase | nn.RNNCellBase) and name.startswith("bias_")
        decision = _weight_decision(op_type, config, "bias" if is_bias else name)
        if parameter.dim() < 2 and op_type != "PRelu":
            decision.channel_axis = None
        generation = config.hw_generation
        is_table = isinstance(module, nn.Embedding | nn.GroupNorm)
        if generation is not None and generation >= 73 and name == "weight" and is_table:
            # From V73 on a lookup has the type of its table, and GroupNorm's weight that of its
            # output.
            decision.is_symmetric = config.is_activation_symmetric(op_type)
        decisions[name] = decision
    return decisions


def _fuse(chain: list[OpNode], result: Plan) -> None:
    """Only the last operator of a fused chain keeps its output quantizer."""
    last = chain[-1]
    for op in chain[:-1]:
        for j in range(len(op.outputs)):
            if result.outputs[op.name, j].is_quantized:
                result.outputs[op.name, j] = Decision(False, f"fused with {last.name}")
    for op in chain[1:]:
        # A batch norm inside a chain is folded into the weights before it.
        if op.op_type == "BatchNormalization":
            for key, decision in result.params.items():
                if key[0] == op.name:
                    decision.is_quantized, decision.reason = False, "folds into the layer before"
