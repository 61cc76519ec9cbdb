"""Writing a set of files so that the old ones stay until every new one is complete."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir

# A protobuf message may not reach 2 GiB; the graph around the tensors needs some room.
SINGLE_FILE_LIMIT_BYTES = 2**31 - 2**24


@contextlib.contextmanager
def replace_together(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary folder whose files move into `folder` when the block ends without an exception.

    Args:
        folder: where the files go; it is made when it does not exist. Files in it with other names
            stay.

    Yields:
        The temporary folder, on the same file system, removed in any case.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".aimet-export-", dir=target))
    try:
        yield temporary
        for path in sorted(temporary.iterdir(), key=lambda p: p.stat().st_size, reverse=True):
            path.replace(target / path.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
