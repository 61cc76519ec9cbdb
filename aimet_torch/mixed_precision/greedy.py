"""The greedy search of AIMET: sensitivity of every group, then the groups in that order.

van Baalen et al. 2023 (arXiv 2302.05397). Phase 1 evaluates the model with one group at a time at
each candidate, everything else in floating point. Phase 2 starts with every group at the best
candidate and applies what phase 1 found, the least harmful first, up to the last point at which the
accuracy is still allowed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from torch import nn

from aimet_torch.analysis.groups import QuantizerGroup, find_quantizer_groups
from aimet_torch.analysis.switching import Setting, Switchboard, evaluate_settings
from aimet_torch.common.collectives import Ranks
from aimet_torch.common.defs import QuantizationDataType
from aimet_torch.common.tables import text_table
from aimet_torch.mixed_precision.apply import apply_choice, require_repeatable
from aimet_torch.mixed_precision.candidates import (
    bitwidths_in,
    candidate_cost,
    check_candidates,
    closest,
    label_of,
    movable_groups,
    options_of_groups,
    setting_of,
)
from aimet_torch.mixed_precision.costs import Costs
from aimet_torch.mixed_precision.precision import Candidate
from aimet_torch.mixed_precision.search import AMPSearchAlgo, find_last
from aimet_torch.mixed_precision.sites import SiteMap
from aimet_torch.mixed_precision.store import ScoreStore, identity_of
from aimet_torch.quantsim import QuantizationSimModel

__all__ = ["AccuracyPoint", "AimetCandidate", "GreedyMixedPrecisionAlgo", "ParetoPoint"]

#: ((bits, data type) of activations, (bits, data type) of parameters); a group that has only one
#: of the two has a tuple of one entry.
AimetCandidate: TypeAlias = tuple[tuple[int, QuantizationDataType], ...]
_NAME = "choose_mixed_precision"


class AccuracyPoint(NamedTuple):
    """Phase 1: the model with one group at a candidate.

    Attributes:
        quantizer_group: the group.
        candidate: its precisions.
        eval_score: of the callback of phase 1, all other quantizers off.
        bit_ops_reduction: bit-operations that this saves, everything else at the best candidate.
    """

    quantizer_group: QuantizerGroup
    candidate: AimetCandidate
    eval_score: float
    bit_ops_reduction: float


class ParetoPoint(NamedTuple):
    """Phase 2: the model after all changes up to this one.

    Attributes:
        relative_bit_ops: bit-operations over those with every group at the best candidate.
        eval_score: of the callback of phase 2.
        quantizer_group: whose precision changed last.
        candidate: to what.
    """

    relative_bit_ops: float
    eval_score: float
    quantizer_group: QuantizerGroup
    candidate: AimetCandidate


class GreedyMixedPrecisionAlgo:
    """The greedy search, step by step; `choose_mixed_precision` is the same in one call.

    Ranges are found once for each quantizer and bit width, in two passes over the calibration data,
    whatever the number of groups: observed are unquantized values, so they do not depend on each
    other. AIMET calibrates anew for every candidate of phase 1 (`phase1_optimize=True`) or for
    every group and candidate.

    Args:
        sim: the simulation; it ends with the precisions found, calibrated.
        dummy_input: as AIMET has it; the simulation knows its own.
        candidates: `((activation bits, data type), (parameter bits, data type))`, at least two.
        eval_callback_for_phase1: `callback(model)` returns a score, the higher the better; a small
            data set or `EvalCallbackFactory.sqnr` will do.
        eval_callback_for_phase2: likewise, the accuracy that counts.
        results_dir: folder for results and, in `.cache`, for what an interrupted run has done.
        clean_start: forget what `results_dir` has of earlier runs.
        forward_pass_callback: calibration data, as for `compute_encodings`.
        use_all_amp_candidates: do not look at `supported_kernels` of the configuration.
        phase2_reverse: start phase 2 at the cheapest candidate and raise the most harmful groups
            first, until the accuracy is allowed.
        phase1_optimize: of AIMET; without effect.
        process_group: a `torch.distributed.ProcessGroup` whose ranks share the evaluations out. All
            must have the same model and data, and callbacks that return the same; all end with the
            same result.

    Attributes:
        quantizer_groups: all groups of the simulation.
        accuracy_list: of phase 1, the least harmful first; None before and after an early end.
        pareto_list: of phase 2, in the order of the changes; None likewise.
        fp32_accuracy: score without quantizers, of the callback of phase 2.
        baseline_candidate: the candidate with the best score when every group has it.
        min_candidate: the cheapest one.
        min_accuracy: its score.
        final_score: of what the simulation ends with.
        evaluations: of the model, that were not in the cache.
    """

    def __init__(
        self,
        sim: QuantizationSimModel,
        dummy_input: Any,
        candidates: Iterable[Any],
        eval_callback_for_phase1: Callable[[nn.Module], float],
        eval_callback_for_phase2: Callable[[nn.Module], float],
        results_dir: str | Path,
        clean_start: bool,
        forward_pass_callback: Callable[[nn.Module], Any] | Iterable[Any],
        use_all_amp_candidates: bool = False,
        phase2_reverse: bool = False,
        phase1_optimize: bool = True,
        *,
        process_group: Any = None,
    ) -> None:
        del dummy_input, phase1_optimize
        for name, callback in (
            ("eval_callback_for_phase1", eval_callback_for_phase1),
            ("eval_callback_for_phase2", eval_callback_for_phase2),
        ):
            if not callable(callback):
                raise TypeError(
                    f"{_NAME}: `{name}` must be callable with the model, got "
                    f"{type(callback).__name__}"
                )
        require_repeatable(forward_pass_callback, f"{_NAME}: `forward_pass_callback`")
        self._sim = sim
        self._candidates = check_candidates(candidates, _NAME)
        self._phase1, self._phase2 = eval_callback_for_phase1, eval_callback_for_phase2
        self._data = forward_pass_callback
        self._folder = Path(results_dir)
        self._reverse = phase2_reverse
        self._group = process_group
        self.quantizer_groups = find_quantizer_groups(sim)
        sim.compute_encodings(forward_pass_callback)
        self._board = Switchboard(sim)
        self._groups = movable_groups(self._board, self.quantizer_groups)
        self._options = options_of_groups(
            sim, self._groups, self._candidates, use_all_amp_candidates, _NAME
        )
        self._board.observe(forward_pass_callback, bitwidths_in(self._options))
        self._costs = Costs(self._board, SiteMap(sim))
        self._store = self._open(clean_start)
        self.accuracy_list: list[AccuracyPoint] | None = None
        self.pareto_list: list[ParetoPoint] | None = None
        self.fp32_accuracy: float | None = None
        self.baseline_candidate: Candidate | None = None
        self.min_candidate: Candidate | None = None
        self.min_accuracy: float | None = None
        self.final_score: float | None = None
        self.evaluations = 0
        self.seconds = {"phase 1": 0.0, "phase 2": 0.0}
        self._choice: dict[QuantizerGroup, Candidate] = {}

    def _open(self, clean_start: bool) -> ScoreStore:
        ranges = {id(p) for p in self._sim.quantizer_parameters()}
        tensors = [p for p in self._sim.model.parameters() if id(p) not in ranges]
        identity = identity_of(
            tensors,
            candidates=[str(candidate) for candidate in self._candidates],
            groups=[[group.name, *group.quantizers] for group in self.quantizer_groups],
            options=[[str(c) for c in self._options[group]] for group in self._groups],
            scheme=str(self._sim.settings.scheme),
        )
        with Ranks(self._group, _NAME) as ranks:
            # Only the first rank reads and writes; the others take over what it has read.
            folder = self._folder / ".cache"
            store = ranks.of_first(lambda: ScoreStore(folder, identity, clean_start, _NAME))
            self._writes = ranks.rank == 0
        return store

    # -- evaluations -------------------------------------------------------------------------------

    def _evaluate(
        self, settings: Mapping[str, Setting], callback: Callable[[nn.Module], float], phase: int
    ) -> dict[str, float]:
        """Scores by label; settings that came before are not evaluated again."""
        keys = {label: f"phase {phase}: {label_of(setting)}" for label, setting in settings.items()}
        by_key = {key: settings[label] for label, key in keys.items()}
        self.evaluations += sum(key not in self._store.scores for key in by_key)
        scores = evaluate_settings(
            self._board,
            by_key,
            callback,
            process_group=self._group,
            known=dict(self._store.scores),
            on_score=self._keep,
            description=f"Phase {phase}",
        )
        return {label: scores[key] for label, key in keys.items()}

    def _keep(self, label: str, score: float) -> None:
        self._store.add(label, score, writes=self._writes)

    def _all_at(self, candidate: Candidate) -> dict[QuantizerGroup, Candidate]:
        return {group: closest(self._options[group], candidate, group) for group in self._groups}

    def _setting(self, choice: dict[QuantizerGroup, Candidate]) -> Setting:
        """Of all quantizers: those in no group that may change stay as they are."""
        own = {name: self._board.precision(name) for name in self._board.quantizers}
        return {**own, **setting_of(choice)}

    # -- the search --------------------------------------------------------------------------------

    def set_baseline(
        self, fp32_accuracy: float | None = None, baseline_candidate: Any = None
    ) -> tuple[float, Candidate]:
        """Evaluate the model in floating point and with every group at each candidate.

        Args:
            fp32_accuracy: instead of evaluating it.
            baseline_candidate: instead of the one with the best score.

        Returns:
            The accuracy in floating point and the candidate to start from.
        """
        whole = [
            c for c in self._candidates if any(c in options for options in self._options.values())
        ] or self._candidates
        settings: dict[str, Setting] = {str(c): self._setting(self._all_at(c)) for c in whole}
        if fp32_accuracy is None:
            settings["fp32"] = dict.fromkeys(self._board.quantizers, None)
        scores = self._evaluate(settings, self._phase2, 2)
        self.fp32_accuracy = scores.get("fp32", fp32_accuracy)
        best = max(whole, key=lambda c: scores[str(c)])  # the first of equals
        if baseline_candidate is not None:
            best = Candidate.of(baseline_candidate)
        self.baseline_candidate = best
        self.min_candidate = min(whole, key=lambda c: (candidate_cost(c)[0], -scores[str(c)]))
        self.min_accuracy = scores[str(self.min_candidate)]
        self._scores_of_candidates = scores
        assert self.fp32_accuracy is not None
        return self.fp32_accuracy, best

    def run(
        self,
        allowed_accuracy_drop: float | None,
        search_algo: AMPSearchAlgo = AMPSearchAlgo.Binary,
    ) -> None:
        """Search, and give the simulation what was found.

        Args:
            allowed_accuracy_drop: below the score in floating point; None: evaluate the whole curve
                and end with its last point.
            search_algo: of phase 2.

        Raises:
            ValueError: a drop below 0, or no search algorithm.
        """
        if not isinstance(search_algo, AMPSearchAlgo):
            raise ValueError(
                f"{_NAME}: `amp_search_algo` must be an AMPSearchAlgo, got {search_algo!r}"
            )
        if allowed_accuracy_drop is not None and not allowed_accuracy_drop >= 0:
            raise ValueError(
                f"{_NAME}: `allowed_accuracy_drop` must be None or at least 0, got "
                f"{allowed_accuracy_drop}"
            )
        if self.fp32_accuracy is None or self.baseline_candidate is None:
            self.set_baseline()
        assert self.fp32_accuracy is not None
        assert self.baseline_candidate is not None
        assert self.min_candidate is not None
        assert self.min_accuracy is not None
        if allowed_accuracy_drop is not None:
            best = max(self._scores_of_candidates.get(str(c), -math.inf) for c in self._candidates)
            if self.fp32_accuracy - best > allowed_accuracy_drop:
                self._end(self._all_at(self.baseline_candidate), best)
                return
            if self.fp32_accuracy - self.min_accuracy < allowed_accuracy_drop:
                self._end(self._all_at(self.min_candidate), self.min_accuracy)
                return
        start = time.perf_counter()
        self.accuracy_list = self._phase_1(self.baseline_candidate)
        self.seconds["phase 1"] = time.perf_counter() - start
        start = time.perf_counter()
        self._phase_2(allowed_accuracy_drop, search_algo)
        self.seconds["phase 2"] = time.perf_counter() - start

    def _phase_1(self, baseline: Candidate) -> list[AccuracyPoint]:
        start = self._all_at(baseline)
        pairs = [
            (group, candidate)
            for group in self._groups
            for candidate in self._options[group]
            if candidate != start[group]
        ]
        off: Setting = dict.fromkeys(self._board.quantizers, None)
        settings = {
            f"{group.name} {candidate}": {**off, **setting_of({group: candidate})}
            for group, candidate in pairs
        }
        scores = self._evaluate(settings, self._phase1, 1)
        full = self._bit_ops(start)
        points = [
            (group, candidate, score, full - self._bit_ops({**start, group: candidate}))
            for (group, candidate), score in zip(pairs, scores.values(), strict=True)
        ]
        index = {group: i for i, group in enumerate(self._groups)}

        def key(point: tuple[QuantizerGroup, Candidate, float, float]) -> tuple[Any, ...]:
            group, candidate, score, saved = point
            bits = sum(side.bits for side in (candidate.activation, candidate.param) if side)
            return score, bits, saved, -index[group]

        points.sort(key=key, reverse=True)
        self._order = [(group, candidate) for group, candidate, _, _ in points]
        return [AccuracyPoint(g, aimet_candidate(c), score, saved) for g, c, score, saved in points]

    def _bit_ops(self, choice: dict[QuantizerGroup, Candidate]) -> float:
        return self._costs.bit_ops(self._setting(choice))

    def _steps(self) -> tuple[dict[QuantizerGroup, Candidate], list[Any]]:
        """Where phase 2 starts, and the changes in order; forward a group only becomes cheaper."""
        assert self.baseline_candidate is not None
        assert self.min_candidate is not None
        best = self._all_at(self.baseline_candidate)
        if not self._reverse:
            current, steps = dict(best), []
            for group, candidate in self._order:
                if candidate_cost(candidate) < candidate_cost(current[group]):
                    current[group] = candidate
                    steps.append((group, candidate))
            return best, steps
        # What phase 1 says of a candidate is how much it helps to leave it, for the next one.
        upwards = self._order[::-1]
        own = {group: [c for g, c in upwards if g is group] for group in self._groups}
        steps = []
        for group, candidate in upwards:
            behind = own[group][own[group].index(candidate) + 1 :]
            steps.append((group, behind[0] if behind else best[group]))
        return self._all_at(self.min_candidate), steps

    def _phase_2(self, allowed_drop: float | None, algorithm: AMPSearchAlgo) -> None:
        assert self.fp32_accuracy is not None
        assert self.baseline_candidate is not None
        start, steps = self._steps()
        choices = []
        current = dict(start)
        for group, candidate in steps:
            current = {**current, group: candidate}
            choices.append(current)
        full = self._bit_ops(self._all_at(self.baseline_candidate))
        points: dict[int, ParetoPoint] = {}

        def evaluate(indices: Sequence[int]) -> None:
            wanted = {str(i): self._setting(choices[i]) for i in indices if i not in points}
            for label, score in self._evaluate(wanted, self._phase2, 2).items():
                i = int(label)
                share = self._bit_ops(choices[i]) / full if full else 1.0
                group, candidate = steps[i]
                points[i] = ParetoPoint(share, score, group, aimet_candidate(candidate))

        def score(i: int) -> float:
            evaluate([i])
            return points[i].eval_score

        target = -math.inf if allowed_drop is None else self.fp32_accuracy - allowed_drop
        if allowed_drop is None:
            evaluate(range(len(choices)))
        found = self._find(score, len(choices), target, algorithm)
        self.pareto_list = [points[i] for i in sorted(points)]
        if found is None:
            scores = self._scores_of_candidates
            self._end(
                self._all_at(self.baseline_candidate),
                scores.get(str(self.baseline_candidate), math.nan),
            )
        else:
            self._end(choices[found], points[found].eval_score)

    def _find(
        self, score: Callable[[int], float], count: int, target: float, algorithm: AMPSearchAlgo
    ) -> int | None:
        if not count:
            return None
        if not self._reverse:
            return find_last(score, count, target, algorithm)
        if algorithm == AMPSearchAlgo.BruteForce:
            return next((i for i in range(count) if score(i) >= target), None)
        found = find_last(lambda i: score(count - 1 - i), count, target, algorithm)
        return None if found is None else count - 1 - found

    def _end(self, choice: dict[QuantizerGroup, Candidate], score: float) -> None:
        apply_choice(self._sim, setting_of(choice), self._data)
        self._choice = choice
        self.final_score = score

    # -- what came out -----------------------------------------------------------------------------

    @property
    def choice(self) -> dict[QuantizerGroup, Candidate]:
        """The candidate of each group, after `run`."""
        return dict(self._choice)

    @property
    def baseline_choice(self) -> dict[QuantizerGroup, Candidate]:
        """The candidate of each group where phase 2 starts."""
        assert self.baseline_candidate is not None
        return self._all_at(self.baseline_candidate)

    def relative_bit_ops(self) -> float:
        """Bit-operations of the choice over those of the best candidate everywhere."""
        return self._bit_ops(self._choice) / self._bit_ops(self.baseline_choice)

    def __str__(self) -> str:
        if self.baseline_candidate is None or not self._choice:
            raise RuntimeError(f"{type(self).__name__}: call run() first")
        start = self._all_at(self.baseline_candidate)
        rows = [
            (group.name, str(start[group]), str(candidate))
            for group, candidate in self._choice.items()
            if candidate != start[group]
        ]
        return (
            f"FP32 {self.fp32_accuracy:.6g}, mixed precision {self.final_score:.6g} with "
            f"{self.relative_bit_ops():.1%} of the bit-operations of {self.baseline_candidate}; "
            f"{len(rows)} of {len(self._choice)} groups changed, {self.evaluations} evaluations\n\n"
            + text_table(("group", "was", "is"), rows)
        )


def aimet_candidate(candidate: Candidate) -> AimetCandidate:
    """A candidate as AIMET writes it."""
    sides = (candidate.activation, candidate.param)
    return tuple(side.to_aimet() for side in sides if side is not None)
