"""MobileNetV2 without labels: AIMET's search as this project runs it, and the exact choice.

Score of the search: SQNR of 16 calibration photographs, cut off at 30 dB. Measured are agreement
with FP32's first choice and SQNR of the logits on 96 other photographs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.analysis import Precision, Switchboard
from aimet_torch.common.defs import QuantizationDataType
from aimet_torch.mixed_precision import (
    EvalCallbackFactory,
    choose_mixed_precision,
    optimize_mixed_precision,
)
from aimet_torch.mixed_precision.costs import Costs
from aimet_torch.mixed_precision.sites import SiteMap
from aimet_torch.quantsim import QuantizationSimModel
from benchmarks.accuracy_subjects import logits, photographs
from benchmarks.mixed_precision_subjects import Counted
from benchmarks.model_subjects import folded_network
from benchmarks.timing import Clock

#: Bits of (activations, weights).
CANDIDATES = ((16, 8), (8, 8), (16, 4), (8, 4))
#: Allowed drops below 30 dB.
DROPS = (16.0, 20.0)
_SHAPE = (1, 3, 224, 224)
_CEILING = 30.0


def measure(drop: float) -> dict[str, Any]:
    """Both choices on the budget of the search's, with what they took."""
    calibration, rest = photographs(0)
    rest = rest[:6]
    model = folded_network("mobilenet_v2", _SHAPE)
    expected = logits(model, rest)
    kind = QuantizationDataType.int
    candidates = [((activation, kind), (weight, kind)) for activation, weight in CANDIDATES]
    sqnr = EvalCallbackFactory(calibration[:2]).sqnr(16)
    score = Counted(lambda network: min(sqnr(network), _CEILING))

    def searched(sim: QuantizationSimModel) -> int:
        with tempfile.TemporaryDirectory() as folder:
            choose_mixed_precision(
                sim, None, candidates, score, score, drop, folder, True, calibration
            )
        return score.calls

    row: dict[str, Any] = {"network": "mobilenet_v2", "drop_db": drop}
    row["search"] = _run(model, calibration, rest, expected, searched)
    budget = row["search"]

    def solved(sim: QuantizationSimModel) -> int:
        plan = optimize_mixed_precision(
            sim,
            calibration,
            candidates,
            bit_ops=min(budget["bit_ops"] * (1 + 1e-9), 1.0),
            bytes=min(budget["bytes"] * (1 + 1e-9), 1.0),
        )
        return plan.evaluations

    row["exact"] = _run(model, calibration, rest, expected, solved)
    return row


def _run(
    model: nn.Module,
    calibration: list[Tensor],
    rest: list[Tensor],
    expected: Tensor,
    choose: Callable[[QuantizationSimModel], int],
) -> dict[str, Any]:
    sim = QuantizationSimModel(model, calibration[0][:1])
    clock = Clock()
    evaluations = choose(sim)
    seconds, cpu_seconds = clock.stop().times()
    board = Switchboard(sim)
    costs = Costs(board, SiteMap(sim))
    activation, weight = CANDIDATES[0]
    finest = {n: Precision(weight if n in board.params else activation) for n in board.quantizers}
    full = costs.measures(finest)
    found = logits(sim.model, rest)
    noise = (found - expected).square().sum()
    return {
        **{name: cost / full[name] for name, cost in costs.measures({}).items()},
        "evaluations": evaluations,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "agreement": 100 * (found.argmax(1) == expected.argmax(1)).double().mean().item(),
        "sqnr_db": (10 * (expected.square().sum() / noise).log10()).item(),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    for allowed in DROPS:
        print(measure(allowed), flush=True)
