"""The rival's virtual environment under .cache/rivals. ``python -m benchmarks.rivals.setup``."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".cache" / "rivals" / "aimet_torch_2_42"

# aimet-torch demands far more than it imports, and a torchvision whose torch would replace this
# one. These are the packages that its simulation and its techniques import.
TORCH = ("torch==2.13.0", "numpy")
IMPORTED = (
    *("bokeh>=3.3,<=3.6.3", "hvplot", "jsonschema", "ml_dtypes", "onnx", "onnxscript"),
    *("osqp", "psutil", "safetensors", "scikit-learn", "scipy", "tqdm"),
)
WITHOUT_DEPENDENCIES = ("aimet-torch==2.42.0", "torchvision==0.28.0")


class RivalUnavailableError(RuntimeError):
    """The rival cannot be run; the message says why."""


def ensure_environment(folder: Path = ENVIRONMENT) -> Path:
    """Return the interpreter of the rival's environment; make the environment where it is missing.

    Raises:
        RivalUnavailableError: it cannot be made, for instance without a network.
    """
    python = folder / "bin" / "python"
    complete = folder / "complete"
    if complete.exists() and python.exists():
        return python
    print(f"making {folder} for aimet-torch 2.42 (some minutes, once)", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    install = [str(python), "-m", "pip", "install", "--quiet"]
    _run([*install, *TORCH])
    # One after the other: what needs torch must find this one and leave it alone.
    _run([*install, TORCH[0], *IMPORTED])
    _run([*install, "--no-deps", *WITHOUT_DEPENDENCIES])
    complete.touch()
    return python


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RivalUnavailableError(f"{' '.join(command[1:])} failed: {reason}")


if __name__ == "__main__":
    print(ensure_environment())
