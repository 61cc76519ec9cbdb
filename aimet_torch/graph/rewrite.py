"""Turning a traced model into one whose forward is its graph."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import linecache
import operator
import re
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from aimet_torch.graph import runtime
from aimet_torch.nn.modules.custom import (
    Concat,
    FunctionCall,
    TrainingFunctionCall,
    module_for_function,
)

if TYPE_CHECKING:
    from aimet_torch.graph.model_graph import ModelGraph, OpNode

# ------------------------------------------------------------------------------------------
# Functional operations become modules


def install(graph: ModelGraph) -> None:
    """Give every operation on floating tensors a module, and the model its forward."""
    model = graph.model
    for name, tensor in graph.constants.items():
        model.register_buffer(name, tensor, persistent=False)
    for op in graph.ops:
        assert op.fx_node is not None
        if op.module is not None:
            if getattr(op.module, "inplace", False) is True:
                # Later readers of the input were redirected to the output; and a quantizer's output
                # must not change.
                op.module.inplace = False  # type: ignore[assignment]
        elif op.touches_floats or op.function in (runtime.apply_on_copy, runtime.write_through):
            _give_module(model, op)
            graph.modules[op.name] = op.module
    _mark_inlined(graph)
    graph.recompile()


def _mark_inlined(graph: ModelGraph) -> None:
    """Tell the containers whose forward nobody calls any more; see `is_inlined`."""
    for node in graph.fx_graph.nodes:
        if node.op == "call_module":
            parts = str(node.target).split(".")
            for depth in range(1, len(parts)):
                graph.model.get_submodule(".".join(parts[:depth])).__dict__["_is_inlined"] = True


def is_inlined(module: nn.Module) -> bool:
    """Whether a rewritten model calls what is in ``module``, and not ``module`` itself.

    Forward hooks of such a container never run.
    """
    return bool(module.__dict__.get("_is_inlined", False))


def _give_module(model: nn.Module, op: OpNode) -> None:
    node = op.fx_node
    assert node is not None
    module, args, kwargs = module_call(node)
    owner, _, name = op.name.rpartition(".")
    parent = model.get_submodule(owner)
    module.train(parent.training)
    parent.add_module(name, module)
    with node.graph.inserting_before(node):
        new = node.graph.call_module(op.name, args, kwargs)
    new.meta = {**node.meta, "op_type": op.op_type}
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)
    op.fx_node, op.module, op.module_name = new, module, op.name
    for value in op.outputs:
        value.fx_node = new


def module_call(node: fx.Node) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """The module that replaces a functional node, and the arguments to call it with."""
    args: tuple[Any, ...] = tuple(node.args)
    kwargs: dict[str, Any] = dict(node.kwargs)
    function: Any = node.target
    if node.op == "call_method":
        function = getattr(torch.Tensor, str(node.target))
    if function is getattr:
        return FunctionCall(operator.attrgetter(str(args[1]))), args[:1], {}
    if function is torch.cat:
        return _concat(args, kwargs)
    if function is torch.Tensor.view and not any(
        isinstance(a, torch.dtype) for a in (*args, *kwargs.values())
    ):
        function = torch.Tensor.reshape  # a quantizer may have changed the strides
    if function is runtime.apply_on_copy:
        return FunctionCall(functools.partial(function, args[0])), args[1:], kwargs
    if function is runtime.write_through:
        base, value, view, path, view_args, view_kwargs = args
        partial = functools.partial(function, view=view, path=path)
        return (
            FunctionCall(partial),
            (base, value),
            {"view_args": view_args, "view_kwargs": view_kwargs},
        )
    function, args, kwargs, follows = _training_flag(function, args, kwargs)
    return (
        (TrainingFunctionCall(function) if follows else module_for_function(function)),
        args,
        kwargs,
    )


def _concat(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    def bind(tensors: Any, dim: Any = 0, axis: Any = None) -> tuple[Any, Any]:
        return tensors, dim if axis is None else axis

    tensors, dim = bind(*args, **kwargs)
    if isinstance(tensors, fx.Node) or isinstance(dim, fx.Node):
        return FunctionCall(torch.cat), args, kwargs
    return Concat(dim), tuple(tensors), {}


_TORCH_DROPOUTS = {
    torch.dropout: F.dropout, torch.alpha_dropout: F.alpha_dropout,
    torch.feature_dropout: F.dropout2d,
    torch.feature_alpha_dropout: F.feature_alpha_dropout,
}  # fmt: skip


def _training_flag(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, Any, Any, bool]:
    """Functions called with ``training=False`` in the trace follow the mode from now on."""
    if function in _TORCH_DROPOUTS:
        names = dict(zip(("input", "p", "training"), args, strict=False)) | kwargs
        names["training"] = names.pop("train", names.get("training"))
        function, args, kwargs = _TORCH_DROPOUTS[function], (names.pop("input"),), names
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except (TypeError, ValueError):
        return function, args, kwargs, False
    parameter = bound.signature.parameters.get("training")
    if parameter is None or bound.arguments.get("training", parameter.default) is not False:
        return function, args, kwargs, False
    rest = {k: v for k, v in bound.arguments.items() if k != "training"}
    first = next(iter(rest))
    return function, (rest.pop(first),), rest, True


# ------------------------------------------------------------------------------------------
# The class of a rewritten model


@dataclasses.dataclass(frozen=True)
class Signature:
    """The parameters of a forward: names, kinds and defaults as ``inspect`` gives them."""

    parameters: tuple[tuple[str, int, Any], ...]

    @classmethod
    def of(cls, signature: inspect.Signature) -> Signature:
        """From the signature of a bound forward."""
        return cls(
            tuple(
                (
                    p.name,
                    int(p.kind),
                    Required if p.default is inspect.Parameter.empty else p.default,
                )
                for p in signature.parameters.values()
            )
        )

    def source(self) -> tuple[str, dict[str, Any]]:
        """The text between the parentheses of ``def forward(...)``; its global names."""
        parts, names, star = ["self"], {}, False
        for name, kind, default in self.parameters:
            if kind == inspect.Parameter.VAR_POSITIONAL:
                star = True
                parts.append(f"*{name}")
                continue
            if kind == inspect.Parameter.VAR_KEYWORD:
                parts.append(f"**{name}")
                continue
            if kind == inspect.Parameter.KEYWORD_ONLY and not star:
                star = True
                parts.append("*")
            if default is Required:
                parts.append(name)
            else:
                names[f"_default_{name}"] = default
                parts.append(f"{name}=_default_{name}")
        return ", ".join(parts), names


class Required:
    """Marks a parameter without a default (a class, so that it stays itself when pickled)."""


class TracedModule(nn.Module):
    """What a `torch.fx.GraphModule` becomes: its forward runs a graph of ours."""


_GRAPH_MODULE_STATE = frozenset(vars(fx.GraphModule(nn.Module(), fx.Graph()))) - frozenset(
    vars(nn.Module())
)


def compile_forward(model: nn.Module, graph: fx.Graph, signature: Signature) -> None:
    """Give ``model`` a subclass of the user's class whose forward runs ``graph``."""
    user_class = getattr(type(model), "_traced_class", type(model))
    if issubclass(user_class, fx.GraphModule):
        # Copies of one would run the graph that it was made from.
        user_class = TracedModule
        for name in _GRAPH_MODULE_STATE & model.__dict__.keys():
            del model.__dict__[name]
    model.__dict__.pop("forward", None)  # one that was set on the instance would hide the class's
    object.__setattr__(model, "__class__", _make_class(user_class, graph, signature))


