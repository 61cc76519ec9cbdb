"""Pages with one chart or table each: what the methods of `QuantAnalyzer` write."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aimet_torch.analysis.histograms import TensorHistogram
from aimet_torch.report import pages
from aimet_torch.report.drawings import draw_histogram

__all__ = ["write_distribution", "write_ranges", "write_values"]


def write_values(
    path: str | os.PathLike[str], title: str, lead: str, values: Mapping[str, float], unit: str
) -> Path:
    """Write one bar for each entry, from the smallest value to the largest, with a table.

    Args:
        path: of the page.
        title: heading.
        lead: what the values are.
        values: by name, in the order of the bars.
        unit: heading of the column.
    """
    finite = [value for value in values.values() if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    if low > 0 and low < high / 2:
        low = 0.0  # bars begin at zero unless that would make them all alike
    width = (high - low) or 1.0
    bars = []
    for name, value in values.items():
        height = (value - low) / width if math.isfinite(value) else 0.0
        bars.append(pages.Bar(name, min(max(height, 0.01), 1.0), "good", f"{name}: {value:.6g}"))
    marks = [(x / 4, f"{low + width * x / 4:.3g}") for x in range(5)]
    rows = [(name, [value]) for name, value in values.items()]
    return _write(path, title, lead, bars=bars, marks=marks, headings=["name", unit], rows=rows)


def write_ranges(
    path: str | os.PathLike[str], title: str, ranges: Mapping[str, tuple[float, float]]
) -> Path:
    """Write the limits of several grids: a bar as high as each range is wide, with a table."""
    widths = {name: high - low for name, (low, high) in ranges.items()}
    top = max(widths.values(), default=1.0) or 1.0
    bars = [
        pages.Bar(
            name,
            max(widths[name] / top, 0.01),
            "good",
            f"{name}: {low:.6g} to {high:.6g}",
        )
        for name, (low, high) in ranges.items()
    ]
    marks = [(x / 4, f"{top * x / 4:.3g}") for x in range(5)]
    rows = [(name, [low, high, high - low]) for name, (low, high) in ranges.items()]
    return _write(
        path,
        title,
        "Real limits of the grids; a bar is as high as the range is wide.",
        bars=bars,
        marks=marks,
        headings=["name", "min", "max", "width"],
        rows=rows,
    )


def write_distribution(path: str | os.PathLike[str], title: str, found: TensorHistogram) -> Path:
    """Write one histogram with its grid."""
    lead = f"{sum(found.counts)} values between {found.lower:.5g} and {found.upper:.5g}."
    if found.grid_min is not None and found.grid_max is not None:
        lead += f" The grid: {found.grid_min:.5g} to {found.grid_max:.5g}, {found.steps} steps."
    return _write(path, title, lead, plot=draw_histogram(found))


def _write(path: str | os.PathLike[str], title: str, lead: str, **parts: Any) -> Path:
    empty: dict[str, Any] = {"bars": [], "marks": [], "plot": None, "headings": [], "rows": []}
    text = pages.render("chart.html", title=title, lead=lead, **{**empty, **parts})
    return pages.write(path, text)
