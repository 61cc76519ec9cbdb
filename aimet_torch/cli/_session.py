"""What the commands hand on to one another: the folder of a run."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aimet_torch.cli._codes import INTERRUPTED

__all__ = [
    "RECIPE",
    "SIMULATION",
    "Run",
    "load_simulation",
    "print_json",
    "save_simulation",
    "say",
]

RECIPE, SIMULATION = "recipe.toml", "simulation.pt"


def say(text: str) -> None:
    """Tell a person how far the work is, on standard error."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print JSON on standard output; infinities and NaN, which it has not, are strings."""
    from aimet_torch.common.tables import json_ready

    print(json.dumps(json_ready(value), indent=2, ensure_ascii=False))


@dataclass
class Run:
    """One run of a command and the files that it has finished.

    Attributes:
        command: Its name.
        folder: Where files go.
        files: (name, what it is), in the order in which they were finished.
        code: Exit code after an interruption, else None.
    """

    command: str
    folder: Path
    files: list[tuple[str, str]] = field(default_factory=list)
    code: int | None = None

    def finished(self, path: Path, what: str) -> Path:
        """Remember that a file is complete."""
        name = str(path.relative_to(self.folder)) if path.is_relative_to(self.folder) else str(path)
        self.files.append((name, what))
        return path

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Within it, Ctrl-C ends the work and tells what stays."""
        try:
            yield
        except KeyboardInterrupt:
            self.code = INTERRUPTED
            kept = ", ".join(str(self.folder / name) for name, _ in self.files) or "nothing yet"
            say(f"\naimet {self.command}: interrupted; finished and kept: {kept}")
            if any(name == RECIPE for name, _ in self.files):
                recipe = self.folder / RECIPE
                say(f"`aimet {self.command} --recipe {recipe}` goes on from there")


def save_simulation(path: Path, content: Mapping[str, Any]) -> Path:
    """Keep a simulation and what belongs to it; the file is complete or not there at all.

    Args:
        path: Of the file.
        content: ``sim``: the `QuantizationSimModel`; ``example``: one input; more as the command
            likes.
    """
    import torch

    from aimet_torch.common.version import __version__

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    torch.save({"aimet_torch": __version__, "torch": torch.__version__, **content}, temporary)
    temporary.replace(path)
    return path


def load_simulation(folder: Path) -> dict[str, Any]:
    """What :func:`save_simulation` has kept in a folder.

    The file holds pickled modules, which run their code when they are loaded.

    Raises:
        ValueError: there is none, it cannot be read, or another version has written it.
    """
    import torch

    from aimet_torch.common.version import __version__

    path = folder / SIMULATION if folder.is_dir() else folder
    if not path.is_file():
        raise ValueError(
            f"{folder}: no {SIMULATION} there; "
            f"`aimet quantize MODEL --data DATA --output {folder}` writes it"
        )
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # the user's classes are found as they were
    try:
        content = torch.load(path, weights_only=False, map_location="cpu")
    except Exception as error:
        raise ValueError(
            f"{path}: cannot be loaded: {type(error).__name__}: {error}; `aimet quantize --recipe "
            f"{path.parent / RECIPE}` writes it again"
        ) from error
    if not isinstance(content, dict) or "sim" not in content:
        raise ValueError(f"{path}: not a file of `aimet quantize`")
    if content["aimet_torch"] != __version__:
        raise ValueError(
            f"{path}: of aimet_torch {content['aimet_torch']}, this is {__version__}; `aimet "
            f"quantize --recipe {path.parent / RECIPE}` writes it again"
        )
    return content
