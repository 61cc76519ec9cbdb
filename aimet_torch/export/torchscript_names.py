"""Names for the quantized tensors of a TorchScript graph.

The simulation is traced with a marker in place of each quantizer: an `aten::alias` whose result has
a name that tells which quantizer it is. Then the markers go, and the tensors they stood on take
names, which TorchScript keeps in its files as the names of variables.
"""

from __future__ import annotations

import functools
import keyword
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.encodings.tensor_encoding import TensorEncoding
from aimet_torch.export.copies import shared_copy
from aimet_torch.export.frozen import (
    INT32_LIMITS,
    FixedBias,
    quantized_modules,
    replace_quantizers,
    rounded_biases,
)
from aimet_torch.quantization.affine import AffineQuantizerBase
from aimet_torch.quantization.base import QuantizerBase, is_tracing
from aimet_torch.quantization.float import FloatQuantizeDequantize

_MARKER = re.compile(r"aimet_marker_(\d+)(?:\.\d+)?")
_NUMBER = re.compile(r"\.\d+$")
_SLOT = re.compile(r"(?:(.*)\.)?(input|output)_quantizers\.(\d+)")
# Names that TorchScript's own files use.
_RESERVED = frozenset(
    {*keyword.kwlist, "CONSTANTS", "inf", "infj", "math", "nan", "ops", "self", "torch"}
)
# They read a tensor's size or type, not its numbers.
_SIZE_READERS = frozenset(
    {"aten::size", "aten::dim", "aten::numel", "prim::NumToTensor", "prim::dtype", "prim::device"}
)


@dataclass
class MarkedCopy:
    """A copy of a simulation that marks tensors while it is traced, and what a mark stands for."""

    model: nn.Module
    encodings: list[TensorEncoding] = field(default_factory=list)


class _Marker(QuantizerBase):
    """In place of a quantizer: an alias of the tensor whose name in a trace holds a number."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def simulate(self, input: Tensor) -> Tensor:
        return _mark(input, self.index)

    def forward(self, input: Tensor) -> Tensor:
        return self.simulate(input)


class _BiasMarker(FixedBias):
    """In place of a `BiasGrid`."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def round(self, bias: Tensor) -> Tensor:
        return _mark(bias, self.index)


def _mark(tensor: Tensor, index: int) -> Tensor:
    marked = torch.ops.aten.alias(tensor)
    if is_tracing():
        torch._C._get_value_trace(marked).setDebugName(f"aimet_marker_{index}")  # type: ignore[attr-defined]
    return marked


@torch.no_grad()
def marked_copy(model: nn.Module) -> MarkedCopy:
    """A copy of `sim.model` that computes what the FP32 network computes, and marks its tensors.

    Raises:
        NotImplementedError: a quantizer that has no entry in encodings files.
    """
    result = MarkedCopy(shared_copy(model))
    biases: dict[Any, dict[int, FixedBias]] = defaultdict(dict)
    for name, module, site, grid, rounded in list(rounded_biases(result.model)):
        if grid.norm is None:
            scale = grid.scale()
            assert scale is not None  # there is a rounded bias
            encoding = _bias_encoding(f"{name}.bias", scale)
            biases[module][site] = _BiasMarker(_number(result.encodings, encoding))
        else:
            biases[module][site] = FixedBias(rounded)
    for _, module in quantized_modules(result.model):
        module.bias_grids = biases.get(module)

    def make(name: str, quantizer: QuantizerBase) -> QuantizerBase:
        if not quantizer.is_initialized():
            return quantizer  # calibration saw no usable number: passes its input through
        encoding = _encoding(name, quantizer)
        return _Marker(_number(result.encodings, encoding))

    replace_quantizers(result.model, make)
    return result


def _number(encodings: list[TensorEncoding], encoding: TensorEncoding) -> int:
    encodings.append(encoding)
    return len(encodings) - 1


def _bias_encoding(source: str, scale: Tensor) -> TensorEncoding:
    step = scale.detach().float().cpu().numpy()
    return TensorEncoding(
        source=source,
        is_param=True,
        bitwidth=32,
        signed=True,
        symmetric=True,
        qmin=INT32_LIMITS[0],
        qmax=INT32_LIMITS[1],
        scale=step,
        offset=torch.zeros(step.shape, dtype=torch.int64).numpy(),
    )


