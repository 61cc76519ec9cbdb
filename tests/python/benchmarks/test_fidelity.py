"""The benchmark of targets beside the simulation: its rows and its table."""

from __future__ import annotations

import torch

from benchmarks import fidelity, render_fidelity
from tests.python.verification.networks import ConvNet


def test_a_row_holds_what_the_table_shows(monkeypatch):
    monkeypatch.setattr(fidelity.htp, "unavailable", lambda: "not asked for")
    torch.manual_seed(0)
    inputs = [torch.randn(1, 3, 32, 32) for _ in range(4)]
    row = fidelity.measure(fidelity.Case(ConvNet().eval(), inputs[:2], inputs[2:]), "W8A8")
    assert row["samples"] == 2
    assert "htp" not in row
    target = row["onnxruntime"]
    assert target["nodes"] == target["nodes_within"] == 7
    assert target["end to end"]["noise_db"] > 20
    report = fidelity.json_ready(
        {"rows": [{"network": "N", **row}], "calibration_size": 2, "config": "c"}
    )
    text = render_fidelity.markdown(report)
    assert "| N W8A8 | " in text
    assert text.splitlines()[2].endswith("| - |")  # no HTP here
    assert "2 inputs that did not calibrate" in text


def target(**changes):
    return {
        "nodes": 65, "nodes_within": 65, "bitwidth": 8, "least_equal": 0.97, "mean_equal": 0.99999,
        "most_steps": 1.0, "least_node_sqnr_db": 44.0, "versions": {"onnxruntime-qnn": "2.7.0"},
        "end to end": {"noise_db": 13.56, "sqnr_db": 14.99, "float_db": 14.18},
        **changes,
    }  # fmt: skip


def test_the_table_of_made_up_rows():
    exact = {"noise_db": 13.56, "sqnr_db": "inf", "float_db": 13.56}
    rows = [
        {
            "network": "A", "setting": "W8A8", "samples": 8, "htp": target(),
            "onnxruntime": target(mean_equal=1.0, most_steps=0.0, **{"end to end": exact}),
        },
        {
            "network": "A", "setting": "W8A16", "samples": 8, "onnxruntime": target(),
            "htp": target(bitwidth=16, most_steps=41.0, nodes_within=64),
        },
    ]  # fmt: skip
    text = render_fidelity.markdown({"rows": rows, "calibration_size": 32, "config": "htp_v73"})
    first, second = text.splitlines()[2:4]
    assert first == (
        "| A W8A8 | 13.6, 13.6, 14.2 | 100 % equal, no difference; equal"
        " | 99.99 % equal, ≤ 1; 15.0 dB |"
    )
    assert "≥ 44.0 dB (1 of 65 outside the limits)" in second
    assert "onnxruntime-qnn 2.7.0" in text
