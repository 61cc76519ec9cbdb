"""How much of the GPU's memory bandwidth the CUDA kernels use, against a copy in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from aimet_torch import ops

#: Elements; the larger does not fit into any cache.
COUNTS = (1 << 24, 1 << 26)
DTYPES = (torch.float32, torch.bfloat16)
CHANNELS = 64
ROUNDS = 15
#: Fraction of the copy's bytes per second that is aimed at; per channel: of the per-tensor figure.
TARGETS = {"forward": 0.85, "forward, per channel": 0.9, "backward, learned range": 0.8}
NO_GPU = "no GPU"
Clock = Callable[[Callable[[], object]], float]


def section() -> dict[str, Any]:
    """Return the report's part on the GPU, or the reason why there is none."""
    if not torch.cuda.is_available():
        return {"unavailable": NO_GPU}
    if not ops.build_info()["cuda"]:
        return {"unavailable": "the library was built without CUDA kernels"}
    device = torch.device("cuda")
    cases = [case for count in COUNTS for case in measure(device, count, cuda_seconds)]
    return {"device": torch.cuda.get_device_name(device), "cases": cases}


def cuda_seconds(run: Callable[[], object]) -> float:
    """Return the seconds that one call takes on the device, the queue kept full."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    calls = 10
    run()
    start.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3 / calls


def host_seconds(run: Callable[[], object]) -> float:
    """Return the seconds that one call takes on the host."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measure(device: torch.device, count: int, clock: Clock) -> list[dict[str, Any]]:
    """Time every kernel in turn with a copy.

    Args:
        device: where the tensors are.
        count: elements of each tensor, a multiple of `CHANNELS`.
        clock: times one call.

    Returns:
        For each kernel and dtype its name, the bytes that it must move, the median seconds of it
        and of the copy, the fraction of the copy's bytes per second, and the target.
    """
    cases = []
    for dtype in DTYPES:
        generator = torch.Generator().manual_seed(22)
        x = torch.randn(CHANNELS, count // CHANNELS, generator=generator).to(device, dtype)
        y = torch.empty_like(x)
        copies: list[float] = []
        work = dict(_work(x))
        seconds: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(ROUNDS):
            copies.append(clock(lambda x=x, y=y: y.copy_(x)))
            for name, run in work.items():
                seconds[name].append(clock(run))
        copy_rate = 2 * x.nbytes / statistics.median(copies)
        per_tensor = 0.0
        for name, taken in seconds.items():
            moved = (3 if name.startswith("backward") else 2) * x.nbytes
            fraction = moved / statistics.median(taken) / copy_rate
            if name == "forward":
                per_tensor = fraction
            relative = fraction / per_tensor if name == "forward, per channel" else fraction
            cases.append(
                {
                    "name": name,
                    "dtype": str(dtype).removeprefix("torch."),
                    "elements": count,
                    "bytes": moved,
                    "median": statistics.median(taken),
                    "copy": statistics.median(copies),
                    "fraction": fraction,
                    "target": TARGETS[name],
                    "met": relative >= TARGETS[name],
                }
            )
    return cases


def _work(x: Tensor) -> Iterator[tuple[str, Callable[[], object]]]:
    scale = torch.tensor(3 / 127, device=x.device)
    offset = torch.zeros_like(scale)
    channel_scale = scale * torch.linspace(0.9, 1.1, CHANNELS, device=x.device).unsqueeze(1)
    yield "forward", lambda: ops.quantize_dequantize(x, scale, offset, -128, 127)
    yield (
        "forward, per channel",
        lambda: ops.quantize_dequantize(x, channel_scale, offset, -128, 127),
    )
    leaves = [t.clone().requires_grad_() for t in (x, scale, offset)]
    output, gradient = ops.quantize_dequantize(*leaves, -128, 127), torch.randn_like(x)
    yield (
        "backward, learned range",
        lambda: torch.autograd.grad(output, leaves, gradient, retain_graph=True),
    )
