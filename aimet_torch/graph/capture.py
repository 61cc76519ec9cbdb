"""``trace``: a model and an example input -> ModelGraph."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from aimet_torch.graph import runtime
from aimet_torch.graph.boundaries import BoundaryRecord
from aimet_torch.graph.model_graph import Boundary, ModelGraph, OpNode, Value
from aimet_torch.graph.op_types import is_known_pure, op_type_of_module
from aimet_torch.graph.rewrite import Signature
from aimet_torch.graph.structure import is_namedtuple, leaves, rebuild
from aimet_torch.graph.symbols import watched_builtins
from aimet_torch.graph.torch_functions import getitem
from aimet_torch.graph.tracer import Recorder
from aimet_torch.graph.values import Untraceable, version_of

_LOCK = threading.RLock()  # tracing replaces nn.Module.__call__ for the whole process


def trace(model: nn.Module, dummy_input: Any) -> ModelGraph:
    """Record the graph of ``model``.

    The model runs on ``dummy_input`` in eval mode without gradients, once for every part that turns
    out untraceable and once more. It is left as it was: modes, buffers, attributes, random state.

    Args:
        model: Any module that runs on ``dummy_input``.
        dummy_input: A tensor, a tuple or list of positional arguments, or a dict: keyword arguments
            when all its keys are parameters of ``forward``, else one positional argument.

    Returns:
        The graph. What cannot be traced is a boundary in it.

    Raises:
        Exception: whatever the model itself raises on ``dummy_input``.
    """
    signature = inspect.signature(model.forward)
    args, kwargs = _arguments(signature, dummy_input)
    boundaries: dict[str, str] = {}
    with _LOCK, _preserved(model), torch.inference_mode(False), torch.no_grad():
        model.eval()
        while True:
            attempt = _Attempt(model, signature, boundaries)
            try:
                with _preserved(model):
                    attempt.run(args, kwargs)
                if attempt.recorder.constants:
                    other = _Attempt(model, signature, boundaries)
                    with _preserved(model), contextlib.suppress(Untraceable):
                        other.run(*_map_tensors(_changed, (args, kwargs)))
                    _compare_constants(attempt.recorder, other.recorder)
                return attempt.result()
            except Untraceable as error:
                path = error.path or ""
                if path in boundaries:  # it failed even as a boundary
                    path = ""
                inner = f"{path}." if path else ""
                boundaries = {p: r for p, r in boundaries.items() if not p.startswith(inner)}
                boundaries[path] = error.reason
            if "" in boundaries:
                with _preserved(model):
                    return _one_boundary(model, signature, boundaries[""], args, kwargs)


def bind_inputs(model: nn.Module, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments that an example input or a batch stands for.

    Args:
        model: Module whose ``forward`` takes them.
        inputs: As ``dummy_input`` of `trace`.
    """
    return _arguments(inspect.signature(model.forward), inputs)


def _arguments(
    signature: inspect.Signature, dummy_input: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(dummy_input, Mapping):
        names = signature.parameters
        open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in names.values())
        if all(isinstance(k, str) and (k in names or open_ended) for k in dummy_input):
            return (), dict(dummy_input)
        return (dummy_input,), {}
    if isinstance(dummy_input, (tuple, list)) and not is_namedtuple(dummy_input):
        return tuple(dummy_input), {}
    return (dummy_input,), {}


def _map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    return rebuild(value, lambda path, tensor: function(tensor), with_path=True)


def _copied(tensor: Tensor) -> Tensor:
    """The model may write into its inputs."""
    return tensor.detach().clone()


def _changed(tensor: Tensor) -> Tensor:
    """Another input of the same kind: integers keep their range."""
    other = tensor.detach().flip(tuple(range(tensor.dim())))
    return other * 0.9 + 0.01 if other.is_floating_point() else other


def _compare_constants(first: Recorder, second: Recorder) -> None:
    """A constant of the graph must not depend on the input: two runs with different inputs tell."""
    pairs = zip(
        first.constants.values(), second.constants.values(), first.constant_owners, strict=False
    )
    for a, b, owner in pairs:
        if a is not b and not (a.shape == b.shape and torch.equal(a, b)):
            raise Untraceable("a tensor made from the input outside of PyTorch's functions", owner)


def _shallow_copy(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, (list, dict, set)) else None


