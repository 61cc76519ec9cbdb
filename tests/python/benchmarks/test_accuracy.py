"""The benchmark of accuracy: its rows, its scores, its table."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import accuracy, minilm, render_accuracy


def report(**row):
    complete = {
        "network": "N",
        "setting": "W8A8",
        "recipe": "r",
        "scores": {"agreement_percent": [90.0, 91.0], "sqnr_db": [18.0, 20.0]},
        "seconds": [9.0, 9.0],
        "cpu_seconds": [4.0, 6.0],
        "is_effect": False,
        **row,
    }
    return {
        "seeds": [0, 1],
        "photographs": 286,
        "calibration_size": 64,
        "words": 256,
        "rows": [complete],
    }


def test_the_table_shows_means_range_and_targets():
    text = render_accuracy.markdown(report(target={"agreement_percent": 90.0}))
    assert "| r | 90.5 % [90.0, 91.0], 19.0 dB | - | 5 s |" in text
    assert "64 photographs" in text
    missed = render_accuracy.markdown(report(target={"sqnr_db": 19.5}))
    assert "19.0 dB (target missed) |" in missed
    rival = {"scores": {"agreement_percent": [70.0, 70.0], "sqnr_db": [9.0, 9.0]}}
    assert "| 70.0 %, 9.0 dB | 5 s |" in render_accuracy.markdown(report(rival=rival))
    absent = render_accuracy.markdown(report(rival={"unavailable": "no network"}))
    assert "| not measured | 5 s |" in absent
    words = render_accuracy.markdown(report(scores={"spearman": [0.7212, 0.7212]}))
    assert "| r | 0.721 | - | 5 s |" in words


def test_a_row_runs_for_every_seed_and_loses_against_fp32():
    job = accuracy.Job("quantized_logits", {}, lambda result, seed: {})
    row = accuracy.Row("N", "s", "r", lambda seed: {"spearman": 0.5 + seed}, rival=job)
    found = accuracy.run(row, [0, 2], "was not asked for", None)
    assert found["scores"] == {"spearman": [0.5, 2.5]}
    assert found["rival"] == {"unavailable": "was not asked for"}
    row = accuracy.Row("N", "s", "r", lambda seed: {"x": 1.0}, largest_loss={"x": 0.25})
    assert accuracy.run(row, [0], "", {"x": 1.0})["target"] == {"x": 0.75}


def test_effects_are_differences_from_the_first_row_of_a_setting():
    whole = report(is_effect=True)
    changed = report(is_effect=True, recipe="less")["rows"][0]
    changed["scores"] = {"agreement_percent": [80.0, 81.0], "sqnr_db": [20.0, 22.0]}
    whole["rows"].append(changed)
    lines = render_accuracy.effects(whole).splitlines()
    assert lines[2:] == [
        "| **N, W8A8** | | | |",
        "| r | 90.5 % | 19.0 dB | 5 s |",
        "| less | 80.5 % (-10.0) | 21.0 dB (+2.0) | 5 s |",
    ]
    assert "less" not in render_accuracy.markdown(whole)


def test_named_rows_are_measured_anew_and_the_others_stay(tmp_path, monkeypatch):
    values = iter([1.0, 2.0, 3.0, 4.0])
    rows = [
        accuracy.Row("N", setting, "r", lambda seed: {"spearman": next(values)})
        for setting in ("FP32", "W8A8")
    ]
    monkeypatch.setattr(accuracy, "all_rows", lambda: rows)
    monkeypatch.setattr(accuracy.assets, "load_photographs", lambda: [])
    path = tmp_path / "accuracy.json"

    def measure(*arguments):
        monkeypatch.setattr("sys.argv", ["accuracy", "--output", str(path), *arguments])
        accuracy.main()
        return [row["scores"]["spearman"] for row in json.loads(path.read_text())["rows"]]

    assert measure("--seeds", "1") == [[1.0], [2.0]]
    assert measure("--seeds", "1", "FP32") == [[3.0], [2.0]]
    assert measure("--seeds", "1", "--missing") == [[3.0], [2.0]]
    with pytest.raises(SystemExit, match="rows with seeds"):
        measure("--seeds", "2", "W8A8")


def test_equal_values_share_the_mean_of_their_ranks():
    values = np.array([3.0, 1.0, 2.0, 2.0, 5.0, 2.0])
    assert minilm._ranks(values).tolist() == [5.0, 1.0, 3.0, 3.0, 6.0, 3.0]
    assert minilm._ranks(-np.arange(4.0)).tolist() == [4.0, 3.0, 2.0, 1.0]
