"""Qualcomm's HTP, emulated on x86-64 by PyPI's ``onnxruntime-qnn``.

The emulator runs in a process of its own (`htp_worker.py`). ``AIMET_HTP_PYTHON`` may name the
interpreter of another environment that has the package.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aimet_torch.verification.results import DEPTHWISE, LAYER_NORM, Limit, Limits
from aimet_torch.verification.targets import Job, Outcome

PACKAGE = "onnxruntime_qnn"
_WORKER = Path(__file__).with_name("htp_worker.py")
#: Version of the instruction set: V73 (Snapdragon 8 Gen 2) and later compute alike.
_DEFAULT_OPTIONS = {"htp_arch": "73"}
# What QNN and ONNX Runtime say about the cause, among thousands of lines.
_REASON = re.compile(
    r"(?:::ERROR:|REASON\s*:|error code:|Failed to |not supported|must be |does not support)", re.I
)
_PREFIX = re.compile(r"^.*?(?:::ERROR:|\]\s)")
_SHOWN_REASONS = 6

#: The emulator rounds the exact result and adds 0.085 steps of noise: docs/verification.md.
LIMITS = Limits(
    node=Limit(1, 0.9),
    by_operator={DEPTHWISE: Limit(2, 0.9), LAYER_NORM: Limit(1, 0.7)},
    margin_db=-1.0,
    top1=0.0,
    wide_sqnr_db=50.0,
)


def unavailable() -> str | None:
    """Why the emulator cannot run here; None when it can."""
    if "AIMET_HTP_PYTHON" in os.environ:
        python = os.environ["AIMET_HTP_PYTHON"]
        code = f"import importlib.util as u, sys; sys.exit(u.find_spec('{PACKAGE}') is None)"
        try:
            found = subprocess.run([python, "-c", code], capture_output=True, check=False)
        except OSError as error:
            return f"AIMET_HTP_PYTHON={python} does not run: {error}"
        if found.returncode != 0:
            return f"the interpreter AIMET_HTP_PYTHON={python} has no package onnxruntime-qnn"
        return None
    if importlib.util.find_spec(PACKAGE) is None:
        return (
            "the package onnxruntime-qnn is not installed (Linux on x86-64, glibc 2.35, Python "
            "3.11 or later); pip install onnxruntime-qnn, or set AIMET_HTP_PYTHON to an "
            "interpreter that has it"
        )
    return None


class Htp:
    """The HTP of Qualcomm's Snapdragon, as its x86-64 library computes it.

    Args:
        options: options of the QNN execution provider beside or instead of ``htp_arch=73``:
            ``soc_model``, ``vtcm_mb``, ...

    Raises:
        ModuleNotFoundError: the package is missing; the message has the command that installs it.
    """

    name = "htp"

    def __init__(self, options: Mapping[str, str] | None = None) -> None:
        reason = unavailable()
        if reason is not None:
            raise ModuleNotFoundError(f"verify: `target` 'htp' cannot run: {reason}")
        self._options = {**_DEFAULT_OPTIONS, **(options or {})}
        self._versions: dict[str, str] = {}

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the packages that ran, after the first run."""
        return self._versions

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Run all jobs in one process.

        What the HTP refuses is no exception: the outcome says why.
        """
        with tempfile.TemporaryDirectory(prefix="aimet-htp-") as folder:
            request, finished = self._start(Path(folder), jobs)
            result_path = Path(folder) / "result.json"
            if not result_path.exists():
                last = [line for line in finished.stderr.splitlines() if line.strip()][-1:]
                raise RuntimeError(
                    f"verify: the HTP emulator ended with status {finished.returncode}"
                    f"{': ' + last[0] if last else ''}"
                )
            answer = json.loads(result_path.read_text())
            self._versions = answer["versions"]
            outcomes = [
                _outcome(job, result)
                for job, result in zip(request["jobs"], answer["results"], strict=True)
            ]
        for job, outcome in zip(jobs, outcomes, strict=True):
            if outcome.error is not None:
                outcome.error = f"{outcome.error.strip()}{self._explain(job)}"
        return outcomes

    def _start(
        self, folder: Path, jobs: Sequence[Job], verbose: bool = False
    ) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
        request: dict[str, Any] = {"verbose": verbose, "options": self._options, "jobs": []}
        for number, job in enumerate(jobs):
            names = {"feeds": [], "outputs": []}  # type: dict[str, list[str]]
            for call, feeds in enumerate(job.feeds):
                path = folder / f"feeds_{number}_{call}.npz"
                np.savez(path, **feeds)  # type: ignore[arg-type]
                names["feeds"].append(str(path))
                names["outputs"].append(str(folder / f"outputs_{number}_{call}.npz"))
            request["jobs"].append({"model": str(Path(job.model).resolve()), **names})
        path = folder / "request.json"
        path.write_text(json.dumps(request))
        python = os.environ.get("AIMET_HTP_PYTHON", sys.executable)
        # The emulator leaves files in the working directory.
        finished = subprocess.run(
            [python, str(_WORKER), str(path)],
            capture_output=True,
            text=True,
            errors="replace",
            cwd=folder,
            check=False,
        )
        return request, finished

    def _explain(self, job: Job) -> str:
        """What QNN says itself about a refusal: it tells only a verbose logger."""
        with tempfile.TemporaryDirectory(prefix="aimet-htp-") as folder:
            _, finished = self._start(Path(folder), [Job(job.model, [])], verbose=True)
        text = f"{finished.stdout}\n{finished.stderr}"
        lines = [
            _PREFIX.sub("", line).strip() for line in text.splitlines() if _REASON.search(line)
        ]
        lines = list(dict.fromkeys(lines))[:_SHOWN_REASONS]
        return "".join(f"; {line}" for line in lines)


def _outcome(job: dict[str, Any], result: dict[str, Any]) -> Outcome:
    if result["error"] is not None:
        return Outcome(elsewhere=result["elsewhere"], error=result["error"])
    outputs = []
    for path in job["outputs"]:
        with np.load(path) as arrays:
            outputs.append(
                {name: arrays[f"o{i}"] for i, name in enumerate(result["names"])}
            )  # fmt: skip
    return Outcome(outputs, result["elsewhere"])
