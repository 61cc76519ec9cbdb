"""Running commands, and the wheel in an environment of its own."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class InstalledWheel:
    """The wheel file and the environment it is installed in."""

    wheel: Path
    python: Path

    def run(self, *arguments: str, cwd: Path) -> str:
        """Run the environment's interpreter outside the source tree and return what it prints."""
        return run([str(self.python), *arguments], cwd=cwd)


def run(command: list[str], cwd: Path, environment: dict[str, str] | None = None) -> str:
    """Run a command; its output is part of the failure when it fails."""
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": "", **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}"
    return result.stdout
