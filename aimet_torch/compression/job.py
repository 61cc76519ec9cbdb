"""One compression from the first evaluation to the table: ratios chosen, applied, reported."""

from __future__ import annotations

import copy
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from aimet_torch.common.collectives import Ranks
from aimet_torch.common.compression_stats import (
    CompressionStats,
    LayerStats,
    RatioSelectionStats,
)
from aimet_torch.common.defs import (
    CostMetric,
    GreedySelectionParameters,
)
from aimet_torch.compression.calls import Call, CallRecorder, first_batches, first_samples
from aimet_torch.compression.cost import ModelCost
from aimet_torch.compression.defs import (
    ExactSelectionParameters,
    ManualModeParams,
    Mode,
)
from aimet_torch.compression.evaluation import Evaluator, ScoreFile, score_candidates
from aimet_torch.compression.latency import measure_latency
from aimet_torch.compression.refinement import choose_by_time, choose_exactly, choose_greedily
from aimet_torch.compression.schemes import Applied, Scheme, Unit
from aimet_torch.compression.selection import Choice, monotonic
from aimet_torch.compression.sensitivity import measure_sensitivities
from aimet_torch.graph import bind_inputs
from aimet_torch.ops import fingerprint
from aimet_torch.ptq.replay import count_inputs, record_inputs

__all__ = ["CompressedLayer", "Job", "Trainer"]

_OP = "compress_model"


@dataclasses.dataclass(frozen=True)
class CompressedLayer:
    """What a trainer is told about the layer that was compressed just now.

    Attributes:
        name: Dotted name.
        module: What stands there now.
    """

    name: str
    module: nn.Module


class Trainer(Protocol):
    """Fine-tunes a model layer by layer while it is compressed."""

    def train_model(self, model: nn.Module, layer: Any, train_flag: bool = True) -> Any:
        """Train ``model`` in place.

        Args:
            model: With all layers compressed that have been so far.
            layer: A :class:`CompressedLayer`; in the first call the model itself.
            train_flag: False in the first call, before anything is compressed.
        """
        ...


