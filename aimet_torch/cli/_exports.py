"""Export formats of the command line: one function each, from a simulation to files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["FORMATS", "write_format"]


def _encodings(sim: Any, example: Any, path: Path, version: str | None) -> list[Path]:
    sim.onnx.export(example, path, encoding_version=version)
    return [path, path.with_suffix(".encodings")]


def _qdq(sim: Any, example: Any, path: Path, version: str | None) -> list[Path]:
    from aimet_torch.export import onnx_qdq

    onnx_qdq.export(sim, example, path)
    return [path]


def _torchscript(sim: Any, example: Any, path: Path, version: str | None) -> list[Path]:
    sim.export_torchscript(path, example)
    return [path]


def _torchscript_encodings(sim: Any, example: Any, path: Path, version: str | None) -> list[Path]:
    from aimet_torch.export import export_torchscript_with_encodings

    export_torchscript_with_encodings(sim, example, path, version)
    return [path, path.with_suffix(".encodings")]


def _program(sim: Any, example: Any, path: Path, version: str | None) -> list[Path]:
    sim.export_program(path, example)
    return [path]


def _compiled(sim: Any, example: Any, path: Path, version: str | None) -> list[Path]:
    sim.export_compiled(path, example)
    return [path]


_Writer = Callable[[Any, Any, Path, "str | None"], list[Path]]

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
    name: str, sim: Any, example: Any, folder: Path, to: Path | None, version: str | None
) -> list[Path]:
    """Write one format.

    Args:
        name: A key of ``FORMATS``.
        sim: Calibrated simulation.
        example: Example input: a tensor, a tuple or a dict.
        folder: Where the file of its usual name goes.
        to: Path of the file instead.
        version: Of encodings; None: the default.

    Returns:
        The files.
    """
    file, _, writer = FORMATS[name]
    path = to if to is not None else folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    return writer(sim, example, path, version)