@contextlib.contextmanager
def _preserved(model: nn.Module) -> Iterator[None]:
    """Put everything that running the model may change back as it was."""
    modules = list(model.modules())
    attributes = [{k: (v, _shallow_copy(v)) for k, v in m.__dict__.items()} for m in modules]
    modes = [module.training for module in modules]  # scripted modules keep theirs elsewhere
    buffers = [(b, version_of(b), b.detach().clone()) for b in model.buffers()]
    devices = (
        [torch.cuda.current_device()]
        if torch.cuda.is_available() and torch.cuda.is_initialized()
        else []
    )
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for module, saved in zip(modules, attributes, strict=True):
            current = module.__dict__
            for name in current.keys() - saved.keys():
                del current[name]
            for name, (value, content) in saved.items():
                current[name] = value
                if isinstance(value, list):
                    value[:] = content
                elif isinstance(value, (dict, set)):
                    value.clear()
                    value.update(content)
        for module, mode in zip(modules, modes, strict=True):
            if module.training != mode:
                module.training = mode
        with torch.no_grad():
            for buffer, version, content in buffers:
                if version_of(buffer) != version:
                    buffer.copy_(content)


class _Attempt:
    """One run of the model under a recorder."""

    def __init__(
        self, model: nn.Module, signature: inspect.Signature, boundaries: dict[str, str]
    ) -> None:
        self.model = model
        self.signature = signature
        names, self.held = _tensor_names(
            model
        )  # held: an id stays unique as long as its tensor lives
        self.recorder = Recorder(model, boundaries, names)
        self.graph = self.recorder.graph

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bound = self.signature.bind(*args, **kwargs)
        arguments = {name: _map_tensors(_copied, value) for name, value in bound.arguments.items()}
        for name, parameter in self.signature.parameters.items():
            self._placeholder(name, parameter, arguments)
        bound.arguments.update(arguments)
        with watched_builtins(_user_namespaces(self.model)), self.recorder.watching():
            before = [(dict(m.__dict__), *_state(m)) for m in self.model.modules()]
            result = self.model(*bound.args, **bound.kwargs)
            self.graph.output(self.recorder.lower(result))
            self._check_state(before)

    def _check_state(
        self, before: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]]
    ) -> None:
        """What forward assigned: tensors of the state cannot be left out, the rest is noted."""
        opaque = tuple(self.recorder.boundaries)
        for (path, module), (attributes, *state) in zip(
            self.model.named_modules(), before, strict=False
        ):
            if any(path == b or path.startswith(f"{b}.") for b in opaque):
                continue
            for old, new in zip(state, _state(module), strict=True):
                if any(new.get(name) is not tensor for name, tensor in old.items()):
                    raise Untraceable(
                        "forward replaces a parameter or buffer by another tensor", path
                    )
            if id(module) in self.recorder.leaf_ids:
                continue
            for name, value in module.__dict__.items():
                if name not in attributes or (
                    attributes[name] is not value and not _is_same(attributes[name], value)
                ):
                    where = path or "model"
                    text = (
                        f"`{name}` that forward assigns to is not assigned by the graph ({where})"
                    )
                    self.recorder.specializations.setdefault((path, name), f"attribute {text}")

    def _placeholder(
        self, name: str, parameter: inspect.Parameter, arguments: dict[str, Any]
    ) -> None:
        kinds: dict[Any, str] = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
        star = kinds.get(parameter.kind, "")
        node = self.graph.placeholder(star + name)
        if name in arguments:
            self._input(arguments[name], lambda: node, name)
        elif star:
            self.graph.call_function(runtime.check_length, (node, 0, name))
        else:
            self._fixed(parameter.default, node, name)

    def _input(self, value: Any, make: Callable[[], fx.Node], name: str) -> None:
        """Describe where the tensors of an argument are; ``make`` gives its own node."""
        if isinstance(value, Tensor):
            node = make()
            node.meta.update(
                outputs=[((), tuple(value.shape), value.dtype)], input_name=name, varies=True
            )
            self.recorder.values.define(value, node)
            if self.recorder.device_source is None:
                self.recorder.device_source, self.recorder.device = node, value.device
        elif isinstance(value, (tuple, list, dict)):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            node = make()
            self.graph.call_function(runtime.check_length, (node, len(value), name))
            for key, item in items:
                self._input(item, self._selection(getitem, node, key), f"{name}.{key}")
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            node = make()
            for field in dataclasses.fields(value):
                item = getattr(value, field.name)
                self._input(
                    item, self._selection(getattr, node, field.name), f"{name}.{field.name}"
                )
        else:
            self._fixed(value, make(), name)

    def _selection(self, function: Any, node: fx.Node, key: Any) -> Callable[[], fx.Node]:
        return lambda: self.graph.call_function(function, (node, key))

    def _fixed(self, value: Any, node: fx.Node, name: str) -> None:
        if value is None or isinstance(value, (bool, int, float, str)):
            self.graph.call_function(runtime.check_argument, (node, value, name))
        elif leaves(value):
            raise Untraceable(
                f"argument `{name}` holds tensors in an object of type {type(value).__name__}", ""
            )

    def result(self) -> ModelGraph:
        """The finished graph."""
        recorder = self.recorder
        for node in reversed(self.graph.nodes):
            if not node.users and _is_pure(node):
                self.graph.erase_node(node)
        return ModelGraph(
            self.model,
            self.graph,
            Signature.of(self.signature),
            [_boundary(self.model, r) for r in recorder.boundary_records.values()],
            list(recorder.specializations.values()),
            recorder.constants,
        )


