"""From a simulation to an ONNX graph in which every quantizer is one marked node.

The simulation's modules are copied (weights are shared), each quantizer is replaced by a module
that emits a marker, and torch.onnx translates the copy. What the markers become is decided on the
ONNX graph: removed with their encodings written to a file, or lowered to QuantizeLinear and
DequantizeLinear.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import nn

from aimet_torch.encodings.tensor_encoding import TensorEncoding, uncalibrated
from aimet_torch.export.dynamic_sizes import widen_open_sizes
from aimet_torch.graph import bind_inputs
from aimet_torch.graph.structure import leaves
from aimet_torch.nn.base import BaseQuantizationMixin
from aimet_torch.quantization.base import QuantizerBase

_PARAMETERS = ".param_quantizers."
MARKER_DOMAIN = "aimet"
MARKER_OP = "QuantizerMarker"
# First opset in which Gelu, HardSwish, LayerNormalization and Mish are all single operators.
DEFAULT_OPSET = 20
# The exporter translates for these opsets; older ones are restated from the first of them.
EXPORTER_OPSETS = (18, 23)
# QuantizeLinear has had a channel axis since this opset.
OLDEST_OPSET = 13


@dataclass
class Capture:
    """An exported graph that still holds its markers, and what each marker stands for.

    Attributes:
        model: for `opset`, or for the first that torch.onnx knows.
        encodings: of the markers.
        quantizer_names: dotted names of their quantizers.
        opset: the one that was asked for.
    """

    model: ir.Model
    encodings: list[TensorEncoding | None]
    quantizer_names: list[str]
    opset: int = DEFAULT_OPSET

    def encoding(self, index: int) -> TensorEncoding:
        """The encoding of marker `index`; None-valued ones have been refused by `capture`."""
        encoding = self.encodings[index]
        if encoding is None:
            raise uncalibrated([self.quantizer_names[index]])
        return encoding


class _Marker(QuantizerBase):
    """Stands for a quantizer during export: puts a node that carries a number on the tensor."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def simulate(self, input: torch.Tensor) -> torch.Tensor:
        return torch.onnx.ops.symbolic(
            f"{MARKER_DOMAIN}::{MARKER_OP}",
            (input,),
            {"index": self.index},
            dtype=input.dtype,
            shape=input.shape,
            version=1,
        )

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.simulate(input)


def capture(model: nn.Module, args: Any, **torch_onnx_kwargs: Any) -> Capture:
    """Export a simulation's model with a marker node in place of each quantizer.

    Args:
        model: module that holds quantizers (`sim.model`); left unchanged.
        args: example input: a tensor, a tuple or list of positional arguments, or a dict of keyword
            arguments.
        **torch_onnx_kwargs: passed on to `torch.onnx.export` (names, dynamic shapes, opset, ...).

    Returns:
        The ONNX graph and the encodings of its markers.

    Raises:
        ValueError: quantizers without an encoding, or an option that only the TorchScript exporter
            has.
        NotImplementedError: torch.onnx cannot translate the model.
    """
    opset = _check_options(torch_onnx_kwargs)
    torch_onnx_kwargs["opset_version"] = max(opset, EXPORTER_OPSETS[0])
    quantizers, encodings = read_encodings(model)
    names = list(quantizers)
    if names and all(encoding is None for encoding in encodings):
        raise uncalibrated(names)
    _check_modules(model)
    marked = _copy_with_markers(model, quantizers)
    positional, keywords = bind_inputs(model, args)
    keywords.update(torch_onnx_kwargs.pop("kwargs", None) or {})
    positional, keywords = widen_open_sizes(model, positional, keywords, torch_onnx_kwargs)
    positional, keywords = _name_last_dict(model, positional, keywords)
    program = _export_quietly(marked, positional, keywords, torch_onnx_kwargs)
    result = Capture(program.model, encodings, names, opset)
    used = sorted({marker_index(node) for node in program.model.graph if is_marker(node)})
    missing = [result.quantizer_names[i] for i in used if encodings[i] is None]
    if missing:
        raise uncalibrated(missing)
    return result


