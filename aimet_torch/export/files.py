"""Writing ONNX models."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

# A protobuf message may not reach 2 GiB; the graph around the tensors needs some room.
SINGLE_FILE_LIMIT_BYTES = 2**31 - 2**24


def save_model(model: ir.Model, path: Path, external_data: bool | None = None) -> None:
    """Write an ONNX model; weights that one file cannot hold go into `<name>.data` beside it.

    Args:
        model: what to write; unchanged.
        path: the `.onnx` file.
        external_data: True puts the weights into their own file in any case.
    """
    size_bytes = sum(
        value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value
    )
    if external_data or size_bytes > SINGLE_FILE_LIMIT_BYTES:
        ir.save(model, path, external_data=f"{path.name}.data")
    else:
        ir.save(model, path)
