"""A graph for opset 18 in the words of an older one, down to 13.

torch.onnx translates for opset 18 or later, and onnx.version_converter knows no way back from
several operators of it (LayerNormalization, Relu, ReduceMean's attributes). Between 13 and 18, few
definitions that a network uses have changed other than by further types; each is spelled out here.
What has no older form is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common as ir_passes

from aimet_torch.export.capture import EXPORTER_OPSETS
from aimet_torch.export.encoded_graph import EncodedGraph


def restate_for_opset(graph: EncodedGraph) -> None:
    """Rewrite what the opset of `graph` says differently than that of its model, in place.

    Names of tensors stay; those inside a LayerNormalization or HardSwish are new.

    Raises:
        NotImplementedError: an operator that the older opset lacks.
    """
    opset = graph.opset
    if opset >= EXPORTER_OPSETS[0]:
        return
    writer = _Writer(graph, opset)
    for node in list(graph.model.graph):
        rule = _RULES.get(node.op_type) if node.domain == "" else None
        if rule is not None and opset < rule[0]:
            rule[1](node, writer)
    for node in graph.model.graph:
        _check(node, opset)
    graph.model.opset_imports[""] = opset
    graph.model.ir_version = onnx.helper.find_min_ir_version_for(
        [onnx.helper.make_opsetid("", opset)]
    )
    ir_passes.RemoveUnusedNodesPass()(graph.model)


class _Writer:
    """Adds nodes in front of one that they replace."""

    def __init__(self, graph: EncodedGraph, opset: int) -> None:
        self.graph = graph
        self.opset = opset

    def constant(self, node: ir.Node, name: str, array: np.ndarray) -> ir.Value:
        return self.graph.add_constant(f"{node.outputs[0].name}_{name}", array)

    def op(
        self, node: ir.Node, op_type: str, inputs: list[ir.Value | None], **attributes: Any
    ) -> ir.Value:
        """The result of a new operator in front of `node`."""
        name = self.graph.unique_name(f"{node.outputs[0].name}_{op_type.lower()}")
        new = ir.node(op_type, inputs, attributes=attributes, name=f"node_{name}")
        value = new.outputs[0]
        value.name, value.type = name, node.outputs[0].type
        node.graph.insert_before(node, new)
        return value

    def replace(self, node: ir.Node, value: ir.Value) -> None:
        """Let `value` be what `node` computed, under the same name."""
        old = node.outputs[0]
        name, value.shape, value.type = old.name, old.shape, old.type
        old.replace_all_uses_with(value, replace_graph_outputs=True)
        encoding = self.graph.encodings.pop(old, None)
        if encoding is not None:
            self.graph.encodings[value] = encoding
        node.graph.remove(node, safe=True)
        old.name = None
        value.name = name

    def refuse(self, node: ir.Node, why: str) -> NotImplementedError:
        return NotImplementedError(
            f"export: {node.op_type} `{node.name}` has no form in opset {self.opset}: {why}; use a "
            "later `opset_version`"
        )


def _constant_of(node: ir.Node, position: int) -> np.ndarray | None:
    if len(node.inputs) <= position or node.inputs[position] is None:
        return None
    tensor = ir.convenience.get_const_tensor(node.inputs[position])
    return None if tensor is None else np.asarray(tensor.numpy())


def _int(node: ir.Node, name: str, default: int = 0) -> int:
    return int(node.attributes[name].as_int()) if name in node.attributes else default


def _text(node: ir.Node, name: str, default: str) -> str:
    return str(node.attributes[name].as_string()) if name in node.attributes else default


def _drop(node: ir.Node, *names: str) -> None:
    for name in names:
        node.attributes.pop(name, None)


def _reduce(node: ir.Node, writer: _Writer) -> None:
    """The axes were an attribute."""
    is_noop = _int(node, "noop_with_empty_axes")
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        axes = _constant_of(node, 1)
        if axes is None:
            raise writer.refuse(node, "its axes are computed at run time")
        if axes.size:
            node.attributes["axes"] = ir.AttrInt64s("axes", [int(axis) for axis in axes])
        elif is_noop:
            raise writer.refuse(node, "it reduces nothing")
    node.resize_inputs(1)
    _drop(node, "noop_with_empty_axes")


def _split(node: ir.Node, writer: _Writer) -> None:
    """Parts of unequal size had to be listed."""
    count = _int(node, "num_outputs")
    _drop(node, "num_outputs")
    source = node.inputs[0]
    if not count or (len(node.inputs) > 1 and node.inputs[1] is not None):
        return
    size = source.shape[_int(node, "axis")] if source.shape is not None else None
    if not isinstance(size, int):
        raise writer.refuse(node, f"its input has an open size along axis {_int(node, 'axis')}")
    part = -(-size // count)
    sizes = [part] * (count - 1) + [size - part * (count - 1)]
    node.resize_inputs(2)
    node.replace_input_with(1, writer.constant(node, "sizes", np.array(sizes, np.int64)))


def _pad(node: ir.Node, writer: _Writer) -> None:
    """Padding was given for every axis."""
    if _text(node, "mode", "constant") == "wrap":
        raise writer.refuse(node, "mode `wrap`")
    if len(node.inputs) < 4 or node.inputs[3] is None:
        return
    axes, pads = _constant_of(node, 3), _constant_of(node, 1)
    if axes is None or pads is None or node.inputs[0].shape is None:
        raise writer.refuse(node, "its axes or sizes are computed at run time")
    rank = node.inputs[0].shape.rank()
    full = np.zeros(2 * rank, np.int64)
    for i, axis in enumerate(axes):
        full[axis % rank], full[axis % rank + rank] = pads[i], pads[i + len(axes)]
    node.replace_input_with(1, writer.constant(node, "pads", full))
    node.resize_inputs(3)


def _resize(node: ir.Node, writer: _Writer) -> None:
    if _int(node, "antialias") or "axes" in node.attributes:
        raise writer.refuse(node, "antialiasing, or sizes for some of the axes")
    if _text(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
        raise writer.refuse(node, "it keeps the aspect ratio")
    _drop(node, "antialias", "keep_aspect_ratio_policy")


def _scatter(node: ir.Node, writer: _Writer) -> None:
    """Without a reduction before 16; later with sum and product."""
    reduction = _text(node, "reduction", "none")
    if reduction in ("max", "min") or (reduction != "none" and writer.opset < 16):
        raise writer.refuse(node, f"reduction `{reduction}`")
    if writer.opset < 16:
        _drop(node, "reduction")


def _bitwise(node: ir.Node, writer: _Writer) -> None:
    """On truth values these are the logical operators."""
    if node.inputs[0].dtype != ir.DataType.BOOL:
        raise writer.refuse(node, "it works on bits of integers")
    logical = node.op_type.removeprefix("Bitwise")
    writer.replace(node, writer.op(node, logical, list(node.inputs)))


def _mish(node: ir.Node, writer: _Writer) -> None:
    x = node.inputs[0]
    gate = writer.op(node, "Tanh", [writer.op(node, "Softplus", [x])])
    writer.replace(node, writer.op(node, "Mul", [x, gate]))


def _hard_swish(node: ir.Node, writer: _Writer) -> None:
    x = node.inputs[0]
    gate = writer.op(node, "HardSigmoid", [x], alpha=1.0 / 6.0, beta=0.5)
    writer.replace(node, writer.op(node, "Mul", [x, gate]))


def _layer_normalization(node: ir.Node, writer: _Writer) -> None:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias."""
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        raise writer.refuse(node, "its mean or deviation is read")
    x, scale = node.inputs[0], node.inputs[1]
    axis = _int(node, "axis", -1)
    if x.shape is None and axis >= 0:
        raise writer.refuse(node, "the number of its axes is not known")
    rank = x.shape.rank() if x.shape is not None else 0
    axes = list(range(axis if axis < 0 else axis - rank, 0))
    epsilon = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5

    def op(op_type: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        return writer.op(node, op_type, list(inputs), **attributes)

    centered = op("Sub", x, op("ReduceMean", x, axes=axes, keepdims=1))
    variance = op("ReduceMean", op("Mul", centered, centered), axes=axes, keepdims=1)
    small = writer.constant(node, "epsilon", np.array(epsilon, _floats(x)))
    deviation = op("Sqrt", op("Add", variance, small))
    result = op("Mul", op("Div", centered, deviation), scale)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        result = op("Add", result, node.inputs[2])
    writer.replace(node, result)


def _floats(value: ir.Value) -> Any:
    return value.dtype.numpy() if value.dtype is not None else np.float32


def _shape(node: ir.Node, writer: _Writer) -> None:
    """A part of the sizes was cut out of all of them."""
    if "start" not in node.attributes and "end" not in node.attributes:
        return
    start, end = _int(node, "start"), _int(node, "end", np.iinfo(np.int64).max)
    whole = writer.op(node, "Shape", list(node.inputs))
    limits = [
        writer.constant(node, name, np.array([number], np.int64))
        for name, number in (("start", start), ("end", end))
    ]
    writer.replace(node, writer.op(node, "Slice", [whole, *limits]))


def _batch_normalization(node: ir.Node, writer: _Writer) -> None:
    if _int(node, "training_mode"):
        raise writer.refuse(node, "training mode")
    _drop(node, "training_mode")


def _reshape(node: ir.Node, writer: _Writer) -> None:
    """Zeros meant sizes that stay."""
    if _int(node, "allowzero"):
        sizes = _constant_of(node, 1)
        if sizes is None or (sizes == 0).any():
            raise writer.refuse(node, "a size may be zero")
    _drop(node, "allowzero")


def _recurrent(node: ir.Node, writer: _Writer) -> None:
    if _int(node, "layout"):
        raise writer.refuse(node, "the batch comes first (`layout`)")
    _drop(node, "layout")


def _relu(node: ir.Node, writer: _Writer) -> None:
    if node.inputs[0].dtype is not None and not node.inputs[0].dtype.is_floating_point():
        raise writer.refuse(node, "its input holds integers")


# Operator: the opset that changed it, and the way back.
_Rule = Callable[[ir.Node, _Writer], None]
_RULES: dict[str, tuple[int, _Rule]] = {
    **{f"Bitwise{name}": (18, _bitwise) for name in ("And", "Not", "Or", "Xor")},
    **{
        f"Reduce{name}": (18, _reduce)
        for name in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
    },
    "BatchNormalization": (14, _batch_normalization),
    "GRU": (14, _recurrent),
    "HardSwish": (14, _hard_swish),
    "LSTM": (14, _recurrent),
    "LayerNormalization": (17, _layer_normalization),
    "Mish": (18, _mish),
    "Pad": (18, _pad),
    "RNN": (14, _recurrent),
    "Relu": (14, _relu),
    "Reshape": (14, _reshape),
    "Resize": (18, _resize),
    "ScatterElements": (18, _scatter),
    "ScatterND": (18, _scatter),
    "Shape": (15, _shape),
    "Split": (18, _split),
}


def _check(node: ir.Node, opset: int) -> None:
    """Refuse what the rules did not bring into a form that the opset knows."""
    if node.domain != "":
        return
    where = f"export: {node.op_type} `{node.name}` has no form in opset {opset}"
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError as error:
        raise NotImplementedError(
            f"{where}, which does not have it; use a later `opset_version`"
        ) from error
    unknown = [name for name in node.attributes if name not in schema.attributes]
    inputs = [value for value in node.inputs if value is not None]
    if unknown or len(inputs) > schema.max_input:
        raise NotImplementedError(
            f"{where}: {', '.join(unknown) or 'its inputs'} came later; use a later `opset_version`"
        )