def read_encodings(
    model: nn.Module,
) -> tuple[dict[str, QuantizerBase | None], list[TensorEncoding | None]]:
    """The quantizers of a module by name, and the encoding of each (None: never calibrated).

    Those whose calibration saw no usable number pass their input through in the simulation, and so
    they do here. Quantizers that `fold_param_quantizers` took out are None, with an encoding.
    """
    quantizers: dict[str, QuantizerBase | None] = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, QuantizerBase)
        and (module.is_initialized() or module.calibration_issue is None)
    }
    encodings = [
        _encoding_of(model, name, quantizer)
        if quantizer is not None and quantizer.is_initialized()
        else None
        for name, quantizer in quantizers.items()
    ]
    for owner, module in model.named_modules():
        if isinstance(module, BaseQuantizationMixin):
            for parameter, encoding in module.folded_param_encodings.items():
                if module.param_quantizers[parameter] is None:
                    name = f"{owner}{_PARAMETERS}{parameter}".removeprefix(".")
                    quantizers[name] = None
                    tensor = getattr(module, parameter)
                    encodings.append(TensorEncoding.from_encoding(name, True, encoding, tensor))
    return quantizers, encodings


def _encoding_of(model: nn.Module, name: str, quantizer: QuantizerBase) -> TensorEncoding:
    owner, separator, parameter = f".{name}".rpartition(_PARAMETERS)
    if not separator:
        return TensorEncoding.from_quantizer(name, False, quantizer)
    tensor = getattr(model.get_submodule(owner.removeprefix(".")), parameter, None)
    return TensorEncoding.from_quantizer(name, True, quantizer, tensor)


def is_marker(node: ir.Node) -> bool:
    """Whether a node stands for a quantizer."""
    return node.domain == MARKER_DOMAIN and node.op_type == MARKER_OP


def marker_index(node: ir.Node) -> int:
    """The number of the quantizer that a marker stands for."""
    return node.attributes["index"].as_int()


def _check_options(options: dict[str, Any]) -> int:
    """The opset that was asked for; what the dynamo exporter cannot do is refused."""
    if options.get("dynamo") is False:
        raise ValueError(
            "export: `dynamo=False` is not supported; the TorchScript exporter is deprecated and "
            "loses the tensors' names; leave `dynamo` out"
        )
    opset = options.get("opset_version")
    if opset is None:
        return DEFAULT_OPSET
    if not isinstance(opset, int) or not OLDEST_OPSET <= opset <= EXPORTER_OPSETS[1]:
        raise ValueError(
            f"export: `opset_version` must be an integer from {OLDEST_OPSET}, since which "
            f"QuantizeLinear has had a channel axis, to {EXPORTER_OPSETS[1]}, the last that "
            f"torch.onnx translates for, got {opset!r}"
        )
    return opset


def _copy_with_markers(model: nn.Module, quantizers: dict[str, QuantizerBase | None]) -> nn.Module:
    """A copy of the modules that shares every tensor, in eval mode, with markers for quantizers."""
    memo: dict[int, Any] = {
        id(quantizer): _Marker(i)
        for i, quantizer in enumerate(quantizers.values())
        if quantizer is not None
    }
    memo.update({id(t): t for t in [*model.parameters(), *model.buffers()]})
    marked = copy.deepcopy(model, memo).eval()
    for i, (name, quantizer) in enumerate(quantizers.items()):
        if quantizer is None:
            owner, _, parameter = f".{name}".rpartition(_PARAMETERS)
            module: Any = marked.get_submodule(owner.removeprefix("."))
            module.param_quantizers[parameter] = _Marker(i)
    for module in marked.modules():
        if isinstance(module, BaseQuantizationMixin):
            module.bias_grids = None  # biases are rounded on the ONNX graph
    marked.__class__ = _returning_tensors(type(marked))
    return marked


