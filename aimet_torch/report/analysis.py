"""The page of an analysis: graph, bars, histograms, advice."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aimet_torch.analysis.advice import TensorFacts
from aimet_torch.analysis.layers import LayerAgreement
from aimet_torch.analysis.run import Analysis
from aimet_torch.report import pages
from aimet_torch.report.document import environment
from aimet_torch.report.drawings import Drawing, HistogramDrawing, draw_graph, draw_histogram

__all__ = ["write_analysis_page"]


@dataclass(frozen=True)
class _TensorView:
    facts: TensorFacts
    losses: list[float | None]
    drawing: HistogramDrawing | None


def write_analysis_page(analysis: Analysis, path: str | os.PathLike[str]) -> Path:
    """Write an analysis as one self-contained HTML page and return its path."""
    return pages.write(path, analysis_page(analysis))


def analysis_page(analysis: Analysis) -> str:
    """The page as text."""
    top = _top([row.sqnr_db for row in analysis.layers])
    tensors = _tensors(analysis)
    shares = _loss_by_layer(analysis)
    return pages.render(
        "analysis.html",
        analysis=analysis,
        bitwidths=analysis.sensitivity.bitwidths,
        drawing=_graph(analysis),
        sqnr_bars=[_sqnr_bar(row, top) for row in analysis.layers],
        sqnr_marks=[(db / top, str(db)) for db in range(0, top + 1, 10)],
        loss_bars=_loss_bars(shares),
        loss_marks=[(x / 4, f"{25 * x * max(shares.values(), default=1):.0f} %") for x in range(5)],
        enabled=_score_bars(analysis.enabled),
        disabled=_score_bars(analysis.disabled),
        score_marks=[(0.0, ""), (1.0, "")],
        tensors=tensors,
        environment={**analysis.settings, **environment()},
    )


def grade_of(sqnr_db: float | None) -> str:
    """Color of a ratio: below 10 dB a tenth of the power is noise, 20 dB are a hundredth."""
    if sqnr_db is None:
        return "none"
    return "good" if sqnr_db >= 20 else "fair" if sqnr_db >= 10 else "poor"


def _top(values: list[float]) -> int:
    finite = [value for value in values if math.isfinite(value)]
    return math.ceil(max([10.0, *finite]) / 10) * 10


def _sqnr_bar(row: LayerAgreement, top: int) -> pages.Bar:
    # A sliver stays visible, so that a layer with nothing but noise can be pointed at.
    height = 0.01 if math.isnan(row.sqnr_db) else min(max(row.sqnr_db / top, 0.01), 1.0)
    tip = f"{row.name} ({row.layer_type}): {pages.format_db(row.sqnr_db)}, MSE {row.mse:.3g}"
    return pages.Bar(row.name, height, grade_of(row.sqnr_db), tip)


def _graph(analysis: Analysis) -> Drawing:
    found = {row.name: row for row in analysis.layers}
    grades = []
    for node in analysis.nodes:
        call = f"{node.module}#{node.call}" if node.call else str(node.module)
        row = found.get(call)
        sqnr = row.sqnr_db if row is not None else None
        grades.append((grade_of(sqnr), f"{node.name} ({node.op_type}): {pages.format_db(sqnr)}"))
    return draw_graph(analysis.nodes, grades)


def _loss_by_layer(analysis: Analysis) -> dict[str, float]:
    """Share of the expected loss by layer, in the order of execution."""
    shares: dict[str, float] = {}
    for node in analysis.nodes:
        if node.module is not None:
            shares[node.module] = 0.0
    for tensor in analysis.tensors:
        shares[tensor.layer] = shares.get(tensor.layer, 0.0) + tensor.share
    used = {tensor.layer for tensor in analysis.tensors}
    return {layer: share for layer, share in shares.items() if layer in used}


def _loss_bars(shares: Mapping[str, float]) -> list[pages.Bar]:
    top = max(shares.values(), default=0.0) or 1.0
    mean = sum(shares.values()) / max(len(shares), 1)
    return [
        pages.Bar(
            layer,
            max(share / top, 0.003),
            "poor" if share > 4 * mean else "fair" if share > 2 * mean else "good",
            f"{layer}: {100 * share:.2f} % of the expected loss",
        )
        for layer, share in shares.items()
    ]


def _score_bars(scores: Mapping[str, float]) -> list[pages.Bar]:
    if not scores:
        return []
    low, high = min(scores.values()), max(scores.values())
    width = (high - low) or 1.0
    bars = []
    for layer, score in scores.items():
        height = (score - low) / width
        grade = "good" if height >= 2 / 3 else "fair" if height >= 1 / 3 else "poor"
        bars.append(pages.Bar(layer, max(height, 0.01), grade, f"{layer}: {score:.6g}"))
    return bars


def _tensors(analysis: Analysis) -> list[_TensorView]:
    losses = {(row.name, row.bitwidth): row.loss for row in analysis.sensitivity}
    drawings = {h.name: draw_histogram(h) for h in analysis.histograms}
    ordered = sorted(analysis.tensors, key=lambda t: t.share, reverse=True)
    return [
        _TensorView(
            tensor,
            [losses.get((tensor.quantizer, bits)) for bits in analysis.sensitivity.bitwidths],
            drawings.get(tensor.quantizer),
        )
        for tensor in ordered
    ]
