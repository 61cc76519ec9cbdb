"""Large results: the same values as small ones, in blocks that are used again and given back."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading

import pytest
import torch

from aimet_torch import ops

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="blocks of our own are Linux only")
SCALE, OFFSET = torch.tensor(0.05), torch.tensor(0.0)
MEGABYTE = 1 << 20


def fake_quantize(x: torch.Tensor) -> torch.Tensor:
    return ops.quantize_dequantize(x, SCALE, OFFSET, -128, 127)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_streamed_results_are_those_of_small_tensors(dtype: torch.dtype) -> None:
    # 33 rows of 1,048,583 elements: more than 32 MiB in every dtype, rows at odd addresses.
    x = torch.randn(33, 1_048_583, generator=torch.Generator().manual_seed(3)).to(dtype)
    scale = torch.linspace(0.01, 0.05, 33).reshape(33, 1)
    y = ops.quantize_dequantize(x, scale, OFFSET, -128, 127)
    for row in (0, 1, 17, 32):
        part = ops.quantize_dequantize(x[row, :70_001], scale[row], OFFSET, -128, 127)
        assert torch.equal(bits(y[row, :70_001]), bits(part))


def test_streamed_gradients_are_those_of_small_tensors() -> None:
    generator = torch.Generator().manual_seed(4)
    x, g = (torch.randn(9, 1_048_583, generator=generator) for _ in range(2))
    scale = torch.linspace(0.01, 0.05, 9).reshape(9, 1)

    def gradients(x: torch.Tensor, scale: torch.Tensor, g: torch.Tensor) -> list[torch.Tensor]:
        leaves = [x.clone().requires_grad_(), scale.clone().requires_grad_()]
        y = ops.quantize_dequantize(*leaves, OFFSET, -128, 127)
        static = ops.quantize_dequantize(leaves[0], scale, OFFSET, -128, 127)
        return [*torch.autograd.grad(y, leaves, g), *torch.autograd.grad(static, leaves[0], g)]

    whole = gradients(x, scale, g)
    for row in (0, 4, 8):
        part = gradients(x[row], scale[row], g[row])
        for of_all, of_row in zip(whole, part, strict=True):
            assert torch.equal(bits(of_all[row]), bits(of_row))


@LINUX
def test_a_freed_block_is_used_again_and_never_shared() -> None:
    x = torch.randn(2 * MEGABYTE)
    first, second = fake_quantize(x), fake_quantize(x)
    expected = first.clone()
    assert first.data_ptr() != second.data_ptr()
    address = first.data_ptr()
    del first
    assert fake_quantize(x + 1).data_ptr() == address
    assert torch.equal(second, expected)


@LINUX
def test_threads_get_blocks_of_their_own() -> None:
    wrong: list[int] = []

    def work(seed: int) -> None:
        x = torch.full((MEGABYTE + seed,), float(seed % 6))
        for _ in range(20):
            if not bool((fake_quantize(x) == x).all()):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_large_results_are_ordinary_tensors() -> None:
    x = torch.randn(MEGABYTE, generator=torch.Generator().manual_seed(5))
    y = fake_quantize(x)
    expected = y.clone()
    file = io.BytesIO()
    torch.save(y, file)
    file.seek(0)
    assert torch.equal(torch.load(file), expected)
    assert torch.equal(torch.from_numpy(y.numpy()), expected)
    assert torch.equal(y.clone().share_memory_(), expected)
    y = fake_quantize(x)
    assert torch.equal(y.resize_(2 * MEGABYTE)[:MEGABYTE], expected)
    assert torch.equal(y.resize_(8), expected[:8])


RESIDENT = """
import gc, os, sys
import torch
from aimet_torch import ops

def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

x = torch.randn(10 << 20)
arguments = (x, torch.tensor(1.0), torch.tensor(0.0), -8, 7)
ops.quantize_dequantize(x[:9], *arguments[1:])
before = resident()
results = [ops.quantize_dequantize(*arguments) for _ in range(12)]
during = resident()
del results
print(during - before, resident() - before)
"""


def run_resident(limit: str | None) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "AIMET_OUTPUT_CACHE_MB"}
    if limit is not None:
        environment["AIMET_OUTPUT_CACHE_MB"] = limit
    command = [sys.executable, "-c", RESIDENT]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@LINUX
@pytest.mark.parametrize(("limit", "kept"), [("0", 0), ("100", 80), (None, 240)])
def test_no_more_is_kept_than_allowed(limit: str | None, kept: int) -> None:
    """Twelve results of 40 MB; whole blocks up to the limit stay."""
    done = run_resident(limit)
    assert done.returncode == 0, done.stderr
    during, after = map(int, done.stdout.split())
    assert during > 460
    assert kept - 20 <= after <= kept + 20


@LINUX
def test_a_limit_that_is_no_number_is_refused() -> None:
    message = "`AIMET_OUTPUT_CACHE_MB` must be a whole number of megabytes"
    assert message in run_resident("lots").stderr


@LINUX
def test_a_child_process_can_go_on() -> None:
    x = torch.randn(MEGABYTE)
    expected = fake_quantize(x)
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)  # OpenMP's own threads do not survive a fork
        os._exit(0 if torch.equal(fake_quantize(x), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
