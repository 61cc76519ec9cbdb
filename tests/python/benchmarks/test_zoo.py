"""The model zoo: scripts have rows, the check finds what is worse, the tables are current."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from aimet_torch.common.defs import CompressionScheme
from aimet_torch.report.metrics import sqnr_db
from benchmarks import export_sweep, fashion_mnist, render_zoo
from benchmarks.render import README
from tests.python.vision import torchvision
from zoo import common, torchvision_graphs
from zoo.__main__ import SCRIPTS, all_entries

ENTRIES = {entry.name: entry for entry in all_entries()}
#: What is beside the scripts.
SHARED = {"__init__", "__main__", "common", "fashion_mnist"}
#: The one that is measured anew by every run of the tests.
QUICK = "squeezenet1_1"

pytestmark = pytest.mark.usefixtures("one_thread")


def committed() -> dict[str, common.Row]:
    return common.read(common.RESULTS)


# ------------------------------------------------------------------------- what there is


def test_every_script_has_entries_and_every_entry_a_row():
    folder = Path(common.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} == {*SCRIPTS, *SHARED}
    assert len(ENTRIES) == len(all_entries())  # no name twice
    assert set(committed()) == set(ENTRIES)
    for name, row in committed().items():
        entry = ENTRIES[name]
        kept = {key: row[key] for key in ("network", "unit", "data", "tolerance", "scheme")}
        assert kept == {
            "network": entry.title,
            "unit": entry.unit,
            "data": entry.data,
            "tolerance": entry.tolerance,
            "scheme": entry.scheme.name,
        }
        assert row["macs"] <= entry.ratio
        assert common.problems(row, row) == []


def test_the_networks_that_the_zoo_is_for_are_in_it():
    wanted = {"mobilenet_v2", "minilm", *export_sweep.ARCHITECTURES}
    assert set(ENTRIES) == wanted | {f"fashion_mnist_{name}" for name in fashion_mnist.NETWORKS}


def test_tables_are_those_of_the_committed_rows():
    report = json.loads(render_zoo.RESULTS.read_text())
    page = render_zoo.PAGE.read_text()
    assert render_zoo.TABLE.findall(README.read_text()) == [render_zoo.summary(report)]
    assert render_zoo.TABLE.findall(page) == [render_zoo.markdown(report)]
    assert render_zoo.GRAPHS.findall(page) == [render_zoo.graphs(report)]
    assert all(f"| {entry.title} |" in page for entry in ENTRIES.values())


# ------------------------------------------------------------------------------ the check


ROW = {
    "network": "N",
    "unit": "% top-1",
    "tolerance": 0.5,
    "fp32": 90.0,
    "w8a8": 89.5,
    "w4a8": 88.0,
    "compressed": 87.0,
    "compressed_w8a8": 86.5,
    "macs": 0.5,
}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"w4a8": 87.5}, None),  # as much as is allowed
        ({"w4a8": 87.4}, "w4a8 is 87.4 % top-1, committed are 88.0"),
        ({"compressed": 95.0}, None),
        ({"fp32": 90.9, "w8a8": 90.4, "w4a8": 88.9, "compressed": 87.9}, "compressed_w8a8 is 86.5"),
        ({"fp32": 88.9}, "fp32 is 88.9"),
        ({"fp32": 91.1, "w8a8": 99, "w4a8": 99, "compressed": 99, "compressed_w8a8": 99}, "fp32"),
        ({"w8a8": math.nan}, "w8a8 is nan"),
        ({"macs": 0.54}, "leaves 0.54 of the multiply-accumulates"),
        ({"onnx_sqnr_db": 35.0, "onnx_noise_db": 30.0}, None),
        ({"onnx_sqnr_db": "inf", "onnx_noise_db": 30.0}, None),
        ({"onnx_sqnr_db": 32.0, "onnx_noise_db": 30.0}, "ONNX Runtime agrees"),
    ],
)
def test_what_is_worse_than_the_committed_row_is_found(change, found):
    problems = common.problems({**ROW, **change}, ROW)
    assert len(problems) == (found is not None)
    assert found is None or found in problems[0]


def test_decibels_are_compared_as_they_are():
    then = {**ROW, "unit": "dB", "fp32": "inf", "tolerance": 2.0}
    assert common.problems({**then, "w8a8": 87.6}, then) == []
    assert "w8a8 is 87.4 dB" in common.problems({**then, "w8a8": 87.4}, then)[0]
    assert "fp32" in common.problems({**then, "fp32": 50.0}, then)[0]


def test_a_run_goes_on_where_it_was_and_fails_where_a_row_is_worse(tmp_path, monkeypatch, capsys):
    calls = []

    def measure(entry):
        calls.append(entry.name)
        return {**ROW, "network": entry.name, "w8a8": 80.0 if entry.name == "b" else 89.5}

    entries = [dataclasses.replace(ENTRIES["minilm"], name=name) for name in "ab"]
    results, output = tmp_path / "committed.json", tmp_path / "new.json"
    results.write_text(json.dumps({"rows": {"a": ROW, "b": ROW}}))
    monkeypatch.setattr(common, "measure", measure)
    monkeypatch.setattr(common, "RESULTS", results)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["zoo", "--output", str(output), *arguments])
        return common.run(entries)

    assert run("a") == 0
    assert run() == 1
    assert calls == ["a", "b"]
    assert run("--again", "a") == 0
    assert calls == ["a", "b", "a"]
    assert list(json.loads(output.read_text())["rows"]) == ["a", "b"]
    assert "b: w8a8 is 80.0 % top-1, committed are 89.5" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run("c")
    assert "no such rows: c; there are a, b" in capsys.readouterr().err


# ---------------------------------------------------------------------------- for real


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 3), nn.BatchNorm2d(24), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("scheme", common.SCHEMES)
def test_a_small_network_is_measured(scheme):
    x = torch.randn(32, 3, 10, 10, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        reference = network()(x)
    entry = common.Entry(
        name="small",
        title="small",
        load=network,
        batches=lambda: list(x.split(8)),
        score=lambda model: sqnr_db(reference, model(x)),
        unit="dB",
        data="noise",
        tolerance=1.0,
        scheme=scheme,
        ratio=0.7,
        exports=scheme is CompressionScheme.channel_pruning,
    )
    row = common.measure(entry)
    assert math.isinf(row["fp32"])
    assert row["w8a8"] > row["w4a8"] + 6
    assert 5 < row["compressed_w8a8"] <= row["compressed"] + 1
    assert 0.2 < row["macs"] <= 0.7
    assert ("onnx_sqnr_db" in row) == entry.exports
    assert common.problems(row, row) == []


def test_a_committed_row_holds():
    torchvision()
    entry = next(entry for entry in torchvision_graphs.ENTRIES if entry.name == QUICK)
    assert common.problems(common.measure(entry), committed()[QUICK]) == []
