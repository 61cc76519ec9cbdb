"""Writing a set of files so that the old ones stay until every new one is complete."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["replace_together"]


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
