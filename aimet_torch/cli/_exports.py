"""Export formats of the command line: one function each, from a simulation to files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aimet_torch.cli._options import Option

__all__ = ["EXPORT_OPTIONS", "FORMATS", "Settings", "write_format"]

#: Options of every command that exports.
EXPORT_OPTIONS = (
    Option(
        "encoding_version",
        "of encodings files",
        choices=("0.6.1", "1.0.0", "2.0.0", "2.1.0"),
        group="export",
    ),
    Option("dynamic_batch", "ONNX: leave the number of samples open", False, bool, group="export"),
)


@dataclass(frozen=True)
class Settings:
    """What a user can say about exports.

    Attributes:
        encoding_version: Of encodings files; None: the default.
        dynamic_batch: Leave the first size of all inputs open, in ONNX files.
    """

    encoding_version: str | None = None
    dynamic_batch: bool = False

    @classmethod
    def of(cls, options: Any) -> Settings:
        """From parsed options."""
        return cls(options.encoding_version, options.dynamic_batch)


def _onnx_options(sim: Any, example: Any, settings: Settings) -> dict[str, Any]:
    """Arguments for `torch.onnx.export`."""
    if not settings.dynamic_batch:
        return {}
    import inspect

    import torch

    from aimet_torch.export.program import open_first_size
    from aimet_torch.graph import bind_inputs

    args, kwargs = bind_inputs(sim.model, example)
    bound = inspect.signature(sim.model.forward).bind(*args, **kwargs)
    opened = {name: open_first_size(value) for name, value in bound.arguments.items()}
    dynamic = torch.export.Dim.DYNAMIC
    return {
        "dynamic_shapes": torch.utils._pytree.tree_map(
            lambda dim: dynamic if dim is torch.export.Dim.AUTO else dim, opened
        )
    }


def _encodings(sim: Any, example: Any, path: Path, settings: Settings) -> list[Path]:
    options = _onnx_options(sim, example, settings)
    sim.onnx.export(example, path, encoding_version=settings.encoding_version, **options)
    return [path, path.with_suffix(".encodings")]


def _qdq(sim: Any, example: Any, path: Path, settings: Settings) -> list[Path]:
    from aimet_torch.export import onnx_qdq

    onnx_qdq.export(sim, example, path, **_onnx_options(sim, example, settings))
    return [path]


def _torchscript(sim: Any, example: Any, path: Path, settings: Settings) -> list[Path]:
    sim.export_torchscript(path, example)
    return [path]


def _torchscript_encodings(sim: Any, example: Any, path: Path, settings: Settings) -> list[Path]:
    from aimet_torch.export import export_torchscript_with_encodings

    export_torchscript_with_encodings(sim, example, path, settings.encoding_version)
    return [path, path.with_suffix(".encodings")]


def _program(sim: Any, example: Any, path: Path, settings: Settings) -> list[Path]:
    sim.export_program(path, example)
    return [path]


def _compiled(sim: Any, example: Any, path: Path, settings: Settings) -> list[Path]:
    sim.export_compiled(path, example)
    return [path]


_Writer = Callable[[Any, Any, Path, Settings], list[Path]]

#: By name: file name, what it is, and the function that writes it.
FORMATS: dict[str, tuple[str, str, _Writer]] = {
    "encodings": (
        "model.onnx",
        "the network in FP32, and its encodings beside it",
        _encodings,
    ),
    "qdq": ("model_qdq.onnx", "ONNX with QuantizeLinear and DequantizeLinear", _qdq),
    "torchscript": ("model.torchscript.pt", "TorchScript with quantizers", _torchscript),
    "torchscript_encodings": (
        "model_fp32.torchscript.pt",
        "TorchScript in FP32, and its encodings beside it",
        _torchscript_encodings,
    ),
    "pt2": ("model.pt2", "a torch.export program with quantizers", _program),
    "compiled": ("model_compiled.pt2", "compiled by AOTInductor, for C++ and Python", _compiled),
}


def write_format(
    name: str, sim: Any, example: Any, folder: Path, to: Path | None, settings: Settings
) -> list[Path]:
    """Write one format.

    Args:
        name: A key of ``FORMATS``.
        sim: Calibrated simulation.
        example: Example input: a tensor, a tuple or a dict.
        folder: Where the file of its usual name goes.
        to: Path of the file instead.
        settings: What else is up to the user.

    Returns:
        The files.
    """
    file, _, writer = FORMATS[name]
    path = to if to is not None else folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    return writer(sim, example, path, settings)
