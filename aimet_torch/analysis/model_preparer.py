"""`prepare_model`: a model whose operations are modules, to look at and for AIMET's scripts.

Nothing here needs it: `QuantizationSimModel`, folding and equalization take models as they are, and
trace more than symbolic tracing can.
"""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Iterable
from typing import Any

from torch import fx, nn

from aimet_torch.graph.op_types import GRID_PRESERVING_OPS, op_type_of_function
from aimet_torch.graph.rewrite import module_call
from aimet_torch.graph.torch_functions import base_name, classify

__all__ = ["prepare_model"]


def prepare_model(
    model: nn.Module,
    modules_to_exclude: list[nn.Module] | None = None,
    module_classes_to_exclude: list[type] | None = None,
    concrete_args: dict[str, Any] | None = None,
) -> fx.GraphModule:
    """A copy of a model in which functions that compute are modules, and modules run once each.

    `torch.fx` traces it symbolically, without an input. Functions become modules
    ``module_<name>``; a module that is called again becomes ``<name>_1``, with the same parameters.
    What only moves numbers (reshape, transpose, slices) stays a function.

    Args:
        model: Left as it is; its parameters are copied.
        modules_to_exclude: Modules that are not looked into.
        module_classes_to_exclude: Classes of such.
        concrete_args: Arguments of ``forward`` that are fixed to a value, as for
            ``torch.fx.Tracer.trace``.

    Returns:
        The model as an ``fx.GraphModule``. `QuantizationSimModel` gives it the quantizers that it
        gives the original.

    Raises:
        TypeError: ``model`` is no module.
        NotImplementedError: `torch.fx` cannot trace it; quantize the model itself.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"prepare_model: `model` must be an nn.Module, got {type(model).__name__}")
    names = {module: name for name, module in model.named_modules()}
    unknown = [m for m in modules_to_exclude or () if m not in names]
    if unknown:
        raise ValueError(
            f"prepare_model: `modules_to_exclude` has a {type(unknown[0]).__name__} that is not in "
            "`model`"
        )
    work = copy.deepcopy(model)
    excluded = {work.get_submodule(names[module]) for module in modules_to_exclude or ()}
    tracer = _Tracer(excluded, tuple(module_classes_to_exclude or ()))
    try:
        graph = tracer.trace(work, concrete_args)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NotImplementedError(
            f"prepare_model: torch.fx cannot trace `model`: {reason}; quantize the model itself, "
            "QuantizationSimModel needs no preparation, or name the module in `modules_to_exclude`"
        ) from error
    result = fx.GraphModule(work, graph, type(model).__name__)
    result.train(model.training)
    _separate_calls(result)
    _give_modules(result)
    result.recompile()
    return result


class _Tracer(fx.Tracer):
    """Looks into all modules but those of torch and those that are excluded."""

    def __init__(self, excluded: Iterable[nn.Module], classes: tuple[type, ...]) -> None:
        super().__init__()
        self._excluded = set(excluded)
        self._classes = classes

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return (
            m in self._excluded
            or isinstance(m, self._classes)
            or super().is_leaf_module(m, module_qualified_name)
        )


def _separate_calls(model: fx.GraphModule) -> None:
    """Give second and later calls of a module a module of their own, with the same tensors."""
    calls: Counter[str] = Counter()
    for node in model.graph.find_nodes(op="call_module"):
        name = str(node.target)
        calls[name] += 1
        if calls[name] > 1:
            module = model.get_submodule(name)
            shared = {id(t): t for t in (*module.parameters(), *module.buffers())}
            node.target = _free(model, name, calls[name] - 1)
            model.add_submodule(node.target, copy.deepcopy(module, shared))


def _free(model: nn.Module, name: str, number: int) -> str:
    known = dict(model.named_modules())
    while f"{name}_{number}" in known:
        number += 1
    return f"{name}_{number}"


def _give_modules(model: fx.GraphModule) -> None:
    numbers: set[fx.Node] = set()  # results that are no tensors
    for node in list(model.graph.nodes):
        if node.op not in ("call_function", "call_method"):
            continue
        function: Any = node.target
        name = str(function) if node.op == "call_method" else base_name(function)
        parts = node.all_input_nodes
        of_numbers = bool(parts) and all(part in numbers for part in parts)
        if node.op == "call_method":
            kind = "size" if name in ("size", "dim", "numel", "ndimension") else "compute"
        else:
            kind = classify(function)
        if function is getattr:
            kind = "size" if node.args[1] in ("shape", "ndim", "device", "dtype") else "metadata"
        if of_numbers or kind in ("size", "metadata"):
            numbers.add(node)
            continue
        stays = function in (getattr, operator.getitem) or kind != "compute"
        if stays or op_type_of_function(name, node.args, node.kwargs) in GRID_PRESERVING_OPS:
            continue
        module, args, kwargs = module_call(node)
        module.train(model.training)
        target = f"module_{node.name}"
        while hasattr(model, target):
            target += "_1"
        model.add_submodule(target, module)
        with model.graph.inserting_before(node):
            new = model.graph.call_module(target, args, kwargs)
        node.replace_all_uses_with(new)
        model.graph.erase_node(node)
