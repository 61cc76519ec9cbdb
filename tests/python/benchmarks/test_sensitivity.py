"""The benchmark of sensitivity: its rows, that it goes on where it stopped, its table."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks import render_sensitivity, sensitivity


def case():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    batches = [torch.randn(64, 8) for _ in range(4)]
    return sensitivity.Case(model, batches[:2], batches[:1], batches[2:])


def test_equal_values_share_a_rank():
    assert sensitivity.spearman([1.0, 2.0, 2.0, 5.0], [10.0, 20.0, 20.0, 21.0]) == pytest.approx(1)
    assert sensitivity.spearman([1.0, 2.0, 3.0], [3.0, 2.0, 1.0]) == pytest.approx(-1)


def test_a_row_and_its_table(monkeypatch):
    found: dict[str, list[float]] = {}
    kept = []
    row = sensitivity.measure(case(), found, lambda: kept.append(len(found)))
    assert row["evaluations"] == 2 * row["quantizers"] == len(found)
    assert kept == list(range(1, len(found) + 1))
    assert row["spearman"] > 0.8
    monkeypatch.setattr(sensitivity, "evaluate_settings", only_known)
    again = sensitivity.measure(case(), found, lambda: None)
    assert again["spearman"] == row["spearman"]
    assert again["seconds_evaluating"] == row["seconds_evaluating"]
    report = {"rows": [{"network": "N", **row}], "targets": {"spearman": 0.8, "time": 0.05}}
    text = render_sensitivity.markdown(report)
    assert text.splitlines()[2].startswith(f"| N | {row['evaluations']} x 128 | **")
    assert "at most 1/20 of the time" in text


def only_known(board, settings, evaluate, *, known, on_score):
    return {label: known[label] for label in settings}


def test_the_page_has_a_place_for_the_table():
    assert render_sensitivity.TABLE.search(render_sensitivity.PAGE.read_text())
