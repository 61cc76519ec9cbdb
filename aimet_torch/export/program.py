"""Export of a simulation as a `torch.export` program, and compiled by AOTInductor."""

from __future__ import annotations

import functools
import inspect
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.common.files import replace_together
from aimet_torch.export.capture import silence
from aimet_torch.export.dynamic_sizes import widen_open_sizes
from aimet_torch.export.example_inputs import for_torchscript, run_example
from aimet_torch.export.frozen import frozen_copy, require_calibrated
from aimet_torch.export.onnx_encodings import model_of
from aimet_torch.graph.structure import rebuild

__all__ = ["export_compiled", "export_program", "to_program"]

BATCH = "batch"
_LEAVES = (Tensor, int, float, bool, str, type(None))


def export_program(
    sim: Any, args: Any, f: str | os.PathLike[str], *, dynamic_shapes: Any = BATCH
) -> None:
    """Write the simulation as a `torch.export` program, by convention a `.pt2` file.

    It loads with `torch.export.load` after `import aimet_torch`; its `.module()` computes what
    `sim.model` computes in evaluation mode. Parameters hold their quantized values.

    Args:
        sim: a `QuantizationSimModel`, or a module that holds quantizers.
        args: example input: a tensor, a tuple of positional or a dict of keyword arguments.
        f: path of the file; an older one stays until the new one is complete.
        dynamic_shapes: "batch": the first size of each input stays open where the model allows it;
            None: no size does; else as for `torch.export.export`.

    Raises:
        ValueError: quantizers that have seen no data, or an example on which the model fails.
        TypeError: an example with an argument too few or too many.
        NotImplementedError: torch.export cannot take the model.
    """
    program = to_program(sim, args, dynamic_shapes=dynamic_shapes, function="export_program")
    path = Path(f)
    with replace_together(path.parent) as folder:
        torch.export.save(program, folder / path.name)


def export_compiled(
    sim: Any,
    args: Any,
    f: str | os.PathLike[str],
    *,
    dynamic_shapes: Any = BATCH,
    inductor_configs: dict[str, Any] | None = None,
) -> None:
    """Compile the simulation with AOTInductor into a package: machine code and weights in one file.

    `torch::inductor::AOTIModelPackageLoader` runs it in a C++ program that links `aimet::aimet`, as
    does `torch._inductor.aoti_load_package` after `import aimet_torch`. Quantizers are this
    package's operators; operations between them may be fused and differ from `sim.model` in their
    last bit, which is one step of a grid where a value lies on a rounding boundary.

    Args:
        sim: as for `export_program`.
        args: as for `export_program`.
        f: path of the package, ending in `.pt2`; an older one stays until the new one is complete.
        dynamic_shapes: as for `export_program`.
        inductor_configs: options of the compiler.

    Raises:
        ValueError: as for `export_program`, or `f` does not end in `.pt2`.
        TypeError, NotImplementedError: as for `export_program`.
        RuntimeError: there is no C++ compiler.
    """
    path = Path(f)
    if path.suffix != ".pt2":
        raise ValueError(f"export_compiled: `f` must end in `.pt2`, got {str(f)!r}")
    program = to_program(sim, args, dynamic_shapes=dynamic_shapes, function="export_compiled")
    with replace_together(path.parent) as folder:
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(folder / path.name), inductor_configs=inductor_configs
        )


def to_program(
    sim: Any, args: Any, *, dynamic_shapes: Any = BATCH, function: str = "to_program"
) -> torch.export.ExportedProgram:
    """The program that `export_program` writes; arguments and errors as there."""
    model = model_of(sim)
    require_calibrated(model)
    example = run_example(function, sim, model, args)
    positional, keywords = example.positional, example.keywords
    if isinstance(dynamic_shapes, str):
        if dynamic_shapes != BATCH:
            raise ValueError(
                f'{function}: `dynamic_shapes` must be "batch", None or what torch.export takes, '
                f"got {dynamic_shapes!r}"
            )
        bound = inspect.signature(model.forward).bind(*positional, **keywords)
        dynamic_shapes = {k: open_first_size(v) for k, v in bound.arguments.items()}
        opened: Any = [open_first_size(v) for v in (*positional, *keywords.values())]
    else:
        opened = dynamic_shapes
    positional, keywords = widen_open_sizes(model, positional, keywords, {"dynamic_shapes": opened})
    frozen = frozen_copy(model, example, fold_parameters=True)
    if not _is_plain(example.results):
        frozen.__class__ = _returning_tensors(type(frozen))
    with silence(), torch.no_grad():
        try:
            return torch.export.export(
                frozen, positional, keywords, dynamic_shapes=dynamic_shapes, strict=False
            )
        except Exception as error:
            reason = next((line for line in str(error).splitlines() if line.strip()), "")
            raise NotImplementedError(
                f"{function}: torch.export cannot take the model: {type(error).__name__}: "
                f"{reason}; it takes no Python code whose path depends on the data: "
                "`sim.graph.boundaries` tells which parts could not be traced"
            ) from error


def _is_plain(result: Any) -> bool:
    """Whether a file can hold the structure of a result."""
    if type(result) in (tuple, list):
        return all(map(_is_plain, result))
    if type(result) is dict:
        return all(map(_is_plain, result.values()))
    return isinstance(result, _LEAVES)


def _returning_tensors(cls: type[nn.Module]) -> type[nn.Module]:
    """A subclass that returns the tensors of its results alone."""

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return for_torchscript(cls.forward(self, *args, **kwargs))

    return type(cls.__name__, (cls,), {"forward": functools.wraps(cls.forward)(forward)})


def open_first_size(value: Any) -> Any:
    """Of an argument's tensors the ``dynamic_shapes`` that leave their first size open."""
    if isinstance(value, Tensor):
        return {0: torch.export.Dim.AUTO} if value.dim() else None
    return rebuild(value, open_first_size) if isinstance(value, (tuple, list, dict)) else None
