"""How much each quantizer, and each group of them, hurts at each precision: tables of results."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aimet_torch.analysis.groups import QuantizerGroup
from aimet_torch.analysis.precision import Candidate, Precision
from aimet_torch.analysis.switching import Evaluate, Setting, Switchboard, evaluate_settings
from aimet_torch.common.tables import json_ready, text_table, write_json

__all__ = [
    "GroupScore",
    "GroupScores",
    "Sensitivity",
    "SensitivityRow",
    "candidate_setting",
    "measure_groups",
]


@dataclass(frozen=True)
class SensitivityRow:
    """What one quantizer does at one bit width, by itself.

    Attributes:
        name: of the quantizer in ``sim.model``.
        is_param: of a parameter, not of an activation.
        bitwidth: of its integers.
        loss: expected rise of the loss, in the unit of `Sensitivity.measure`; never negative.
        sqnr_db: power of the tensor over the power of what quantizing adds, in dB.
        clipped: share of the tensor's values beyond the limits of the grid, 0 to 1.
    """

    name: str
    is_param: bool
    bitwidth: int
    loss: float
    sqnr_db: float
    clipped: float = 0.0

    @property
    def layer(self) -> str:
        """Name of the module that owns the quantizer."""
        return self.name.rsplit(".", 2)[0]

    @property
    def tensor(self) -> str:
        """``weight``, ``input 0``, ``output 0``, ..."""
        _, kind, key = self.name.rsplit(".", 2)
        return key if kind == "param_quantizers" else f"{kind.removesuffix('_quantizers')} {key}"


class _Document:
    """What the tables below share, which are dataclasses."""

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and dicts."""
        document: dict[str, Any] = json_ready(asdict(self))  # type: ignore[call-overload]
        return document

    def save_json(self, path: str | os.PathLike[str]) -> Path:
        """Write everything to a file; `load_json` reads it."""
        return write_json(path, self.to_dict())


