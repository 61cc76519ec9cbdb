"""The benchmark of compression: rows have names, goes on where it was, counts as nobody else."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn

from aimet_torch.compression import estimate_cost
from benchmarks import compression, compression_training, fashion_mnist, render_compression
from benchmarks.compression_subjects import compressible, count_macs


def test_multiply_accumulates_are_counted_alike():
    model = fashion_mnist.resnet().eval()
    x = torch.zeros(1, 1, 28, 28)
    assert count_macs(model, (1, 1, 28, 28)) == estimate_cost(model, x).macs


def test_the_first_layer_and_depthwise_ones_stay():
    layers = compressible(fashion_mnist.separable())
    assert all(isinstance(layer, nn.Conv2d) and layer.groups == 1 for layer in layers)
    assert len(layers) == 5


def test_a_run_goes_on_where_it_was(tmp_path, monkeypatch):
    output, calls = tmp_path / "out.json", []

    def rows(rival, earlier):
        return {name: lambda name=name: calls.append(name) or {"x": 1} for name in ("a/1", "b/1")}

    monkeypatch.setattr(compression, "rows", rows)
    for names in (["a"], ["a"], []):
        monkeypatch.setattr(sys, "argv", ["x", "--output", str(output), *names])
        compression.main()
    assert calls == ["a/1", "b/1"]
    assert list(json.loads(output.read_text())["rows"]) == ["a/1", "b/1"]
    monkeypatch.setattr(sys, "argv", ["x", "--output", str(output), "--again", "b"])
    compression.main()
    assert calls == ["a/1", "b/1", "b/1"]


def test_rows_are_there_for_everything():
    names = list(compression.rows(lambda: None, {}))
    assert len(names) == len(set(names)) == 3 * 3 * 2 + 2 * 3 + 2 + 3 * 3 + 1


def test_the_rival_is_not_asked_again(monkeypatch):
    def unwanted():
        raise AssertionError

    monkeypatch.setattr(compression, "_results", lambda given: [torch.tensor([90.0, 80.0, 0.5])])
    earlier = {"rival": {"after": 1.0}, "ours": {"after": 2.0}}
    row = compression.plain("cnn", "spatial_svd", "uniform", unwanted, earlier)
    assert (row["rival"], row["ours"]["after"]) == ({"after": 1.0}, 80.0)
    assert len(row["ours_data"]) == len(compression.SEEDS)


@pytest.mark.skipif(not fashion_mnist.DATA.exists(), reason="python -m benchmarks.fashion_mnist")
def test_an_outcome_is_an_accuracy_or_what_went_wrong():
    def fails():
        raise RuntimeError("no")

    assert compression._outcome(fails) == {"error": "no"}
    found = compression._outcome(lambda: [torch.tensor([90.123, 88.0, 0.5])])
    assert found == {"before": 90.12, "after": 88.0, "mac_ratio": 0.5}


def test_the_tables_compare_with_the_loss_of_the_rival():
    ours = [{"before": 90.0, "after": a, "mac_ratio": 0.5} for a in (88.0, 89.0)]
    theirs = {"before": 90.0, "after": 84.0, "mac_ratio": 0.45}
    tuned = {
        "before": 90.0,
        "control": 91.0,
        "mac_ratio": 0.5,
        "compressed": 88.0,
        "tuned": 90.9,
        "speedup": {"1": 1.5, "16": 2.0},
    }
    rows = {
        "plain/cnn/weight_svd/greedy": {"rival": theirs, "ours_data": ours},
        "plain/cnn/weight_svd/uniform": {"rival": {"error": "no"}, "ours_data": ours[:1]},
        "tuned/cnn/0": tuned,
        "together/cnn": {
            "steps": [
                {
                    "step": step,
                    "accuracy": 90.0,
                    "macs": 1234,
                    "bytes": size,
                    "milliseconds": time,
                    "times_faster": round(2 / time, 2),
                }
                for step, size, time in (("FP32", 4000, 2.0), ("W8A8", 1000, 1.0))
            ]
        },
        "shapes/resnet18/0.5": {"asked": 0.5, "reached": 0.4991},
        "search/resnet18": {
            "ours_exact": 2.0,
            "ours_greedy": 9.0,
            "rival": 99.0,
            "times_faster": 49.5,
        },
    }
    text = render_compression.summary({"rows": rows})
    assert "| cnn | 90.00 | 91.00 | 0.50 | 88.00 | 90.90 | 1.50x, 2.00x faster |" in text
    line = "| cnn, weight SVD | 90.00 | 84.00 : 0.45 | 88.50 [88.00, 89.00] : 0.50 | 0.25 |"
    assert line in text
    assert "takes 99 s there, 9 s with the same search here and 2.0 s" in text
    page = render_compression.markdown({"rows": rows})
    assert "| cnn, weight SVD | 90.00 | error: no | 88.00 : 0.50 | - |" in page
    assert "| resnet18, reached | 0.4991 |" in page
    assert "| FP32 | 90.00 | 1,234 | 4,000 | 2.00 ms |" in page
    assert "| W8A8 | 90.00 | 1,234 | 1,000 | 1.00 ms, 2.00x faster |" in page


def test_files_are_timed_turn_by_turn():
    x = torch.randn(2, 3, 8, 8)
    files = [compression_training._plain_onnx(nn.Conv2d(3, n, 3).eval(), x) for n in (4, 8)]
    seconds = compression_training.times(files, x, rounds=3)
    assert [len(own) for own in seconds] == [3, 3]
    assert min(map(min, seconds)) > 0
    assert compression_training._ratio([2.0, 4.0, 6.0], [1.0, 2.0, 2.0]) == 2.0
