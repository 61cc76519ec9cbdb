"""The benchmark of mixed precision: the search's document, and that both choices cost the same."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import mixed_precision, render_mixed_precision
from benchmarks import mixed_precision_subjects as subjects

ROW = {
    "network": "cnn",
    "seed": 0,
    "drop": 1.0,
    "fp32": 91.0,
    "exact": {"accuracy": 90.5, "bit_ops": 0.5, "bytes": 0.5, "evaluations": 0, "cpu_seconds": 1.0},
}


def test_documents_travel_as_bytes() -> None:
    document = {"bits": {"conv": 8}, "evaluations": 3}
    data = torch.tensor(list(json.dumps(document).encode()), dtype=torch.uint8)
    assert mixed_precision.document_of(data.double()) == document  # the rival's arrive as floats


def test_callbacks_count() -> None:
    counted = subjects.Counted(lambda model: 1.0)
    assert [counted(None), counted(None, None)] == [1.0, 1.0]
    assert counted.calls == 2


def test_the_table_has_a_line_for_each_row() -> None:
    row = {**ROW, "greedy": ROW["exact"], "exact_for_drop": ROW["exact"]}
    text = mixed_precision.table([row, {**row, "rival": ROW["exact"]}])
    assert text.count("cnn 1/0") == 2
    assert text.count("90.50") == 3 + 4


def test_the_summary_says_how_often_the_exact_choice_is_as_good() -> None:
    rival = {**ROW["exact"], "accuracy": 90.0, "evaluations": 49, "cpu_seconds": 10.0}
    better = {**ROW, "rival": rival}
    worse = {**better, "drop": 2.0, "rival": {**rival, "accuracy": 91.0}}
    text = render_mixed_precision.markdown({"rows": [better, worse]})
    assert "| cnn | 1 | 90.00 | 90.50 | 50.0 : 50.0 % |" in text
    assert "1 of 2" in text


def test_mobilenet_has_a_table_of_its_own() -> None:
    found = {**ROW["exact"], "agreement": 83.3, "sqnr_db": 14.9}
    row = {"drop_db": 16.0, "search": {**found, "evaluations": 170}, "exact": found}
    text = render_mixed_precision.markdown({"rows": [], "mobilenet_v2": [row]})
    assert "| 14 dB wanted: agreement with FP32, SQNR | 83.3 %, 14.9 dB |" in text
    assert "| 170 : 0 |" in text


@pytest.mark.parametrize("network", mixed_precision.NETWORKS)
def test_names_are_those_of_both_libraries(network: str) -> None:
    # A functional operation would have a name of its own in each.
    from benchmarks import fashion_mnist

    model = fashion_mnist.NETWORKS[network][0]()
    assert all("." not in name for name, _ in model.named_children())
