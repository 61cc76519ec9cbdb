"""Benchmarks of pruning and low-rank factors: what they write has the machine and the settings."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import fashion_mnist, low_rank, pruning


@pytest.mark.parametrize(("module", "count"), [(pruning, 1), (low_rank, 2)])
def test_rows_are_written_with_what_they_depend_on(tmp_path, monkeypatch, module, count):
    output = tmp_path / "out.json"
    monkeypatch.setattr(module, "measure", lambda *name: {"network": name[0]})
    monkeypatch.setattr(module, "table", lambda rows: f"{len(rows)} rows")
    monkeypatch.setattr(sys, "argv", ["x", "--output", str(output)])
    module.main()
    document = json.loads(output.read_text())
    assert (document["images"], document["seeds"]) == (module.IMAGES, list(module.SEEDS))
    assert document["environment"]["torch"]
    assert len(document["rows"]) == count * len(fashion_mnist.NETWORKS)
