"""The benchmarks' machinery: what is run, counted, compared and written. Never a time."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks import (
    agreement,
    formats,
    gpu,
    harness,
    kernels,
    model_subjects,
    operators,
    render,
)
from benchmarks.rivals import setup
from benchmarks.subjects import QMAX, SUBJECTS, affine_inputs, make_subject
from benchmarks.timing import Subject

SHAPE = (4, 32)


@dataclass
class Recorder:
    """A contestant that notes when it runs and always takes `each` seconds."""

    name: str
    log: list[tuple[str, int]]
    each: float = 1.0
    results: list[np.ndarray] = field(default_factory=list)

    def seconds(self, calls: int) -> float:
        self.log.append((self.name, calls))
        return calls * self.each


def test_rounds_interleave_and_rotate() -> None:
    log: list[tuple[str, int]] = []
    names = "abc"
    samples = harness.interleave({name: Recorder(name, log) for name in names}, seconds=0)
    assert "".join(name for name, _ in log) == "abc" + "abc" + "bca" + "cab"
    assert all(len(taken.seconds) == harness.FEWEST_ROUNDS for taken in samples.values())


def test_short_calls_are_repeated_and_warmed_up() -> None:
    log: list[tuple[str, int]] = []
    each = harness.SHORTEST_SAMPLE / 8
    samples = harness.interleave({"a": Recorder("a", log, each)}, seconds=0)
    assert [calls for _, calls in log] == [1, *[1, 8] * harness.FEWEST_ROUNDS]
    assert samples["a"].seconds == [each] * harness.FEWEST_ROUNDS


def test_statistics_are_medians_and_quartiles() -> None:
    ours = harness.Samples(1, [2.0, 4.0, 6.0, 8.0, 100.0])
    theirs = harness.Samples(1, [1.0, 2.0, 3.0, 4.0, 5.0])
    assert ours.summary() == {"median": 6.0, "spread": 4.0, "rounds": 5, "calls": 1}
    assert harness.ratio(ours, theirs) == {"ratio": 2.0, "ratio_quartiles": [2.0, 2.0]}


def test_setup_runs_outside_the_clock_before_every_call() -> None:
    prepared: list[int] = []

    def prepare() -> int:
        time.sleep(0.02)
        prepared.append(len(prepared))
        return prepared[-1]

    used: list[int] = []
    taken = Subject(used.append, setup=prepare).seconds(3)
    assert used == prepared == [0, 1, 2]
    assert taken < 0.02  # three sleeps take 0.06 s


def test_own_clock_sums_what_the_calls_return() -> None:
    assert Subject(lambda: 0.25, own_clock=True).seconds(3) == 0.75


def tiny(case: harness.Case) -> harness.Case:
    shape = (2, 2, 3, 3) if case.subject == "observe" else SHAPE
    axis = {"axis": case.arguments["axis"] % 2} if "axis" in case.arguments else {}
    arguments = {**case.arguments, "shape": shape, **axis}
    return harness.Case(case.name, case.title, case.subject, arguments, case.rivals)


CASES = [*operators.cases(), *formats.cases()]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_operator_cases_agree_with_their_rivals(case: harness.Case) -> None:
    report = harness.run_case(tiny(case), "not in this test", seconds=0)
    assert report["rounds"] == harness.FEWEST_ROUNDS
    for rival in report["rivals"]:
        if rival["role"] == "aimet":
            assert rival["unavailable"] == "not in this test"
        else:
            assert rival["agrees"], (rival["name"], rival["agreement"])
            assert {"median", "spread", "ratio", "ratio_quartiles"} <= rival.keys()
    json.dumps(report)


def test_a_rival_with_another_result_is_not_timed() -> None:
    def wrong(**arguments: object) -> Subject:
        x = affine_inputs(SHAPE).x
        return Subject(lambda: x + 1)

    rivals = (harness.pytorch("wrong", wrong, agreement.within_one_step(1e-2)),)
    case = harness.Case("name", "title", "fake_quantize", {"shape": SHAPE}, rivals)
    report = harness.run_case(case, "none", seconds=0)
    (rival,) = report["rivals"]
    assert rival["agrees"] is False
    assert "median" not in rival
    assert "RESULTS DIFFER" in "\n".join(render.lines_of(report))


def test_names_are_unique_and_choose_cases() -> None:
    names = [case.name for case in command.all_cases()]
    assert len(names) == len(set(names))
    assert {case.subject for case in command.all_cases()} <= SUBJECTS.keys()
    assert [case.name for case in command.chosen(["min_max", "import/*"])] == [
        "min_max/16M",
        "import/package",
        "import/simulation",
    ]
    with pytest.raises(ValueError, match="no case is called `nonsense`; there are: quantize_"):
        command.chosen(["nonsense"])


def test_inputs_are_drawn_alike_and_partly_clipped() -> None:
    first, second = affine_inputs((64, 64)), affine_inputs((64, 64))
    assert torch.equal(first.x, second.x)
    assert torch.equal(first.scale, second.scale)
    clipped = (first.x / first.scale).abs() > QMAX
    assert 0 < clipped.float().mean() < 0.05
    (result,) = make_subject("fake_quantize", {"shape": SHAPE}).results()
    assert result.shape == SHAPE


def test_rules_tell_ties_from_errors() -> None:
    ours = np.zeros(1000, np.float32)
    tie, error = ours.copy(), ours.copy()
    tie[3] = 0.5
    error[3] = 1.0
    rule = agreement.within_one_step(0.5)
    assert rule([ours], [tie])[0]
    assert not rule([ours], [error])[0]
    assert not rule([ours], [ours + 0.5])[0]
    assert not agreement.equal()([ours], [tie])[0]
    assert agreement.sqnr_at_least(19)([tie * 0.9], [tie])[0]
    assert not agreement.sqnr_at_least(21)([tie * 0.9], [tie])[0]


def test_neighboring_candidates_may_tie() -> None:
    theirs = np.linspace(1, 2, 100)
    one, many, far = theirs.copy(), theirs * 1.01, theirs.copy()
    one[7] *= 1.01
    far[7] *= 1.02
    rule = agreement.candidates(0.01, share=0.02)
    assert rule([theirs], [theirs]) == (True, "the same candidates")
    assert rule([one], [theirs]) == (True, "1 of 100 neighbors")
    assert not rule([many], [theirs])[0]
    assert not rule([far], [theirs])[0]


def test_threads_are_numbers_or_all() -> None:
    assert command.thread_counts(["1", "all", "1"]) == list(dict.fromkeys([1, os.cpu_count()]))
    with pytest.raises(ValueError, match='--threads takes numbers and "all", got `none`'):
        command.thread_counts(["none"])


def test_fractions_of_the_bandwidth() -> None:
    """Everything but the device: a clock that takes a second for every call."""
    calls: list[object] = []

    def clock(run: Callable[[], object]) -> float:
        calls.append(run())
        return 1.0

    cases = gpu.measure(torch.device("cpu"), 2 * gpu.CHANNELS, clock)
    assert [case["name"] for case in cases] == [*gpu.TARGETS] * len(gpu.DTYPES)
    # As many seconds as the copy: two thirds of its traffic more for a backward.
    assert [case["fraction"] for case in cases[:3]] == [1.0, 1.0, 1.5]
    assert all(case["met"] for case in cases)
    assert len(calls) == gpu.ROUNDS * 4 * len(gpu.DTYPES)
    table = render.markdown({"runs": [report_of_nothing()], "gpu": {"device": "D", "cases": cases}})
    assert "| forward, 0M float32 | 1.00 |" in table.splitlines()


def report_of_nothing() -> dict[str, object]:
    keys = ("processor", "processors", "threads", "instruction_set", "torch")
    machine = dict.fromkeys((*keys, "load_before", "load_after"), 1)
    return {"environment": machine, "cases": []}


def test_kernels_are_compared_with_memcpy(tmp_path) -> None:
    program = tmp_path / "aimet_kernel_benchmark"
    with pytest.raises(FileNotFoundError, match="is not built; run cmake"):
        kernels.run(program)
    entry = {"kernel": "k", "instruction_set": "avx2", "elements": 1000, "bytes_per_element": 8}
    entry |= {"seconds": 2e-6, "memcpy_seconds": 1e-6}
    program.write_text(f"#!/bin/sh\necho '{json.dumps([entry])}'\n")
    program.chmod(0o755)
    (read,) = kernels.run(program)
    assert kernels.line_of(read) == "kernels/k, 1000 elements, avx2: 4.0 GB/s, 0.50 of memcpy"


def test_an_environment_that_cannot_be_made_is_reported(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(setup.sys, "executable", "/bin/false")
    with pytest.raises(setup.RivalUnavailableError, match="failed"):
        setup.ensure_environment(tmp_path / "rival")


def test_table_names_what_was_missed_and_not_measured() -> None:
    bound = {"name": "clone", "role": "bound", "target": 1.25, "agrees": True, "ratio": 1.5}
    case = {"title": "case", "median": 2.5e-6, "spread": 5e-7, "limit": None}
    rivals = [bound, {"name": "a", "role": "aimet", "target": None, "unavailable": "no network"}]
    keys = ("processor", "processors", "threads", "instruction_set", "torch")
    machine = dict.fromkeys((*keys, "load_before", "load_after"), 1)
    run = {"environment": machine, "cases": [{**case, "rivals": rivals}]}
    table = render.markdown({"runs": [run], "gpu": {"unavailable": "no GPU"}})
    assert "| forward, backward, per channel | not measured: no GPU |" in table.splitlines()
    row = "| case | 2.5 µs ± 20 % | 1.50 `clone` (target missed) | - | not measured |"
    assert row in table.splitlines()


def test_memory_is_measured_at_its_height() -> None:
    def step() -> torch.Tensor:
        kept = [torch.ones(1000), torch.ones(3000)]
        del kept[1]
        return kept[0].sum()

    measured = model_subjects.peak_memory(Subject(step))
    assert measured.seconds(1) == pytest.approx(16_000, abs=1000)  # and some scalars
    case = {"name": "a", "title": "b", "median": 2.5e6, "spread": 0.0, "limit": None, "rivals": []}
    assert render.lines_of(case | {"unit": "bytes"})[0] == "a: 2.5 MB ± 0 MB"
