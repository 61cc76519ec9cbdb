"""Charts as SVG text: the same bytes for the same numbers, legible in light and in dark pages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

WIDTH = 760
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 20, 44, 46
_COLORS = ("#3564d8", "#d1495b", "#1a9c6b", "#d99a16", "#7a5ccc")
_STYLE = """
svg { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; background: #fff; }
text { fill: #475467; } .title { fill: #1b1f27; font-size: 15px; font-weight: 600; }
.grid { stroke: #e4e7ec; } .axis { stroke: #98a2b3; } .in { fill: #fff; }
.back { fill: #fff; } .mark { stroke: #1b1f27; stroke-dasharray: 4 3; }
@media (prefers-color-scheme: dark) {
  svg, .back { background: #1a1f28; fill: #1a1f28; } text { fill: #98a2b3; }
  .title { fill: #e8ebf1; } .grid { stroke: #2c3340; } .mark { stroke: #e8ebf1; }
  .in { fill: #fff; } }
"""


def document(height: float, body: Iterable[str], title: str) -> str:
    """Return a whole SVG file."""
    rules = " ".join(_STYLE.split("\n")).strip()
    colors = " ".join(f".c{i} {{ --c: {color}; }}" for i, color in enumerate(_COLORS))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}"'
        f' role="img" aria-label="{escape(title)}">',
        f"<style>{rules} {colors} .f {{ fill: var(--c); }}"
        " .s { stroke: var(--c); fill: none; stroke-width: 2; }</style>",
        f'<rect class="back" width="{WIDTH}" height="{height:g}" rx="8"/>',
        f'<text class="title" x="16" y="25">{escape(title)}</text>',
        *body,
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _n(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def _text(x: float, y: float, text: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}"{more}>{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    points = f'x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}"'
    return f'<line class="{kind}" {points}/>'


def _rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    size = f'width="{_n(max(width, 0.5))}" height="{_n(max(height, 0.5))}"'
    return f'<rect class="{kind}" x="{_n(x)}" y="{_n(y)}" {size}/>'


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from ``low`` to ``high``, about ``count`` of them."""
    step = 10 ** math.floor(math.log10((high - low) / count))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= count + 1)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


class Axis:
    """A scale from numbers to places, linear or logarithmic."""

    def __init__(
        self, low: float, high: float, start: float, end: float, *, is_log: bool = False
    ) -> None:
        self.low, self.high, self.start, self.end = low, high, start, end
        self.is_log = is_log

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        a, b, x = self.low, self.high, value
        if self.is_log:
            a, b, x = math.log10(a), math.log10(b), math.log10(x)
        return self.start + (x - a) / (b - a) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Values with their labels."""
        if self.is_log:
            exponents = range(
                math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1
            )
            step = max(1, len(exponents) // 6)
            return [(10.0**e, f"{10.0**e:g}") for e in exponents if e % step == 0]
        return [
            (value, f"{value:g}") for value in (round(v, 10) for v in ticks(self.low, self.high))
        ]


def _frame(x: Axis, y: Axis, x_label: str, y_label: str) -> list[str]:
    parts = []
    for value, label in y.ticks():
        parts.append(_line(x.start, y(value), x.end, y(value), "grid"))
        parts.append(_text(x.start - 8, y(value) + 4, label, "end"))
    for value, label in x.ticks():
        parts.append(_text(x(value), y.start + 18, label, "middle"))
    parts.append(_line(x.start, y.start, x.end, y.start, "axis"))
    parts.append(_text((x.start + x.end) / 2, y.start + 37, x_label, "middle"))
    return [*parts, _text(x.start - 48, y.end - 17, y_label)]


def bars(
    title: str,
    groups: Mapping[str, Mapping[str, float]],
    unit: str,
    limits: tuple[float, float],
    mark: tuple[str, float] | None = None,
) -> str:
    """Horizontal bars: for each group one bar a series.

    Args:
        title: what is shown.
        groups: value by series, by group; series keep their color in all groups.
        unit: behind the values.
        limits: of the axis.
        mark: a vertical line and its label.
    """
    series = list(dict.fromkeys(name for values in groups.values() for name in values))
    left = 26 + 7.0 * max(len(group) for group in groups)
    x = Axis(*limits, min(left, 0.48 * WIDTH), WIDTH - 90)
    key = 22 * len(series) if len(series) > 1 else 0
    top, y = _TOP + key, float(_TOP + key)
    parts = []
    for i, name in enumerate(series if key else ()):
        parts.append(f'<g class="c{i}">{_rect(16, 36 + 22 * i, 12, 12, "f")}</g>')
        parts.append(_text(34, 47 + 22 * i, name))
    for group, values in groups.items():
        height = 17 * len(values)
        parts.append(_text(x.start - 10, y + height / 2 + 5, group, "end"))
        for name, value in values.items():
            width = x(min(max(value, x.low), x.high)) - x.start
            bar = _rect(x.start, y + 1, width, 15, "f")
            parts.append(f'<g class="c{series.index(name)}">{bar}</g>')
            number = f"{value:.3g}"
            if value < 100 <= float(number):
                number = "> 99.9"  # not all
            label = f"{number}{unit}"
            if width > 60:
                parts.append(_text(x.start + width - 6, y + 13, label, "end", ' class="in"'))
            else:
                parts.append(_text(x.start + max(width, 0) + 6, y + 13, label))
            y += 17
        y += 9
    parts.append(_line(x.start, top - 2, x.start, y - 4, "axis"))
    parts.append(_line(x.start, y - 4, x.end, y - 4, "axis"))
    parts += [_text(x(v), y + 12, f"{v:g}{unit}", "middle") for v in limits]
    if mark:
        place = x(mark[1])
        parts += [
            _line(place, top - 4, place, y - 4, "mark"),
            _text(place, y + 28, mark[0], "middle"),
        ]
        y += 16
    return document(y + 22, parts, title)


def lines(
    title: str,
    curves: Mapping[str, Sequence[Sequence[float]]],
    labels: tuple[str, str],
    *,
    limits: tuple[float, float] | None = None,
    mark: tuple[str, float] | None = None,
    points: Mapping[str, tuple[float, float]] | None = None,
) -> str:
    """Curves with dots on them.

    Args:
        title: what is shown.
        curves: pairs (x, y) by name.
        labels: of the two axes.
        limits: of the vertical axis; those of the values by default.
        mark: a horizontal line and its label.
        points: single points with a name of their own.
    """
    height = 350
    xs = [point[0] for curve in curves.values() for point in curve]
    ys = [point[1] for curve in curves.values() for point in curve]
    y_limits = limits or (min(ys), max(ys))
    top = _TOP + 30
    key = 19 * len(curves) if len(curves) > 1 else 0
    x = Axis(min(xs), max(xs), _LEFT, WIDTH - _RIGHT)
    y = Axis(*y_limits, height + key - _BOTTOM, top + key)
    parts = _frame(x, y, *labels)
    if key:
        for i, name in enumerate(curves):
            parts.append(f'<g class="c{i}">{_rect(16, 38 + 19 * i, 12, 12, "f")}</g>')
            parts.append(_text(34, 49 + 19 * i, name))
    if mark:
        parts.append(_line(x.start, y(mark[1]), x.end, y(mark[1]), "mark"))
        parts.append(_text(x.end, y(mark[1]) - 6, mark[0], "end"))
    for i, curve in enumerate(curves.values()):
        places = [(x(a), y(min(max(b, y_limits[0]), y_limits[1]))) for a, b in curve]
        path = " ".join(f"{_n(a)},{_n(b)}" for a, b in places)
        dots = "".join(f'<circle class="f" cx="{_n(a)}" cy="{_n(b)}" r="3"/>' for a, b in places)
        parts.append(f'<g class="c{i}"><polyline class="s" points="{path}"/>{dots}</g>')
    for i, (name, (a, b)) in enumerate((points or {}).items(), 1):
        dot = f'<circle class="f" cx="{_n(x(a))}" cy="{_n(y(b))}" r="6"/>'
        parts.append(f'<g class="c{i}">{dot}</g>')
        anchor = "end" if a > 0.8 * x.high else "middle"
        parts.append(_text(x(a), y(b) - 14 - 18 * (i % 2), name, anchor))
    return document(height + key, parts, title)


def scatter(
    title: str, points: Mapping[str, Sequence[Sequence[float]]], labels: tuple[str, str]
) -> str:
    """Dots on two logarithmic axes, with the line where both are equal."""
    height = 420
    values = [v for pairs in points.values() for pair in pairs for v in pair]
    low = 10 ** math.floor(math.log10(min(values)))
    high = 10 ** math.ceil(math.log10(max(values)))
    x = Axis(low, high, _LEFT + 16, WIDTH - _RIGHT, is_log=True)
    y = Axis(low, high, height - _BOTTOM, _TOP + 30, is_log=True)
    parts = _frame(x, y, *labels)
    parts.append(_line(x(low), y(low), x(high), y(high), "mark"))
    for i, (name, pairs) in enumerate(points.items()):
        dots = "".join(
            f'<circle class="f" fill-opacity=".7" cx="{_n(x(a))}" cy="{_n(y(b))}" r="4"/>'
            for a, b in pairs
        )
        parts.append(f'<g class="c{i}">{dots}{_rect(WIDTH - 34, 330 + 19 * i, 10, 10, "f")}</g>')
        parts.append(_text(WIDTH - 42, 339 + 19 * i, name, "end"))
    return document(height, parts, title)


def spans(
    title: str,
    panels: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    is_shared: bool = False,
) -> str:
    """From the smallest to the largest value of each channel, one panel above the other.

    Args:
        title: what is shown.
        panels: smallest and largest value of each channel, by name.
        is_shared: whether all panels have the axis of the first.
    """
    each = 150
    parts = []
    first = next(iter(panels.values()))
    for i, (name, (lows, highs)) in enumerate(panels.items()):
        top = _TOP + 26 + i * (each + 34)
        x = Axis(0, len(lows), _LEFT, WIDTH - _RIGHT)
        of_axis = first if is_shared else (lows, highs)
        y = Axis(min(0.0, *of_axis[0]), max(of_axis[1]), top + each, top)
        parts.append(_text(_LEFT, top - 9, name))
        for value, label in y.ticks():
            parts.append(_line(x.start, y(value), x.end, y(value), "grid"))
            parts.append(_text(x.start - 8, y(value) + 4, label, "end"))
        width = (x(1) - x(0)) * 0.7
        boxes = [
            _rect(x(k) + 0.15 * (x(1) - x(0)), y(high), width, y(low) - y(high), "f")
            for k, (low, high) in enumerate(zip(lows, highs, strict=True))
        ]
        parts.append(f'<g class="c{i}">{"".join(boxes)}</g>')
    return document(_TOP + 26 + len(panels) * (each + 34) - 10, parts, title)


def histograms(
    title: str,
    panels: Mapping[str, Sequence[int]],
    limits: tuple[float, float],
    grids: Sequence[Sequence[float]],
    label: str,
) -> str:
    """Counts on a logarithmic axis, one panel above the other, with lines drawn in.

    Args:
        title: what is shown.
        panels: counts by name.
        limits: of the values.
        grids: places of lines, for each panel.
        label: of the horizontal axis.
    """
    each = 130
    parts = []
    for i, (name, counts) in enumerate(panels.items()):
        top = _TOP + 26 + i * (each + 50)
        x = Axis(*limits, _LEFT, WIDTH - _RIGHT)
        y = Axis(0.5, max(counts), top + each, top, is_log=True)
        step = (x.end - x.start) / len(counts)
        boxes = [
            _rect(
                x.start + k * step,
                y(max(count, 0.5)),
                step + 0.2,
                y.start - y(max(count, 0.5)),
                "f",
            )
            for k, count in enumerate(counts)
            if count
        ]
        parts.append(_text(_LEFT, top - 9, name))
        parts.append(f'<g class="c{i}" fill-opacity=".75">{"".join(boxes)}</g>')
        parts += [_line(x(v), top, x(v), y.start, "mark") for v in grids[i]]
        parts.append(_line(x.start, y.start, x.end, y.start, "axis"))
        for value, text in x.ticks():
            parts.append(_text(x(value), y.start + 16, text, "middle"))
    bottom = _TOP + 26 + len(panels) * (each + 50)
    parts.append(_text(WIDTH / 2, bottom, label, "middle"))
    return document(bottom + 14, parts, title)


def flow(
    title: str, boxes: Mapping[str, tuple[int, int, str]], arrows: Sequence[tuple[str, str]]
) -> str:
    """Boxes with arrows between them.

    Args:
        title: what is shown.
        boxes: column, row and what stands below the name, by name.
        arrows: from one box to another, in the next column or in the next row.
    """
    width, height, gap, row_height = 160, 54, 32, 90
    places = {
        name: (16 + column * (width + gap), _TOP + row * row_height)
        for name, (column, row, _) in boxes.items()
    }
    head = '<path class="f" d="M0 0L8 4L0 8z"/>'
    parts = [
        '<defs><marker id="head" markerWidth="8" markerHeight="8" refX="8" refY="4" orient="auto"'
        f' class="c0">{head}</marker></defs>'
    ]
    for source, target in arrows:
        (x1, y1), (x2, y2) = places[source], places[target]
        if x1 == x2:
            ends = (x1 + width / 2, y1 + height, x2 + width / 2, y2)
        else:
            ends = (x1 + width, y1 + height / 2, x2, y2 + height / 2)
        line = _line(*ends, "s").replace("/>", ' marker-end="url(#head)"/>')
        parts.append(f'<g class="c0">{line}</g>')
    for name, (x, y) in places.items():
        box = _rect(x, y, width, height, "s").replace("/>", ' rx="6"/>')
        parts.append(f'<g class="c0">{box}</g>')
        parts.append(_text(x + width / 2, y + 22, name, "middle", ' font-weight="600"'))
        parts.append(_text(x + width / 2, y + 41, boxes[name][2], "middle", ' font-size="11"'))
    rows = 1 + max(row for _, row, _ in boxes.values())
    return document(_TOP + rows * row_height - 20, parts, title)
