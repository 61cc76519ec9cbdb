"""Recording a running PyTorch model as a graph.

The model runs on the real dummy input, in eval mode, with nothing replaced in its code. A torch
function mode sees every tensor operation, a wrapper around ``nn.Module.__call__`` every module
call; both write ``torch.fx`` nodes. Tensors stay tensors, so ``isinstance``, ``assert`` and
everything else work as they do without us; sizes are numbers that remember their expression
(:mod:`aimet_torch.graph.symbols`); what a graph cannot hold raises :class:`Untraceable`, and the
innermost module of the user around it becomes a boundary: one opaque node.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from aimet_torch.graph import runtime, torch_functions
from aimet_torch.graph.boundaries import BoundaryRecord
from aimet_torch.graph.decompositions import DECOMPOSITIONS
from aimet_torch.graph.frames import only_decides_to_raise, user_location
from aimet_torch.graph.structure import leaves, rebuild
from aimet_torch.graph.symbols import concrete, symbol
from aimet_torch.graph.values import Untraceable, storage_key, version_of
from aimet_torch.graph.writer import GraphWriter

_MODULE_CALL = nn.Module.__call__
_TRACED_TORCH_CLASSES = (
    nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.MultiheadAttention, nn.Transformer,
    nn.TransformerEncoder, nn.TransformerDecoder, nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer, nn.AdaptiveLogSoftmaxWithLoss, nn.SiLU, nn.GLU,
)  # fmt: skip


def _forward_of(module: nn.Module) -> Any:
    return inspect.getattr_static(type(module), "forward")


def is_leaf_module(module: nn.Module) -> bool:
    """Whether a module stays one operation: a torch.nn class with a kernel, or scripted.

    A user's subclass of such a class is a leaf as long as it does not override ``forward``.
    """
    if isinstance(module, torch.jit.ScriptModule):
        return True
    forward = getattr(_forward_of(module), "__module__", None) or ""
    if forward.startswith("aimet_torch.nn."):  # quantized already, or an operation as a module
        return True
    if "forward" in module.__dict__ or not forward.startswith("torch.nn.modules."):
        return False
    if isinstance(module, _TRACED_TORCH_CLASSES):
        return False
    return all(name == "parametrizations" for name, _ in module.named_children())


def _has_kernel(module: nn.Module) -> bool:
    """Whether a module that graphs take apart (nn.SiLU) is one operation where there is none."""
    forward = getattr(_forward_of(module), "__module__", None) or ""
    return forward.startswith("torch.nn.modules.") and not list(module.children())


class Recorder(GraphWriter, TorchFunctionMode):
    """One attempt to trace ``model``; earlier ones found the ``boundaries``."""

    def __init__(
        self, model: nn.Module, boundaries: dict[str, str], tensor_names: dict[int, str]
    ) -> None:
        super().__init__(model, tensor_names)
        self.boundaries = boundaries
        self.paths = {id(module): name for name, module in model.named_modules()}
        self.leaf_ids = {id(m) for m in model.modules() if m is not model and is_leaf_module(m)}
        self.linears = {
            id(m._parameters["weight"]): m
            for m in model.modules()
            if m is not model and _forward_of(m) is nn.Linear.forward and "weight" in m._parameters
        }
        self.boundary_records: dict[str, BoundaryRecord] = {}
        self.autocast = _autocast_state()
        self.device_source: fx.Node | None = None
        self.device: torch.device | None = None

    # ---------------------------------------------------------------------- running

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Record what runs inside."""

        def call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            return self.call_module(module, args, kwargs)

        def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
            if cls is torch.utils.checkpoint.CheckpointFunction and self.active:
                return args[0](*args[2:])  # the checkpointed function
            function = types.MethodType(original_apply, cls)
            if not self.active:
                return function(*args, **kwargs)
            with torch._C.DisableTorchFunction():
                return self._compute(function, args, kwargs)

        # nn.TransformerEncoder compares a mask with the causal one to choose a kernel; any mask
        # works without.
        transformer: Any = torch.nn.modules.transformer
        detect = transformer._detect_is_causal_mask
        original_apply = torch.autograd.Function.__dict__["apply"].__func__
        for module in self.model.modules():
            if id(module) in self.leaf_ids and not isinstance(module, torch.jit.ScriptModule):
                module.__dict__["forward"] = functools.partial(self._direct_forward, module)
        transformer._detect_is_causal_mask = lambda mask, is_causal=None, size=None: (
            is_causal is True
        )
        torch.autograd.Function.apply = classmethod(apply)  # type: ignore[assignment]
        nn.Module.__call__ = call  # type: ignore[method-assign]
        self.recording = True
        try:
            with _eager(), self:
                yield
        finally:
            self.recording = False
            nn.Module.__call__ = _MODULE_CALL  # type: ignore[method-assign]
            torch.autograd.Function.apply = classmethod(original_apply)  # type: ignore[assignment]
            transformer._detect_is_causal_mask = detect

    def _direct_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """Stands for ``leaf.forward(...)``, called by user code or by the call of the leaf."""
        if self.paused or self.observed is not None:
            return type(module).forward(module, *args, **kwargs)
        return self.call_module(module, args, kwargs)

    # ---------------------------------------------------------------------- modules

    def call_module(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Stands for ``module(*args, **kwargs)`` while a model runs under this recorder."""
        path = self.paths.get(id(module))
        if self.paused or path is None:
            return _MODULE_CALL(module, *args, **kwargs)
        if self.observed is not None:
            if id(module) not in self.leaf_ids and not _has_kernel(module):
                return _MODULE_CALL(module, *args, **kwargs)
            with self._pause():
                result = _MODULE_CALL(module, *args, **kwargs)
            self.observed.module_called(path, module, leaves((args, kwargs)), leaves(result))
            return result
        if path in self.boundaries or id(module) in self.leaf_ids:
            return self._record_module(module, path, args, kwargs)
        before = len(self.graph.nodes)
        self.stack.append(path)
        try:
            # The model's own hooks run around the rewritten forward as well: they are no part of
            # the graph.
            result = (
                _MODULE_CALL(module, *args, **kwargs) if path else module.forward(*args, **kwargs)
            )
            inputs = leaves((args, kwargs))
            for tensor in leaves(result):
                self._tensor_node(tensor)  # unknown ones are the doing of this module
        except Untraceable as error:
            if error.path is None:
                error.path = path
            raise
        except Exception as error:
            raise Untraceable(f"{type(error).__name__} while tracing: {error}", path) from error
        finally:
            self.stack.pop()
        if len(self.graph.nodes) == before and path and any(result is t for t in inputs):
            # Identity in eval mode, but perhaps not in training (stochastic depth): keep the call.
            with self._pause():
                node = self.graph.call_module(path, *self.lower((args, kwargs)))
                return self._bind(node, result, inputs, "")
        return result

    def _record_module(
        self, module: nn.Module, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self._check_context()
        with self._pause():
            inputs = leaves((args, kwargs))
            node_args, node_kwargs = self.lower((args, kwargs))
            plain_args, plain_kwargs = rebuild((args, kwargs), concrete)
            versions = [version_of(t) for t in inputs]
        if path in self.boundaries and id(module) not in self.leaf_ids:
            record = self.boundary_records.setdefault(
                path, BoundaryRecord(path, self.boundaries[path])
            )
            self.observed = record
            try:
                result = _MODULE_CALL(module, *plain_args, **plain_kwargs)
            finally:
                self.observed = None
        else:
            if isinstance(module, torch.jit.ScriptModule):
                record = BoundaryRecord(path, "a scripted module cannot be looked into")
                self.boundary_records[path] = record
            with self._pause():
                result = _MODULE_CALL(module, *plain_args, **plain_kwargs)
        with self._pause():
            node = self.graph.call_module(path, node_args, node_kwargs)
            written = [t for t, v in zip(inputs, versions, strict=True) if version_of(t) != v]
            if not written:
                return self._bind(node, result, inputs, "")
            if not any(result is tensor for tensor in written):
                raise self.fail(f"module `{path}` writes into its input")
            self._set_meta(node, None, "", [((), result)])
            self.values.write(result, node)
            return result

    # ---------------------------------------------------------------------- functions

    def __torch_function__(
        self,
        func: Callable[..., Any],
        classes: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if self.paused or not self.recording:
            return func(*args, **kwargs)
        kind = torch_functions.classify(func)
        if self.observed is not None:
            result = func(*args, **kwargs)
            if kind == "compute":
                self.observed.function_called(torch_functions.base_name(func), leaves(result))
            return result
        if kind == "metadata":
            if torch_functions.base_name(func) == "_set_grad_enabled":
                text = "a region without gradients is an ordinary part of the graph"
                self._note((self.owner, "gradient mode"), text)
            return func(*args, **kwargs)
        if kind == "size":
            return self._size(func, args, kwargs)
        if kind == "data":
            return self._read_data(func, args, kwargs)
        if kind == "forbidden":
            raise self.fail(f"`{torch_functions.base_name(func)}` cannot be part of a graph")
        if func is F.linear and not kwargs.keys() - {"bias"}:
            module = self._linear_module(*args, **kwargs)
            if module is not None:
                with self:
                    return self.call_module(module, args[:1], {})
        decomposition = DECOMPOSITIONS.get(func)
        if decomposition is not None:
            with self:
                return decomposition(*args, **kwargs)
        return self._compute(func, args, kwargs)

    def _linear_module(
        self, x: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> nn.Module | None:
        """The nn.Linear whose parameters a functional call uses: the call is one of it."""
        module = self.linears.get(id(weight))
        return module if module is not None and module.bias is bias else None

    def _check_context(self) -> None:
        if _autocast_state() != self.autocast:
            raise self.fail("a part runs under its own autocast")

    def _compute(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        self._check_context()
        inputs = leaves((args, kwargs))
        node_args, node_kwargs = self.lower((args, kwargs))
        plain_args, plain_kwargs = rebuild((args, kwargs), concrete)
        versions = [version_of(t) for t in inputs]
        self.paused = True
        try:
            result = func(*plain_args, **plain_kwargs)
        finally:
            self.paused = False
        written = [t for t, v in zip(inputs, versions, strict=True) if version_of(t) != v]
        if written:
            return self._record_write(func, args, kwargs, node_args, node_kwargs, written, result)
        if not leaves(result):
            if isinstance(result, (bool, int, float, complex)):
                self._read_data(
                    lambda *a, **k: result, args, kwargs, torch_functions.base_name(func)
                )
            return result
        node_args = tuple(map(self._free_device, args, node_args))
        node_kwargs = {k: self._free_device(kwargs[k], v) for k, v in node_kwargs.items()}
        if torch_functions.base_name(func) == "unbind" and not self.values.is_persistent(args[0]):
            dim = concrete(args[1] if len(args) > 1 else kwargs.get("dim", 0)) % args[0].dim()
            with self._pause():
                count = args[0].size(dim)
            self.specialize(symbol(self, count, torch.Tensor.size, args[0], dim), count, "unbind()")
        node = self._call(func, node_args, node_kwargs)
        return self._bind(node, result, inputs, torch_functions.base_name(func), func)

    def _call(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> fx.Node:
        attribute = torch_functions.property_name(func)
        if attribute is not None:
            return self.graph.call_function(getattr, (args[0], attribute))
        if torch_functions.is_tensor_method(func) and isinstance(args[0], fx.Node):
            return self.graph.call_method(func.__name__, args, kwargs)
        func, args = torch_functions.as_operator(func, args)
        return self.graph.call_function(func, args, kwargs)

    def _record_write(
        self,
        func: Any,
        args: Any,
        kwargs: Any,
        node_args: Any,
        node_kwargs: Any,
        written: list[Tensor],
        result: Any,
    ) -> Any:
        name = torch_functions.base_name(func)
        # Views count writes together: the one that was meant is the first argument, or `out`.
        target = kwargs["out"] if isinstance(kwargs.get("out"), Tensor) else written[0]
        if len({storage_key(t) for t in written}) != 1:
            raise self.fail(f"`{name}` writes into more than one tensor")
        if self.values.is_persistent(target):
            # A real write that outlives the call: the graph repeats it.
            node = self._call(func, node_args, node_kwargs)
            self._set_meta(node, func, name, [((), target)])
            node.meta["persistent"] = True
            return result
        pure, args_, kwargs_ = torch_functions.out_of_place(
            func, args, kwargs, node_args, node_kwargs, target
        )
        if pure is None:
            raise self.fail(f"`{name}` writes into an argument other than its first")
        node = self._call(pure, args_, kwargs_)
        self._set_meta(node, pure, name, [((), target)])
        self.values.write(target, node)
        return result

    def _free_device(self, value: Any, node_value: Any) -> Any:
        """Devices that user code took from tensors follow the model's input from now on."""
        if isinstance(value, torch.device) and value == self.device and self.device_source:
            return self.graph.call_function(runtime.device_of, (self.device_source,))
        return node_value

    # ---------------------------------------------------------------------- sizes and data

    def _size(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensor = args[0]
        result = func(*args, **kwargs)
        self.lower(tensor)
        if self.values.is_persistent(tensor):
            return result
        if isinstance(result, torch.Size):
            return torch.Size(
                symbol(self, n, torch.Tensor.size, tensor, d) for d, n in enumerate(result)
            )
        name = torch_functions.base_name(func)
        if name in ("size", "__len__"):
            dim = concrete(args[1] if len(args) > 1 else kwargs.get("dim", 0))
            size = symbol(self, result, torch.Tensor.size, tensor, dim % max(tensor.dim(), 1))
            if name == "__len__":
                self.specialize(size, result, "len()")
            return size
        return symbol(self, result, torch.Tensor.numel, tensor)

    def _read_data(self, func: Any, args: Any, kwargs: Any, name: str | None = None) -> Any:
        name = name or torch_functions.base_name(func)
        nodes = leaves(self.lower((args, kwargs)), fx.Node)
        if any(n.meta.get("varies", True) or n.meta.get("sized") for n in nodes):
            if name == "__bool__" and only_decides_to_raise():
                self._note((name, user_location()), "a check of tensor values is left out")
                return func(*args, **kwargs)
            raise self.fail(f"`{name}` makes Python depend on the values of a tensor")
        self._note(
            (name, user_location()),
            f"`{name}` of a tensor that does not depend on the input is fixed",
        )
        return func(*args, **kwargs)


def _eager() -> contextlib.AbstractContextManager[Any]:
    """Functions of torch.compile run eagerly; without any, its long import is spared."""
    if "torch._dynamo" in sys.modules:
        return torch.compiler.set_stance("force_eager")
    return contextlib.nullcontext()


def _autocast_state() -> tuple[Any, ...]:
    kinds = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    return tuple(torch.is_autocast_enabled(k) and torch.get_autocast_dtype(k) for k in kinds)
