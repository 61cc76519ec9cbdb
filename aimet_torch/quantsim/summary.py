"""What a simulation quantizes, what it does not, and why: as rows and as a table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from aimet_torch.graph import OpNode
from aimet_torch.quantization.base import QuantizerBase

if TYPE_CHECKING:
    from aimet_torch.quantsim.sim import QuantizationSimModel

_FLOAT = "float"


@dataclass(frozen=True)
class SummaryRow:
    """One operator of the graph.

    Attributes:
        name: dotted name of the call site.
        op_type: ONNX name of the operator.
        inputs: type and range of each quantizer, or why there is none; of `params` and `outputs`
            likewise.
    """

    name: str
    op_type: str
    inputs: list[str]
    params: list[str]
    outputs: list[str]

    @property
    def is_float(self) -> bool:
        """Whether some floating-point result has neither a quantizer nor its producer's grid."""
        return any(text.startswith(_FLOAT) for text in self.outputs)


@dataclass(frozen=True)
class Summary:
    """Rows for every operator, and what could not be traced.

    Attributes:
        rows: one for each operator, in execution order.
        boundaries: name, reason and floating-point operators of each untraceable module.
        specializations: decisions that the trace took from the example input.
        quantizer_count: number of quantizers.
        uncalibrated: names of quantizers without a range.
    """

    rows: list[SummaryRow]
    boundaries: list[dict[str, Any]] = field(default_factory=list)
    specializations: list[str] = field(default_factory=list)
    quantizer_count: int = 0
    uncalibrated: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[SummaryRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def float_ops(self) -> list[SummaryRow]:
        """Operators with a floating-point result that nothing quantizes."""
        return [row for row in self.rows if row.is_float]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and dicts, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        header = ("operator", "type", "inputs", "parameters", "outputs")
        cells = [header] + [line for row in self.rows for line in _lines(row)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
        lines.insert(1, "  ".join("-" * width for width in widths))
        lines.append("")
        lines.append(
            f"{len(self.rows)} operators, {self.quantizer_count} quantizers, "
            f"{len(self.uncalibrated)} of them without "
            f"a range, {len(self.float_ops)} operators with a floating-point result"
        )
        for boundary in self.boundaries:
            ops = ", ".join(boundary["float_ops"]) or "none"
            lines.append(
                f"untraceable: {boundary['name'] or 'the whole model'} ({boundary['reason']}); "
            )
            lines.append(f"  operators in floating point there: {ops}")
        lines += [f"fixed by the example input: {text}" for text in self.specializations]
        return "\n".join(lines)


def _lines(row: SummaryRow) -> list[tuple[str, ...]]:
    """The cells of a row; an operator with several of a kind (an LSTM's weights) takes more."""
    columns = [[row.name], [row.op_type]]
    columns += [part or ["-"] for part in (row.inputs, row.params, row.outputs)]
    return list(itertools.zip_longest(*columns, fillvalue=""))


def summarize(sim: QuantizationSimModel) -> Summary:
    """Collect the rows of a simulation as it stands now."""
    quantizers = list(sim.named_quantizers())
    return Summary(
        rows=[_row(sim, op) for op in sim.graph.ops],
        boundaries=[
            {"name": b.name, "reason": b.reason, "float_ops": list(b.unquantized_ops)}
            for b in sim.graph.boundaries
        ],
        specializations=[str(s) for s in sim.graph.specializations],
        quantizer_count=len(quantizers),
        uncalibrated=[name for name, quantizer in quantizers if not quantizer.is_initialized()],
    )


def _row(sim: QuantizationSimModel, op: OpNode) -> SummaryRow:
    module = op.module
    first_input, first_output = op.call_index * len(op.inputs), op.call_index * len(op.outputs)
    inputs, outputs = [], []
    for i in range(len(op.inputs)):
        quantizer = _at(getattr(module, "input_quantizers", ()), first_input + i)
        if quantizer is not None:
            inputs.append(describe(quantizer))
    for j, value in enumerate(op.outputs):
        quantizer = _at(getattr(module, "output_quantizers", ()), first_output + j)
        decision = sim.plan.outputs.get((op.name, j))
        if quantizer is not None:
            outputs.append(describe(quantizer))
        elif not value.is_float:
            outputs.append(str(value.dtype).removeprefix("torch."))
        elif decision is not None and not decision.is_quantized:
            is_covered = decision.reason.startswith(("same grid", "fused", "read by"))
            outputs.append(decision.reason if is_covered else f"{_FLOAT}: {decision.reason}")
        else:
            outputs.append(f"{_FLOAT}: removed")
    params = [
        f"{name} {describe(quantizer)}"
        for name, quantizer in getattr(module, "param_quantizers", {}).items()
        if quantizer is not None
    ]
    return SummaryRow(op.name, op.op_type, inputs, params, outputs)


def _at(quantizers: Any, index: int) -> QuantizerBase | None:
    return quantizers[index] if index < len(quantizers) else None


def describe(quantizer: Any) -> str:
    """Type, granularity and range of a quantizer in short, such as `uint8 [-1.2, 3.4]`."""
    if not hasattr(quantizer, "get_scale"):
        return f"float{quantizer.bitwidth}"
    label = f"{'' if quantizer.signed else 'u'}int{quantizer.bitwidth}"
    count = torch_numel(quantizer.shape)
    if count > 1:
        label += f"x{count}"
    if not quantizer.is_initialized():
        return f"{label} (no range)"
    low, high = quantizer.get_min().min().item(), quantizer.get_max().max().item()
    return f"{label} [{low:.4g}, {high:.4g}]"


def torch_numel(shape: tuple[int, ...]) -> int:
    """Number of elements of a shape."""
    count = 1
    for size in shape:
        count *= size
    return count
