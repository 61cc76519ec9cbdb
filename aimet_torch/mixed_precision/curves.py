"""The page of a greedy search, from what the search has found."""

from __future__ import annotations

import math

from aimet_torch.analysis.groups import QuantizerGroup
from aimet_torch.mixed_precision.greedy import AimetCandidate, GreedyMixedPrecisionAlgo
from aimet_torch.mixed_precision.precision import Candidate, Precision
from aimet_torch.report.precision_curve import GroupRow, Point, PrecisionCurve

__all__ = ["page_of_search"]


def page_of_search(
    algorithm: GreedyMixedPrecisionAlgo, allowed_accuracy_drop: float | None
) -> PrecisionCurve:
    """What the page of a finished search shows.

    Args:
        algorithm: after `run`.
        allowed_accuracy_drop: that it was run with.
    """
    assert algorithm.fp32_accuracy is not None
    assert algorithm.final_score is not None
    levels = {"FP32": algorithm.fp32_accuracy}
    if allowed_accuracy_drop is not None:
        levels["to reach"] = algorithm.fp32_accuracy - allowed_accuracy_drop
    chosen_share = algorithm.relative_bit_ops()
    points = [
        Point(
            point.relative_bit_ops,
            point.eval_score,
            f"{point.quantizer_group.name} to {_text(point.quantizer_group, point.candidate)}",
            math.isclose(point.relative_bit_ops, chosen_share)
            and point.eval_score == algorithm.final_score,
        )
        for point in algorithm.pareto_list or []
    ]
    if not any(point.is_chosen for point in points):
        points.append(Point(chosen_share, algorithm.final_score, "every group alike", True))
    values: dict[str, dict[str, float | None]] = {}
    for row in algorithm.accuracy_list or []:
        own = values.setdefault(row.quantizer_group.name, {})
        own[_text(row.quantizer_group, row.candidate)] = row.eval_score
    start = algorithm.baseline_choice
    return PrecisionCurve(
        headline=str(algorithm).split("\n\n", 1)[0] + ".",
        value_name="score",
        points=points,
        levels=levels,
        groups=[
            GroupRow(group.name, str(start[group]), str(chosen), values.get(group.name, {}))
            for group, chosen in algorithm.choice.items()
        ],
        group_value_name="score of phase 1",
    )


def _text(group: QuantizerGroup, candidate: AimetCandidate) -> str:
    """A candidate in short: W8A16, or A16 of a group without parameters."""
    sides = [Precision.of(side) for side in candidate]
    activation = sides.pop(0) if group.activations else None
    return str(Candidate(activation, sides.pop(0) if group.params else None))
