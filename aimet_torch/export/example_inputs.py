"""Example inputs of exports: which argument does not fit, and what a tracer can take."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.export.copies import shared_copy
from aimet_torch.graph import bind_inputs
from aimet_torch.graph.structure import leaves, rebuild


@dataclass
class Example:
    """Arguments of a model, and what it makes of them in evaluation mode."""

    positional: tuple[Any, ...]
    keywords: dict[str, Any]
    results: Any

    def agrees(self, model: nn.Module) -> bool:
        """Whether another model makes the same of them, to the last bit."""
        with torch.no_grad():
            tensors = leaves(shared_copy(model)(*self.positional, **self.keywords))
        expected = leaves(self.results)
        return len(tensors) == len(expected) and all(
            a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())
            for a, b in zip(tensors, expected, strict=True)
        )


def run_example(function: str, sim: Any, model: nn.Module, args: Any) -> Example:
    """The arguments that an example input stands for, after the model has run on them once.

    Args:
        function: name of the export, for messages.
        sim: what the user exports; of a simulation, `dummy_input` tells what fits.
        model: the module to run; unchanged.
        args: a tensor, a tuple of positional or a dict of keyword arguments.

    Raises:
        TypeError: an argument is missing, or one too many.
        ValueError: the model fails on them; the message names the arguments that differ from those
            of the simulation.
    """
    positional, keywords = bind_inputs(model, args)
    try:
        inspect.signature(model.forward).bind(*positional, **keywords)
    except TypeError as error:
        raise TypeError(
            f"{function}: the example input does not fit `{type(model).__name__}.forward"
            f"{inspect.signature(model.forward)}`: {error}; pass a tensor, a tuple of positional "
            "or a dict of keyword arguments"
        ) from None
    try:
        with torch.no_grad():
            results = shared_copy(model)(*positional, **keywords)
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise ValueError(
            f"{function}: the model fails on the example input, "
            f"{_differences(sim, model, positional, keywords)}: "
            f"{type(error).__name__}: {reason}"
        ) from error
    return Example(positional, keywords, results)


@contextlib.contextmanager
def explained(function: str, sim: Any, model: nn.Module, args: Any) -> Iterator[None]:
    """Within it, an export that fails on an example which the model itself fails on says so.

    Raises:
        ValueError, TypeError: as `run_example`, instead of what the exporter makes of it.
    """
    try:
        yield
    except (NotImplementedError, TypeError):
        run_example(function, sim, model, args)
        raise


def named_arguments(
    model: nn.Module, positional: tuple[Any, ...], keywords: dict[str, Any]
) -> dict[str, Any]:
    """Arguments by the names of forward's parameters; those of `*args` are numbered."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in parameters if p.kind in kinds]
    names += [f"input_{i}" for i in range(len(names), len(positional))]
    return {**dict(zip(names, positional, strict=False)), **keywords}


def _differences(
    sim: Any, model: nn.Module, positional: tuple[Any, ...], keywords: dict[str, Any]
) -> str:
    given = named_arguments(model, positional, keywords)
    dummy = getattr(sim, "dummy_input", None)
    if dummy is not None:
        built_with = named_arguments(model, *bind_inputs(model, dummy))
        different = [
            f"`{name}` is {_shown(given.get(name))}, the simulation was built with "
            f"{_shown(built_with.get(name))}"
            for name in {**built_with, **given}
            if _shown(given.get(name)) != _shown(built_with.get(name))
        ]
        if different:
            return "in which " + " and ".join(different)
    return "which is " + ", ".join(f"`{name}` {_shown(value)}" for name, value in given.items())


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    tensors = leaves(value)
    if tensors:
        return f"{type(value).__name__}({', '.join(map(_shown, tensors))})"
    return repr(value)


def take_tensors_only(model: nn.Module, example: Example) -> tuple[Tensor, ...]:
    """Give `model` a forward from tensors to tensors, which is what TorchScript has.

    Args:
        model: changed in place: its class becomes a subclass. Nested arguments become their
            tensors, one after the other; what is no tensor keeps the value that it has in the
            example. Results other than a tensor, or a tuple, list or dict of tensors, become a
            tuple of their tensors.
        example: arguments of the model.

    Returns:
        The example's arguments of the new forward. They have the names of the old ones, with a
        number for the second tensor of one argument and so on.
    """
    named = named_arguments(model, example.positional, example.keywords)
    count = len(example.positional)
    names = ["self"]
    for name, value in named.items():
        inside = len(leaves(value))
        names += [name if i == 0 else f"{name}_{i}" for i in range(inside)]
    cls = type(model)

    def forward(self: nn.Module, *tensors: Tensor) -> Any:
        queue = iter(tensors)
        values = [
            rebuild(value, lambda _, __: next(queue), with_path=True) for value in named.values()
        ]
        by_name = dict(zip(list(named)[count:], values[count:], strict=True))
        return for_torchscript(cls.forward(self, *values[:count], **by_name))

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind) for name in names]
    )
    model.__class__ = type(cls.__name__, (cls,), {"forward": forward, "__module__": cls.__module__})
    return tuple(leaves(list(named.values())))


def for_torchscript(result: Any) -> Any:
    """`result` where TorchScript has such values, else its tensors."""
    if isinstance(result, Tensor):
        return result
    if type(result) in (tuple, list) and all(isinstance(item, Tensor) for item in result):
        return result
    if type(result) is dict and all(isinstance(item, Tensor) for item in result.values()):
        return result
    tensors = leaves(result)
    return tensors[0] if len(tensors) == 1 else tuple(tensors)
