"""Finds the C++ library, checks that it fits the running torch, and loads it.

Importing this module registers the operators ``torch.ops.aimet.*``. It is the only place that loads
a library.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

__all__ = ["CMAKE_DIR", "INCLUDE_DIR", "LIBRARY_PATH", "PROBLEM"]

_PACKAGE = Path(__file__).parent
_REBUILD = "pip install --no-build-isolation --force-reinstall --no-deps"

LIBRARY_PATH = _PACKAGE / "lib" / "libaimet.so"
"""The C++ library; also what a C++ program without Python opens or links."""

INCLUDE_DIR = _PACKAGE / "include"
"""Headers: ``#include <aimet/aimet.h>``."""

CMAKE_DIR = _PACKAGE / "share" / "cmake"
"""For ``CMAKE_PREFIX_PATH``: ``find_package(aimet)`` gives the target ``aimet::aimet``."""


def _minor_version(version: str) -> str:
    """``"2.13.0+cpu"`` -> ``"2.13"``: C++ programs fit one minor version of torch."""
    return ".".join(version.split("+", maxsplit=1)[0].split(".")[:2])


def check_version(library: Path, built_for: str, running: str) -> None:
    """Compares the torch that ``library`` was built for with the running one.

    Raises:
        ImportError: they differ; the message has both and the command that mends it.
    """
    if _minor_version(built_for) == _minor_version(running):
        return
    raise ImportError(
        f"aimet_torch: {library} was built for torch {_minor_version(built_for)}, but torch "
        f"{running} is running. "
        f"Build it again for this torch, in the folder of the sources: {_REBUILD} ."
    )


def load(library: Path, running: str) -> None:
    """Loads ``library`` into the process, which registers its operators.

    Args:
        library: path of ``libaimet.so``, with ``libaimet.json`` beside it.
        running: version of the running torch.

    Raises:
        ImportError: the library is missing, was built for another torch, or cannot be loaded.
    """
    description = library.with_suffix(".json")
    if not library.is_file() or not description.is_file():
        raise ImportError(
            f"aimet_torch: the C++ library {library} is missing (torch {running} is running). "
            f"Build it, in the folder of the sources: {_REBUILD} ."
        )
    built_for = json.loads(description.read_text(encoding="utf-8"))["torch_version"]
    check_version(library, built_for, running)
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        raise ImportError(
            f"aimet_torch: cannot load {library}, built for torch {built_for}, into torch "
            f"{running}: {error}. Build it again, in the folder of the sources: {_REBUILD} ."
        ) from error


def _is_doctor(arguments: list[str]) -> bool:
    """Whether this process is ``aimet doctor``, which reports what is wrong instead of ending."""
    is_ours = Path(arguments[0]).name in ("-m", "aimet", "__main__.py")
    return is_ours and arguments[1:2] == ["doctor"]


PROBLEM: str | None = None
"""Why the library could not be loaded; None for everybody but ``aimet doctor``."""

try:
    load(LIBRARY_PATH, torch.__version__)
except ImportError as _error:
    if not _is_doctor(sys.argv):
        raise
    PROBLEM = str(_error)
