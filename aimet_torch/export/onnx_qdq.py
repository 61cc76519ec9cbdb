"""Export of a simulation as one ONNX file with QuantizeLinear and DequantizeLinear (QDQ).

Also reachable as `aimet_torch.onnx`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import nn

from aimet_torch.common.files import replace_together
from aimet_torch.export.batch_norm import fold_batch_norms
from aimet_torch.export.capture import DEFAULT_OPSET, capture, read_encodings
from aimet_torch.export.constants import fold_moved_parameters
from aimet_torch.export.encoded_graph import EncodedGraph, encode
from aimet_torch.export.example_inputs import explained
from aimet_torch.export.files import save_model
from aimet_torch.export.linear import merge_linear_layers
from aimet_torch.export.lowering import lower
from aimet_torch.export.onnx_encodings import model_of, verified
from aimet_torch.export.onnx_grid import check_signedness, needed_opset
from aimet_torch.export.opsets import restate_for_opset

__all__ = ["export"]


def export(
    model: Any,
    args: Any,
    f: str | os.PathLike[str],
    *,
    export_int32_bias: bool = True,
    prequantize_constants: bool = False,
    force_activation_as: str | None = "unsigned",
    verify: bool | str = False,
    **torch_onnx_kwargs: Any,
) -> Any:
    """Write an ONNX file whose integer grids are QuantizeLinear/DequantizeLinear pairs.

    Every quantized tensor is followed by such a pair, as is every tensor that an operator only
    moves (reshape, transpose, max pooling, ...), so that a target finds no floating-point island.
    Linear layers on more than two axes become a Gemm between two Reshapes; batch norms that the
    simulation leaves to the target are folded; scalar operands (`x * 0.5`) are constants on a grid
    of their own. Quantizers of float8 become QuantizeLinear to float8, those of 16-bit floats leave
    no trace. ONNX Runtime without graph optimizations computes what the simulation computes, but
    for the order of floating-point sums.

    Args:
        model: a `QuantizationSimModel`, or a module that holds quantizers.
        args: example input: a tensor, a tuple of positional arguments, or a dict of keyword
            arguments.
        f: path of the ONNX file; an older one stays until the new one is complete.
        export_int32_bias: store biases as int32 with scale (input scale * weight scale) and zero
            point 0, for Conv, ConvTranspose, Gemm and normalisations that read quantized input and
            weight; else as floats.
        prequantize_constants: store weights as integers; else as floats that go through
            QuantizeLinear.
        force_activation_as: "unsigned" or "signed" shifts the integers of activations to that type,
            None keeps each quantizer's own.
        verify: run the file beside the simulation on `args` when it is written, as
            `aimet_torch.verify` does: True for ONNX Runtime, or the name of the target, "htp". A
            warning tells what is not within its limits.
        **torch_onnx_kwargs: passed on to `torch.onnx.export`: `input_names`, `output_names`,
            `dynamic_shapes`, `dynamic_axes`, `opset_version` (13 to 23; default: 20, or 21 when
            16-bit integers or blocks need it), `external_data` (True: weights in a file of their
            own).

    Returns:
        The `Verification`; None without `verify`.

    Raises:
        ValueError: quantizers that have seen no data, or an option that is not supported.
        NotImplementedError: a grid that ONNX does not have at this opset.
    """
    check_signedness("onnx_qdq.export", force_activation_as)
    path = Path(f)
    graph = to_qdq(
        model,
        args,
        export_int32_bias=export_int32_bias,
        prequantize_constants=prequantize_constants,
        force_activation_as=force_activation_as,
        **torch_onnx_kwargs,
    )
    with replace_together(path.parent) as folder:
        save_model(graph.model, folder / path.name, torch_onnx_kwargs.get("external_data"))
    return verified(model, path, args, verify) if verify else None


def to_qdq(
    model: Any,
    args: Any,
    *,
    export_int32_bias: bool,
    prequantize_constants: bool,
    force_activation_as: Any,
    **torch_onnx_kwargs: Any,
) -> EncodedGraph:
    """The graph that `export` writes; arguments as there."""
    module = model_of(model)
    options = {"opset_version": _opset(module), **torch_onnx_kwargs}
    with explained("onnx_qdq.export", model, module, args):
        captured = capture(module, args, **options)
    graph = encode(captured, torch_onnx_kwargs.get("output_names") or ())
    prepare(graph)
    lower(graph, export_int32_bias, prequantize_constants, force_activation_as)
    restate_for_opset(graph)
    return graph


def prepare(graph: EncodedGraph) -> None:
    """Bring a graph into the form in which each of a target's operators is one node, in place."""
    fold_moved_parameters(graph)
    fold_batch_norms(graph)
    merge_linear_layers(graph)


def _opset(model: nn.Module) -> int:
    """The default opset; a later one only where a quantizer needs it."""
    encodings = [e for e in read_encodings(model)[1] if e is not None]
    return max([DEFAULT_OPSET, *map(needed_opset, encodings)])
