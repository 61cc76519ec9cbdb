"""What an integer-only target makes of a QDQ file: rows and a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from aimet_torch.report import pages
from aimet_torch.report.pages import format_db, format_percent

OVERFLOWS, MAY_OVERFLOW, FITS = "overflows", "may overflow", "fits"


@dataclass(frozen=True)
class IntegerRow:
    """One quantized tensor of an integer-only target.

    Attributes:
        tensor: ONNX name of the integers.
        operators: what computes it, with fused activation functions.
        kind: ``integer``; ``moved``: codes as they are; ``table``: looked up by code; ``input``: an
            input of the model, rounded; ``float``: computed in floating point and rounded, as every
            target has its own approximation.
        reason: why it is not ``integer``.
        equal: share of codes equal to the simulation's, fed with the simulation's, 0 to 1; None
            where the simulation has no quantizer of its own.
        steps: largest difference then, in steps of the grid.
        chain_equal: the same with everything before on the target, too.
        chain_steps: largest difference then.
        needed_bits: width of an accumulator that no input could overflow; None without one.
        used_bits: width that the given inputs needed.
        accumulator: ``fits``, ``may overflow`` (some input could) or ``overflows`` (one did); empty
            without one.
    """

    tensor: str
    operators: str
    kind: str
    reason: str
    equal: float | None
    steps: float | None
    chain_equal: float | None
    chain_steps: float | None
    needed_bits: int | None = None
    used_bits: int | None = None
    accumulator: str = ""


@dataclass(frozen=True)
class IntegerOutput:
    """One output of the whole model, integer-only target against simulation.

    Attributes:
        name: ONNX name.
        sqnr_db: signal-to-noise ratio, in dB.
        equal: share of equal values, 0 to 1.
        top1: share of rows with the same largest entry; None for outputs that are no scores.
        largest: largest difference, in the output's unit.
    """

    name: str
    sqnr_db: float
    equal: float
    top1: float | None
    largest: float


@dataclass
class IntegerPrediction:
    """What an integer-only target computes. `print` shows it as a table.

    Attributes:
        rounding: rule of requantization.
        accumulator_bits: width of accumulators.
        samples: calls that were compared.
        rows: one for each quantized tensor, in the order of the graph.
        outputs: one for each output of the model.
    """

    rounding: str
    accumulator_bits: int
    samples: int = 0
    rows: list[IntegerRow] = field(default_factory=list)
    outputs: list[IntegerOutput] = field(default_factory=list)

    @property
    def overflows(self) -> list[IntegerRow]:
        """Layers whose accumulators overflow, or could with another input."""
        return [row for row in self.rows if row.accumulator in (OVERFLOWS, MAY_OVERFLOW)]

    @property
    def problems(self) -> list[str]:
        """Accumulators that the given inputs make overflow, in sentences."""
        return [
            f"integer-only: the accumulator of {row.operators} (`{row.tensor}`) overflows: it "
            f"needs {row.used_bits} bits and has {self.accumulator_bits}; use 8-bit activations "
            "there, fewer bits for its weights, or a target with wider accumulators"
            for row in self.rows
            if row.accumulator == OVERFLOWS
        ]

    @property
    def notes(self) -> list[str]:
        """Accumulators that other inputs could make overflow, in sentences."""
        return [
            f"integer-only: the accumulator of {row.operators} (`{row.tensor}`) could overflow: "
            f"the worst input needs {row.needed_bits} bits, the given ones {row.used_bits}"
            for row in self.rows
            if row.accumulator == MAY_OVERFLOW
        ]

    @property
    def float_rows(self) -> list[IntegerRow]:
        """Results that the reference computes in floating point."""
        return [row for row in self.rows if row.kind == "float"]

    @property
    def headline(self) -> str:
        """The result in one or two sentences."""
        compared = [row for row in self.rows if row.steps is not None]
        worst = max((row.steps for row in compared if row.steps is not None), default=0.0)
        text = (
            f"integer-only ({self.rounding} rounding, {self.accumulator_bits}-bit accumulators): "
            f"{sum(row.equal == 1 for row in compared)} of {len(compared)} results equal, at most "
            f"{worst:g} step(s) apart; {len(self.float_rows)} of {len(self.rows)} in floating "
            "point."
        )
        if not self.overflows:
            return f"{text} No accumulator can overflow."
        return f"{text} {len(self.overflows)} accumulator(s) overflow or could."

    def __str__(self) -> str:
        shown = [r for r in self.rows if r.kind != "moved" and (_differs(r) or _is_notable(r))]
        parts = [self.headline]
        parts.append(pages.text_table(_OUTPUT_HEADER, [_output_cells(row) for row in self.outputs]))
        if shown:
            parts.append(pages.text_table(_HEADER, [_cells(row) for row in shown]))
        return "\n\n".join(parts)


def _differs(row: IntegerRow) -> bool:
    return bool(row.steps or row.chain_steps)


def _is_notable(row: IntegerRow) -> bool:
    return row.accumulator in (OVERFLOWS, MAY_OVERFLOW)


_OUTPUT_HEADER = ("output", "integer-only to simulation", "equal", "same top-1")
_HEADER = (
    "tensor",
    "operators",
    "kind",
    "equal",
    "steps",
    "end to end: equal",
    "steps",
    "accumulator needs",
    "used",
    "",
)


def _output_cells(row: IntegerOutput) -> Sequence[str]:
    equal = format_percent(row.equal)
    return (row.name, format_db(row.sqnr_db), equal, format_percent(row.top1))


def _cells(row: IntegerRow) -> Sequence[str]:
    def steps(value: float | None) -> str:
        return pages.NOTHING if value is None else f"{value:g}"

    def bits(value: int | None) -> str:
        return pages.NOTHING if value is None else f"{value} bits"

    return (
        row.tensor,
        row.operators,
        row.kind,
        format_percent(row.equal),
        steps(row.steps),
        format_percent(row.chain_equal),
        steps(row.chain_steps),
        bits(row.needed_bits),
        bits(row.used_bits),
        row.accumulator,
    )
