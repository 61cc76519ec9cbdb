"""The sweep of exports: a row as it is measured, its table, and the table of the docs."""

from __future__ import annotations

import json
import math

import torch
from torch import nn

from benchmarks import export_sweep, render_exports


def test_a_row_is_measured_once_and_kept(monkeypatch, tmp_path, capsys):
    network = (lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU()), lambda n: (torch.randn(n, 6),))
    monkeypatch.setattr(export_sweep, "NETWORKS", {"small": network})
    output = tmp_path / "exports.json"
    arguments = ["export_sweep", "small", "--opsets", "13", "20", "--output", str(output)]
    monkeypatch.setattr("sys.argv", arguments)
    assert export_sweep.main() == 0
    rows = export_sweep.read_rows(output)
    assert [(row["network"], row["opset"]) for row in rows] == [("small", 13), ("small", 20)]
    assert all(row["equal"] == 1.0 and math.isinf(row["sqnr_db"]) for row in rows)
    before = output.read_text()
    capsys.readouterr()
    assert export_sweep.main() == 0
    assert output.read_text() == before
    assert "100.0 %" in capsys.readouterr().out


def test_a_refusal_is_a_row(monkeypatch, tmp_path):
    # Opset 13 knows no triangle.
    network = (lambda: nn.Sequential(Triangle()), lambda n: (torch.randn(n, 5, 5),))
    monkeypatch.setattr(export_sweep, "NETWORKS", {"triangle": network})
    (row,) = export_sweep.sweep(["triangle"], [13], set())
    assert row["error"].startswith("NotImplementedError: ")
    assert "Trilu" in row["error"]
    assert not export_sweep.is_good(row)


class Triangle(nn.Module):
    def forward(self, x):
        return torch.tril(x) + x


def test_the_table_of_made_up_rows():
    rows = [
        {"network": "A", "opset": 13, "equal": 1.0, "sqnr_db": "inf", "noise_db": 20.04},
        {"network": "A", "opset": 20, "equal": 0.99999, "sqnr_db": 51.0, "noise_db": 20.04},
        {"network": "B", "opset": 20, "error": "ValueError: a|b", "noise_db": 3.0},
    ]
    assert render_exports.markdown({"rows": rows}).splitlines() == [
        "| network | noise, dB | opset 13 | opset 20 |",
        "|---|---:|---:|---:|",
        "| A | 20.0 | exact | 99.9 %, 51.0 dB |",
        "| B | 3.0 | - | ValueError: a/b |",
    ]


def test_the_docs_have_the_table_of_record():
    report = json.loads(render_exports.RESULTS.read_text())
    table = render_exports.TABLE.search(render_exports.PAGE.read_text()).group()
    assert table == render_exports.markdown(report)
