"""The page of a compression: what was chosen, what it cost, and what other budgets would give."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aimet_torch.common.compression_stats import (
    CompressionStats,
    LayerStats,
    RatioSelectionStats,
)
from aimet_torch.report import pages

__all__ = ["compression_report"]


@dataclass(frozen=True)
class Point:
    """A point of a chart.

    Attributes:
        x: Share of the chart's width.
        y: Share of its height, from below.
        tip: What a reader sees who points at it.
        is_chosen: Whether it is what was taken.
    """

    x: float
    y: float
    tip: str
    is_chosen: bool = False


@dataclass(frozen=True)
class Chart:
    """Points in the order of their x.

    Attributes:
        title: Above it.
        points: What is drawn.
        low: Text at the lower end of the axis.
        high: At the upper end.
    """

    title: str
    points: list[Point]
    low: str
    high: str


@dataclass(frozen=True)
class Pair:
    """Cost of a layer before and after, as shares of the largest."""

    name: str
    before: float
    after: float
    tip: str


#: Titles by name of the scheme.
_SCHEMES = {
    "spatial": "spatial SVD",
    "weight": "weight SVD",
    "auto": "low-rank factors",
    "channel_pruning": "channel pruning",
    "tucker": "Tucker-2",
    "cp": "CP",
}


def compression_report(stats: CompressionStats, path: str | os.PathLike[str]) -> Path:
    """Write the HTML page of a compression; it needs no server and no network.

    Args:
        stats: From :class:`aimet_torch.compression.ModelCompressor`.
        path: File that is written.

    Returns:
        ``path``.
    """
    selection = stats.compression_ratio_selection_stats
    text = pages.render(
        "compression.html",
        stats=stats,
        scheme=_SCHEMES.get(stats.scheme, stats.scheme),
        selection=selection,
        totals=_totals(stats),
        pairs=_pairs(stats),
        curve=None if selection is None else _curve(selection),
        charts=[] if selection is None else _charts(selection),
    )
    return pages.write(path, text)


def _totals(stats: CompressionStats) -> list[tuple[str, float]]:
    rows = [
        ("Multiply-accumulates", stats.mac_compression_ratio),
        ("Parameters", stats.memory_compression_ratio),
    ]
    if stats.latency_ratio is not None:
        rows.append(("Measured time", stats.latency_ratio))
    return rows


def _pairs(stats: CompressionStats) -> list[Pair]:
    by_parameters = stats.metric == "memory"
    unit = "parameters" if by_parameters else "MACs"

    def costs(row: LayerStats) -> tuple[int, int]:
        return row.parameters if by_parameters else row.macs

    rows = [row for row in stats.per_layer_stats if costs(row)[0]]
    top = max((max(costs(row)) for row in rows), default=1)
    return [
        Pair(row.name, before / top, after / top, f"{row.name}: {before:,} to {after:,} {unit}")
        for row in rows
        for before, after in [costs(row)]
    ]


def _curve(selection: RatioSelectionStats) -> Chart | None:
    is_error = selection.method == "exact"
    chosen = selection.error if is_error else selection.threshold
    points = [(ratio, value) for ratio, value in selection.curve if math.isfinite(value)]
    if chosen is not None:
        points = sorted({*points, (selection.achieved, chosen)})
    what = "error added to the outputs" if is_error else "least score of a layer"
    return _chart(
        "The model",
        points,
        [f"ratio {ratio:.3f}: {what} {value:.4g}" for ratio, value in points],
        (selection.achieved, chosen),
        is_error,
    )


def _charts(selection: RatioSelectionStats) -> list[Chart]:
    is_error = selection.method == "exact"
    values = [v for row in selection.eval_scores_dictionary.values() for v in row.values()]
    charts = []
    for name, row in selection.eval_scores_dictionary.items():
        chosen = selection.chosen.get(name)
        both = [*row.items(), *([] if chosen is None else [chosen])]  # perhaps between two of them
        points = sorted({(ratio, value) for ratio, value in both if math.isfinite(value)})
        tips = [f"{name} at {ratio:g}: {value:.4g}" for ratio, value in points]
        chart = _chart(
            name if chosen is None else f"{name}: {chosen[0]:g}",
            points,
            tips,
            chosen or (None, None),
            is_error,
            values,
        )
        if chart is not None:
            charts.append(chart)
    return charts


def _chart(
    title: str,
    points: Sequence[tuple[float, float]],
    tips: Sequence[str],
    chosen: tuple[float | None, float | None],
    is_error: bool,
    scale: Sequence[float] = (),
) -> Chart | None:
    """A chart of (ratio, value), errors on a logarithmic axis; None without points."""
    finite = [value for value in scale if math.isfinite(value)] or [v for _, v in points]
    if is_error:
        finite = [value for value in finite if value > 0]
    if not points or not finite:
        return None
    low, high = min(finite), max(finite)

    def height(value: float) -> float:
        if high == low:
            return 0.5
        if is_error:
            share = math.log(max(value, low) / low) / math.log(high / low)
        else:
            share = (value - low) / (high - low)
        return min(max(share, 0.0), 1.0)

    drawn = [
        Point(ratio, height(value), tip, (ratio, value) == chosen)
        for (ratio, value), tip in zip(points, tips, strict=True)
    ]
    form = ".1e" if is_error else ".4g"
    return Chart(title, drawn, f"{low:{form}}", f"{high:{form}}")
