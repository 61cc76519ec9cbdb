"""Scores of candidates by the user's evaluation, kept in a file and shared out over ranks."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.common import tables
from aimet_torch.common.collectives import Ranks
from aimet_torch.common.defs import EvalFunction
from aimet_torch.common.progress import progress
from aimet_torch.compression.prefix_cache import PrefixCache
from aimet_torch.compression.schemes import Candidate, Unit

__all__ = ["Evaluator", "ScoreFile", "score_candidates"]

_OP = "compress_model"


class Evaluator:
    """The user's ``eval_callback``, checked.

    Args:
        callback: ``callback(model, iterations, use_cuda) -> float``.
        iterations: Its second argument, kept as an attribute.
        use_cuda: Its third.

    Attributes:
        calls: How often it was called.
    """

    def __init__(self, callback: EvalFunction, iterations: Any, use_cuda: bool) -> None:
        if not callable(callback):
            raise TypeError(
                f"{_OP}: `eval_callback` must be a function of (model, iterations, use_cuda), got "
                f"{type(callback).__name__}"
            )
        self._callback = callback
        self.iterations = iterations
        self._use_cuda = use_cuda
        self.calls = 0

    def __call__(self, model: nn.Module, what: str, hint: str = "") -> float:
        """The score of a model, which may be NaN.

        Raises:
            RuntimeError: The callback raised something.
            TypeError: It returned no number.
        """
        self.calls += 1
        try:
            result = self._callback(model, self.iterations, self._use_cuda)
        except Exception as error:
            raise RuntimeError(
                f"{_OP}: `eval_callback` raised {type(error).__name__} for {what}: {error}{hint}"
            ) from error
        try:
            return float(result)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"{_OP}: `eval_callback` must return a number for {what}, got "
                f"{type(result).__name__}"
            ) from error

    def finite(self, model: nn.Module, what: str) -> float:
        """The score of a model that has to have one.

        Raises:
            ValueError: It is NaN or infinite.
        """
        score = self(model, what)
        if not math.isfinite(score):
            raise ValueError(
                f"{_OP}: `eval_callback` must return a finite score for {what}, got {score}"
            )
        return score


class ScoreFile:
    """Scores of candidates in a JSON file, which is whole at every moment.

    Args:
        path: None: they are kept in memory only.
        key: What they depend on; a file with another one is refused.
        ranks: Each writes a file of its own beside; the first one joins them.

    Raises:
        ValueError: The file is none of these, or of something else.
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, key: Mapping[str, Any], ranks: Ranks
    ) -> None:
        self.path = None if path is None else Path(path)
        self._key = json.loads(json.dumps(key))
        self._ranks = ranks
        found = ranks.of_first(self._read_all)
        self.scores: dict[str, dict[float, float]] = found
        self._own = self.path
        if self.path is not None and ranks.rank > 0:
            self._own = self.path.with_name(f"{self.path.name}.rank{ranks.rank}")

    def get(self, unit: str, ratio: float) -> float | None:
        """The score of a candidate, None where there is none yet."""
        return self.scores.get(unit, {}).get(ratio)

    def put(self, unit: str, ratio: float, score: float) -> None:
        """Keep a score, on disk before this returns."""
        self.scores.setdefault(unit, {})[ratio] = score
        self._write(self._own)

    def join(self) -> None:
        """Bring together what all ranks have found."""
        for scores in self._ranks.gather(self.scores):
            for unit, row in scores.items():
                self.scores.setdefault(unit, {}).update(row)
        if self._ranks.size > 1 and self._ranks.rank == 0:
            self._write(self.path)
            for part in self._parts():
                part.unlink(missing_ok=True)

    def _write(self, path: Path | None) -> None:
        if path is None:
            return
        rows = {
            unit: {repr(ratio): score for ratio, score in row.items()}
            for unit, row in self.scores.items()
        }
        tables.write_json(path, tables.json_ready({"key": self._key, "scores": rows}))

    def _parts(self) -> list[Path]:
        if self.path is None or not self.path.parent.is_dir():
            return []
        return sorted(self.path.parent.glob(f"{self.path.name}.rank*"))

    def _read_all(self) -> dict[str, dict[float, float]]:
        scores: dict[str, dict[float, float]] = {}
        if self.path is None:
            return scores
        for path in [p for p in (self.path, *self._parts()) if p.exists()]:
            for unit, row in self._read(path).items():
                scores.setdefault(unit, {}).update(row)
        return scores

    def _read(self, path: Path) -> dict[str, dict[float, float]]:
        rule = f"{_OP}: `saved_eval_scores_dict` must name a JSON file that this wrote, or none yet"
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            key = document["key"]
            scores = {
                str(unit): {float(ratio): float(score) for ratio, score in row.items()}
                for unit, row in document["scores"].items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{rule}; {path} is not one ({type(error).__name__}: {error}). Pickles of AIMET's "
                "are not read: they can run code"
            ) from error
        different = [name for name in {*key, *self._key} if key.get(name) != self._key.get(name)]
        if different:
            name = sorted(different)[0]
            raise ValueError(
                f"{rule} for the same model and settings; in {path}, {name} is {key.get(name)!r} "
                f"instead of {self._key.get(name)!r}. Pass another path, or delete it"
            )
        return scores


