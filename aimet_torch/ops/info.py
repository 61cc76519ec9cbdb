"""What the C++ library was built from, and what it runs."""

from __future__ import annotations

import json
from typing import Any

import torch

__all__ = ["build_info", "cpu_capability"]


def build_info() -> dict[str, Any]:
    """How the library was built, and on how many threads it runs.

    Returns:
        ``version``, ``torch_version`` (the one it was built for), ``cuda`` (whether it has CUDA
        kernels), ``threads`` (how many a CPU operator runs on now, counted in a loop of its own;
        `torch.set_num_threads` sets it), ``compiler``, ``instruction_sets`` (the builds of its CPU
        kernels).
    """
    return json.loads(torch.ops.aimet.build_info())


def cpu_capability() -> str:
    """The CPU kernels in use: ``"baseline"``, ``"avx2"`` or ``"avx512"``.

    The best the processor has; the environment variable ``AIMET_CPU_CAPABILITY``, read once, can
    lower it.

    Raises:
        ValueError: the environment variable names none of the three.
    """
    return torch.ops.aimet.cpu_capability()
