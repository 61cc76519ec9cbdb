"""A ``torch.export`` program as an ordinary model: layers are modules again.

In a program a convolution is a function of its weights. What quantizes, folds and equalizes works
on layers, so each function that reads parameters becomes the module of `torch.nn` that calls it,
under the name its parameters have; other operators become the functions of `torch` that users
write.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree

from aimet_torch.graph import rewrite

__all__ = ["module_of_program", "module_of_torchscript"]


def module_of_program(program: torch.export.ExportedProgram) -> nn.Module:
    """An ordinary module that computes what a program computes.

    Args:
        program: Of `torch.export.export` or `torch.export.load`.

    Returns:
        A module in evaluation mode whose parameters and buffers have the names that they have in
        the program. Its arguments have the program's names.

    Raises:
        NotImplementedError: an argument of the program is no tensor, but a nested structure of
            them, or the program has control flow.
    """
    source: Any = program.module(check_guards=False)
    layers = _Layers(source)
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}

    def image(node: fx.Node) -> fx.Node:
        return values[node]

    spec = program.call_spec.in_spec
    if any(not child.is_leaf() for part in spec.children() for child in part.children()):
        raise NotImplementedError(
            "module_of_program: `program` takes nested arguments; export a model that takes tensors"
        )
    out_spec = program.call_spec.out_spec
    for node in source.graph.nodes:
        if node.op == "placeholder":
            values[node] = graph.placeholder(node.name)
        elif node.op == "get_attr":
            if isinstance(_attribute(source, str(node.target)), nn.Module):
                raise NotImplementedError(
                    f"module_of_program: `program` has control flow ({node.target})"
                )
            # Parameters of layers are not read here any more.
            values[node] = graph.get_attr(str(node.target))
        elif node.op == "output":
            flat = [fx.node.map_arg(leaf, image) for leaf in _pytree.tree_leaves(node.args)]
            graph.output(_pytree.tree_unflatten(flat, out_spec))
        elif node.op == "call_function":
            if _is_check(node.target):
                continue
            layer = layers.module_for(node)
            if layer is not None:
                name, argument = layer
                values[node] = graph.call_module(name, (values[argument],))
                continue
            if _is_whole(node):
                values[node] = values[node.args[0]]
                continue
            args, kwargs = (fx.node.map_arg(part, image) for part in (node.args, node.kwargs))
            values[node] = graph.call_function(_function(node.target), args, kwargs)
        elif not str(node.target).startswith("_guards"):
            raise NotImplementedError(
                f"module_of_program: `program` has a node {node.format_node()}"
            )
    for node in reversed(list(graph.nodes)):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)
    kind = int(inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [node.name for node in graph.find_nodes(op="placeholder")]
    # Not an fx.GraphModule, whose copies of subclasses call themselves without end.
    model = layers.root
    defaults = [rewrite.Required] * len(names)
    parameters = tuple(zip(names, [kind] * len(names), defaults, strict=True))
    rewrite.compile_forward(model, graph, rewrite.Signature(parameters))
    return model.eval()


def module_of_torchscript(script: torch.jit.ScriptModule, example: Any) -> nn.Module:
    """An ordinary module that computes what a TorchScript module computes.

    Args:
        script: Of `torch.jit.load`.
        example: A tensor or a tuple of positional arguments.

    Raises:
        NotImplementedError: it cannot be converted.
    """
    from torch._export.converter import TS2EPConverter

    args = tuple(example) if isinstance(example, (tuple, list)) else (example,)
    try:
        program = TS2EPConverter(script, args).convert()
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NotImplementedError(
            f"module_of_torchscript: `script` cannot be converted: {reason}; torch.export.export "
            "of the model in Python writes a .pt2 file, which can be quantized"
        ) from error
    return module_of_program(program)


def _is_check(target: Any) -> bool:
    name = getattr(target, "__name__", "")
    return name.startswith(("_assert", "sym_constrain_range", "_guards"))


def _is_whole(node: fx.Node) -> bool:
    """Whether a node takes a slice that is all of a tensor."""
    if getattr(node.target, "overloadpacket", None) is not torch.ops.aten.slice:
        return False
    given: Any = [*node.args, *(0, None, None, 1)[len(node.args) - 1 :]]
    start, end, step = given[2:]
    return bool(start in (None, 0) and end in (None, _LAST) and step == 1)


_LAST = 2**63 - 1


def _attribute(module: Any, path: str) -> Any:
    return operator.attrgetter(path)(module)


def _function(target: Any) -> Any:
    """The function of `torch` that an operator of `aten` stands for; other targets stay."""
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return target
    name = target._schema.name.partition("::")[2]
    if name in _RESTATED:
        return _RESTATED[name]
    for owner in (torch, Tensor, torch._C._nn):
        function = getattr(owner, name, None)
        if function is not None:
            return function
    return target


def _slice(x: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Tensor:
    index = (*[slice(None)] * (dim % x.dim()), slice(start, end, step))
    return x[index]


def _index(x: Tensor, indices: Iterable[Tensor | None]) -> Tensor:
    return x[tuple(slice(None) if index is None else index for index in indices)]


#: What users write with brackets and attributes.
_RESTATED: dict[str, Callable[..., Any]] = {
    "slice": _slice,
    "index": _index,
    "sym_size": Tensor.size,
    "lift_fresh_copy": Tensor.clone,
}


# ----------------------------------------------------------------------------------------- layers


class Program(nn.Module):
    """A model that was a program."""


class _Layers:
    """The modules of a program's layers, made from the functions that read its parameters."""

    def __init__(self, source: nn.Module) -> None:
        self._source = source
        self.root = Program()
        for kind in (source.named_parameters, source.named_buffers):
            for name, tensor in kind(remove_duplicate=False):
                _put(self.root, name, tensor)
        for name, tensor in _constants(source):
            _put(self.root, name, tensor)
        self._made: dict[str, tuple[Any, ...]] = {}

    def module_for(self, node: fx.Node) -> tuple[str, fx.Node] | None:
        """Name of the module that computes a node, and its input; None: it stays a function."""
        if not isinstance(node.target, torch._ops.OpOverload):
            return None
        maker = _MAKERS.get(str(node.target))
        if maker is None:
            return None
        arguments = _named(node)
        tensors = {
            key: arguments.get(theirs)
            for key, theirs in maker.tensors.items()
            if arguments.get(theirs) is not None
        }
        paths = {
            key: str(value.target)
            for key, value in tensors.items()
            if isinstance(value, fx.Node) and value.op == "get_attr"
        }
        if "weight" not in paths and not maker.can_be_bare:
            return None
        if paths.keys() != tensors.keys() or not paths:
            return None  # computed weights
        owners = {path.rpartition(".")[0] for path in paths.values()}
        if len(owners) != 1 or any(p.rpartition(".")[2] != key for key, p in paths.items()):
            return None
        (name,) = owners
        if not name:
            return None  # parameters of the model itself
        settings = {k: v for k, v in arguments.items() if k not in maker.tensors.values()}
        data = settings.pop(maker.data, None)
        if not isinstance(data, fx.Node):
            return None
        if any(isinstance(v, fx.Node) for v in _pytree.tree_leaves(settings)):
            return None
        identity = (str(node.target), sorted(paths), repr(sorted(settings.items())))
        if name in self._made:
            return (name, data) if self._made[name] == identity else None
        held = self.root.get_submodule(name)
        if any(True for _ in held.children()):
            return None
        own = {**dict(held.named_parameters()), **dict(held.named_buffers())}
        if own.keys() - paths.keys() - {"num_batches_tracked"}:
            return None
        layer = maker.make({key: own[key] for key in paths}, settings)
        if layer is None:
            return None
        for key in paths:
            current = getattr(layer, key)
            if isinstance(current, nn.Parameter) and not isinstance(own[key], nn.Parameter):
                setattr(layer, key, nn.Parameter(own[key], requires_grad=False))
            else:
                setattr(layer, key, own[key])
        layer.eval()
        parent, _, last = name.rpartition(".")
        setattr(self.root.get_submodule(parent), last, layer)
        self._made[name] = identity
        return name, data