def _state(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters and buffers of one module (scripted ones do not hold them in dicts)."""
    return dict(module._parameters.items()), dict(module._buffers.items())


def _user_namespaces(model: nn.Module) -> list[dict[str, Any]]:
    """The global names that the code of the user's classes sees."""
    found: dict[int, dict[str, Any]] = {}
    classes = {base for module in model.modules() for base in type(module).__mro__}
    functions = [f for cls in classes for f in vars(cls).values()]
    for attribute in (*functions, vars(model).get("forward")):
        function = getattr(attribute, "__func__", attribute)
        if not isinstance(function, types.FunctionType):
            continue
        namespace = inspect.unwrap(function).__globals__
        package = str(namespace.get("__name__")).partition(".")[0]
        if package not in ("torch", "aimet_torch"):
            found[id(namespace)] = namespace
    return list(found.values())


def _is_pure(node: fx.Node) -> bool:
    """Whether nothing is lost with a node that nobody reads (the averaged weights of attention)."""
    if node.op not in ("call_function", "call_method", "get_attr") or node.meta.get("persistent"):
        return False
    return not node.is_impure() and is_known_pure(node.meta.get("basename", "getitem"))


def _is_same(old: Any, new: Any) -> bool:
    return type(old) is type(new) and isinstance(new, (bool, int, float, str)) and old == new


def _tensor_names(model: nn.Module) -> tuple[dict[int, str], list[Tensor]]:
    """Dotted names of all tensors that the model holds as parameters, buffers or attributes."""
    names: dict[int, str] = {}
    tensors = []
    for prefix, module in model.named_modules():
        for source in (module._parameters, module._buffers, module.__dict__):
            for name, value in source.items():
                if isinstance(value, Tensor):
                    tensors.append(value)
                    names.setdefault(id(value), f"{prefix}.{name}" if prefix else name)
    return names, tensors


def _boundary(model: nn.Module, record: BoundaryRecord) -> Boundary:
    ops = []
    for call in record.leaf_calls.values():
        op = OpNode(call.name, op_type_of_module(call.module), None, call.module, call.name)
        for target, described in ((op.inputs, call.inputs), (op.outputs, call.outputs)):
            for index, (shape, dtype) in enumerate(described):
                target.append(Value(f"{call.name}:{index}", "activation", shape, dtype, None))
        ops.append(op)
    return Boundary(record.name, record.reason, dict(record.functions), ops)


def _one_boundary(
    model: nn.Module,
    signature: inspect.Signature,
    reason: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> ModelGraph:
    """Nothing could be traced; run the model once more to see what is in it."""
    recorder = Recorder(model, {"": reason}, {})
    record = recorder.observed = BoundaryRecord("", reason)
    args, kwargs = _map_tensors(_copied, (args, kwargs))
    with recorder.watching():
        model(*args, **kwargs)
    graph = fx.Graph()
    return ModelGraph(model, graph, Signature.of(signature), [_boundary(model, record)], [], {})
