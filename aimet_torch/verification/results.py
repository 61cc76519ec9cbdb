"""What a verification found: rows, limits, and the result as a table, JSON and HTML."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from aimet_torch.report import pages
from aimet_torch.report.document import environment
from aimet_torch.report.pages import format_db, format_percent
from aimet_torch.verification.integer.results import IntegerPrediction

DEPTHWISE = "Conv (depthwise)"
LAYER_NORM = "LayerNormalization"


@dataclass(frozen=True)
class Limit:
    """How far an operator of the target may be from the simulation.

    Attributes:
        steps: largest difference, in steps of the result's grid.
        equal: least share of equal values, 0 to 1.
    """

    steps: float
    equal: float


@dataclass(frozen=True)
class Limits:
    """What counts as agreement.

    Attributes:
        node: of an operator that is fed with the simulation's values.
        by_operator: other limits for operators that a target computes less exactly, by the names
            in :attr:`NodeRow.operators`.
        margin_db: the outputs' SQNR, simulation to target, must exceed that of FP32 to simulation
            by this much.
        top1: least share of rows with the same largest entry, 0 to 1.
        wide_sqnr_db: operators with results of more than 8 bits also pass, whatever their steps,
            with this SQNR: a 16-bit step is as small as float32's error of a sum. None: they do
            not.
    """

    node: Limit = Limit(1, 0.999)
    by_operator: Mapping[str, Limit] = field(default_factory=dict)
    margin_db: float = 10.0
    top1: float = 0.95
    wide_sqnr_db: float | None = 80.0

    def of(self, operators: str) -> Limit:
        """The limit of a row."""
        found = [limit for name, limit in self.by_operator.items() if name in operators.split("+")]
        return found[0] if found else self.node


@dataclass(frozen=True)
class NodeRow:
    """One group of operators: all between the quantized tensors that it reads and the one it makes.

    Attributes:
        tensor: ONNX name of the quantized result.
        quantizer: dotted name of the simulation's quantizer.
        operators: types of the operators in the group, ``Conv+Clip``.
        bitwidth: bits of the result's integers.
        step: scale of the result's grid; the smallest one where there are several.
        elements: how many values were compared.
        equal: share of values that are equal when the group is fed with the simulation's values, 0
            to 1.
        steps: largest difference then, in steps of the grid.
        sqnr_db: signal-to-noise ratio then, in dB; ``inf`` when all is equal.
        chain_equal: share of equal values when everything before the group ran on the target, too;
            None where that was not looked at.
        chain_steps: largest difference then.
        off_grid: distance of the simulation's values from the file's grid, in steps: not 0 when the
            file has another calibration than the simulation.
        is_within: whether the limits hold.
    """

    tensor: str
    quantizer: str
    operators: str
    bitwidth: int
    step: float
    elements: int
    equal: float
    steps: float
    sqnr_db: float
    chain_equal: float | None = None
    chain_steps: float | None = None
    off_grid: float = 0.0
    is_within: bool = True


@dataclass(frozen=True)
class OutputRow:
    """One output of the whole model on the target, given the same input.

    Attributes:
        case: how the model ran: ``end to end``, ``graph optimizations``.
        name: ONNX name of the output.
        noise_db: SQNR of the simulation against FP32: the quantization noise, in dB.
        sqnr_db: SQNR of the target against the simulation.
        float_db: SQNR of the target against FP32.
        equal: share of values equal to the simulation's, 0 to 1.
        top1: share of rows (last axis) whose largest entry is where the simulation's is, 0 to 1;
            None for outputs that are no scores.
        noise_top1: the same of the simulation and FP32.
        float_top1: the same of the target and FP32.
        largest: largest difference, in the output's unit.
        steps: the same in steps of the output's grid; None where the output has none.
        is_within: whether the limits hold.
    """

    case: str
    name: str
    noise_db: float
    sqnr_db: float
    float_db: float
    equal: float
    top1: float | None
    noise_top1: float | None
    float_top1: float | None
    largest: float
    steps: float | None = None
    is_within: bool = True


@dataclass
class Verification:
    """The result of :func:`aimet_torch.verify`. `print` shows it as a table.

    Attributes:
        target: ``onnxruntime`` or ``htp``.
        file: name of the ONNX file.
        samples: number of calls that were compared.
        nodes: one row for each group of operators, in the order of the graph.
        outputs: one row for each output and way to run the whole model.
        problems: what is not within the limits, in sentences; empty when all is well.
        notes: what else is worth knowing.
        integer: what an integer-only target computes; None without ``integer=True``.
        limits: what the rows were judged by.
        seconds: wall-clock time of the verification.
        environment: versions and machine.
    """

    target: str
    file: str
    samples: int = 0
    nodes: list[NodeRow] = field(default_factory=list)
    outputs: list[OutputRow] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    integer: IntegerPrediction | None = None
    limits: Limits = field(default_factory=Limits)
    seconds: float = 0.0
    environment: dict[str, str] = field(default_factory=environment)

    @property
    def ok(self) -> bool:
        """Whether everything is within the limits."""
        return not self.problems

    @property
    def first_difference(self) -> NodeRow | None:
        """The first group whose result differs at all; None when none does."""
        return next((row for row in self.nodes if row.equal < 1 or row.steps > 0), None)

    @property
    def headline(self) -> str:
        """The result in one or two sentences."""
        if not self.nodes and not self.outputs:
            return "Nothing was compared."
        verdict = "within the limits" if self.ok else f"{len(self.problems)} problem(s)"
        if not self.nodes:
            return f"{self.target}: {verdict}."
        first = self.first_difference
        if first is None:
            return f"{self.target}: {verdict}; all {len(self.nodes)} operators are equal."
        return (
            f"{self.target}: {verdict}. The first difference arises in {first.operators} "
            f"(`{first.tensor}`): {format_percent(first.equal, 3)} equal, at most {first.steps:g} "
            f"step(s). {sum(row.equal == 1 for row in self.nodes)} of {len(self.nodes)} operators "
            "are equal."
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; infinities and NaN, which JSON has not, become strings."""
        return pages.json_ready({**asdict(self), "ok": self.ok, "headline": self.headline})

    def write_json(self, path: str | os.PathLike[str]) -> Path:
        """Write the result as JSON to ``path`` and return it."""
        return pages.write_json(path, self.to_dict())

    def to_html(self) -> str:
        """The result as one self-contained HTML page."""
        return pages.render(
            "verification.html",
            result=self,
            bars=[_bar(row) for row in self.nodes],
            marks=[(1 - i / 5, text) for i, text in enumerate(_DECADES)],
            environment=self.environment,
        )

    def write_html(self, path: str | os.PathLike[str]) -> Path:
        """Write the result as one HTML file to ``path`` and return it."""
        return pages.write(path, self.to_html())

    def __str__(self) -> str:
        parts = [self.headline]
        if self.outputs:
            parts.append(pages.text_table(_OUTPUT_HEADER, [_output_cells(r) for r in self.outputs]))
        differing = [row for row in self.nodes if row.equal < 1 or row.chain_steps or row.off_grid]
        if differing:
            parts.append(pages.text_table(_NODE_HEADER, [_node_cells(r) for r in differing]))
        if self.integer is not None:
            parts.append(str(self.integer))
        parts += [f"problem: {text}" for text in self.problems]
        parts += [f"note: {text}" for text in self.notes]
        return "\n\n".join(parts)


