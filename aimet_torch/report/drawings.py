"""Where things lie in pictures: nodes of a graph in rows, bars of a histogram, lines of a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from aimet_torch.analysis.facts import GraphNode
from aimet_torch.analysis.histograms import TensorHistogram

__all__ = ["Box", "Drawing", "HistogramDrawing", "draw_graph", "draw_histogram"]

_WIDTH, _HEIGHT = 190, 34  # of a node
_GAP_X, _GAP_Y = 24, 22
_LONGEST_LABEL = 30
_BARS = 96
_PLOT_WIDTH, _PLOT_HEIGHT = 320.0, 90.0
#: Lines of a grid that are closer than this many pixels are drawn as a tint.
_CLOSEST_LINES = 1.5


@dataclass(frozen=True)
class Box:
    """A node in a drawing.

    Attributes:
        x: left edge.
        y: upper edge.
        label: name, shortened from its beginning.
        kind: type of the operator.
        grade: its color: ``good``, ``fair``, ``poor``, or ``none``.
        tip: what a reader sees who points at it.
        layer: name of its module, empty without one.
    """

    x: float
    y: float
    label: str
    kind: str
    grade: str
    tip: str
    layer: str = ""


@dataclass(frozen=True)
class Drawing:
    """A graph from top to bottom, in pixels.

    Attributes:
        boxes: one a node.
        paths: one an edge, as the ``d`` of an SVG path.
        width: of all.
        height: of all.
        box_width: of one node.
        box_height: of one node.
    """

    boxes: list[Box]
    paths: list[str]
    width: float
    height: float
    box_width: int = _WIDTH
    box_height: int = _HEIGHT


def draw_graph(nodes: Sequence[GraphNode], grades: Sequence[tuple[str, str]]) -> Drawing:
    """Place every node one row below the last of the nodes that it reads.

    Args:
        nodes: in execution order.
        grades: (grade, tip) of each node.
    """
    rows: list[list[int]] = []
    row_of: list[int] = []
    for index, node in enumerate(nodes):
        row = 1 + max((row_of[source] for source in node.reads), default=-1)
        row_of.append(row)
        if row == len(rows):
            rows.append([])
        rows[row].append(index)
    column: dict[int, float] = {}
    for members in rows:
        # Below the middle of what they read, in that order.
        wished = {
            i: sum(column[s] for s in nodes[i].reads) / len(nodes[i].reads) if nodes[i].reads else 0
            for i in members
        }
        first = -(len(members) - 1) / 2
        for place, i in enumerate(sorted(members, key=lambda i: wished[i])):
            column[i] = wished[i] if len(members) == 1 else first + place
    left = min(column.values(), default=0.0)
    pitch_x, pitch_y = _WIDTH + _GAP_X, _HEIGHT + _GAP_Y
    spots = [
        (_GAP_X + (column[i] - left) * pitch_x, 10 + row_of[i] * pitch_y) for i in range(len(nodes))
    ]
    boxes = [
        Box(x, y, _shortened(node.name), node.op_type, grade, tip, node.module or "")
        for node, (x, y), (grade, tip) in zip(nodes, spots, grades, strict=True)
    ]
    paths = [
        _path(spots[source], spots[i], row_of[i] - row_of[source])
        for i, node in enumerate(nodes)
        for source in node.reads
    ]
    widest = max((x for x, _ in spots), default=0.0) + _WIDTH + _GAP_X
    has_detours = any(row_of[i] - row_of[s] > 1 for i, n in enumerate(nodes) for s in n.reads)
    width = widest + (3 * _GAP_X if has_detours else 0)
    return Drawing(boxes, paths, width, 20 + len(rows) * pitch_y)


def _path(source: tuple[float, float], target: tuple[float, float], rows: int) -> str:
    x0, y0 = source[0] + _WIDTH / 2, source[1] + _HEIGHT
    x1, y1 = target[0] + _WIDTH / 2, target[1]
    if rows == 1:
        middle = (y0 + y1) / 2
        return f"M{x0:g} {y0:g}C{x0:g} {middle:g} {x1:g} {middle:g} {x1:g} {y1:g}"
    # Around the nodes between: from one right edge to the other.
    x0, y0, x1, y1 = (
        source[0] + _WIDTH,
        source[1] + _HEIGHT / 2,
        target[0] + _WIDTH,
        target[1] + _HEIGHT / 2,
    )
    out = max(x0, x1) + _GAP_X + 8 * min(rows, 6)
    return f"M{x0:g} {y0:g}C{out:g} {y0:g} {out:g} {y1:g} {x1:g} {y1:g}"


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_LABEL else "…" + name[1 - _LONGEST_LABEL :]


@dataclass(frozen=True)
class HistogramDrawing:
    """A histogram with the grid that its values are put on, in pixels.

    Attributes:
        bars: the ``d`` of an SVG path: the outline of all bars, heights on a logarithmic scale.
        grid_left: of the grid; None without one.
        grid_width: of the grid.
        step: between two lines of the grid; 0: too close to be drawn one by one.
        lower: number at the left edge.
        upper: number at the right edge.
        width: of the plot.
        height: of the plot.
    """

    bars: str
    grid_left: float | None
    grid_width: float
    step: float
    lower: float
    upper: float
    width: float = _PLOT_WIDTH
    height: float = _PLOT_HEIGHT


def draw_histogram(histogram: TensorHistogram) -> HistogramDrawing:
    """Bars over the range of the values and of the grid; heights by the logarithm of counts."""
    has_grid = histogram.grid_min is not None and histogram.grid_max is not None
    grid = (histogram.grid_min, histogram.grid_max) if has_grid else ()
    lower = min([histogram.lower, *(g for g in grid if g is not None)])
    upper = max([histogram.upper, *(g for g in grid if g is not None)])
    scale = _PLOT_WIDTH / ((upper - lower) or 1.0)
    counts = _merged(histogram.counts)
    bin_width = (histogram.upper - histogram.lower) / len(counts)
    top = math.log1p(max(counts)) or 1.0
    parts = []
    for index, count in enumerate(counts):
        x = (histogram.lower + index * bin_width - lower) * scale
        y = _PLOT_HEIGHT * (1 - math.log1p(count) / top)
        start = "M" if index == 0 else "L"
        parts.append(f"{start}{x:.1f} {y:.1f}H{x + bin_width * scale:.1f}")
    first = (histogram.lower - lower) * scale
    bars = f"M{first:.1f} {_PLOT_HEIGHT:g}L{''.join(parts)[1:]}V{_PLOT_HEIGHT:g}Z"
    if histogram.grid_min is None or histogram.grid_max is None or not histogram.steps:
        return HistogramDrawing(bars, None, 0.0, 0.0, lower, upper)
    width = (histogram.grid_max - histogram.grid_min) * scale
    step = width / histogram.steps
    return HistogramDrawing(
        bars,
        (histogram.grid_min - lower) * scale,
        width,
        step if step >= _CLOSEST_LINES else 0.0,
        lower,
        upper,
    )


def _merged(counts: Sequence[int]) -> list[int]:
    """As few bars as can be told apart."""
    per_bar = -(-len(counts) // _BARS)
    return [sum(counts[i : i + per_bar]) for i in range(0, len(counts), per_bar)]
