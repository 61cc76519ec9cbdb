"""The benchmark of accuracy: its rows, its scores, its table."""

from __future__ import annotations

import numpy as np

from benchmarks import accuracy, minilm, render_accuracy


def report(**row):
    complete = {
        "network": "N",
        "setting": "W8A8",
        "recipe": "r",
        "scores": {"agreement_percent": [90.0, 91.0], "sqnr_db": [18.0, 20.0]},
        "seconds": [4.0, 6.0],
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
    row = accuracy.Row("N", "s", "r", lambda seed: {"spearman": 0.5 + seed}, None, {"a": 1})
    found = accuracy.run(row, [0, 2], "was not asked for", None)
    assert found["scores"] == {"spearman": [0.5, 2.5]}
    assert found["rival"] == {"unavailable": "was not asked for"}
    row = accuracy.Row("N", "s", "r", lambda seed: {"x": 1.0}, largest_loss={"x": 0.25})
    assert accuracy.run(row, [0], "", {"x": 1.0})["target"] == {"x": 0.75}


def test_equal_values_share_the_mean_of_their_ranks():
    values = np.array([3.0, 1.0, 2.0, 2.0, 5.0, 2.0])
    assert minilm._ranks(values).tolist() == [5.0, 1.0, 3.0, 3.0, 6.0, 3.0]
    assert minilm._ranks(-np.arange(4.0)).tolist() == [4.0, 3.0, 2.0, 1.0]