def _constants(source: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """Tensors that a program reads and that are neither parameters nor buffers."""
    known = {name for name, _ in source.named_parameters(remove_duplicate=False)}
    known |= {name for name, _ in source.named_buffers(remove_duplicate=False)}
    for node in source.graph.nodes:  # type: ignore[union-attr]
        if node.op == "get_attr" and node.target not in known:
            value = _attribute(source, str(node.target))
            if isinstance(value, Tensor):
                known.add(node.target)
                yield str(node.target), value


def _put(root: nn.Module, name: str, tensor: Any) -> None:
    parent, _, last = name.rpartition(".")
    module = root
    for part in parent.split(".") if parent else ():
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module._modules[part]  # type: ignore[assignment]
    if isinstance(tensor, nn.Parameter):
        module.register_parameter(last, tensor)
    else:
        module.register_buffer(last, tensor)


def _named(node: fx.Node) -> dict[str, Any]:
    """Arguments of a node by the names of its operator's schema, defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]
    named = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
    named.update(zip((a.name for a in schema.arguments), node.args, strict=False))
    return {**named, **node.kwargs}


class _Maker:
    """How a function of parameters becomes a module.

    Args:
        make: From tensors by name, and the other arguments, to the module; None: there is none.
        tensors: Attribute of the module -> argument of the operator.
        data: Argument that is the layer's input.
        can_be_bare: Whether it is a layer without a weight, too.
    """

    def __init__(
        self,
        make: Callable[[dict[str, Tensor], dict[str, Any]], nn.Module | None],
        tensors: Mapping[str, str],
        data: str = "input",
        can_be_bare: bool = False,
    ) -> None:
        self.make = make
        self.tensors = tensors
        self.data = data
        self.can_be_bare = can_be_bare


def _convolution(cls: Any) -> Callable[[dict[str, Tensor], dict[str, Any]], nn.Module]:
    def make(tensors: dict[str, Tensor], given: dict[str, Any]) -> nn.Module:
        weight, groups = tensors["weight"], given.pop("groups")
        is_transposed = "Transpose" in cls.__name__
        first, second = weight.shape[0], weight.shape[1] * groups
        channels = (first, second) if is_transposed else (second, first)
        given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        size = tuple(weight.shape[2:])
        has_bias = "bias" in tensors
        return nn.utils.skip_init(
            cls, *channels, size, groups=groups, bias=has_bias, **given, dtype=weight.dtype
        )

    return make


def _general_convolution(tensors: dict[str, Tensor], given: dict[str, Any]) -> nn.Module | None:
    """TorchScript has one operator for all convolutions."""
    given = {k: given[k] for k in _CONVOLUTION if k in given}
    is_transposed = given.pop("transposed")
    padding = given.pop("output_padding")
    dims = tensors["weight"].dim() - 2
    if dims not in (1, 2, 3):
        return None
    if is_transposed:
        given["output_padding"] = padding
    cls = getattr(nn, f"Conv{'Transpose' if is_transposed else ''}{dims}d")
    return _convolution(cls)(tensors, given)


_CONVOLUTION = ("stride", "padding", "dilation", "transposed", "output_padding", "groups")


def _linear(tensors: dict[str, Tensor], given: dict[str, Any]) -> nn.Module:
    out, into = tensors["weight"].shape
    has_bias = "bias" in tensors
    return nn.utils.skip_init(nn.Linear, into, out, has_bias, dtype=tensors["weight"].dtype)


def _batch_norm(tensors: dict[str, Tensor], given: dict[str, Any]) -> nn.Module | None:
    if given["training"] or "running_mean" not in tensors:
        return None
    affine = "weight" in tensors
    # One class for all: how many axes the input has is not told by the parameters.
    return _AnyBatchNorm(
        tensors["running_mean"].numel(), given["eps"], given["momentum"], affine=affine
    )


class _AnyBatchNorm(nn.BatchNorm2d):
    """A batch normalization of inputs with any number of axes."""

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch_norm: `input` must have two or more axes, got {input.dim()}")


def _layer_norm(tensors: dict[str, Tensor], given: dict[str, Any]) -> nn.Module:
    shape = tuple(given["normalized_shape"])
    return nn.LayerNorm(shape, given["eps"], bias="bias" in tensors)


def _group_norm(tensors: dict[str, Tensor], given: dict[str, Any]) -> nn.Module | None:
    if "bias" not in tensors:
        return None
    return nn.GroupNorm(given["num_groups"], tensors["weight"].numel(), given["eps"])


def _embedding(tensors: dict[str, Tensor], given: dict[str, Any]) -> nn.Module:
    count, width = tensors["weight"].shape
    padding = given["padding_idx"]
    return nn.utils.skip_init(
        nn.Embedding, count, width, None if padding < 0 else padding, dtype=tensors["weight"].dtype
    )


def _prelu(tensors: dict[str, Tensor], given: dict[str, Any]) -> nn.Module:
    return nn.PReLU(tensors["weight"].numel())


_WEIGHTS = {"weight": "weight", "bias": "bias"}
_STATISTICS = {"running_mean": "running_mean", "running_var": "running_var"}
_MAKERS: dict[str, _Maker] = {
    "aten.linear.default": _Maker(_linear, _WEIGHTS),
    "aten.batch_norm.default": _Maker(_batch_norm, {**_WEIGHTS, **_STATISTICS}, can_be_bare=True),
    "aten.layer_norm.default": _Maker(_layer_norm, _WEIGHTS),
    "aten.group_norm.default": _Maker(_group_norm, _WEIGHTS),
    "aten.embedding.default": _Maker(_embedding, {"weight": "weight"}, "indices"),
    "aten.prelu.default": _Maker(_prelu, {"weight": "weight"}, "self"),
}
for _name in ("convolution", "_convolution"):
    _MAKERS[f"aten.{_name}.default"] = _Maker(_general_convolution, _WEIGHTS)
for _dims in (1, 2, 3):
    for _overload in ("default", "padding"):
        _MAKERS[f"aten.conv{_dims}d.{_overload}"] = _Maker(
            _convolution(getattr(nn, f"Conv{_dims}d")), _WEIGHTS
        )
    _MAKERS[f"aten.conv_transpose{_dims}d.{'default' if _dims == 1 else 'input'}"] = _Maker(
        _convolution(getattr(nn, f"ConvTranspose{_dims}d")), _WEIGHTS
    )
