"""The rival's process: answers requests on its standard input, one after the other.

Run as a file by the rival's interpreter. Its `aimet_torch` is that of its environment: the
repository, which has one too, comes last on the path.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def start(threads: int) -> dict[str, str]:
    """Import aimet-torch; return the versions that run."""
    from importlib.metadata import version

    # Not the folder of this file, whose setup.py is no module of anybody else.
    sys.path[0] = str(ROOT)
    sys.path.append(sys.path.pop(0))
    import logging

    import torch

    logging.disable(logging.WARNING)  # it logs every module of every network
    torch.set_num_threads(threads)
    from examples import assets

    assets.import_torchvision()
    import aimet_torch

    if Path(str(aimet_torch.__file__)).is_relative_to(ROOT / "aimet_torch"):
        raise RuntimeError("the rival's process imported this project instead of aimet-torch")
    return {"aimet-torch": version("aimet-torch"), "torch": torch.__version__}


def answer(message: tuple[Any, ...], state: dict[str, Any]) -> Any:
    """Do what a request asks for."""
    verb, *arguments = message
    if verb == "start":
        return start(*arguments)
    if verb == "load":
        import benchmarks.accuracy_subjects
        import benchmarks.analysis_subjects
        import benchmarks.compression_subjects
        import benchmarks.mixed_precision_subjects
        import benchmarks.model_subjects
        import benchmarks.qat_subjects
        import benchmarks.rounding_jobs  # noqa: F401 - all enter their subjects
        from benchmarks.subjects import make_subject

        state.clear()  # first, so that two cases never share the memory
        state["subject"] = make_subject(*arguments)
        return None
    return getattr(state["subject"], verb)(*arguments)


def main() -> None:
    """Answer until the other side closes the pipe."""
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    # What aimet-torch prints must not end up between the answers.
    os.dup2(2, 1)
    state: dict[str, Any] = {}
    while True:
        try:
            message = pickle.load(requests)
        except EOFError:
            return
        try:
            reply = (True, answer(message, state))
        except Exception as error:
            traceback.print_exc()
            reply = (False, f"{type(error).__name__}: {error}")
        pickle.dump(reply, answers)
        answers.flush()


if __name__ == "__main__":
    main()
