"""What is timed, and the clock around it; shared by this process and the rival's."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

Results = list[np.ndarray]


class Clock:
    """Seconds by the clock, and of all threads of this process on a processor.

    The latter say how much work was done where other programs run at the same time.
    """

    def __init__(self) -> None:
        self.seconds, self.cpu_seconds = -time.perf_counter(), -time.process_time()

    def stop(self) -> Clock:
        """Return the clock, which stands still from now on."""
        self.seconds += time.perf_counter()
        self.cpu_seconds += time.process_time()
        return self

    def times(self) -> tuple[float, float]:
        """Return both."""
        return self.seconds, self.cpu_seconds


class Stopwatch(Protocol):
    """Something whose calls can be timed, here or in another process."""

    def seconds(self, calls: int) -> float:
        """Run `calls` times and return the seconds that took, all together."""

    def results(self) -> Results:
        """Return what a call computes, to be compared with others."""


@dataclass(frozen=True)
class Subject:
    """A piece of work.

    Attributes:
        run: the timed call; takes what `setup` returned, or nothing.
        setup: runs before every call, outside the clock: for work that uses up its input.
        compute: gives the tensors to compare; default: those that `run` returns.
        own_clock: `run` returns the seconds that count, such as those inside another process.
    """

    run: Callable[..., Any]
    setup: Callable[[], Any] | None = None
    compute: Callable[[], Any] | None = None
    own_clock: bool = False

    def seconds(self, calls: int) -> float:
        """Run `calls` times and return the seconds that took, all together."""
        if self.own_clock:
            return float(sum(self.run() for _ in range(calls)))
        if self.setup is None:
            run = self.run
            start = time.perf_counter()
            for _ in range(calls):
                run()
            return time.perf_counter() - start
        total = 0.0
        for _ in range(calls):
            prepared = self.setup()
            start = time.perf_counter()
            self.run(prepared)
            total += time.perf_counter() - start
        return total

    def results(self) -> Results:
        """Return what a call computes as float64 or float32 arrays."""
        if self.compute is not None:
            value = self.compute()
        elif self.own_clock:
            value = ()
        else:
            value = self.run() if self.setup is None else self.run(self.setup())
        tensors = [value] if isinstance(value, Tensor) else value
        return [_array(tensor) for tensor in tensors]


def _array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach()
    # NumPy has no bfloat16; every half-precision number is a float32.
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)).numpy()
