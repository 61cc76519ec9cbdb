"""Whether a model can be quantized as it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from torch import nn

from aimet_torch.graph import ModelGraph, OpNode, trace
from aimet_torch.graph.op_types import GRID_PRESERVING_OPS

__all__ = [
    "ModelValidator",
    "validate_for_missing_modules",
    "validate_for_reused_modules",
    "validate_for_untraceable_parts",
]

_logger = logging.getLogger(__name__)


def validate_for_untraceable_parts(
    model: nn.Module,
    model_input: Any,
    layers_to_exclude: Iterable[nn.Module] | None = None,
    **_: Any,
) -> bool:
    """Whether every operation can get a quantizer: False where one runs in code without a trace.

    Args:
        model: Left as it is.
        model_input: A tensor, a tuple of arguments, or a dict.
        layers_to_exclude: Modules whose insides do not matter.
    """
    excluded = _inside(layers_to_exclude)
    problems = [
        boundary
        for boundary in trace(model, model_input).boundaries
        if boundary.unquantized_ops and model.get_submodule(boundary.name) not in excluded
    ]
    for boundary in problems:
        _logger.error(
            "ModelValidator: %s cannot be traced (%s); these operations inside stay in floating "
            "point: %s. Make them modules, or move the decision out of the module",
            boundary.name or "the model",
            boundary.reason,
            ", ".join(boundary.unquantized_ops),
        )
    return not problems


def validate_for_reused_modules(
    model: nn.Module,
    model_input: Any,
    layers_to_exclude: Iterable[nn.Module] | None = None,
    **_: Any,
) -> bool:
    """Whether no module runs twice in a call. AIMET needs that; here each call has quantizers.

    Args:
        model: Left as it is.
        model_input: A tensor, a tuple of arguments, or a dict.
        layers_to_exclude: Modules that may, and all inside them.
    """
    excluded = _inside(layers_to_exclude)
    reused = [
        str(op.module_name)
        for op in _operations(trace(model, model_input))
        if op.call_index == 1 and op.module not in excluded
    ]
    if reused:
        _logger.warning("ModelValidator: these modules run several times: %s", ", ".join(reused))
    return not reused


def validate_for_missing_modules(
    model: nn.Module,
    model_input: Any,
    layers_to_exclude: Iterable[nn.Module] | None = None,
    **_: Any,
) -> bool:
    """Whether all that computes is a module. AIMET needs that; here functions have quantizers.

    Args:
        model: Left as it is.
        model_input: A tensor, a tuple of arguments, or a dict.
        layers_to_exclude: Modules whose functions do not matter, and all inside them.
    """
    names = {module: name for name, module in model.named_modules()}
    excluded = {names[module] for module in _inside(layers_to_exclude) if module in names}
    functions = [
        op.name
        for op in _operations(trace(model, model_input))
        if op.module is None
        and op.touches_floats
        and op.op_type not in GRID_PRESERVING_OPS
        and op.name.rpartition(".")[0] not in excluded
    ]
    if functions:
        _logger.warning("ModelValidator: functions instead of modules: %s", ", ".join(functions))
    return not functions


class ModelValidator:
    """Checks whether a model can be quantized as it is, under AIMET's name.

    A simulation takes functions, reused modules and what cannot be traced, so only one check is
    made by itself: `validate_for_untraceable_parts`. AIMET's two others are there for those who
    also use AIMET: ``ModelValidator.add_check(validate_for_reused_modules)``.
    """

    _validation_checks: ClassVar[list[Callable[..., bool]]] = [validate_for_untraceable_parts]

    @staticmethod
    def add_check(validation_check: Callable[..., bool]) -> None:
        """Add a check for all further calls of :meth:`validate_model`.

        Args:
            validation_check: ``check(model, model_input, **kwargs)``: True if all is well.
        """
        ModelValidator._validation_checks.append(validation_check)

    @staticmethod
    def validate_model(model: nn.Module, model_input: Any, **kwargs: Any) -> bool:
        """Whether a model passes all checks; what is wrong goes to the log.

        Args:
            model: Left as it is.
            model_input: A tensor, a tuple of arguments, or a dict.
            **kwargs: For the checks; ``layers_to_exclude``: modules that are not looked into.
        """
        failed = [
            check.__name__
            for check in ModelValidator._validation_checks
            if not check(model, model_input, **kwargs)
        ]
        if failed:
            _logger.error("ModelValidator: failed: %s", ", ".join(failed))
        return not failed


def _inside(layers: Iterable[nn.Module] | None) -> set[nn.Module]:
    return {module for layer in layers or () for module in layer.modules()}


def _operations(graph: ModelGraph) -> list[OpNode]:
    """Those of the graph, and the modules that run inside what could not be traced."""
    return [*graph.ops, *(op for boundary in graph.boundaries for op in boundary.ops)]
