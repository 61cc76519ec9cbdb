"""What an exact choice of precisions comes to: a table, JSON and a page."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aimet_torch.common.tables import format_percent, json_ready, text_table, write_json
from aimet_torch.report.precision_curve import GroupRow, Point, PrecisionCurve

__all__ = ["CurvePoint", "PrecisionPlan"]


@dataclass(frozen=True)
class CurvePoint:
    """The best choice at one budget.

    Attributes:
        relative_bit_ops: bit-operations over those of the finest candidate everywhere.
        predicted_loss: sum of what the groups are expected to add to the loss.
        score: of the evaluation, where there was one.
    """

    relative_bit_ops: float
    predicted_loss: float
    score: float | None = None


@dataclass
class PrecisionPlan:
    """The result of `optimize_mixed_precision`. `print` shows it as a table.

    Attributes:
        choice: candidate by name of the group.
        setting: precision by name of the quantizer.
        predicted_loss: sum of what the groups are expected to add to the loss.
        measure: what that loss is.
        costs: ``bit_ops``, ``weight_bytes``, ``activation_bytes`` and ``bytes`` of the choice.
        relative: the same over those of the finest candidate everywhere.
        budgets: shares that had to be kept.
        is_optimal: whether no choice within the budgets has a smaller predicted loss.
        score: of the result, where there was an evaluation callback.
        fp32_score: in floating point, where an accuracy drop was allowed.
        curve: best choices from many bit-operations to few.
        losses: by group and candidate.
        evaluations: calls of the evaluation callback.
        seconds: for all, with calibration.
    """

    choice: dict[str, str]
    setting: dict[str, str]
    predicted_loss: float
    measure: str
    costs: dict[str, float]
    relative: dict[str, float]
    budgets: Mapping[str, float]
    is_optimal: bool
    score: float | None
    fp32_score: float | None
    curve: list[CurvePoint] = field(default_factory=list)
    losses: dict[str, dict[str, float]] = field(default_factory=dict)
    evaluations: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and dicts."""
        document: dict[str, Any] = json_ready(asdict(self))
        return document

    def save_json(self, path: str | os.PathLike[str]) -> Path:
        """Write everything to a file and return its path."""
        return write_json(path, self.to_dict())

    def write_html(self, path: str | os.PathLike[str]) -> Path:
        """Write a page with the curve, the groups and what each candidate does to them."""
        return self.page().write_html(path)

    def page(self) -> PrecisionCurve:
        """What the page shows."""
        has_scores = any(point.score is not None for point in self.curve)
        points = [
            Point(
                point.relative_bit_ops,
                point.score if has_scores else point.predicted_loss,
                f"predicted loss {point.predicted_loss:.4g}" if has_scores else "",
                math.isclose(point.predicted_loss, self.predicted_loss, rel_tol=1e-12),
            )
            for point in self.curve
        ]
        return PrecisionCurve(
            headline=str(self).split("\n\n", 1)[0].replace("\n", ". "),
            value_name="score" if has_scores else "predicted loss",
            points=points,
            levels={} if self.fp32_score is None else {"FP32": self.fp32_score},
            groups=[
                GroupRow(group, next(iter(self.losses[group]), chosen), chosen, self.losses[group])
                for group, chosen in self.choice.items()
            ],
            group_value_name=f"predicted loss ({self.measure})",
            is_loss=True,
            is_logarithmic=not has_scores,
        )

    def __str__(self) -> str:
        shares = ", ".join(f"{name} {format_percent(s)}" for name, s in self.relative.items())
        candidates = list(dict.fromkeys(c for own in self.losses.values() for c in own))
        rows = [
            (group, chosen, *(_loss(self.losses[group].get(c)) for c in candidates))
            for group, chosen in self.choice.items()
        ]
        lines = [
            f"{'optimal' if self.is_optimal else 'best found'}: {shares}",
            f"predicted loss {self.predicted_loss:.4g} ({self.measure}), {self.evaluations} "
            f"evaluations, {self.seconds:.1f} s",
        ]
        if self.score is not None:
            reference = "" if self.fp32_score is None else f" (FP32 {self.fp32_score:.6g})"
            lines.append(f"score {self.score:.6g}{reference}")
        table = text_table(("group", "chosen", *(f"loss at {c}" for c in candidates)), rows)
        return "\n".join(lines) + "\n\n" + table


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