def score_candidates(
    model: nn.Module,
    dummy_input: Any,
    units: Sequence[Unit],
    evaluate: Evaluator,
    file: ScoreFile,
    ranks: Ranks,
    make_cache: Callable[..., PrefixCache] = PrefixCache,
) -> Tensor:
    """The score of the model with each candidate alone.

    What is in the file already is not evaluated. Each rank evaluates some units; all get all.

    Args:
        model: Left as it is.
        dummy_input: What it is traced on, so that what runs before a layer runs once for all its
            candidates.
        units: In the order in which the model calls them.
        evaluate: The user's evaluation.
        file: Where scores are found and kept.
        ranks: Who takes part.
        make_cache: Makes the models that are evaluated.

    Returns:
        (units, candidates) float64; NaN where a unit has fewer candidates, and where the callback
        returned no finite score, with a warning.

    Raises:
        RuntimeError: The callback raised something. What it had returned before is in the file.
    """
    own: list[tuple[Unit, Candidate]] = [
        (unit, candidate)
        for unit in units[ranks.rank :: ranks.size]
        for candidate in unit.candidates
        if file.get(unit.name, candidate.ratio) is None
    ]
    if own:
        layers = [name for unit in units for name in unit.candidates[0].build()]
        cache = make_cache(model, dummy_input, layers)
        hint = "" if file.path is None else f". Scores so far are in {file.path}: run it again"
        for unit, candidate in progress(own, "Evaluating candidates", unit="candidate"):
            what = f"the model with {unit.name} at a ratio of {candidate.ratio:g}"
            score = evaluate(cache.begin(candidate.build()), what, hint)
            file.put(unit.name, candidate.ratio, score)
    file.join()
    width = max((len(unit.candidates) for unit in units), default=0)
    table = torch.full((len(units), width), torch.nan, dtype=torch.float64)
    for row, unit in zip(table, units, strict=True):
        found = [file.get(unit.name, candidate.ratio) for candidate in unit.candidates]
        scores = torch.tensor([math.nan if s is None else s for s in found], dtype=torch.float64)
        unusable = [
            c.ratio for c, s in zip(unit.candidates, scores, strict=True) if not s.isfinite()
        ]
        if unusable:
            warnings.warn(
                f"{_OP}: `eval_callback` gave no finite score with {unit.name} at "
                f"{', '.join(f'{ratio:g}' for ratio in unusable)}: these are not chosen",
                stacklevel=2,
            )
        row[: len(found)] = torch.where(scores.isfinite(), scores, torch.nan)
    return table
