"""The bare kernels against memcpy: runs the program that benchmarks/cpp builds."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

PROGRAM = (
    Path(__file__).resolve().parents[1]
    / "build"
    / "release"
    / "benchmarks"
    / "cpp"
    / "aimet_kernel_benchmark"
)


def run(program: Path = PROGRAM) -> list[dict[str, Any]]:
    """Return what the program measured, one entry for each kernel, instruction set and size.

    Raises:
        FileNotFoundError: the program was not built.
        subprocess.CalledProcessError: it failed.
    """
    if not program.exists():
        raise FileNotFoundError(
            f"benchmarks kernels: {program.name} is not built; run cmake --preset release"
            " -DAIMET_BUILD_BENCHMARKS=ON && cmake --build build/release"
        )
    done = subprocess.run([str(program)], stdout=subprocess.PIPE, text=True, check=True)
    return list(json.loads(done.stdout))


def line_of(entry: dict[str, Any]) -> str:
    """Return an entry as a line of text, with its share of memcpy's bytes a second."""
    rate = entry["bytes_per_element"] * entry["elements"] / entry["seconds"] / 1e9
    share = entry["memcpy_seconds"] / entry["seconds"]
    return (
        f"kernels/{entry['kernel']}, {entry['elements']} elements, {entry['instruction_set']}:"
        f" {rate:.1f} GB/s, {share:.2f} of memcpy"
    )
