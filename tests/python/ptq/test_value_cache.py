"""The budget of cached activations: bookkeeping, files, and what the process really takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aimet_torch.ptq.value_cache import ValueCache, free_memory, join_in_files

MEGABYTE = 1 << 20


def test_what_does_not_fit_goes_to_disk_and_comes_back():
    values = [{"a": torch.randn(1000), "b": (torch.arange(10), "text")} for _ in range(5)]
    size = 4000 + 80
    with ValueCache(budget=2 * size) as cache:
        for key, value in enumerate(values):
            cache.put(key, value)
        assert cache.peak == 2 * size
        assert cache.spilled >= 3 * size
        for key, value in enumerate(values):
            found = cache.get(key)
            assert found["a"].equal(value["a"])
            assert found["b"][0].equal(value["b"][0])
            assert found["b"][1] == "text"
        folder = cache._folder
        assert len(list(folder.iterdir())) == 3
        cache.drop(4)
        assert len(list(folder.iterdir())) == 2
        cache.drop(0)
        cache.put(5, values[0])  # there is room again
        assert len(list(folder.iterdir())) == 2
        with pytest.raises(KeyError):
            cache.get(4)
    assert not folder.exists()


def test_batches_are_joined_in_files_that_have_no_name_any_more():
    batches = [(torch.randn(n, 3, 2), torch.randn(n, 5).double()) for n in (4, 1, 7)]
    first, second = join_in_files(iter(batches))
    assert first.equal(torch.cat([a for a, _ in batches]))
    assert second.equal(torch.cat([b for _, b in batches]).float())
    mapped = Path("/proc/self/maps").read_text()
    assert "aimet_cache_" in mapped
    del first, second
    assert "aimet_cache_" not in Path("/proc/self/maps").read_text()


def test_the_default_is_a_quarter_of_the_free_memory():
    free = free_memory()
    assert 0.5 * free < 4 * ValueCache().budget < 1.5 * free  # other processes come and go


# In a process of its own, since the most memory that one has ever had never falls.
JOB = """
import json, sys, torch
from torch import nn
from aimet_torch.ptq import (
    Adaround, AdaroundParameters, BlockReconstructionParameters, apply_block_reconstruction,
)
from aimet_torch.quantsim import QuantizationSimModel

torch.set_num_threads(1)
torch.manual_seed(0)
path, kinds, budget = sys.argv[1], sys.argv[2].split(), json.loads(sys.argv[3])
layers = [nn.Conv2d(3, 16, 1), nn.ReLU()]
for _ in range(2):
    layers += [nn.Conv2d(16, 16, 1), nn.ReLU()]
model = nn.Sequential(*layers).eval()
batches = [torch.randn(4, 3, 96, 96) for _ in range(20)]

def run(kind, count):
    if kind == "adaround":
        parameters = AdaroundParameters(batches, count, cache_budget=budget)
        Adaround.apply_adaround(model, batches[0], parameters, path, "model", 4)
        return
    sim = QuantizationSimModel(model, batches[0], default_param_bw=4)
    parameters = BlockReconstructionParameters(
        batches, count, cache_budget=budget, num_iterations=2, max_block_layers=2
    )
    return apply_block_reconstruction(sim, parameters, path, "model")

def peak():  # not ru_maxrss, which begins with the peak of the process that started this one
    with open("/proc/self/status") as status:
        (line,) = (line for line in status if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024

for kind in kinds:
    run(kind, 2)
before = peak()
for kind in kinds:
    run(kind, len(batches))
print(json.dumps(peak() - before))
"""


def growth_of_memory(path, kinds, budget):
    command = [sys.executable, "-c", JOB, str(path), kinds, json.dumps(budget)]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    return json.loads(done.stdout.splitlines()[-1])


def test_the_process_keeps_to_the_budget(tmp_path):
    """Three layers and their ReLUs, twice each: 47 MB every time, three or four at once."""
    # Beside the budget: a few batches of 2.4 MB that are being worked on, and the allocator's.
    limited = growth_of_memory(tmp_path, "adaround blocks", 8 * MEGABYTE)
    assert limited < (8 + 24) * MEGABYTE
    assert growth_of_memory(tmp_path, "adaround", None) > 80 * MEGABYTE
