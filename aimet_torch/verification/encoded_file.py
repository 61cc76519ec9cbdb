"""A plain ONNX file with an encodings file, as the QDQ graph that the two stand for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from aimet_torch import encodings as encodings_files
from aimet_torch.encodings.tensor_encoding import TensorEncoding
from aimet_torch.export.capture import capture
from aimet_torch.export.encoded_graph import EncodedGraph, encode
from aimet_torch.export.lowering import lower
from aimet_torch.export.onnx_encodings import model_of
from aimet_torch.export.onnx_grid import needed_opset
from aimet_torch.export.onnx_qdq import prepare
from aimet_torch.verification.qdq_file import QdqFile, load_model


def load_with_encodings(
    path: str | os.PathLike[str],
    encodings_path: str | os.PathLike[str],
    sim: Any,
    call: Any,
    export_options: Mapping[str, Any] | None = None,
) -> QdqFile:
    """Put the grids of an encodings file into the ONNX file beside it.

    The files do not tell which quantizer a tensor belongs to: the simulation is captured again, and
    tensors are matched by name.

    Args:
        path: ONNX file that `sim.onnx.export` wrote.
        encodings_path: its encodings file.
        sim: the simulation.
        call: example input.
        export_options: options for `torch.onnx.export` that were passed then.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the files are not of this simulation.
    """
    if not Path(encodings_path).is_file():
        raise FileNotFoundError(
            f"verify: `onnx_path` {path} has no QuantizeLinear, and there is no encodings file "
            f"{encodings_path}; write the file with aimet_torch.onnx.export, or name the encodings "
            "file in `encodings_path`"
        )
    document = encodings_files.read(encodings_path)
    options = dict(export_options or {})
    names = options.get("output_names") or ()
    captured = encode(capture(model_of(sim), call, **options), names)
    known = {value.name: encoding for value, encoding in captured.encodings.items()}
    graph = EncodedGraph(load_model(Path(path)))
    values = _values(graph.model.graph)
    entries = [entry for _, entry in encodings_files.entries(document)]
    unknown = [e["name"] for e in entries if e["name"] not in known and e["bitwidth"] < 32]
    if unknown:
        raise ValueError(
            f"verify: {len(unknown)} tensor(s) of {encodings_path} are not in an export of `sim`: "
            f"{', '.join(unknown[:3])}; the file is of another model, or pass the options of its "
            "export (names, opset) as `export_options`"
        )
    for entry in entries:
        value, template = values.get(entry["name"]), known.get(entry["name"])
        if value is not None and template is not None:
            graph.encodings[value] = _from_entry(template, entry)
    # The file itself needs no integers, and may say so with an opset that lacks them.
    needed = [needed_opset(encoding) for encoding in graph.encodings.values()]
    imports = graph.model.opset_imports
    graph.opset = imports[""] = max([imports[""], *needed])
    prepare(graph)
    lower(graph, True, False, "unsigned")
    return QdqFile.of(Path(path), graph.model)


def _values(graph: ir.Graph) -> dict[str | None, ir.Value]:
    found = [*graph.inputs, *graph.initializers.values()]
    found += [value for node in graph for value in node.outputs]
    return {value.name: value for value in found}


def _from_entry(template: TensorEncoding, entry: Mapping[str, Any]) -> TensorEncoding:
    """The numbers of the file; how scales lie along the tensor is what the file does not tell."""
    if entry["dtype"] == "float" or "per_block_int_scale" in entry:
        return template
    half = 2 ** (entry["bitwidth"] - 1)
    low = -half if entry["signed"] else 0
    if entry.get("strict_symmetric"):
        low += 1
    return replace(
        template,
        bitwidth=int(entry["bitwidth"]),
        signed=bool(entry["signed"]),
        qmin=low,
        qmax=half - 1 if entry["signed"] else 2 * half - 1,
        scale=np.array(entry["scale"], np.float32).reshape(template.scale.shape),
        offset=np.array(entry["offset"], np.int64).reshape(template.offset.shape),
    )
