"""The rival's process: requests, answers, errors, its end. This project plays the rival."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from benchmarks import rivals
from benchmarks.rivals import Rival, RivalUnavailableError, worker
from benchmarks.subjects import make_subject

CASE = {"shape": (4, 32)}
# The worker with the parts that need aimet-torch left out: it starts with our own library.
STAND_IN = """
import sys
sys.path.insert(0, {root!r})
from benchmarks.rivals import worker
def start(threads):
    print("what a library prints does not get between the answers")
    return {{"threads": str(threads)}}
worker.start = start
worker.main()
"""


@pytest.fixture
def rival(tmp_path, monkeypatch):
    program = tmp_path / "worker.py"
    program.write_text(STAND_IN.format(root=str(worker.ROOT)))
    monkeypatch.setattr(rivals, "_WORKER", program)
    monkeypatch.setattr(rivals, "ensure_environment", lambda: sys.executable)
    started = Rival(threads=1)
    yield started
    started.close()


def test_it_computes_and_times_the_same_subject(rival: Rival) -> None:
    assert rival.versions == {"threads": "1"}
    subject = rival.load("fake_quantize", CASE)
    (theirs,) = subject.results()
    (ours,) = make_subject("fake_quantize", CASE).results()
    assert np.array_equal(ours, theirs)
    assert subject.seconds(3) > 0


def test_an_error_is_an_answer(rival: Rival) -> None:
    with pytest.raises(RivalUnavailableError, match="KeyError: 'nonsense'"):
        rival.load("nonsense", {})
    assert rival.load("fake_quantize", CASE).results()


def test_its_end_is_noticed(rival: Rival) -> None:
    rival._process.kill()
    with pytest.raises(RivalUnavailableError, match="its process ended with status -9"):
        rival.load("fake_quantize", CASE)
