"""The benchmark of compression: rows have names, goes on where it was, counts as nobody else."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn

from aimet_torch.compression import estimate_cost
from benchmarks import compression, fashion_mnist
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
    assert len(names) == len(set(names)) == 3 * 3 * 2 + 2 * 3 + 3 * 3 + 1


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
