"""The exact choice: the precisions that harm least within budgets, from the one-pass sensitivity.

What a group does to the outputs at each candidate is estimated for all groups in one backward pass
for each batch (`aimet_torch.analysis.estimate_sensitivity`), and errors of different tensors add
up. So the best choice under a budget is a multiple-choice knapsack, which `solver.solve` settles
exactly, for weights and activations together. Only an allowed drop of an accuracy takes evaluations
of the model: the curve of best choices is searched by halves. (Dong et al. 2020, arXiv 1911.03852,
and Yao et al. 2021, arXiv 2011.10680, choose bits of weights like this.)
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from aimet_torch.analysis.groups import QuantizerGroup, find_quantizer_groups
from aimet_torch.analysis.one_pass import OutputLoss, estimate_sensitivity
from aimet_torch.analysis.sensitivity import Sensitivity
from aimet_torch.analysis.switching import Setting, Switchboard, evaluate_settings
from aimet_torch.mixed_precision.apply import apply_choice, require_repeatable
from aimet_torch.mixed_precision.candidates import (
    bitwidths_in,
    candidate_cost,
    check_candidates,
    closest,
    movable_groups,
    options_of_groups,
    setting_of,
)
from aimet_torch.mixed_precision.costs import Costs
from aimet_torch.mixed_precision.plan import CurvePoint, PrecisionPlan
from aimet_torch.mixed_precision.precision import Candidate
from aimet_torch.mixed_precision.search import AMPSearchAlgo, find_last
from aimet_torch.mixed_precision.sites import SiteMap
from aimet_torch.mixed_precision.solver import Solution, solve
from aimet_torch.quantsim import QuantizationSimModel

__all__ = ["optimize_mixed_precision"]

_NAME = "optimize_mixed_precision"
_MOST_OPTIONS = 50_000  # of groups whose costs depend on each other
_CURVE_POINTS = 24


def optimize_mixed_precision(
    sim: QuantizationSimModel,
    data: Iterable[Any],
    candidates: Iterable[Any],
    *,
    bit_ops: float | None = None,
    weight_bytes: float | None = None,
    bytes: float | None = None,
    allowed_accuracy_drop: float | None = None,
    eval_callback: Callable[[nn.Module], float] | None = None,
    sensitivity: Sensitivity | None = None,
    loss: OutputLoss = "squared_error",
    num_batches: int | None = 4,
    use_all_amp_candidates: bool = False,
    process_group: Any = None,
) -> PrecisionPlan:
    """Choose the precision of every group within budgets, and give it to the simulation.

    Give one or several of the budgets, each as a share (0 to 1) of what the finest candidate
    everywhere costs; or `allowed_accuracy_drop` with `eval_callback`, for the fewest bit-operations
    at which the accuracy is kept; or all of them.

    Args:
        sim: the simulation; ends with the precisions found, calibrated on `data`.
        data: batches for calibration and sensitivity; labels behind the inputs are not read.
        candidates: `((activation bits, data type), (parameter bits, data type))`, at least two.
        bit_ops: most bit-operations.
        weight_bytes: most bytes of quantized weights.
        bytes: most bytes of quantized weights and activations.
        allowed_accuracy_drop: below `eval_callback` in floating point.
        eval_callback: `callback(model)` returns a score, the higher the better; where there is no
            allowed drop it is called once, with the result.
        sensitivity: estimated before, at the integer bit widths of the candidates.
        loss: of the outputs, for the estimate: "squared_error", or "cross_entropy" of logits.
        num_batches: of `data`, for the estimate; None: all.
        use_all_amp_candidates: do not look at `supported_kernels` of the configuration.
        process_group: a `torch.distributed.ProcessGroup` whose ranks share the evaluations out.

    Returns:
        The choice with its costs, the curve of best choices, and what was evaluated.

    Raises:
        ValueError: no budget, one outside 0 to 1, one that no choice keeps, or as
            `choose_mixed_precision`.
        NotImplementedError: matrix products of activations tie too many groups together.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))
    >>> batches = [torch.randn(16, 8)]
    >>> sim = QuantizationSimModel(model, batches[0])
    >>> candidates = [Candidate.of(((8, "int"), (bits, "int"))) for bits in (4, 8)]
    >>> plan = optimize_mixed_precision(sim, batches, candidates, bit_ops=0.8)
    >>> plan.relative["bit_ops"] <= 0.8
    True
    """
    start = time.perf_counter()
    budgets = {
        name: _check_share(name, share)
        for name, share in (
            ("bit_ops", bit_ops),
            ("weight_bytes", weight_bytes),
            ("bytes", bytes),
        )
        if share is not None
    }
    if not budgets and allowed_accuracy_drop is None:
        raise ValueError(
            f"{_NAME}: give a budget: `bit_ops`, `weight_bytes`, `bytes` or `allowed_accuracy_drop`"
        )
    if allowed_accuracy_drop is not None and eval_callback is None:
        raise ValueError(f"{_NAME}: `allowed_accuracy_drop` needs an `eval_callback`")
    if allowed_accuracy_drop is not None and not allowed_accuracy_drop >= 0:
        raise ValueError(
            f"{_NAME}: `allowed_accuracy_drop` must be at least 0, got {allowed_accuracy_drop}"
        )
    require_repeatable(data, f"{_NAME}: `data`")
    chosen = check_candidates(candidates, _NAME)
    sim.compute_encodings(data)
    board = Switchboard(sim)
    groups = movable_groups(board, find_quantizer_groups(sim))
    options = options_of_groups(sim, groups, chosen, use_all_amp_candidates, _NAME)
    board.observe(data, bitwidths_in(options))
    if sensitivity is None:
        sensitivity = estimate_sensitivity(
            sim,
            data,
            _all_bitwidths(chosen),
            loss=loss,
            num_batches=num_batches,
            board=board,
        )
    problem = _Problem(board, options, sensitivity, chosen)
    search = _Search(problem, board, eval_callback, process_group)
    curve, solution, score = search.run(budgets, allowed_accuracy_drop)
    choice = problem.choice(solution)
    setting = problem.setting(choice)
    costs = problem.costs.measures(setting)
    plan = PrecisionPlan(
        choice={group.name: str(candidate) for group, candidate in choice.items()},
        setting={name: str(p) for name, p in setting.items() if p is not None},
        predicted_loss=solution.loss,
        measure=sensitivity.measure,
        costs=costs,
        relative={name: costs[name] / problem.full[name] for name in costs},
        budgets=budgets,
        is_optimal=solution.is_optimal,
        score=score,
        fp32_score=search.fp32,
        curve=curve,
        losses=problem.loss_table(),
        evaluations=search.evaluations,
        seconds=0.0,
    )
    apply_choice(sim, setting_of(choice), data)
    if eval_callback is not None and score is None:
        plan.score = float(eval_callback(sim.model))
        plan.evaluations += 1
    plan.seconds = time.perf_counter() - start
    return plan


def _check_share(name: str, share: float) -> float:
    if not 0 < share <= 1:
        raise ValueError(
            f"{_NAME}: `{name}` is a share of the finest candidate's, above 0 and up to 1; got "
            f"{share}"
        )
    return float(share)


def _all_bitwidths(candidates: Sequence[Candidate]) -> list[int]:
    sides = [side for c in candidates for side in (c.activation, c.param)]
    return sorted({side.bits for side in sides if side is not None and not side.is_float})


class _Problem:
    """Losses and costs of groups; those whose costs depend on each other are one."""

    def __init__(
        self,
        board: Switchboard,
        options: Mapping[QuantizerGroup, Sequence[Candidate]],
        sensitivity: Sensitivity,
        candidates: Sequence[Candidate],
    ) -> None:
        self._board = board
        self._options = options
        self._losses = {(row.name, row.bitwidth): row.loss for row in sensitivity}
        self.costs = Costs(board, SiteMap(board.sim))
        finest = max(candidates, key=candidate_cost)
        self.finest = {group: closest(options[group], finest, group) for group in options}
        self.full = self.costs.measures(self.setting(self.finest))
        self._clusters = list(_clusters(list(options), self.costs))
        self._picks: list[list[dict[QuantizerGroup, Candidate]]] = []
        self.losses: list[list[float]] = []
        self._cost_rows: list[list[dict[str, float]]] = []
        movable = {name for group in options for name in group.quantizers}
        self.fixed = _minus(self.full, self.costs.part(movable).measures(self.setting(self.finest)))
        for cluster in self._clusters:
            self._add(cluster)

    def setting(self, choice: Mapping[QuantizerGroup, Candidate]) -> Setting:
        """Of all quantizers: those in no group that may change stay as they are."""
        own = {name: self._board.precision(name) for name in self._board.quantizers}
        return {**own, **setting_of(choice)}

    def _add(self, cluster: Sequence[QuantizerGroup]) -> None:
        count = math.prod(len(self._options[group]) for group in cluster)
        if count > _MOST_OPTIONS:
            raise NotImplementedError(
                f"{_NAME}: matrix products of activations tie {len(cluster)} groups together "
                f"({', '.join(group.name for group in cluster[:5])}, ...), which have {count} "
                f"choices, more than {_MOST_OPTIONS}; give fewer candidates"
            )
        own = self.costs.part(name for group in cluster for name in group.quantizers)
        base = self.setting(self.finest)
        picks, losses, rows = [], [], []
        for chosen in itertools.product(*(self._options[group] for group in cluster)):
            pick = dict(zip(cluster, chosen, strict=True))
            picks.append(pick)
            losses.append(sum(self.loss(group, candidate) for group, candidate in pick.items()))
            rows.append(own.measures({**base, **setting_of(pick)}))
        self._picks.append(picks)
        self.losses.append(losses)
        self._cost_rows.append(rows)

    def loss(self, group: QuantizerGroup, candidate: Candidate) -> float:
        """Expected rise of the loss; tensors that the outputs do not depend on cost nothing."""
        return sum(
            self._losses.get((name, side.bits), 0.0)
            for names, side in (
                (group.activations, candidate.activation),
                (group.params, candidate.param),
            )
            if side is not None and not side.is_float
            for name in names
        )

    def loss_table(self) -> dict[str, dict[str, float]]:
        """Losses by group and candidate."""
        return {
            group.name: {str(c): self.loss(group, c) for c in candidates}
            for group, candidates in self._options.items()
        }

    def rows(self, measure: str) -> list[list[float]]:
        """Costs by group and option."""
        return [[row[measure] for row in rows] for rows in self._cost_rows]

    def solve(self, budgets: Mapping[str, float]) -> Solution | None:
        """The best choice within these shares of the full costs."""
        return solve(
            self.losses,
            [self.rows(name) for name in budgets],
            [share * self.full[name] - self.fixed[name] for name, share in budgets.items()],
        )

    def least(self, measure: str) -> float:
        """The smallest share there is of a cost."""
        total = sum(min(row) for row in self.rows(measure)) + self.fixed[measure]
        return total / self.full[measure] if self.full[measure] else 1.0

    def choice(self, solution: Solution) -> dict[QuantizerGroup, Candidate]:
        """The candidate of each group."""
        found: dict[QuantizerGroup, Candidate] = {}
        for picks, i in zip(self._picks, solution.choice, strict=True):
            found.update(picks[i])
        return {group: found[group] for group in self._options}


def _minus(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    return {name: a[name] - b[name] for name in a}


def _clusters(groups: list[QuantizerGroup], costs: Costs) -> Iterator[list[QuantizerGroup]]:
    """Groups that meet in a product; mostly each by itself."""
    owner = {name: group for group in groups for name in group.quantizers}
    cluster = {group: [group] for group in groups}
    for product in costs.products:
        left, right = owner.get(product.left or ""), owner.get(product.right or "")
        if left is None or right is None or cluster[left] is cluster[right]:
            continue
        cluster[left].extend(cluster[right])
        for group in cluster[right]:
            cluster[group] = cluster[left]
    seen: set[int] = set()
    for members in cluster.values():
        if id(members) not in seen:
            seen.add(id(members))
            yield members


class _Search:
    def __init__(
        self,
        problem: _Problem,
        board: Switchboard,
        evaluate: Callable[[nn.Module], float] | None,
        process_group: Any,
    ) -> None:
        self._problem = problem
        self._board = board
        self._evaluate = evaluate
        self._group = process_group
        self._known: dict[str, float] = {}
        self.fp32: float | None = None

    @property
    def evaluations(self) -> int:
        return len(self._known)

    def run(
        self, budgets: Mapping[str, float], allowed_drop: float | None
    ) -> tuple[list[CurvePoint], Solution, float | None]:
        """The curve, the choice, and its score if it was evaluated."""
        limits = {name: share for name, share in budgets.items() if name != "bit_ops"}
        if not self._problem.full["bit_ops"] and "bit_ops" in budgets:
            unknown = ", ".join(self._problem.costs.unknown[:5])
            raise ValueError(
                f"{_NAME}: `bit_ops` cannot be a budget: no multiplications of this model are known"
                f"{f' (not traced: {unknown})' if unknown else ''}; give `bytes`"
            )
        least = self._problem.least("bit_ops")
        for name, share in budgets.items():
            smallest = self._problem.least(name)
            if share < smallest * (1 - 1e-9):
                raise ValueError(
                    f"{_NAME}: `{name}` must be at least {smallest:.4g}, what the cheapest "
                    f"candidates cost, got {share:.4g}; add a cheaper candidate"
                )
        most = budgets.get("bit_ops", 1.0)
        step = (1 / least) ** (1 / (_CURVE_POINTS - 1))
        shares = {most, least * (1 + 1e-12), *(step**-i for i in range(_CURVE_POINTS - 1))}
        solved = {s: self._problem.solve({**limits, "bit_ops": s}) for s in sorted(shares)[::-1]}
        found = {s: solution for s, solution in solved.items() if solution is not None}
        if not any(share <= most for share in found):
            raise ValueError(
                f"{_NAME}: no choice keeps all of {dict(budgets)}; raise one of them, or add a "
                "cheaper candidate"
            )
        within = {s.choice: s for share, s in found.items() if share <= most}
        best = list(within.values())
        index, score = 0, None
        if allowed_drop is not None:
            index = self._within(best, allowed_drop)
            score = self._score(best[index])
        curve = {s.choice: s for s in found.values()}
        return [self._point(solution) for solution in curve.values()], best[index], score

    def _within(self, solutions: Sequence[Solution], allowed_drop: float) -> int:
        """The cheapest solution on the falling curve that keeps the accuracy."""
        off: Setting = dict.fromkeys(self._board.quantizers, None)
        self.fp32 = self._run("fp32", off)
        target = self.fp32 - allowed_drop
        found = find_last(
            lambda i: self._score(solutions[i]), len(solutions), target, AMPSearchAlgo.Binary
        )
        return 0 if found is None else found

    def _score(self, solution: Solution) -> float:
        choice = self._problem.choice(solution)
        return self._run(str(solution.choice), self._problem.setting(choice))

    def _run(self, label: str, setting: Setting) -> float:
        assert self._evaluate is not None
        scores = evaluate_settings(
            self._board,
            {label: setting},
            self._evaluate,
            process_group=self._group,
            known=self._known,
        )
        return scores[label]

    def _point(self, solution: Solution) -> CurvePoint:
        setting = self._problem.setting(self._problem.choice(solution))
        share = self._problem.costs.bit_ops(setting) / self._problem.full["bit_ops"]
        score = self._known.get(str(solution.choice))
        return CurvePoint(share, solution.loss, score)
