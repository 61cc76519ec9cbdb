"""What a figure depends on besides the code."""

from __future__ import annotations

import datetime
import os
import platform
import re
from pathlib import Path
from typing import Any

import torch

import aimet_torch
from aimet_torch import ops
from aimet_torch.common.tables import write_json


def describe(threads: int) -> dict[str, Any]:
    """Return machine, versions, threads and instruction set."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "threads": threads,
        "instruction_set": ops.cpu_capability(),
        "torch_instruction_set": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "aimet_torch": aimet_torch.__version__,
    }


def write_rows(path: Path, rows: list[Any], **settings: Any) -> None:
    """Write rows of results as JSON, with what they depend on and the settings of the run."""
    machine = describe(torch.get_num_threads())
    write_json(path, {"environment": machine, **settings, "rows": rows})


def load() -> float:
    """Return the load average of the last minute: processes that want a processor, ours too."""
    return round(os.getloadavg()[0], 2)


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", information.read_text(), re.MULTILINE)
        if found:
            return found.group(1)
    return platform.processor() or platform.machine()