@dataclass
class Sensitivity(_Document):
    """Sensitivity of every quantizer at several bit widths. `print` shows it as a table.

    Attributes:
        rows: one for each quantizer and bit width, in the order of execution.
        measure: what `SensitivityRow.loss` means.
        samples: inputs that it was estimated with.
        seconds: that it took.
    """

    rows: list[SensitivityRow] = field(default_factory=list)
    measure: str = ""
    samples: int = 0
    seconds: float = 0.0

    def __iter__(self) -> Iterator[SensitivityRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def bitwidths(self) -> list[int]:
        """Bit widths there are, ascending."""
        return sorted({row.bitwidth for row in self.rows})

    def loss(self, name: str, precision: Precision | int | None) -> float:
        """Expected rise of the loss by one quantizer.

        Args:
            name: of the quantizer.
            precision: None (off) and floating point cost nothing: their noise is far below that of
                integers.

        Raises:
            ValueError: not measured.
        """
        if precision is None or (isinstance(precision, Precision) and precision.is_float):
            return 0.0
        bits = precision.bits if isinstance(precision, Precision) else precision
        for row in self.rows:
            if row.name == name and row.bitwidth == bits:
                return row.loss
        raise ValueError(
            f"Sensitivity.loss: `precision` of {name!r} must be among the bit widths that were "
            f"measured ({', '.join(map(str, self.bitwidths))}), got {bits}"
        )

    def of_setting(self, setting: Setting) -> float:
        """Sum over the quantizers of a setting: errors of different tensors add up."""
        return sum(self.loss(name, precision) for name, precision in setting.items())

    def of_groups(
        self,
        groups: Iterable[QuantizerGroup],
        candidates: Iterable[Candidate | tuple[Any, ...]],
    ) -> GroupScores:
        """Expected rise of the loss for each group at each candidate, alone."""
        pairs = [(group, Candidate.of(c)) for group in groups for c in candidates]
        rows = [
            GroupScore(group.name, candidate, self.of_setting(candidate_setting(group, candidate)))
            for group, candidate in pairs
        ]
        return GroupScores(rows, self.measure, seconds=self.seconds)

    def ranking(self, bitwidth: int) -> list[SensitivityRow]:
        """Rows of one bit width, the most sensitive first."""
        rows = [row for row in self.rows if row.bitwidth == bitwidth]
        return sorted(rows, key=lambda row: row.loss, reverse=True)

    @classmethod
    def load_json(cls, path: str | os.PathLike[str]) -> Sensitivity:
        """Read what `save_json` has written."""
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        rows: list[SensitivityRow] = []
        for row in document.pop("rows"):
            for key in ("loss", "sqnr_db", "clipped"):  # infinity is a string in JSON
                row[key] = float(row[key])
            rows.append(SensitivityRow(**row))
        return cls(rows, **document)

    def __str__(self) -> str:
        cells = []
        for name in dict.fromkeys(row.name for row in self.rows):
            own = {row.bitwidth: row for row in self.rows if row.name == name}
            first = next(iter(own.values()))
            losses = [f"{own[b].loss:.3g}" if b in own else "" for b in self.bitwidths]
            noises = [_db(own[b].sqnr_db) if b in own else "" for b in self.bitwidths]
            cells.append((first.layer, first.tensor, *losses, *noises))
        header = (
            "layer",
            "tensor",
            *(f"loss, {b} bits" for b in self.bitwidths),
            *(f"SQNR, {b} bits" for b in self.bitwidths),
        )
        return text_table(header, cells) + (f"\n\nloss: {self.measure}" if self.measure else "")


@dataclass(frozen=True)
class GroupScore:
    """Result of a simulation with one group at a candidate.

    Attributes:
        group: name of the group.
        candidate: its precisions.
        score: what was measured or estimated.
    """

    group: str
    candidate: Candidate
    score: float


@dataclass
class GroupScores(_Document):
    """Scores of groups at candidates. `print` shows them as a table.

    Attributes:
        rows: group by group.
        measure: what a score means.
        seconds: that it took.
        evaluations: of the model that it took.
    """

    rows: list[GroupScore] = field(default_factory=list)
    measure: str = ""
    seconds: float = 0.0
    evaluations: int = 0

    def __iter__(self) -> Iterator[GroupScore]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def as_dict(self) -> dict[tuple[str, str], float]:
        """Scores by group and text of the candidate, such as ``("conv1", "W4A8")``."""
        return {(row.group, str(row.candidate)): row.score for row in self.rows}

    @classmethod
    def load_json(cls, path: str | os.PathLike[str]) -> GroupScores:
        """Read what `save_json` has written."""
        document = json.loads(Path(path).read_text(encoding="utf-8"))
        rows = []
        for row in document.pop("rows"):
            parts = (row["candidate"]["activation"], row["candidate"]["param"])
            candidate = Candidate(*(None if p is None else Precision(**p) for p in parts))
            rows.append(GroupScore(row["group"], candidate, float(row["score"])))
        return cls(rows, **document)

    def __str__(self) -> str:
        candidates = list(dict.fromkeys(str(row.candidate) for row in self.rows))
        scores = self.as_dict()
        cells = [
            (group, *(_score(scores.get((group, candidate))) for candidate in candidates))
            for group in dict.fromkeys(row.group for row in self.rows)
        ]
        text = text_table(("group", *candidates), cells)
        return text + (f"\n\nscore: {self.measure}" if self.measure else "")


def candidate_setting(group: QuantizerGroup, candidate: Candidate) -> dict[str, Precision | None]:
    """The precisions that a candidate means for the quantizers of a group."""
    setting: dict[str, Precision | None] = {}
    for names, precision in (
        (group.activations, candidate.activation),
        (group.params, candidate.param),
    ):
        if precision is not None:
            setting.update(dict.fromkeys(names, precision))
    return setting


def measure_groups(
    board: Switchboard,
    groups: Sequence[QuantizerGroup],
    candidates: Sequence[Candidate | tuple[Any, ...]],
    evaluate: Evaluate,
    *,
    others: Mapping[str, Precision | None] | None = None,
    measure: str = "",
    **options: Any,
) -> GroupScores:
    """Evaluate the model with one group at a time at each candidate.

    Args:
        board: of the simulation.
        groups: that are changed, one at a time.
        candidates: `Candidate` or AIMET's ``((act_bits, dtype), (param_bits, dtype))``.
        evaluate: gives a score of ``sim.model``.
        others: precisions of all other quantizers; None: they are off.
        measure: what a score means, for the table.
        **options: of `evaluate_settings`: ``process_group``, ``known``, ``on_score``. A label is
            ``"<group> <candidate>"``.

    Returns:
        One score for each group and candidate that changes something in it.
    """
    start = time.perf_counter()
    rest = dict.fromkeys(board.quantizers, None) if others is None else dict(others)
    pairs = {}
    for group in groups:
        for candidate in map(Candidate.of, candidates):
            setting = candidate_setting(group, candidate)
            if setting:
                pairs[f"{group.name} {candidate}"] = (group, candidate, {**rest, **setting})
    settings = {label: setting for label, (_, _, setting) in pairs.items()}
    known = options.get("known") or {}
    count = sum(label not in known for label in settings)
    options.setdefault("description", "Groups")
    options.setdefault("base", rest)
    scores = evaluate_settings(board, settings, evaluate, **options)
    rows = [
        GroupScore(group.name, candidate, scores[label])
        for label, (group, candidate, _) in pairs.items()
    ]
    return GroupScores(rows, measure, time.perf_counter() - start, count)


def _db(value: float) -> str:
    return "exact" if value == math.inf else f"{value:.1f} dB"


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
