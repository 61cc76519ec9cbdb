"""Intermediate results of a network in memory up to a budget, beyond it on disk."""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import torch
from torch import Tensor
from torch.utils import _pytree

__all__ = ["ValueCache", "free_memory", "join_in_files"]


def free_memory() -> int:
    """Bytes of memory that are available to this process without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        entry = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(entry.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        return 4 << 30  # no way to know: what a small machine has


class ValueCache:
    """Values by key. What does not fit into the budget goes to a temporary folder.

    Args:
        budget: Bytes of tensors kept in memory; None: a quarter of what is free now.
        sharers: Processes of this machine that divide that quarter.

    Attributes:
        peak: Most bytes that were in memory at a time.
        spilled: Bytes written to disk altogether.
    """

    def __init__(self, budget: int | None = None, sharers: int = 1) -> None:
        self.budget = free_memory() // 4 // sharers if budget is None else budget
        self.peak = 0
        self.spilled = 0
        self._values: dict[Any, tuple[Any, int]] = {}
        self._used = 0
        self._folder: Path | None = None
        self._count = 0

    def put(self, key: Any, value: Any) -> None:
        """Keep ``value``: any nesting of tuples, lists and dicts with tensors in it."""
        self.drop(key)
        size = _size(value)
        if self._used + size > self.budget and size > 0:
            value, size = self._write(value), 0
        self._values[key] = (value, size)
        self._used += size
        self.peak = max(self.peak, self._used)

    def get(self, key: Any) -> Any:
        """The value of ``key``.

        Raises:
            KeyError: there is none.
        """
        value, _ = self._values[key]
        return torch.load(value, weights_only=False) if isinstance(value, _File) else value

    def drop(self, key: Any) -> None:
        """Forget ``key``, if it is there."""
        value, size = self._values.pop(key, (None, 0))
        self._used -= size
        if isinstance(value, _File):
            value.unlink(missing_ok=True)

    def __contains__(self, key: Any) -> bool:
        return key in self._values

    def _write(self, value: Any) -> _File:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="aimet_cache_"))
        path = _File(self._folder / f"{self._count}.pt")
        self._count += 1
        torch.save(_pytree.tree_map_only(torch.Tensor, torch.clone, value), path)
        self.spilled += path.stat().st_size
        return path

    def __enter__(self) -> ValueCache:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._values.clear()
        self._used = 0
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None


def join_in_files(batches: Iterable[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """Concatenate each of several tensors along its first dimension, as float32 in mapped files.

    The operating system keeps in memory what it has room for, whatever the size of the data. The
    files have no name any more when this returns, and go away with the tensors.
    """
    with (
        tempfile.TemporaryDirectory(prefix="aimet_cache_") as name,
        contextlib.ExitStack() as stack,
    ):
        files: list[IO[bytes]] = []
        shapes: list[tuple[int, ...]] = []
        for batch in batches:
            for index, tensor in enumerate(batch):
                if index == len(files):
                    files.append(stack.enter_context((Path(name) / str(index)).open("wb")))
                    shapes.append((0, *tensor.shape[1:]))
                files[index].write(tensor.detach().cpu().float().contiguous().numpy().tobytes())
                rows, *rest = shapes[index]
                shapes[index] = (rows + len(tensor), *rest)
        stack.close()
        return tuple(
            torch.from_file(file.name, shared=True, size=math.prod(shape)).reshape(shape)
            for file, shape in zip(files, shapes, strict=True)
        )


class _File(type(Path())):  # type: ignore[misc]
    """Path of a spilled value."""


def _size(value: Any) -> int:
    leaves = _pytree.tree_leaves(value)
    return sum(leaf.nbytes for leaf in leaves if isinstance(leaf, torch.Tensor))
