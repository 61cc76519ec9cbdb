"""A model that the command line names: ``package.module:function``, ``.pt2`` or TorchScript."""

from __future__ import annotations

import importlib
import inspect
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

__all__ = ["example_from", "input_count", "load_model", "object_named"]

_HOW = "write package.module:function, or the path of a .pt2 or TorchScript file"


def object_named(spec: str, what: str) -> Any:
    """The object behind ``package.module:name``; the current folder is searched first.

    Args:
        spec: As the user wrote it.
        what: What it is for, in messages: ``model``.

    Raises:
        ValueError: there is no such module or name; the message says which.
    """
    module_name, _, name = spec.partition(":")
    if not module_name or not name:
        raise ValueError(f"{what} {spec!r}: {_HOW if what == 'model' else 'no such file'}")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise  # something that the module itself imports
        raise ValueError(
            f"{what} {spec!r}: no module {error.name!r}, neither installed nor in {folder}"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"{what} {spec!r}: {module_name} has no {part!r}")
        found = getattr(found, part)
    return found


def load_model(spec: str) -> tuple[nn.Module, Any]:
    """A model in evaluation mode, and the example input that its file holds.

    Args:
        spec: ``package.module:function``, of a function without arguments that returns a module, or
            of a module itself; or the path of a ``torch.export`` program or of a TorchScript file.

    Returns:
        The model, a TorchScript one as it is; the example input, None where the source has none.

    Raises:
        ValueError: nothing of this kind is there.
    """
    path = Path(spec)
    if path.is_file():
        return _load_file(path)
    if path.suffix and ":" not in spec:
        raise ValueError(f"model {spec!r}: no such file; {_HOW}")
    found = object_named(spec, "model")
    if isinstance(found, type) or (callable(found) and not isinstance(found, nn.Module)):
        found = found()
    if not isinstance(found, nn.Module):
        raise ValueError(f"model {spec!r}: expected an nn.Module, got {type(found).__name__}")
    return found.eval(), None


def _load_file(path: Path) -> tuple[nn.Module, Any]:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"model {path}: neither a .pt2 nor a TorchScript file")
    if path.suffix == ".pt2":
        return _load_program(path)
    try:
        return torch.jit.load(str(path), map_location="cpu").eval(), None
    except RuntimeError as error:
        raise ValueError(
            f"model {path}: not a TorchScript file; a pickled model or state dict needs its class: "
            "write package.module:function, of a function that loads it"
        ) from error


def _load_program(path: Path) -> tuple[nn.Module, Any]:
    from aimet_torch.graph import module_of_program

    try:
        program = torch.export.load(path)
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(f"model {path}: not a torch.export program: {reason}") from error
    args, kwargs = program.example_inputs or ((), {})
    names = [
        p.name
        for p in inspect.signature(program.module().forward).parameters.values()
        if p.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    example = {**dict(zip(names, args, strict=False)), **kwargs} if kwargs else tuple(args)
    example = example[0] if isinstance(example, tuple) and len(example) == 1 else example
    return module_of_program(program), None if example == () else example


def example_from(spec: str) -> Any:
    """An example input: random numbers of a shape such as ``1x3x224x224``, or a function's result.

    Raises:
        ValueError: neither.
    """
    parts = spec.split("x")
    if all(part.isdigit() for part in parts):
        generator = torch.Generator().manual_seed(0)
        return torch.randn([int(part) for part in parts], generator=generator)
    if ":" not in spec:
        raise ValueError(
            f"--example {spec!r}: write a shape such as 1x3x224x224, or package.module:function"
        )
    found = object_named(spec, "--example")
    return found() if callable(found) else found


def input_count(model: nn.Module, example: Any) -> int | None:
    """How many entries of a batch that is a tuple the model takes; None: it cannot be told."""
    if example is not None:
        return len(example) if isinstance(example, (tuple, list)) else 1
    if isinstance(model, torch.jit.ScriptModule):
        method: Any = model.forward
        arguments = method.schema.arguments
        return sum(not a.has_default_value() for a in arguments) - 1
    parameters = inspect.signature(model.forward).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p for p in parameters if p.kind in kinds and p.default is inspect.Parameter.empty]
    if any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in parameters):
        return None
    return max(len(names), 1)