#: Keywords of module calls that quantized modules know and no other ones.
SIMULATION_KEYWORDS = ("call_site", "owns_input")


def call_simulated(module: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a module; one that is not quantized gets no keyword of `SIMULATION_KEYWORDS`.

    So a quantized module of a rewritten model can be replaced by any other module.
    """
    if not hasattr(module, "accepts_call_site"):
        kwargs = {k: v for k, v in kwargs.items() if k not in SIMULATION_KEYWORDS}
    return module(*args, **kwargs)


def _for_any_module(graph: fx.Graph) -> fx.Graph:
    """The graph as it is executed: calls with `SIMULATION_KEYWORDS` go through `call_simulated`."""
    if not any(_is_simulated_call(node) for node in graph.nodes):
        return graph
    graph = unpack_graph(pack_graph(graph))
    for node in list(graph.nodes):
        if _is_simulated_call(node):
            with graph.inserting_before(node):
                module = graph.create_node("get_attr", node.target)
            node.op, node.target = "call_function", call_simulated
            node.args = (module, *node.args)
    return graph


def _is_simulated_call(node: fx.Node) -> bool:
    return node.op == "call_module" and any(k in node.kwargs for k in SIMULATION_KEYWORDS)


_DEF = re.compile(r"^def forward\(.*\).*:$", re.MULTILINE)


def _make_class(
    user_class: type[nn.Module], graph: fx.Graph, signature: Signature
) -> type[nn.Module]:
    code = _for_any_module(graph).python_code("self")
    head, names = signature.source()
    source, count = _DEF.subn(f"def forward({head}):", code.src, count=1)
    assert count == 1, code.src
    namespace: dict[str, Any] = {**code.globals, **names}
    filename = f"<aimet graph of {user_class.__name__}>"
    exec(compile(source, filename, "exec"), namespace)
    # Tracebacks and torch.compile show the generated lines.
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    body = {
        "forward": namespace["forward"],
        "_traced_class": user_class,
        "_traced_graph": graph,
        "_traced_signature": signature,
        "__reduce_ex__": _reduce,
        "__module__": user_class.__module__,
        "__qualname__": user_class.__qualname__,
        "__doc__": user_class.__doc__,
    }
    return type(user_class.__name__, (user_class,), body)


def _reduce(model: Any, protocol: int) -> Any:
    """For copies and pickles: the user's class, the graph, the model's own state."""
    cls = type(model)
    reduced = cls._traced_class.__reduce_ex__(model, max(protocol, 2))
    make_args = tuple(cls._traced_class if a is cls else a for a in reduced[1])
    args = (reduced[0], make_args, pack_graph(cls._traced_graph), cls._traced_signature)
    return (_restore, args, *reduced[2:])


def _restore(make: Any, args: Any, packed: Any, signature: Signature) -> nn.Module:
    model: nn.Module = make(*args)
    compile_forward(model, unpack_graph(packed), signature)
    return model


@dataclasses.dataclass(frozen=True)
class _Ref:
    """Stands for a node in a packed graph."""

    name: str


def pack_graph(graph: fx.Graph, *, with_meta: bool = False) -> list[tuple[Any, ...]]:
    """A graph as plain data that can be pickled."""

    def ref(node: fx.Node) -> Any:
        return _Ref(node.name)

    def pack(value: Any) -> Any:
        return fx.node.map_arg(value, ref)

    return [
        (n.op, n.name, n.target, pack(n.args), pack(n.kwargs), dict(n.meta) if with_meta else {})
        for n in graph.nodes
    ]


def unpack_graph(packed: list[tuple[Any, ...]]) -> fx.Graph:
    """The graph that ``pack_graph`` packed."""
    graph, nodes = fx.Graph(), dict[str, fx.Node]()
    for op, name, target, args, kwargs, meta in packed:
        arguments: Any = fx.node.map_aggregate(
            (args, kwargs), lambda v: nodes[v.name] if isinstance(v, _Ref) else v
        )
        nodes[name] = graph.create_node(op, target, arguments[0], arguments[1], name=name)
        nodes[name].meta = dict(meta)
    return graph


def drop_simulation_keywords(model: nn.Module) -> None:
    """Take them out of every module call of a rewritten model; other models are left alone."""
    cls: Any = type(model)
    if not hasattr(cls, "_traced_graph"):
        return
    graph = unpack_graph(pack_graph(cls._traced_graph))
    for node in graph.nodes:
        if _is_simulated_call(node):
            node.kwargs = {k: v for k, v in node.kwargs.items() if k not in SIMULATION_KEYWORDS}
    compile_forward(model, graph, cls._traced_signature)