def _encoding(name: str, quantizer: QuantizerBase) -> TensorEncoding:
    if isinstance(quantizer, FloatQuantizeDequantize):
        # Entries of 16-bit floats do not tell bfloat16 from float16.
        is_described = not quantizer.is_bfloat16()
    else:
        is_described = isinstance(quantizer, AffineQuantizerBase) and not quantizer.zero_point_shift
    if not is_described:
        raise NotImplementedError(
            f"export: quantizer `{name}` is {quantizer!r}, which entries of encodings files do not "
            "describe well enough to simulate it; export_torchscript writes a simulation with any "
            "quantizer"
        )
    encoding = TensorEncoding.from_quantizer(name, ".param_quantizers." in f".{name}", quantizer)
    if encoding.is_float:
        return encoding
    levels = 2**encoding.bitwidth
    lowest = -levels // 2 if encoding.signed else 0
    if (encoding.qmin, encoding.qmax) != (lowest, lowest + levels - 1):
        raise NotImplementedError(
            f"export: quantizer `{name}` has the integers {encoding.qmin} to {encoding.qmax}, and "
            f"entries of encodings files have all of {encoding.bitwidth} bits; export_torchscript "
            "writes a simulation with any quantizer"
        )
    return encoding


def name_tensors(
    graph: Any, encodings: list[TensorEncoding]
) -> tuple[dict[str, TensorEncoding], dict[str, TensorEncoding]]:
    """Take the markers out of a traced graph and name what they stood on.

    Args:
        graph: of `forward`; inlined and changed in place.
        encodings: what the markers stand for.

    Returns:
        Encodings of parameters and of activations, by name.
    """
    torch._C._jit_pass_inline(graph)
    return _Namer(graph, encodings).run()


