"""aimet-torch 2.42 in an environment and a process of its own, timed round by round with us."""

from __future__ import annotations

import os
import pickle
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.rivals.setup import RivalUnavailableError, ensure_environment
from benchmarks.timing import Results

__all__ = ["Rival", "RivalUnavailableError"]

_WORKER = Path(__file__).with_name("worker.py")


class Rival:
    """The rival's process. It works only while a request is answered.

    Args:
        threads: threads that torch may use in it.

    Raises:
        RivalUnavailableError: its environment cannot be made, or the process does not start.
    """

    def __init__(self, threads: int) -> None:
        python = ensure_environment()
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        self._process = subprocess.Popen(
            [str(python), "-u", str(_WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self.versions: dict[str, str] = self._request("start", threads)

    def load(self, name: str, arguments: dict[str, Any]) -> RemoteSubject:
        """Make a subject in the rival's process, in place of the one before."""
        self._request("load", name, arguments)
        return RemoteSubject(self)

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()

    def _request(self, *message: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()
            answered, value = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError) as error:
            code = self._process.wait()
            raise RivalUnavailableError(f"its process ended with status {code}") from error
        if not answered:
            raise RivalUnavailableError(value)
        return value


class RemoteSubject:
    """The stopwatch of a subject in the rival's process; the clock is there too."""

    def __init__(self, rival: Rival) -> None:
        self._rival = rival

    def seconds(self, calls: int) -> float:
        """Run `calls` times and return the seconds that took, all together."""
        return float(self._rival._request("seconds", calls))

    def results(self) -> Results:
        """Return what a call computes."""
        return list(self._rival._request("results"))
