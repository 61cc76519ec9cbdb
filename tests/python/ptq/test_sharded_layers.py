"""AdaRound, GPTQ and SeqMSE of several ranks against one process with all of the data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from aimet_torch.adaround.adaround_weight import Adaround, AdaroundParameters
from aimet_torch.common.collectives import PeerError, Ranks
from aimet_torch.gptq import apply_gptq
from aimet_torch.ptq import layerwise, value_cache
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.seq_mse import apply_seq_mse

pytestmark = pytest.mark.usefixtures("one_thread")


class Network(nn.Module):
    """Every kind of division: by outputs, in groups, transposed, depthwise, a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.project = nn.Conv2d(8, 8, 1, bias=False)
        self.grouped = nn.Conv2d(8, 14, 3, groups=2)
        self.up = nn.ConvTranspose2d(14, 5, 3, stride=2)
        self.up_in_groups = nn.ConvTranspose2d(5, 10, 3, groups=5)
        self.one = nn.Conv2d(10, 1, 1)
        self.head = nn.Linear(11, 5)

    def forward(self, x):
        x = nn.functional.relu6(self.stem(x))
        x = x + self.project(torch.relu(self.depthwise(x)))
        x = torch.relu(self.up(torch.relu(self.grouped(x))))
        return self.head(self.one(self.up_in_groups(x)).mean((1, 2)))


def network(seed=0):
    torch.manual_seed(seed)
    return Network().eval()


def data():
    generator = torch.Generator().manual_seed(1)
    smooth = torch.randn((4, 5, 3, 6, 6), generator=generator)
    return [nn.functional.interpolate(x, scale_factor=2, mode="bilinear") for x in smooth]


def simulation(bits=4, config=None):
    sim = QuantizationSimModel(network(), data()[0], default_param_bw=bits, config_file=config)
    sim.compute_encodings(data())
    return sim


def rounded(method, batches, folder, group=None):
    """Weights by name after a method, and the ranges of their quantizers."""
    if method in ("discrete", "relaxation"):
        parameters = AdaroundParameters(
            batches, 4, default_num_iterations=60, method=method, process_group=group
        )
        model = Adaround.apply_adaround(
            network(), data()[0], parameters, folder, "model", default_param_bw=3
        )
        entries = json.loads((Path(folder) / "model.encodings").read_text())["param_encodings"]
        scales = {k: torch.tensor([x["scale"] for x in v]) for k, v in entries.items()}
        return {**model.state_dict(), **scales}
    sim = simulation()
    if method == "gptq":
        apply_gptq(sim, batches, process_group=group)
    else:
        shared = ["up_in_groups"]  # its outputs share their grids
        apply_seq_mse(sim, batches, modules_to_exclude=shared, process_group=group)
    return {name: value.detach() for name, value in sim.model.named_parameters()}


def _rounded(method, parts, folder):
    batches = [data()[i] for i in parts[dist.get_rank()]]
    return rounded(method, batches, folder, dist.group.WORLD)


@pytest.mark.parametrize("method", ["discrete", "relaxation", "gptq", "seq_mse"])
def test_ranks_find_what_one_process_finds(two_ranks, method, tmp_path):
    want = rounded(method, data(), tmp_path)
    for parts in (([0, 1, 2], [3]), ([], [0, 1, 2, 3])):
        first, second = two_ranks(_rounded, method, parts, str(tmp_path / f"{len(parts[0])}"))
        assert first.keys() == want.keys()
        for name, value in want.items():
            assert torch.equal(first[name], second[name]), name
            # Sums over the data are added in another order, in float64; a code that changed would
            # move a weight by a step, a third of the weights' range here.
            torch.testing.assert_close(first[name], value, rtol=1e-5, atol=1e-6, msg=name)
    assert not list(tmp_path.glob("**/model.adaround"))


def _interrupted(folder):
    """AdaRound is stopped behind its third layer; the second call solves only the others."""
    solved = []
    solve_rows = layerwise.solve_rows

    def counted(solve, task, ranks):
        if len(solved) == 3 and not (Path(folder) / "resumed").exists():
            raise KeyError("stop")
        solved.append(task.name)
        return solve_rows(solve, task, ranks)

    layerwise.solve_rows = counted
    try:
        with pytest.raises(KeyError):
            _rounded("discrete", ([0, 1], [2, 3]), folder)
        before = list(solved)
        dist.barrier()
        (Path(folder) / "resumed").touch()
        result = _rounded("discrete", ([0, 1], [2, 3]), folder)
    finally:
        layerwise.solve_rows = solve_rows
    assert len(before) == 3
    assert len(solved) == len(set(solved)) == 8
    return result


def test_a_job_that_was_stopped_goes_on(two_ranks, tmp_path):
    want = rounded("discrete", data(), tmp_path)
    for result in two_ranks(_interrupted, str(tmp_path)):
        for name, value in want.items():
            torch.testing.assert_close(result[name], value, rtol=1e-5, atol=1e-6)


def _budgets():
    with Ranks(dist.group.WORLD, "test") as ranks:
        return [value_cache.ValueCache(None, n).budget for n in (1, ranks.count_on_this_machine())]


def test_ranks_of_a_machine_share_its_memory(two_ranks):
    for alone, shared in two_ranks(_budgets):
        assert shared == pytest.approx(alone / 2, rel=0.2)  # of what is free at that moment


def _failing(folder):
    rank = dist.get_rank()
    batches = [data()[0], torch.zeros(2, 5, 12, 12) if rank else data()[1]]
    with pytest.raises(RuntimeError if rank else PeerError, match="channels"):
        rounded("discrete", batches, folder, dist.group.WORLD)
    with pytest.raises(ValueError, match="`data_loader` gave no batch"):
        rounded("gptq", [], folder, dist.group.WORLD)
    with pytest.raises(NotImplementedError, match="does not go with the method 'sampled'"):
        AdaroundParameters(data(), 4, method="sampled", process_group=dist.group.WORLD)


def test_a_rank_that_fails_keeps_no_other_waiting(two_ranks, tmp_path):
    two_ranks(_failing, str(tmp_path))
