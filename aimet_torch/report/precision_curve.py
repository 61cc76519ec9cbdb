"""The page of a choice of precisions: what is gained for what, and which group has which bits."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aimet_torch.report import pages
from aimet_torch.report.document import environment
from aimet_torch.report.pages import Bar, format_number

__all__ = ["GroupRow", "Point", "PrecisionCurve"]

_LEFT, _TOP, _WIDTH, _HEIGHT = 70.0, 14.0, 900.0, 320.0
_TICKS = 5


@dataclass(frozen=True)
class Point:
    """One point of the curve.

    Attributes:
        relative_bit_ops: bit-operations over those of the finest candidate everywhere.
        value: accuracy or loss; None where it was not evaluated.
        text: what is special about it: the change that leads to it.
        is_chosen: whether the simulation ended with it.
    """

    relative_bit_ops: float
    value: float | None
    text: str = ""
    is_chosen: bool = False


@dataclass(frozen=True)
class GroupRow:
    """A quantizer group.

    Attributes:
        name: of the group.
        before: the candidate that it would have had without the choice.
        chosen: its candidate.
        values: what the candidates do to it, by candidate; None where that is not known.
    """

    name: str
    before: str
    chosen: str
    values: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class _Mark:
    x: float
    y: float
    tip: str
    is_chosen: bool


@dataclass(frozen=True)
class PrecisionCurve:
    """Everything that the page shows.

    Attributes:
        headline: the result in a sentence or two.
        value_name: of the curve's vertical axis.
        points: of the curve.
        levels: horizontal lines, by name: accuracy in floating point, what has to be reached.
        groups: in the order of execution.
        group_value_name: what `GroupRow.values` are.
        is_loss: whether a small `GroupRow.values` is good.
        is_logarithmic: whether the vertical axis has decades.
    """

    headline: str
    value_name: str
    points: Sequence[Point]
    levels: Mapping[str, float]
    groups: Sequence[GroupRow]
    group_value_name: str
    is_loss: bool = False
    is_logarithmic: bool = False

    # -- the chart ---------------------------------------------------------------------------------

    def marks(self) -> list[_Mark]:
        """Positions of the points that have a value, from few bit-operations to many."""
        known = [p for p in self.points if p.value is not None and self._is_drawn(p.value)]
        return [
            _Mark(
                round(self._x(p.relative_bit_ops), 2),
                round(self._y(p.value), 2),  # type: ignore[arg-type]
                f"{pages.format_percent(p.relative_bit_ops)} of the bit-operations: "
                f"{self.value_name} {format_number(p.value)}" + (f" ({p.text})" if p.text else ""),  # type: ignore[arg-type]
                p.is_chosen,
            )
            for p in sorted(known, key=lambda p: p.relative_bit_ops)
        ]

    @property
    def frame(self) -> Mapping[str, float]:
        """Where the chart is."""
        return {"left": _LEFT, "top": _TOP, "width": _WIDTH, "height": _HEIGHT}

    def level_lines(self) -> list[tuple[float, str]]:
        """Heights of the horizontal lines and their texts."""
        return [
            (round(self._y(value), 2), f"{name} {format_number(value)}")
            for name, value in self.levels.items()
            if self._is_drawn(value)
        ]

    def ticks(self) -> tuple[list[tuple[float, str]], list[tuple[float, str]]]:
        """Positions and texts along the horizontal and the vertical axis."""
        left, right = self._x_range()
        low, high = self._y_range()
        across = [left + (right - left) * i / _TICKS for i in range(_TICKS + 1)]
        along = [low + (high - low) * i / _TICKS for i in range(_TICKS + 1)]
        return (
            [(round(self._x(x), 2), pages.format_percent(x, 0)) for x in across],
            [
                (
                    round(_TOP + _HEIGHT * (high - y) / (high - low), 2),
                    format_number(10**y if self.is_logarithmic else y),
                )
                for y in along
            ],
        )

    def _is_drawn(self, value: float) -> bool:
        return math.isfinite(value) and (value > 0 or not self.is_logarithmic)

    def _scaled(self, value: float) -> float:
        return math.log10(value) if self.is_logarithmic else value

    def _x_range(self) -> tuple[float, float]:
        shares = [p.relative_bit_ops for p in self.points] or [0.0, 1.0]
        low, high = min(shares), max(shares)
        return (low, high) if high > low else (high - 0.1, high)

    def _y_range(self) -> tuple[float, float]:
        values = [p.value for p in self.points if p.value is not None]
        drawn = [self._scaled(v) for v in (*values, *self.levels.values()) if self._is_drawn(v)]
        low, high = min(drawn, default=0.0), max(drawn, default=1.0)
        room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
        return low - room, high + room

    def _x(self, share: float) -> float:
        left, right = self._x_range()
        return _LEFT + _WIDTH * (share - left) / (right - left)

    def _y(self, value: float) -> float:
        low, high = self._y_range()
        return _TOP + _HEIGHT * (high - self._scaled(value)) / (high - low)

    # -- the groups --------------------------------------------------------------------------------

    def candidates(self) -> list[str]:
        """Every candidate that a group has a value for, in the order of their first appearance."""
        return list(dict.fromkeys(c for row in self.groups for c in row.values))

    def bars(self) -> list[Bar]:
        """One bar for each group: its value at the candidate that is worst for it."""
        worst = [(row, self._worst(row)) for row in self.groups]
        known = [(row, value) for row, value in worst if value is not None]
        low, high = self._bar_range()
        found = []
        for row, value in known:
            height = self._bar_height(value)
            share = (min(max(height, low), high) - low) / (high - low) if high > low else 0.5
            harm = share if self.is_loss else 1 - share
            grade = "poor" if harm > 2 / 3 else "fair" if harm > 1 / 3 else "good"
            tip = f"{row.name}: {self.group_value_name} {format_number(value)}, has {row.chosen}"
            found.append(Bar(row.name, max(share, 0.01), grade, tip))
        return found

    def bar_marks(self) -> list[tuple[float, str]]:
        """Marks of the bars' axis."""
        low, high = self._bar_range()
        marks = [low + (high - low) * i / 4 for i in range(5)]
        # Four characters are what fits beside the chart.
        texts = [f"{10**m:.0e}" if self.is_loss else f"{m:.3g}" for m in marks]
        return [(i / 4, text) for i, text in enumerate(texts)]

    def _bar_height(self, value: float) -> float:
        """Losses differ by orders of magnitude: their bars have decades."""
        if not self.is_loss:
            return value
        return math.log10(value) if value > 0 else -math.inf

    def _bar_range(self) -> tuple[float, float]:
        worst = [v for row in self.groups if (v := self._worst(row)) is not None]
        finite = [h for h in map(self._bar_height, worst) if math.isfinite(h)]
        return min(finite, default=0.0), max(finite, default=1.0)

    def _worst(self, row: GroupRow) -> float | None:
        values = [value for value in row.values.values() if value is not None]
        if not values:
            return None
        return max(values) if self.is_loss else min(values)

    # -- the page ----------------------------------------------------------------------------------

    def to_html(self) -> str:
        """The page as text; it refers to nothing outside itself."""
        return pages.render("precision_curve.html", curve=self, environment=environment())

    def write_html(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to `path` and return it."""
        return pages.write(path, self.to_html())
