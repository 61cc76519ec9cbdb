"""``aimet verify``: an exported model on a target, beside the simulation."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from aimet_torch.cli._codes import NO, OK
from aimet_torch.cli._data import DATA_OPTIONS
from aimet_torch.cli._options import Option, add_command, resolve
from aimet_torch.cli._session import Run, load_simulation, print_json, say

__all__ = ["register"]

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
        "onnx",
        "the file to verify; default: model_qdq.onnx of the folder, then model.onnx, else one is "
        "exported",
        metavar="ONNX",
    ),
    Option(
        "target",
        "onnxruntime, or htp: Qualcomm's HTP, emulated",
        "onnxruntime",
        choices=("onnxruntime", "htp"),
    ),
    Option("data", f"{DATA_OPTIONS[0].help}; default: that of the run", metavar="DATA"),
    Option("samples", "how many samples are compared", 8, int, metavar="N"),
    Option("integer", "also predict a target that has integers only", False, bool),
    Option("nodes", "compare operator by operator", True, bool),
    Option("output", "folder of verification.html and .json; default: FOLDER", metavar="FOLDER"),
)


def register(commands: Any) -> None:
    """Add the parser of ``verify``."""
    parser = add_command(
        commands,
        "verify",
        "run an exported model on a target, beside the simulation",
        "Tell where an exported model departs from the simulation of `aimet quantize`. Exit code "
        "0: within the\nlimits; 1: not.",
        "aimet verify quantized --target onnxruntime --samples 8",
        OPTIONS,
        has_recipe=False,
    )
    parser.set_defaults(run=_run)


def _run(namespace: argparse.Namespace) -> int:
    options = resolve(namespace, "verify", OPTIONS)
    folder = Path(options.folder)
    content = load_simulation(folder)
    folder = folder if folder.is_dir() else folder.parent
    run = Run("verify", Path(options.output) if options.output else folder)
    result: Any = None
    with run.interruptible():
        result = _verify(options, content, folder)
        run.folder.mkdir(parents=True, exist_ok=True)
        run.finished(result.write_html(run.folder / "verification.html"), "all operators")
        run.finished(result.write_json(run.folder / "verification.json"), "the same for programs")
    if run.code is not None:
        return run.code
    if options.json:
        print_json(result.to_dict())
    else:
        print(result)
        for name, what in run.files:
            print(f"  {run.folder / name}  {what}")
    return OK if result.ok else NO


def _verify(options: argparse.Namespace, content: dict[str, Any], folder: Path) -> Any:
    import tempfile

    from aimet_torch.cli import _exports
    from aimet_torch.verification import verify

    sim = content["sim"]
    calls = _calls(options, content)
    say(f"verifying {len(calls)} samples on {options.target}")
    with tempfile.TemporaryDirectory() as temporary:
        path = _file(options, folder)
        if path is None:
            say("exporting: qdq")
            example = content["example"]
            settings = _exports.Settings()
            path = _exports.write_format("qdq", sim, example, Path(temporary), None, settings)[0]
        return verify(
            sim,
            path,
            calls,
            target=options.target,
            node_by_node=options.nodes,
            integer=options.integer,
        )


def _file(options: argparse.Namespace, folder: Path) -> Path | None:
    if options.onnx is not None:
        path = Path(options.onnx)
        if not path.is_file():
            raise ValueError(f"verify: --onnx {path}: no such file")
        return path
    names = ("model_qdq.onnx", "model.onnx")
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _calls(options: argparse.Namespace, content: dict[str, Any]) -> list[Any]:
    """Samples of the data of the run, or of other data, each in a batch of its own."""
    import torch

    from aimet_torch.cli._prepare import recipe_batches

    if options.data is None and content.get("recipe", {}).get("data") is None:
        return [content["example"]]
    # Those of the run that did not calibrate, unless other data is named.
    changes: dict[str, Any] = {"data": options.data}
    if options.data is not None:
        changes.update(samples=1, measure_samples=options.samples)
    batches = recipe_batches(content, changes, "verify")
    calls: list[Any] = []
    for batch in batches.measurement or batches.calibration:
        leaves = [x for x in torch.utils._pytree.tree_leaves(batch) if isinstance(x, torch.Tensor)]
        for i in range(leaves[0].shape[0] if leaves[0].dim() else 1):
            calls.append(
                torch.utils._pytree.tree_map(
                    lambda leaf, i=i: leaf[i : i + 1] if isinstance(leaf, torch.Tensor) else leaf,
                    batch,
                )
            )
    return calls[: options.samples]