class Job:
    """One compression; the arguments are those of :meth:`ModelCompressor.compress_model`."""

    def __init__(
        self,
        model: nn.Module,
        input: Any,
        evaluate: Evaluator,
        metric: CostMetric,
        parameters: Any,
        trainer: Trainer | None,
        ranks: Ranks,
    ) -> None:
        self.model = model
        self.input = input
        self.evaluate = evaluate
        self.metric = metric
        self.parameters = parameters
        self.trainer = trainer
        self.ranks = ranks

    def run(self, scheme: Scheme) -> tuple[nn.Module, CompressionStats]:
        """Choose where that is asked for, apply, evaluate; the compressed copy and the table."""
        original = copy.deepcopy(self.model).eval()
        if self.trainer is not None:
            self.trainer.train_model(original, original, train_flag=False)
        with CallRecorder(original, self._samples()) as recorder:
            baseline = self.evaluate.finite(original, "the original model")
        selection, costs = None, {}
        if self.parameters.mode is Mode.manual:
            ratios = self._given_ratios()
        else:
            start, calls = time.perf_counter(), self.evaluate.calls
            units, table, choice = self._choose(scheme, recorder.calls)
            ratios = {name: found.ratio for name, found in choice.candidates.items()}
            costs = {
                unit.name: choice.candidates[unit.name].cost / max(unit.cost, 1e-30)
                for unit in units
                if scheme.adds_up and unit.name in choice.candidates
            }
            selection = self._selection_stats(units, table, choice)
            selection = dataclasses.replace(
                selection,
                evaluations=self.evaluate.calls - calls,
                seconds=time.perf_counter() - start,
            )
            if self.metric is CostMetric.latency:  # no two ranks measure the same
                found = ratios, costs, selection
                ratios, costs, selection = self.ranks.of_first(lambda: found)
        result = self._apply(scheme, ratios)
        _check_outputs(self.model, result.model, self.input)
        accuracy = self.evaluate.finite(copy.deepcopy(result.model).eval(), "the compressed model")
        latency = None
        if self.metric is CostMetric.latency:
            latency = self.ranks.of_first(lambda: self._measured(result.model, original))
        return result.model, CompressionStats(
            baseline,
            accuracy,
            result.after.parameters / max(result.before.parameters, 1),
            result.after.macs / max(result.before.macs, 1),
            self._rows(result, ratios, costs, scheme.left),
            selection,
            scheme.name,
            self.metric.name,
            latency,
        )

    def _measured(self, smaller: nn.Module, original: nn.Module) -> float:
        """Time of a model over that of the original."""
        found = measure_latency(smaller, self.input, baseline=original)
        assert found.speedup is not None
        return 1 / found.speedup

    # -- choosing ----------------------------------------------------------------------------------

    def _given_ratios(self) -> dict[str, float]:
        params = self.parameters.mode_params
        assert isinstance(params, ManualModeParams)
        names = {id(module): name for name, module in self.model.named_modules()}
        ratios = {}
        for pair in params.list_of_module_comp_ratio_pairs:
            if id(pair.module) not in names:
                raise ValueError(
                    f"{_OP}: `list_of_module_comp_ratio_pairs` must hold modules of `model`, got a "
                    f"{type(pair.module).__name__} that is none"
                )
            ratios[names[id(pair.module)]] = float(pair.comp_ratio)
        return ratios

    @property
    def _selection(self) -> GreedySelectionParameters | ExactSelectionParameters:
        return self.parameters.mode_params.greedy_params

    def _samples(self) -> int:
        """How many inputs of the evaluation are kept: none, unless the exact choice needs them."""
        if self.parameters.mode is Mode.manual:
            return 0
        found = self._selection
        is_wanted = isinstance(found, ExactSelectionParameters) and found.data_loader is None
        return found.num_samples if isinstance(found, ExactSelectionParameters) and is_wanted else 0

    def _choose(self, scheme: Scheme, calls: list[Call]) -> tuple[list[Unit], Tensor, Choice]:
        params = self._selection
        target = float(params.target_comp_ratio)
        if not 0 < target <= 1:
            raise ValueError(f"{_OP}: `target_comp_ratio` must be in (0, 1], got {target}")
        count = params.num_comp_ratio_candidates
        ratios = {round(index / count, 10) for index in range(1, count)}
        if isinstance(params, ExactSelectionParameters):
            ratios |= {target} - {1.0}  # the same for all layers always is a choice
        units = scheme.units(sorted(ratios))
        if not units:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in scheme.left.items())
            raise ValueError(
                f"{_OP}: `model` has no layer that {scheme.name} makes smaller"
                + (f" ({reasons})" if reasons else "")
            )
        if isinstance(params, ExactSelectionParameters):
            if params.data_loader is not None:
                batches = first_batches(params.data_loader, params.num_samples)
                calls = record_inputs(
                    self.model,
                    batches,
                    params.forward_fn,
                    None,
                    count_inputs(self.model, self.input),
                )
            if not calls:
                raise ValueError(
                    f"{_OP}: `eval_callback` did not call the model; pass `data_loader` to "
                    "ExactSelectionParameters"
                )
            table = measure_sensitivities(
                self.model, first_samples(calls, params.num_samples), units, self.ranks
            )
            table = -monotonic(-table)  # noise: less of a layer cannot be more like it
            return units, table, self._search(choose_exactly, scheme, units, table, target)
        tensors = [*self.model.parameters(), *self.model.buffers()]
        key = {
            "model": fingerprint([t.detach().cpu() for t in tensors]),
            "iterations": repr(self.evaluate.iterations),
            **scheme.key(),
        }
        file = ScoreFile(params.saved_eval_scores_dict, key, self.ranks)
        table = score_candidates(self.model, self.input, units, self.evaluate, file, self.ranks)
        scores = monotonic(table) if params.use_monotonic_fit else table
        return units, scores, self._search(choose_greedily, scheme, units, scores, target)

    def _search(
        self,
        choose: Callable[..., Choice],
        scheme: Scheme,
        units: list[Unit],
        table: Tensor,
        target: float,
    ) -> Choice:
        """The choice for a ratio of added-up costs, or of the time of the whole model."""
        if self.metric is not CostMetric.latency:
            return choose(scheme, units, table, target)
        original = copy.deepcopy(self.model).eval()

        def measure(choice: Choice) -> float:
            return self._measured(scheme.shaped(original, choice.candidates), original)

        # Measured time is no smoother than its candidates.
        coarse = functools.partial(choose, scheme, units, table, refines=False)
        return choose_by_time(lambda aim: coarse(target=aim), measure, target)

    def _selection_stats(
        self, units: Sequence[Unit], table: Tensor, choice: Choice
    ) -> RatioSelectionStats:
        is_exact_method = isinstance(self._selection, ExactSelectionParameters)
        note, step = choice.note, self.parameters.multiplicity
        if note and step > 1:
            note += f"; a smaller `multiplicity` than {step} comes nearer"
        return RatioSelectionStats(
            method="exact" if is_exact_method else "greedy",
            target=float(self._selection.target_comp_ratio),
            achieved=choice.ratio,
            eval_scores_dictionary={
                unit.name: {
                    candidate.ratio: float(value)
                    for candidate, value in zip(unit.candidates, row, strict=False)
                }
                for unit, row in zip(units, table, strict=True)
            },
            threshold=None if is_exact_method else choice.value,
            error=choice.value if is_exact_method else None,
            curve=choice.curve,
            is_exact=choice.is_exact,
            chosen={
                name: (candidate.ratio, choice.values[name])
                for name, candidate in choice.candidates.items()
            },
            note=note,
        )

    # -- applying ----------------------------------------------------------------------------------

    def _apply(self, scheme: Scheme, ratios: Mapping[str, float]) -> Applied:
        by_layer = self.parameters.mode is Mode.manual
        if self.trainer is None:
            return scheme.apply(self.model, ratios, by_layer=by_layer)
        result = scheme.apply(self.model, {}, by_layer=by_layer)
        before, layers = result.before, dict(result.layers)
        for name, ratio in ratios.items():
            result = scheme.apply(result.model, {name: ratio}, by_layer=by_layer)
            layers.update({key: row for key, row in result.layers.items() if any(row)})
            layer = CompressedLayer(name, result.model.get_submodule(name))
            self.trainer.train_model(result.model, layer)
        return dataclasses.replace(result, layers=layers, before=before)

    def _rows(
        self,
        result: Applied,
        ratios: Mapping[str, float],
        costs: Mapping[str, float],
        left: Mapping[str, str],
    ) -> list[LayerStats]:
        rows = []
        for name, _ in self.model.named_modules():
            row = result.layers.get(name)
            if row is None and name not in left and name not in ratios:
                continue
            macs = (_macs(result.before, name), _macs(result.after, name))
            parameters = (_parameters(result.before, name), _parameters(result.after, name))
            pair = parameters if self.metric is CostMetric.memory else macs
            reached = costs.get(name) if self.metric is CostMetric.latency else None
            if reached is None and pair[0] and pair[0] != pair[1]:
                reached = pair[1] / pair[0]
            became, note = row or ("", "")
            notes = [text for text in (left.get(name), note) if text]
            rows.append(
                LayerStats(
                    name, ratios.get(name), reached, macs, parameters, became,
                    notes[0] if notes else "",
                )
            )  # fmt: skip
        return rows


def _macs(cost: ModelCost, name: str) -> int:
    return sum(row.macs or 0 for row in cost.layers if _is_within(row.name, name))


def _parameters(cost: ModelCost, name: str) -> int:
    return sum(row.parameters for row in cost.layers if _is_within(row.name, name))


def _is_within(row: str, name: str) -> bool:
    return row == name or row.startswith(f"{name}.")


def _check_outputs(original: nn.Module, compressed: nn.Module, input: Any) -> None:
    """What comes out must look like what came out before.

    Raises:
        RuntimeError: It does not.
    """
    shapes = []
    for each in (original, compressed):
        model = copy.deepcopy(each).eval()
        args, kwargs = bind_inputs(model, input)
        with torch.no_grad():
            leaves = _pytree.tree_leaves(model(*args, **kwargs))
        shapes.append([(leaf.shape, leaf.dtype) for leaf in leaves if isinstance(leaf, Tensor)])
    if shapes[0] != shapes[1]:
        raise RuntimeError(
            f"{_OP}: the compressed model must give tensors like those of `model`, {shapes[0]}, "
            f"got {shapes[1]}; please report this"
        )
