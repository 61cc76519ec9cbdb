"""Two processes in one gloo group, which run functions of the tests: started once, not each time.

A process imports torch for seconds; a function that it runs takes milliseconds.
"""

from __future__ import annotations

import datetime
import pickle
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

TIMEOUT = 120  # seconds: two orders of magnitude above what anything here takes


def _serve(rank: int, store: str, pipe: Connection) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        store=dist.FileStore(store, 2),
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=TIMEOUT),
    )
    while True:
        try:
            function, args = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            answer = (True, function(*args))
        except BaseException:  # it belongs to the test; CheckpointException is no Exception
            answer = (False, traceback.format_exc())
        pipe.send_bytes(pickle.dumps(answer))


class TwoRanks:
    """Runs functions on both ranks.

    Args:
        folder: for the files by which the two find each other.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._starts = 0
        self._pipes: list[Connection] = []
        self._processes: list[Any] = []

    def _start(self) -> None:
        context = mp.get_context("spawn")
        self._starts += 1
        for rank in (0, 1):
            here, there = context.Pipe()
            arguments = (rank, str(self._folder / f"store{self._starts}"), there)
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            there.close()
            self._pipes.append(here)
            self._processes.append(process)

    def __call__(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """What ``function(*args)`` returns on each rank; a failure on one fails the test."""
        if not self._processes:
            self._start()
        for pipe in self._pipes:
            pipe.send_bytes(pickle.dumps((function, args)))
        answers: dict[int, Any] = {}
        until = time.monotonic() + TIMEOUT
        while len(answers) < 2 and time.monotonic() < until:
            for pipe in wait(self._pipes, timeout=1.0):
                try:
                    is_done, result = pickle.loads(pipe.recv_bytes())
                except EOFError:
                    self.stop()
                    raise AssertionError(f"a rank died in {function.__name__}") from None
                answers[self._pipes.index(pipe)] = is_done, result
                if not is_done:  # the other one may wait for it
                    until = min(until, time.monotonic() + 5)
        failures = [f"rank {i}:\n{text}" for i, (is_done, text) in answers.items() if not is_done]
        if len(answers) < 2:
            self.stop()
            failures.append(f"not finished; finished were the ranks {sorted(answers)}")
        assert not failures, "\n".join(failures)
        return [answers[0][1], answers[1][1]]

    def stop(self) -> None:
        """End both; the next call starts others."""
        for process in self._processes:
            process.kill()
            process.join()
        self._pipes, self._processes = [], []
