"""Runs ONNX files on Qualcomm's HTP, emulated: a program of its own.

It imports nothing of this project, so that it also runs in another environment, and what the
emulator does to its process harms nobody::

    python htp_worker.py REQUEST

REQUEST is a JSON file: ``{"verbose": bool, "options": {...}, "jobs": [{"model": FILE, "feeds":
[FILE.npz, ...], "outputs": [FILE.npz, ...]}, ...]}``. Beside it appears ``result.json``: for each
job ``{"error": text or null, "elsewhere": ["type name", ...], "seconds": [preparation, run]}``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import onnxruntime_qnn

PROVIDER = "QNNExecutionProvider"


def main(request_path: Path) -> None:
    """Run the jobs of a request."""
    request = json.loads(request_path.read_text())
    # The provider takes over the severity that it finds when it is registered.
    onnxruntime.set_default_logger_severity(0 if request["verbose"] else 4)
    onnxruntime.register_execution_provider_library(PROVIDER, onnxruntime_qnn.get_library_path())
    devices = [d for d in onnxruntime.get_ep_devices() if d.ep_name == PROVIDER]
    results = [_run(job, request, devices[:1]) for job in request["jobs"]]
    target = request_path.with_name("result.json")
    target.write_text(json.dumps({"results": results, "versions": _versions()}))


def _versions() -> dict[str, str]:
    return {
        "onnxruntime": onnxruntime.__version__,
        "onnxruntime-qnn": onnxruntime_qnn.__version__,
    }


def _run(job: dict[str, Any], request: dict[str, Any], devices: list[Any]) -> dict[str, Any]:
    start = time.perf_counter()
    elsewhere: list[str] = []
    try:
        session = _session(job["model"], request, devices, strict=True)
    except Exception as refused:
        # Once more with the CPU's help, to see which operators need it.
        try:
            session = _session(job["model"], request, devices, strict=False)
        except Exception as error:
            return {"error": str(error), "elsewhere": [], "seconds": [0.0, 0.0]}
        elsewhere = _elsewhere(session) or [f"unknown: {refused}"]
    ready = time.perf_counter()
    names = [output.name for output in session.get_outputs()]
    try:
        for feed, output in zip(job["feeds"], job["outputs"], strict=True):
            with np.load(feed) as arrays:
                results = session.run(names, dict(arrays))
            np.savez(output, **{f"o{i}": array for i, array in enumerate(results)})
    except Exception as error:
        return {"error": str(error), "elsewhere": elsewhere, "seconds": [ready - start, 0.0]}
    return {
        "error": None,
        "elsewhere": elsewhere,
        "names": names,
        "seconds": [ready - start, time.perf_counter() - ready],
    }


def _session(model: str, request: dict[str, Any], devices: list[Any], *, strict: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 0 if request["verbose"] else 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if strict:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    settings = {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), **request["options"]}
    options.add_provider_for_devices(devices, settings)
    return onnxruntime.InferenceSession(model, options)


def _elsewhere(session: Any) -> list[str]:
    return [
        f"{node.op_type} {node.name}"
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != PROVIDER
        for node in part.get_nodes()
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
