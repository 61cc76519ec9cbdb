"""The same bits for every instruction set and every number of threads.

The choice of instruction set is made once per process, so each runs in one of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aimet_torch import ops

BATTERY = """
import hashlib, json, sys
import torch
from aimet_torch import ops
from tests.python.ops.cases import CASES, DTYPES, Case

OPERATORS = torch.ops.aimet
results = {}

def record(name, *tensors):
    digest = hashlib.sha256()
    for tensor in tensors:
        tensor = tensor.detach()
        if tensor.is_floating_point():  # payloads of NaN are not part of the contract
            tensor = torch.nan_to_num(tensor, nan=-12345.0)
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    results[name] = digest.hexdigest()

LARGE = [
    Case("large", (400, 300)),
    Case("large_rows", (64, 2500), (64, 1)),
    Case("large_columns", (3000, 64), (64,)),
    Case("large_blocks", (128, 1024), (128, 8), (1, 128)),
    Case("large_short_runs", (700, 40, 2), (40, 1)),
]

def run(case, dtype, name):
    blocks = case.block_size
    x = case.input(dtype)
    finite = case.input(dtype, finite=True).requires_grad_()
    scale, offset = (p.requires_grad_() for p in case.parameters(dtype))
    y = ops.quantize_dequantize(finite, scale, offset, -8, 7, blocks)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    record(name, y, *torch.autograd.grad(y, (finite, scale, offset), grad))
    plain = ops.quantize_dequantize(x, scale.detach(), offset.detach(), -8, 7, blocks)
    record(name + "/plain", plain)
    y = ops.clamp_quantize_dequantize(finite, -0.5, 1.3, scale, offset, -8, 7, blocks)
    record(name + "/clamped", y, *torch.autograd.grad(y, (finite, scale, offset), grad))
    record(name + "/clamped/mask", *OPERATORS._clamp_quantize_dequantize_mask(
        x, -0.5, 1.3, scale.detach(), offset.detach(), -8, 7, blocks))
    y = ops.quantize_dequantize_float(finite, scale, 4, 3, True, block_size=blocks)
    record(name + "/float", y, *torch.autograd.grad(y, (finite, scale), grad))
    record(name + "/float/plain", ops.quantize_dequantize_float(x, scale, 5, 10, block_size=blocks))
    if x.dim() > 0:
        for axis in (0, x.dim() - 1):
            record(f"{name}/mx/{axis}", *OPERATORS._quantize_dequantize_microscaling_mask(
                x, "float6e2m3", axis, 32))
            record(f"{name}/nvfp4/{axis}", *OPERATORS._quantize_dequantize_microscaling_mask(
                x, "float4e2m1", axis, 16, torch.tensor(0.003)))
    low, high = ops.min_max(x, case.scale_shape, blocks)
    counts = torch.zeros(*case.scale_shape, 128, dtype=torch.int64)
    ops.update_histogram_(counts, x, low, high, blocks)
    record(name + "/statistics", low, high, counts)
    if dtype == torch.float32 and counts.numel() <= 64 * 128:
        for search in (ops.range_from_sqnr, ops.range_from_mse, ops.range_from_entropy):
            record(name + "/" + search.__name__, *search(counts, low, high, 0, 255, False))

for threads in (1, 2, 3):
    torch.set_num_threads(threads)
    for case in CASES + LARGE:
        for dtype in DTYPES:
            run(case, dtype, f"{threads}/{case.name}/{dtype}")
json.dump({"capability": ops.cpu_capability(), "results": results}, sys.stdout)
"""


def run_battery(capability: str) -> dict:
    environment = dict(os.environ, AIMET_CPU_CAPABILITY=capability)
    command = [sys.executable, "-c", BATTERY]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def baseline() -> dict:
    return run_battery("baseline")


def test_the_variable_lowers_the_instruction_set(baseline: dict) -> None:
    assert baseline["capability"] == "baseline"


def test_threads_do_not_matter(baseline: dict) -> None:
    results = baseline["results"]
    one = {name[2:]: digest for name, digest in results.items() if name.startswith("1/")}
    assert len(one) * 3 == len(results)
    for threads in ("2/", "3/"):
        other = {name[2:]: digest for name, digest in results.items() if name.startswith(threads)}
        assert [name for name in one if one[name] != other[name]] == []


@pytest.mark.parametrize("capability", ["avx2", "avx512"])
def test_instruction_sets_do_not_matter(capability: str, baseline: dict) -> None:
    run = run_battery(capability)
    if run["capability"] != capability:
        if os.environ.get(f"AIMET_REQUIRE_{capability.upper()}") == "1":
            pytest.fail(f"AIMET_REQUIRE_{capability.upper()}=1, but this processor has none")
        pytest.skip(f"this processor has no {capability}")
    different = [
        name for name in run["results"] if run["results"][name] != baseline["results"][name]
    ]
    assert different == []


def test_a_misspelt_instruction_set_is_an_error() -> None:
    environment = dict(os.environ, AIMET_CPU_CAPABILITY="sse9")
    command = [sys.executable, "-c", "from aimet_torch import ops; ops.cpu_capability()"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "ValueError" in result.stderr
    assert "`AIMET_CPU_CAPABILITY` must be baseline, avx2 or avx512, got sse9" in result.stderr


def test_build_info_lists_the_builds() -> None:
    info = ops.build_info()
    assert info["instruction_sets"][0] == "baseline"
    assert ops.cpu_capability() in info["instruction_sets"]
    assert set(info) == {
        "version", "torch_version", "cuda", "threads", "compiler", "instruction_sets"
    }  # fmt: skip


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_operators_run_on_as_many_threads_as_torch(threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert ops.build_info()["threads"] == threads
    finally:
        torch.set_num_threads(before)


def test_one_openmp_runtime_is_loaded() -> None:
    """A second one would have threads that `torch.set_num_threads` does not know."""
    code = "from aimet_torch import ops; ops.build_info(); print(open('/proc/self/maps').read())"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    mapped = {Path(line.split()[-1]) for line in result.stdout.splitlines() if line}
    names = ("libgomp", "libiomp5", "libomp")
    assert len({path for path in mapped if path.name.startswith(names)}) == 1