def _returning_tensors(cls: type[nn.Module]) -> type[nn.Module]:
    """A subclass that returns the tensors of its results, which is all that ONNX can hold."""

    @functools.wraps(cls.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        tensors = leaves(cls.forward(self, *args, **kwargs))
        return tensors[0] if len(tensors) == 1 else tuple(tensors)

    return type(cls.__name__, (cls,), {"forward": forward})


def _name_last_dict(
    model: nn.Module, positional: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """torch.onnx would take a dict that comes last for keyword arguments: pass it by its name."""
    if positional and isinstance(positional[-1], dict) and not keywords:
        names = [
            p.name
            for p in inspect.signature(model.forward).parameters.values()
            if p.kind is p.POSITIONAL_OR_KEYWORD
        ]
        if len(names) >= len(positional):
            return positional[:-1], {names[len(positional) - 1]: positional[-1]}
    return positional, keywords


def _export_quietly(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]
) -> torch.onnx.ONNXProgram:
    is_verbose = bool(options.get("verbose"))
    options = {**options, "dynamo": True, "verbose": is_verbose}
    is_optimized = options.pop("optimize", True)
    # What the caller decides about files is handled when the finished graph is written.
    for name in ("external_data", "f"):
        options.pop(name, None)
    with contextlib.nullcontext() if is_verbose else silence(), torch.no_grad(), _arithmetic():
        try:
            program = torch.onnx.export(model, args, kwargs=kwargs, optimize=False, **options)
        except torch.onnx.OnnxExporterError as error:
            raise NotImplementedError(_why_not(error)) from error
    if program is None:
        raise RuntimeError(
            "export: torch.onnx.export returned no program; remove options that only write files"
        )
    if is_optimized:
        with contextlib.nullcontext() if is_verbose else silence():
            _optimize(program, {*model.state_dict()})
    return program


def _optimize(program: torch.onnx.ONNXProgram, parameter_names: set[str]) -> None:
    """Fold what the exporter leaves to be folded, but no parameter.

    The optimizer makes one tensor of parameters that happen to be equal (all biases of zero, say)
    and computes with constants: the names of parameters would be lost. So these are inputs for the
    time being.
    """
    graph = program.model.graph
    held = [value for name, value in graph.initializers.items() if name in parameter_names]
    tensors = [value.const_value for value in held]
    for value in held:
        del graph.initializers[value.name]
        value.const_value = None
        graph.inputs.append(value)
    program.optimize()
    for value, tensor in zip(held, tensors, strict=True):
        program.model.graph.inputs.remove(value)
        value.const_value = tensor
        program.model.graph.register_initializer(value)


def _check_modules(model: nn.Module) -> None:
    scripted = [n for n, m in model.named_modules() if isinstance(m, torch.jit.ScriptModule)]
    # The modules inside a scripted one are scripted, too.
    outermost = [n for n in scripted if n.rpartition(".")[0] not in scripted]
    if outermost:
        raise NotImplementedError(
            f"export: torch.export takes no scripted module, and {outermost} of the model are; "
            "put the `nn.Module` that was scripted in its place before the simulation is built"
        )
    projected = [n for n, m in model.named_modules() if isinstance(m, nn.LSTM) and m.proj_size]
    if projected:  # torch.onnx writes a node that no runtime takes
        raise NotImplementedError(
            f"export: ONNX's LSTM has no projection, and {projected} of the model have `proj_size`;"
            " use an LSTM of that hidden size, or a linear layer behind it"
        )


def _why_not(error: BaseException) -> str:
    """The cause that torch.onnx wraps in pages of advice."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    reason = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
    return (
        f"export: torch.onnx cannot translate the model: {type(cause).__name__}: {reason.strip()}; "
        "ONNX has no form for Python code whose path depends on the data, nor for some operators: "
        "`sim.graph.boundaries` tells which parts could not be traced"
    )


@contextlib.contextmanager
def _arithmetic() -> Iterator[None]:
    """Let translations add to and multiply markers' results as they do with other tensors.

    Some compute with Python's operators, which torch's own values know and those of
    `torch.onnx.ops.symbolic` do not (batch norm of quantized statistics).
    """
    from onnxscript.onnx_opset import opset18

    previous = ir.set_value_magic_handler(opset18)
    try:
        yield
    finally:
        ir.set_value_magic_handler(previous)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """No warning, log record or print of the exporter reaches the terminal; errors still raise."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
            stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
