"""Measured time of a model on the machine it runs on."""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.common import tables
from aimet_torch.graph import bind_inputs

__all__ = ["Latency", "measure_latency"]


@dataclasses.dataclass(frozen=True)
class Latency:
    """Seconds of one run of a model. `print` shows it as a sentence.

    Attributes:
        seconds: Median over the rounds.
        quartiles: Lower and upper quartile.
        rounds: How many rounds were timed.
        threads: Threads that torch had.
        device: Where the model's parameters are.
        speedup: Median over the rounds of the baseline's seconds over these; None without a
            baseline. Both run in turn in every round, so a machine that gets slower slows both.
    """

    seconds: float
    quartiles: tuple[float, float]
    rounds: int
    threads: int
    device: str
    speedup: float | None = None

    def write_json(self, path: str | os.PathLike[str]) -> Path:
        """Write it as JSON to ``path`` and return that."""
        return tables.write_json(path, tables.json_ready(dataclasses.asdict(self)))

    def __str__(self) -> str:
        low, high = (1e3 * q for q in self.quartiles)
        text = (
            f"{1e3 * self.seconds:.3g} ms ({low:.3g} to {high:.3g}) on {self.device} with "
            f"{self.threads} thread(s), median of {self.rounds}"
        )
        return text if self.speedup is None else f"{text}; {self.speedup:.2f}x faster"


def measure_latency(
    model: nn.Module,
    input: Any,
    *,
    baseline: nn.Module | None = None,
    rounds: int = 20,
    warmup: int = 3,
) -> Latency:
    """Time runs of a model in evaluation mode without gradients.

    Args:
        model: Any module; its training mode is restored.
        input: A tensor, a tuple or list of positional arguments, or a dict of keyword arguments.
        baseline: Another module that runs on ``input``, timed in turn with the first.
        rounds: Timed runs.
        warmup: Runs before them.

    Raises:
        ValueError: ``rounds`` is not positive or ``warmup`` negative.
    """
    if rounds < 1 or warmup < 0:
        raise ValueError(
            "measure_latency: `rounds` must be positive and `warmup` not negative, got "
            f"{rounds} and {warmup}"
        )
    models = [model] if baseline is None else [model, baseline]
    runs = [_runner(each, input) for each in models]
    modes = [{module: module.training for module in each.modules()} for each in models]
    try:
        for each in models:
            each.eval()
        with torch.no_grad():
            for _ in range(warmup):
                for run in runs:
                    run()
            times = [[run() for run in runs] for _ in range(rounds)]
    finally:
        for mode in modes:
            for module, training in mode.items():
                module.training = training
    own = [row[0] for row in times]
    speedup = None if baseline is None else statistics.median(row[1] / row[0] for row in times)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return Latency(
        statistics.median(own),
        _quartiles(own),
        rounds,
        torch.get_num_threads(),
        str(device),
        speedup,
    )


def _runner(model: nn.Module, input: Any) -> Callable[[], float]:
    args, kwargs = bind_inputs(model, input)
    tensors = [t for t in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    on_device = any(t.is_cuda for t in tensors)

    def run() -> float:
        if on_device:
            torch.cuda.synchronize()
        start = time.perf_counter()
        model(*args, **kwargs)
        if on_device:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return run


def _quartiles(values: Sequence[float]) -> tuple[float, float]:
    if len(values) == 1:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high
