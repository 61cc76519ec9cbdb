"""What an integer-only target makes of a QDQ file, beside the simulation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir

from aimet_torch.ops.integer import Rounding
from aimet_torch.verification.integer.graph import INTEGER, Group, GroupResult, IntegerGraph
from aimet_torch.verification.integer.layers import Accumulator
from aimet_torch.verification.integer.results import (
    FITS,
    MAY_OVERFLOW,
    OVERFLOWS,
    IntegerOutput,
    IntegerPrediction,
    IntegerRow,
)
from aimet_torch.verification.measures import Agreement, is_scores
from aimet_torch.verification.node_runner import node_evaluator


class Call(Protocol):
    """One call of the simulation: `aimet_torch.verification.recording.Recording`."""

    @property
    def feeds(self) -> Mapping[str, np.ndarray]:
        """The model's inputs by their ONNX names."""

    @property
    def codes(self) -> Mapping[str, np.ndarray]:
        """Integers of the simulation by the name of a QuantizeLinear's result."""

    @property
    def outputs(self) -> Sequence[np.ndarray]:
        """What the simulation returns."""


def check_options(rounding: object, accumulator_bits: object) -> None:
    """Refuse what `predict` does not know.

    Raises:
        ValueError: an unknown rounding or width.
    """
    if accumulator_bits not in (32, 64):
        raise ValueError(f"verify: `accumulator_bits` must be 32 or 64, got {accumulator_bits!r}")
    if rounding not in ("gemmlowp", "single", "half_even"):
        raise ValueError(
            "verify: `integer` must be True, False, 'gemmlowp', 'single' or 'half_even', got "
            f"{rounding!r}"
        )


def predict(
    model: ir.Model,
    calls: Iterable[Call],
    rounding: Rounding = "gemmlowp",
    accumulator_bits: int = 32,
) -> IntegerPrediction:
    """Run a QDQ model as an integer-only target would, and compare with the simulation.

    Args:
        model: content of the QDQ file.
        calls: what the simulation computed for each input.
        rounding: "gemmlowp", "single" or "half_even", as for `ops.integer.requantize`.
        accumulator_bits: 32, or 64 for targets that have room (16-bit activations).

    Raises:
        ValueError: an unknown rounding or width.
        NotImplementedError: scales that are computed at run time.
    """
    check_options(rounding, accumulator_bits)
    graph = IntegerGraph(model, node_evaluator(model), rounding, accumulator_bits)
    names = [value.name or "" for value in model.graph.outputs]
    rows = [_Row(group, accumulator_bits) for group in graph.groups]
    by_group = {id(row.group): row for row in rows}
    outputs = [Agreement() for _ in names]
    samples = 0
    for call in calls:
        samples += 1
        graph.run(call.feeds, call.codes, _visitor(by_group, call.codes, is_chain=False))
        results = graph.run(call.feeds, None, _visitor(by_group, call.codes, is_chain=True))
        for agreement, expected, result in zip(outputs, call.outputs, results, strict=True):
            agreement.add(expected, result)
            if is_scores(expected):
                agreement.add_ranks(expected, result)
    return IntegerPrediction(
        rounding,
        accumulator_bits,
        samples,
        [row.finish() for row in rows],
        [
            IntegerOutput(name, a.sqnr_db, a.equal, a.top1, a.largest)
            for name, a in zip(names, outputs, strict=True)
        ],
    )


def _visitor(
    rows: Mapping[int, _Row], expected: Mapping[str, np.ndarray], is_chain: bool
) -> Callable[[Group, GroupResult], None]:
    def visit(group: Group, result: GroupResult) -> None:
        rows[id(group)].add(result, expected, is_chain)

    return visit


class _Row:
    """Running sums of one row."""

    def __init__(self, group: Group, accumulator_bits: int) -> None:
        self.group = group
        self._register_bits = accumulator_bits
        self._name = group.quantize.outputs[0].name or ""
        self._fed, self._chain = Agreement(), Agreement()
        self._kind, self._reason = INTEGER, ""
        self._needed: int | None = None
        self._used: int | None = None

    def add(self, result: GroupResult, expected: Mapping[str, np.ndarray], is_chain: bool) -> None:
        self._kind, self._reason = result.kind, result.reason
        if result.accumulator is not None:
            self._add_accumulator(result.accumulator)
        if self._name in expected:
            codes = result.codes.codes.numpy()
            reference = expected[self._name].astype(np.int64).reshape(codes.shape)
            (self._chain if is_chain else self._fed).add(reference, codes)

    def _add_accumulator(self, accumulator: Accumulator) -> None:
        self._needed = max(self._needed or 0, _bits(accumulator.least, accumulator.largest))
        if accumulator.sums.numel():
            seen = (int(limit) for limit in accumulator.sums.aminmax())
            self._used = max(self._used or 0, _bits(*seen))

    def finish(self) -> IntegerRow:
        """The row when all calls have been added."""
        is_compared = self._fed.elements > 0
        verdict = ""
        if self._needed is not None:
            has_overflown = self._used is not None and self._used > self._register_bits
            could = self._needed > self._register_bits
            verdict = OVERFLOWS if has_overflown else MAY_OVERFLOW if could else FITS
        return IntegerRow(
            self._name.removesuffix("_quantized"),
            _operators(self.group),
            self._kind,
            self._reason,
            self._fed.equal if is_compared else None,
            self._fed.largest if is_compared else None,
            self._chain.equal if is_compared else None,
            self._chain.largest if is_compared else None,
            self._needed,
            self._used,
            verdict,
        )


def _bits(least: int, largest: int) -> int:
    """Width of the smallest signed integer that holds both."""
    return 1 + max((-least - 1).bit_length() if least < 0 else 0, max(largest, 0).bit_length())


def _operators(group: Group) -> str:
    name = group.root.op_type if group.root is not None else "requantize"
    if group.root is None and group.source is not None and group.source.producer() is None:
        name = "input"
    is_limited = np.isfinite(group.low) or np.isfinite(group.high)
    return f"{name}+clip" if is_limited else name
