"""Export of a simulation as a plain FP32 ONNX file and an encodings file."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from aimet_torch import encodings as encodings_files
from aimet_torch.common.files import replace_together
from aimet_torch.common.quantsim import chosen_version, has_one_list
from aimet_torch.common.services import service
from aimet_torch.common.version import __version__
from aimet_torch.export.bias import integer_biases
from aimet_torch.export.capture import capture
from aimet_torch.export.encoded_graph import EncodedGraph, encode
from aimet_torch.export.example_inputs import explained
from aimet_torch.export.files import save_model
from aimet_torch.export.onnx_grid import check_signedness
from aimet_torch.export.opsets import restate_for_opset
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.quantsim.encodings_io import quantizer_args


def export_onnx_with_encodings(
    sim: Any,
    args: Any,
    f: str | os.PathLike[str],
    encoding_version: str | None = None,
    *,
    encodings_path: str | os.PathLike[str] | None = None,
    export_model: bool = True,
    export_int32_bias: bool | None = None,
    force_activation_as: str | None = "unsigned",
    verify: bool | str = False,
    **torch_onnx_kwargs: Any,
) -> Any:
    """Write `f`, an ONNX file without a trace of quantizers, and `<stem of f>.encodings`.

    Every quantized tensor has an entry under its ONNX name (parameters: their `state_dict` name),
    and so have the outputs of operators that only move numbers (reshape, transpose, max pooling,
    ...). Both files are complete before they replace older ones.

    Args:
        sim: a `QuantizationSimModel`, or a module that holds quantizers.
        args: example input: a tensor, a tuple of positional arguments, or a dict of keyword
            arguments.
        f: path of the ONNX file.
        encoding_version: "0.6.1", "1.0.0", "2.0.0" or "2.1.0"; None: what
            `aimet_torch.common.quantsim.encoding_version` says.
        encodings_path: path of the encodings file, if not beside `f`.
        export_model: False writes the encodings only.
        export_int32_bias: also list the biases of convolutions and Gemms as 32-bit parameters, in
            steps of (input scale * weight scale); by default from version 2.0.0 on, as in AIMET.
        force_activation_as: "unsigned" or "signed" integers for activations, None for those of the
            simulation; the real numbers stay. Versions before 2 always count from the unsigned
            grid.
        verify: run the files beside the simulation on `args` when they are written, as
            `aimet_torch.verify` does: True for ONNX Runtime, or the name of the target, "htp". A
            warning tells what is not within its limits.
        **torch_onnx_kwargs: passed on to `torch.onnx.export`: `input_names`, `output_names`,
            `dynamic_shapes`, `dynamic_axes`, `opset_version` (13 to 23), `external_data` (True:
            weights in a file of their own).

    Returns:
        The `Verification`; None without `verify`.

    Raises:
        ValueError: quantizers that have seen no data, or an option that is not supported.
        NotImplementedError: torch.onnx cannot translate the model, or the version has no form for
            an entry.
    """
    path = Path(f)
    version = chosen_version("export_onnx_with_encodings", encoding_version)
    check_signedness("export_onnx_with_encodings", force_activation_as)
    model = model_of(sim)
    external_data = torch_onnx_kwargs.get("external_data")
    output_names = torch_onnx_kwargs.get("output_names") or ()
    with explained("export_onnx_with_encodings", sim, model, args):
        captured = capture(model, args, **torch_onnx_kwargs)
    graph = encode(captured, output_names)
    restate_for_opset(graph)
    encodings_file = Path(encodings_path) if encodings_path else path.with_suffix(".encodings")
    if export_int32_bias is None:
        export_int32_bias = has_one_list(version)
    # They may raise the scale of zero weights: first of all.
    biases = _bias_entries(graph) if export_int32_bias else []
    document = encodings_document(graph, sim, version, force_activation_as)
    document["param_encodings"] += biases
    with replace_together(path.parent) as folder, replace_together(encodings_file.parent) as other:
        if export_model:
            save_model(graph.model, folder / path.name, external_data)
        encodings_files.write(other / encodings_file.name, document, version)
    if not verify:
        return None
    return verified(
        sim, path, args, verify, encodings_path=encodings_file, export_options=torch_onnx_kwargs
    )


def verified(sim: Any, path: Path, args: Any, verify: bool | str, **options: Any) -> Any:
    """Verify a file that was just written, with the example; problems become warnings."""
    target = verify if isinstance(verify, str) else "onnxruntime"
    # In `verify`, a list is several calls.
    call = tuple(args) if isinstance(args, list) else args
    result = service("verify")(sim, path, call, target=target, **options)
    for problem in result.problems:
        warnings.warn(f"export: {path.name} on {target}: {problem}", stacklevel=3)
    return result


def model_of(sim: Any) -> nn.Module:
    """The module to export: a simulation's model, or the module itself.

    Raises:
        TypeError: neither.
    """
    model = getattr(sim, "model", sim)
    if isinstance(model, nn.Module):
        return model
    if isinstance(sim, nn.Module):
        return sim
    raise TypeError(
        f"export: expected a QuantizationSimModel or an nn.Module, got {type(sim).__name__}"
    )


def _bias_entries(graph: EncodedGraph) -> list[dict[str, Any]]:
    """Entries of the int32 biases; none of a bias that two layers read in different steps."""
    entries: dict[str, dict[str, Any]] = {}
    ambiguous = set()
    for bias in integer_biases(graph):
        entry = bias.to_entry()
        if entries.setdefault(entry["name"], entry) != entry:
            ambiguous.add(entry["name"])
    return [entry for name, entry in entries.items() if name not in ambiguous]


def encodings_document(
    graph: EncodedGraph, sim: Any, version: str = "1.0.0", signedness: str | None = None
) -> dict[str, Any]:
    """The neutral document of all encodings in a graph, in its order, for files of `version`."""
    nodes = graph.model.graph
    values = [*nodes.inputs, *nodes.initializers.values(), *(v for n in nodes for v in n.outputs)]
    activations: list[dict[str, Any]] = []
    params: list[dict[str, Any]] = []
    for value in values:
        encoding = graph.get(value)
        if encoding is None or (encoding.is_plain_float and has_one_list(version)):
            continue  # versions 2.x have no entries for 16-bit floats
        rank = value.shape.rank() if value.shape is not None else None
        if encoding.is_param:
            params.append(encoding.to_entry(value.name, rank, version))
            continue
        if has_one_list(version):
            # There is no unsigned integer type of 32 bits.
            signed = encoding.signed if signedness is None else signedness == "signed"
            encoding = encoding.as_signed(signed or encoding.bitwidth == 32)
        activations.append(encoding.to_entry(value.name, rank, version))
    return {
        "version": version,
        "producer": {"package": "aimet_torch", "version": __version__},
        "activation_encodings": activations,
        "param_encodings": params,
        "excluded_layers": list(getattr(sim, "excluded_layers", ())),
        "quantizer_args": quantizer_args(sim) if isinstance(sim, QuantizationSimModel) else {},
    }
