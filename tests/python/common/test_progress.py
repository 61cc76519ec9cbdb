"""Progress bars: they pass items on, and say something only when asked to."""

from __future__ import annotations

import itertools
import sys

import pytest

from aimet_torch.common.progress import progress


@pytest.fixture
def without_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)


@pytest.mark.parametrize("items", [range(5), list("abc"), iter("abc"), []])
def test_items_pass_through(items):
    expected = list("abc") if not hasattr(items, "__len__") else list(items)
    assert list(progress(items, "work")) == expected


def test_off_by_environment(monkeypatch, capsys, without_tqdm):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("AIMET_PROGRESS", "0")
    assert list(progress(range(20), "work")) == list(range(20))
    assert capsys.readouterr().err == ""


def test_plain_lines_for_a_terminal(monkeypatch, capsys, without_tqdm):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(progress(range(20), "work", unit="batch")) == list(range(20))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("work: 2/20 batch")
    assert lines[-1].startswith("work: 20/20 batch")


def test_silent_for_a_file(capsys):
    assert list(progress(range(20), "work")) == list(range(20))
    assert capsys.readouterr().err == ""


def test_bar_of_tqdm_for_a_terminal(monkeypatch, capsys):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress(range(3), "work")) == [0, 1, 2]
    assert "work" in capsys.readouterr().err


def test_endless_items(monkeypatch, without_tqdm):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    items = progress(itertools.count(), "work")
    assert list(itertools.islice(items, 3)) == [0, 1, 2]
