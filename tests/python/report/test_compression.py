"""The page of a compression."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from aimet_torch.common.compression_stats import (
    CompressionStats,
    LayerStats,
    RatioSelectionStats,
)
from aimet_torch.common.defs import CompressionScheme, CostMetric, GreedySelectionParameters
from aimet_torch.compress import ModelCompressor
from aimet_torch.defs import SpatialSvdParameters
from aimet_torch.report.compression import compression_report


def stats(method="greedy", scores=None, chosen=(0.5, 80.0)):
    selection = RatioSelectionStats(
        method,
        0.5,
        0.49,
        {"a": scores or {0.25: 60.0, 0.5: 80.0}, "b<1>": {0.5: 70.0}},
        threshold=80.0 if method == "greedy" else None,
        error=80.0 if method == "exact" else None,
        curve=[(0.4, 60.0), (0.49, 80.0), (1.0, 0.0)],
        chosen={"a": chosen},
    )
    rows = [
        LayerStats("a", 0.5, 0.48, (1000, 480), (100, 48), "spatial, rank 3 of 9"),
        LayerStats("b<1>", None, None, (500, 500), (50, 50), "", "it has hooks"),
    ]
    return CompressionStats(90.0, 88.5, 0.6, 0.5, rows, selection, "spatial", "mac", 0.7)


@pytest.mark.parametrize("method", ["greedy", "exact"])
def test_the_page_shows_everything_and_needs_nothing(tmp_path, method):
    text = compression_report(stats(method), tmp_path / "deep" / "page.html").read_text()
    assert not re.search(r"(src|href)=|url\(|@import", text)
    assert "Score 90 before, 88.5 after." in text
    assert text.count("<polyline") == 3  # the model and two layers
    assert text.count('class="taken"') == 2  # of the model, of layer a
    assert "a: 1,000 to 480 MACs" in text
    assert "b&lt;1&gt;" in text
    assert "b<1>" not in text
    assert "it has hooks" in text
    assert "Measured time" in text


def test_a_ratio_between_two_that_were_tried_is_drawn(tmp_path):
    text = compression_report(stats(chosen=(0.4, 72.0)), tmp_path / "page.html").read_text()
    assert text.count('class="taken"') == 2
    assert "a at 0.4: 72" in text


def test_scores_without_numbers_are_left_out(tmp_path):
    text = compression_report(
        stats(scores={0.25: math.nan, 0.5: 80.0}), tmp_path / "page.html"
    ).read_text()
    assert "nan" not in text.split("<script>")[0].lower()


def test_given_ratios_have_no_curves(tmp_path):
    plain = CompressionStats(1.0, 1.0, 0.6, 0.5, [], None, "spatial", "memory")
    text = compression_report(plain, tmp_path / "page.html").read_text()
    assert "<polyline" not in text


def test_compress_model_writes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), torch.nn.Conv2d(8, 8, 3)).eval()
    kind = SpatialSvdParameters
    selection = GreedySelectionParameters(0.7, 4)

    def run(url):
        ModelCompressor.compress_model(
            model, lambda m, *_: float(m(torch.ones(1, 4, 9, 9)).detach().sum()), None,
            (1, 4, 9, 9), CompressionScheme.spatial_svd, CostMetric.mac,
            kind(kind.Mode.auto, kind.AutoModeParams(selection)), None, url,
        )  # fmt: skip

    run(None)
    assert not list(tmp_path.iterdir())
    run(tmp_path / "my.html")
    run(str(tmp_path / "folder"))
    with pytest.warns(UserWarning, match="no server is needed; the page is written to compression"):
        run("http://localhost:6006/")
    written = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.html"))
    assert written == ["compression.html", "folder/compression.html", "my.html"]
    assert "<polyline" in Path("my.html").read_text()
