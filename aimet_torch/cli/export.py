"""``aimet export``: what ``aimet quantize`` has made, in further formats."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from aimet_torch.cli._codes import OK
from aimet_torch.cli._exports import EXPORT_OPTIONS, Settings
from aimet_torch.cli._options import Option, add_command, resolve
from aimet_torch.cli._session import Run, load_simulation, print_json, say

__all__ = ["register"]

_FORMATS = ("encodings", "qdq", "torchscript", "torchscript_encodings", "pt2", "compiled")

OPTIONS = (
    Option(
        "folder",
        "of an `aimet quantize` run, or its simulation.pt, which is a pickle: load only what you "
        "trust",
        metavar="FOLDER",
        is_positional=True,
        is_required=True,
    ),
    Option(
        "formats",
        "encodings: ONNX and an encodings file; qdq: ONNX with QuantizeLinear; torchscript, pt2: "
        "with quantizers; torchscript_encodings: in FP32, and an encodings file; compiled: "
        "AOTInductor",
        choices=_FORMATS,
        metavar="FORMAT",
        is_list=True,
        is_required=True,
    ),
    Option("to", "path of the file, for a single format", metavar="FILE"),
    *EXPORT_OPTIONS,
    Option(
        "example",
        "example input instead of that of the run: a shape such as 1x3x224x224, or "
        "package.module:function",
        metavar="INPUT",
    ),
)


def register(commands: Any) -> None:
    """Add the parser of ``export``."""
    parser = add_command(
        commands,
        "export",
        "write a quantized model for another target",
        "Write what `aimet quantize` has made in further formats, without calibrating again.",
        "aimet export quantized --formats qdq torchscript",
        OPTIONS,
        has_recipe=False,
    )
    parser.set_defaults(run=_run)


def _run(namespace: argparse.Namespace) -> int:
    from aimet_torch.cli import _exports
    from aimet_torch.cli._models import example_from

    options = resolve(namespace, "export", OPTIONS)
    if options.to is not None and len(options.formats) > 1:
        raise ValueError(f"export: --to goes with one format, got {', '.join(options.formats)}")
    folder = Path(options.folder)
    content = load_simulation(folder)
    folder = folder if folder.is_dir() else folder.parent
    example = content["example"] if options.example is None else example_from(options.example)
    run = Run("export", folder)
    with run.interruptible():
        for name in options.formats:
            say(f"exporting: {name}")
            to = None if options.to is None else Path(options.to)
            files = _exports.write_format(
                name, content["sim"], example, folder, to, Settings.of(options)
            )
            for file in files:
                what = _exports.FORMATS[name][1]
                run.finished(file, what if file is files[0] else "its encodings")
    if run.code is not None:
        return run.code
    if options.json:
        print_json({"files": [str(folder / name) for name, _ in run.files]})
    else:
        for name, what in run.files:
            print(f"  {folder / name}  {what}")
    return OK
