"""Export of a simulation as TorchScript, for C++ programs and for Python without the model's code.

Either the simulation itself, or the FP32 network whose tensors carry the names of an encodings file
beside it, from which `aimet::QuantSim` makes the simulation again without Python.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aimet_torch import encodings as encodings_files
from aimet_torch.common.files import replace_together
from aimet_torch.common.quantsim import chosen_version
from aimet_torch.common.version import __version__
from aimet_torch.encodings.tensor_encoding import TensorEncoding
from aimet_torch.export.example_inputs import Example, run_example, take_tensors_only
from aimet_torch.export.frozen import frozen_copy, require_calibrated
from aimet_torch.export.onnx_encodings import model_of
from aimet_torch.export.torchscript_names import marked_copy, name_tensors
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.quantsim.encodings_io import quantizer_args

__all__ = ["export_torchscript", "export_torchscript_with_encodings"]

_PARAMETERS = ("quantized", "simulated")


def export_torchscript(
    sim: Any, args: Any, f: str | os.PathLike[str], *, parameters: str = "quantized"
) -> None:
    """Write the simulation as a TorchScript file.

    It loads with `torch.jit.load` after `import aimet_torch`, and in a C++ program that links
    `aimet::aimet`, and computes what `sim.model` computes in evaluation mode, to the last bit. It
    is traced: sizes that the model reads off its inputs stay open, the batch size among them;
    arguments that are no tensors are fixed at their values, nested ones become their tensors, one
    after the other. Python code whose path depends on the data keeps the path of the example; a
    `torch.jit.TracerWarning` says so.

    Args:
        sim: a `QuantizationSimModel`, or a module that holds quantizers.
        args: example input: a tensor, a tuple of positional or a dict of keyword arguments.
        f: path of the file; an older one stays until the new one is complete.
        parameters: "quantized" stores parameters as their quantized values, which is faster;
            "simulated" stores them as they are and quantizes them in every call.

    Raises:
        ValueError: quantizers that have seen no data; an example on which the model fails (the
            message names the argument); an unknown `parameters`.
        TypeError: an example with an argument too few or too many.
    """
    if parameters not in _PARAMETERS:
        raise ValueError(
            f"export_torchscript: `parameters` must be one of {', '.join(_PARAMETERS)}, got "
            f"{parameters!r}"
        )
    model = model_of(sim)
    require_calibrated(model)
    example = run_example("export_torchscript", sim, model, args)
    frozen = frozen_copy(model, example, fold_parameters=parameters == "quantized")
    traced = _trace(sim, frozen, example)
    path = Path(f)
    with replace_together(path.parent) as folder:
        _save(traced, folder / path.name)


def export_torchscript_with_encodings(
    sim: Any,
    args: Any,
    f: str | os.PathLike[str],
    encoding_version: str | None = None,
    *,
    encodings_path: str | os.PathLike[str] | None = None,
    export_model: bool = True,
) -> None:
    """Write `f`, the FP32 network as TorchScript, and `<stem of f>.encodings`.

    The network needs nothing of this package to run. Its parameters have their `state_dict` names,
    and each quantized activation is a named value of the graph of `forward`: that of output 0 of
    module `layer1.0.conv1` is `layer1_0_conv1_output`, further outputs and calls have a number
    (`layer1_0_relu_output_1`), inputs of the model keep their names. The encodings file has an
    entry under each of these names, and 32-bit entries of the biases on their accumulator's grid.
    `aimet::QuantSim` (C++, `<aimet/simulation/quant_sim.h>`) takes both files and computes what
    `sim.model` computes in evaluation mode, to the last bit.

    Where the simulation rounds one tensor for one of its readers only, or to two grids, the graph
    has an `aten::alias` with a name of its own. A batch norm that a target folds into a convolution
    has its bias stored as the accumulator holds it.

    Args:
        sim: a `QuantizationSimModel`, or a module that holds quantizers.
        args: example input: a tensor, a tuple of positional or a dict of keyword arguments.
        f: path of the TorchScript file; older files stay until both new ones are complete.
        encoding_version: "0.6.1", "1.0.0", "2.0.0" or "2.1.0"; None: what
            `aimet_torch.common.quantsim.encoding_version` says.
        encodings_path: path of the encodings file, if not beside `f`.
        export_model: False writes the encodings only.

    Raises:
        ValueError, TypeError: as `export_torchscript`.
        NotImplementedError: a quantizer that encodings files, or this version of them, do not have.
    """
    version = chosen_version("export_torchscript_with_encodings", encoding_version)
    model = model_of(sim)
    require_calibrated(model)
    example = run_example("export_torchscript_with_encodings", sim, model, args)
    marked = marked_copy(model)
    traced = _trace(sim, marked.model, example)
    parameters, activations = name_tensors(traced.graph, marked.encodings)
    path = Path(f)
    encodings_file = Path(encodings_path) if encodings_path else path.with_suffix(".encodings")
    ranks = {name: tensor.dim() for name, tensor in traced.state_dict().items()}
    document = {
        "version": version,
        "producer": {"package": "aimet_torch", "version": __version__},
        "activation_encodings": _entries(activations, {}, version),
        "param_encodings": _entries(parameters, ranks, version),
        "excluded_layers": list(getattr(sim, "excluded_layers", ())),
        "quantizer_args": quantizer_args(sim) if isinstance(sim, QuantizationSimModel) else {},
    }
    with replace_together(path.parent) as folder, replace_together(encodings_file.parent) as other:
        if export_model:
            _save(traced, folder / path.name)
        encodings_files.write(other / encodings_file.name, document, version)


def _entries(
    encodings: dict[str, TensorEncoding], ranks: dict[str, int], version: str
) -> list[dict[str, Any]]:
    return [e.to_entry(name, ranks.get(name), version) for name, e in encodings.items()]


def _trace(sim: Any, model: nn.Module, example: Example) -> Any:
    """Trace a copy of the simulation's model; the copy is changed."""
    tensors = take_tensors_only(model, example)
    boundaries = [b.name for b in sim.graph.boundaries] if hasattr(sim, "graph") else []
    state = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", DeprecationWarning)
        if not boundaries:  # their Python code may take another path for other inputs
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
        try:
            traced = torch.jit.trace(model, tensors, check_trace=False, strict=False)
        except RuntimeError as error:
            raise _unsupported(error) from error
        for buffer, before in state:  # tracing runs the model, which may write into them
            buffer.copy_(before)
    return traced


def _save(traced: Any, path: Path) -> None:
    try:
        traced.save(str(path))
    except RuntimeError as error:
        if "Could not export Python function" in str(error):
            raise _unsupported(error) from error
        raise


def _unsupported(error: Exception) -> NotImplementedError:
    reason = next((line for line in str(error).splitlines() if line.strip()), "")
    return NotImplementedError(
        f"export: TorchScript cannot hold the model: {reason.strip()}; it has no form for Python "
        "code outside of PyTorch's functions, such as a torch.autograd.Function; "
        "sim.export_program writes a torch.export program"
    )