class _Namer:
    def __init__(self, graph: Any, encodings: list[TensorEncoding]) -> None:
        self.graph = graph
        self.encodings = encodings
        self.paths: dict[int, str] = {}  # dotted names of modules and parameters, by value
        self.markers: dict[int, tuple[Any, TensorEncoding]] = {}  # by their output
        self.parameters: dict[str, TensorEncoding] = {}
        self.activations: dict[str, TensorEncoding] = {}
        self.inputs = list(graph.inputs())
        self.taken: set[str] = set()
        self.to_name: list[Callable[[], None]] = []

    def run(self) -> tuple[dict[str, TensorEncoding], dict[str, TensorEncoding]]:
        self._read()
        self._forget_other_names()
        sources: dict[Any, list[Any]] = {}  # markers by what they stand on, in order
        for node, _ in list(self.markers.values()):
            source = node.input()
            key = self.paths.get(source.unique(), source.unique())
            sources.setdefault(key, []).append(node)
        # Backwards: a marker on a marker is settled while that one is still there.
        for key, nodes in reversed(sources.items()):
            self._settle(key, nodes)
        for give_name in reversed(self.to_name):
            give_name()
        self._keep_names_of_results()
        return self.parameters, self.activations

    def _read(self) -> None:
        self.paths[self.inputs[0].unique()] = ""
        for node in self.graph.nodes():
            owner = self.paths.get(node.input().unique()) if _is_attribute(node) else None
            if owner is not None:
                name = node.s("name")
                self.paths[node.output().unique()] = f"{owner}.{name}" if owner else name
            elif node.kind() == "aten::alias":
                found = _MARKER.fullmatch(node.output().debugName())
                if found:
                    encoding = self.encodings[int(found.group(1))]
                    self.markers[node.output().unique()] = node, encoding

    def _forget_other_names(self) -> None:
        """No variable of the model's code can then have a name that we give."""
        for value in self.inputs[1:]:
            self.taken.add(_NUMBER.sub("", value.debugName()))
        for node in _all_nodes(self.graph):
            if _is_attribute(node):
                self.taken.add(node.s("name"))  # files name them so
            for output in node.outputs():
                output.setDebugName("")

    def _settle(self, key: Any, nodes: list[Any]) -> None:
        """Name one tensor for its markers; those with a grid of their own keep an alias."""
        source = nodes[0].input()
        groups: list[list[Any]] = []
        for node in nodes:
            encoding = self._encoding(node)
            same = (g for g in groups if self._encoding(g[0]).has_same_grid(encoding))
            group = next(same, None)
            if group is None:
                groups.append([node])
            else:
                group.append(node)
        is_marker = source.unique() in self.markers
        if is_marker:  # rounding twice to one grid is rounding once
            before = self._encoding_of(source)
            for group in [g for g in groups if before.has_same_grid(self._encoding(g[0]))]:
                self._take_out(group, source)
                groups.remove(group)
        can_have_name = not is_marker and source.node().kind() != "prim::Constant"
        if len(groups) == 1 and can_have_name and self._is_read_by_markers_only(key, nodes):
            name = functools.partial(self._name, source, key, self._encoding(groups[0][0]))
            self.to_name.append(name)
            self._take_out(groups[0], source)
            return
        for group in reversed(groups):
            kept = group[0].output()
            self._take_out(group[1:], kept)
            self.to_name.append(
                functools.partial(self._name_alias, kept, key, self._encoding(group[0]))
            )

    def _encoding(self, node: Any) -> TensorEncoding:
        return self._encoding_of(node.output())

    def _encoding_of(self, value: Any) -> TensorEncoding:
        return self.markers[value.unique()][1]

    def _take_out(self, nodes: list[Any], value: Any) -> None:
        for node in nodes:
            if value.unique() in self.paths:  # a parameter: each marker has a reading of its own
                value = node.input()
            node.output().replaceAllUsesWith(value)
            node.destroy()

    def _is_read_by_markers_only(self, key: Any, nodes: list[Any]) -> bool:
        known = {node.output().unique() for node in nodes}
        if isinstance(key, str):
            values = [
                node.output()
                for node in self.graph.nodes()
                if _is_attribute(node) and self.paths.get(node.output().unique()) == key
            ]
        else:
            values = [nodes[0].input()]
        for value in values:
            for use in value.uses():
                if use.user.kind() in _SIZE_READERS:
                    continue
                outputs = list(use.user.outputs())
                if len(outputs) != 1 or outputs[0].unique() not in known:
                    return False
        return True

    def _name(self, source: Any, key: Any, encoding: TensorEncoding) -> None:
        if isinstance(key, str):
            self.parameters[key] = encoding
        elif any(source.unique() == value.unique() for value in self.inputs):
            self.activations[_NUMBER.sub("", source.debugName())] = encoding
        else:
            name = self._unique(_name_of_slot(encoding.source))
            source.setDebugName(name)
            self.activations[name] = encoding

    def _name_alias(self, value: Any, key: Any, encoding: TensorEncoding) -> None:
        if isinstance(key, str):
            name = self._unique(f"{key}_copy")
            self.parameters[name] = encoding
        else:
            name = self._unique(f"{_name_of_slot(encoding.source)}_requantized")
            self.activations[name] = encoding
        value.setDebugName(name)

    def _keep_names_of_results(self) -> None:
        """Files have no name for a value that is only returned: let an alias be returned."""
        named = set(self.activations)
        for index, value in enumerate(list(self.graph.return_node().inputs())):
            if value.debugName() in named and len(value.uses()) == 1:
                alias = self.graph.create("aten::alias", [value], 1)
                alias.insertAfter(value.node())
                alias.output().setType(value.type())
                self.graph.return_node().replaceInput(index, alias.output())

    def _unique(self, text: str) -> str:
        """A variable's name that nothing else in the graph has."""
        base = re.sub(r"\W", "_", text, flags=re.ASCII)
        if not base[:1].isalpha():
            base = f"t_{base}"
        name, count = base, 0
        while name in self.taken or name in _RESERVED:
            count += 1
            name = f"{base}_{count}"
        self.taken.add(name)
        return name


def _is_attribute(node: Any) -> bool:
    return bool(node.kind() == "prim::GetAttr")


def _all_nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _all_nodes(inner)


def _name_of_slot(quantizer: str) -> str:
    """`layer1.0.conv1.output_quantizers.0` -> `layer1.0.conv1_output`."""
    found = _SLOT.fullmatch(quantizer)
    if found is None:
        return quantizer
    owner, kind, index = found.group(1) or "model", found.group(2), int(found.group(3))
    base = f"{owner}_{kind}"
    return base if index == 0 else f"{base}_{index}"
