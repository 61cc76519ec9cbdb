"""`choose_mixed_precision`: AIMET's search in one call, with its files and a page."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import nn

from aimet_torch.common.collectives import Ranks
from aimet_torch.common.tables import json_ready, write_json
from aimet_torch.mixed_precision.curves import page_of_search
from aimet_torch.mixed_precision.greedy import GreedyMixedPrecisionAlgo, ParetoPoint
from aimet_torch.mixed_precision.search import AMPSearchAlgo
from aimet_torch.quantsim import QuantizationSimModel

__all__ = ["choose_mixed_precision"]


def choose_mixed_precision(
    sim: QuantizationSimModel,
    dummy_input: Any,
    candidates: Iterable[Any],
    eval_callback_for_phase1: Callable[[nn.Module], float],
    eval_callback_for_phase2: Callable[[nn.Module], float],
    allowed_accuracy_drop: float | None,
    results_dir: str | Path,
    clean_start: bool,
    forward_pass_callback: Callable[[nn.Module], Any] | Iterable[Any],
    use_all_amp_candidates: bool = False,
    phase2_reverse: bool = False,
    phase1_optimize: bool = True,
    amp_search_algo: AMPSearchAlgo = AMPSearchAlgo.Binary,
    *,
    process_group: Any = None,
) -> list[ParetoPoint] | None:
    """Find the precision of every group by AIMET's greedy search, and give it to the simulation.

    See `GreedyMixedPrecisionAlgo` for the arguments that are not explained here.

    An interrupted run leaves the simulation as it was, and goes on where it stopped when it is
    called again with the same folder. What an earlier run left there must be of the same network,
    groups and candidates; that the callbacks are the same is the caller's to say.

    Args:
        sim: the simulation.
        dummy_input: not needed; kept for scripts of AIMET.
        candidates: `((activation bits, data type), (parameter bits, data type))`, at least two.
        eval_callback_for_phase1: score for the sensitivity of groups.
        eval_callback_for_phase2: the accuracy that counts.
        allowed_accuracy_drop: below the score in floating point; None: the whole curve, ending with
            its last point.
        results_dir: gets `accuracy_list.json`, `pareto_list.json`, `amp_info_list.json` and
            `pareto_curve.html`.
        clean_start: forget earlier runs in this folder.
        forward_pass_callback: calibration data.
        use_all_amp_candidates: do not look at `supported_kernels` of the configuration.
        phase2_reverse: from the cheapest candidate upwards.
        phase1_optimize: without effect; ranges never have to be found twice.
        amp_search_algo: how phase 2 looks for the end of the curve.
        process_group: ranks that share the evaluations out.

    Returns:
        The points of phase 2; None where the search ended early, since no candidate keeps the
        accuracy (the simulation then has the best one) or the cheapest does.

    Raises:
        ValueError: a wrong argument, a group without a candidate that its target supports, or a
            cache that is damaged or of another job.
        TypeError: a callback that is none.
        RuntimeError: another rank has failed.
    """
    algorithm = GreedyMixedPrecisionAlgo(
        sim,
        dummy_input,
        candidates,
        eval_callback_for_phase1,
        eval_callback_for_phase2,
        results_dir,
        clean_start,
        forward_pass_callback,
        use_all_amp_candidates,
        phase2_reverse,
        phase1_optimize,
        process_group=process_group,
    )
    algorithm.run(allowed_accuracy_drop, amp_search_algo)
    with Ranks(process_group, "choose_mixed_precision") as ranks:
        if ranks.rank == 0:
            _write(algorithm, Path(results_dir))
            page = page_of_search(algorithm, allowed_accuracy_drop)
            page.write_html(Path(results_dir) / "pareto_curve.html")
    return algorithm.pareto_list


def _write(algorithm: GreedyMixedPrecisionAlgo, folder: Path) -> None:
    accuracy, pareto = algorithm.accuracy_list or [], algorithm.pareto_list or []
    rows: list[Any] = [
        [p.quantizer_group.to_list(), str(p.candidate), p.eval_score, p.bit_ops_reduction]
        for p in accuracy
    ]
    write_json(folder / "accuracy_list.json", json_ready(rows))
    rows = [
        [p.relative_bit_ops, p.eval_score, p.quantizer_group.to_list(), str(p.candidate)]
        for p in pareto
    ]
    write_json(folder / "pareto_list.json", json_ready(rows))
    info = [
        ["fp32 accuracy", algorithm.fp32_accuracy],
        ["final score", algorithm.final_score],
        ["relative bit ops", algorithm.relative_bit_ops()],
        ["evaluations", algorithm.evaluations],
        ["Phase1 Time", algorithm.seconds["phase 1"] / 60],
        ["Phase2 Time", algorithm.seconds["phase 2"] / 60],
        ["choice", {group.name: str(c) for group, c in algorithm.choice.items()}],
    ]
    write_json(folder / "amp_info_list.json", json_ready(info))