_OUTPUT_HEADER = (
    "case",
    "output",
    "FP32 to simulation",
    "simulation to target",
    "FP32 to target",
    "equal",
    "largest, steps",
    "same top-1",
)
#: Marks of the chart of differing results: shares on a logarithmic scale.
_DECADES = ("all", "10 %", "1 %", "0.1 %", "0.01 %", "none")
_NODE_HEADER = ("tensor", "operators", "bits", "equal", "steps", "end to end: equal", "steps")


def _output_cells(row: OutputRow) -> Sequence[str]:
    return (
        row.case,
        row.name,
        format_db(row.noise_db),
        format_db(row.sqnr_db),
        format_db(row.float_db),
        format_percent(row.equal, 3),
        pages.NOTHING if row.steps is None else f"{row.steps:g}",
        format_percent(row.top1),
    )


def _node_cells(row: NodeRow) -> Sequence[str]:
    return (
        row.tensor,
        row.operators,
        str(row.bitwidth),
        format_percent(row.equal, 3),
        f"{row.steps:g}",
        format_percent(row.chain_equal, 3),
        pages.NOTHING if row.chain_steps is None else f"{row.chain_steps:g}",
    )


def _bar(row: NodeRow) -> pages.Bar:
    differing = 1 - row.equal
    # 1 for all, 0 for one in a hundred thousand or fewer; a sliver where there is any.
    height = min(max(1 + math.log10(differing) / 5, 0.01), 1.0) if differing > 0 else 0.0
    tip = f"{format_percent(row.equal, 3)} equal, at most {pages.format_number(row.steps)} step(s)"
    grade = "good" if row.is_within else "poor"
    return pages.Bar(row.tensor, height, grade, f"{row.tensor} ({row.operators}): {tip}")
