"""From what a target computed to rows, and from rows to problems."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from aimet_torch.verification.groups import Groups
from aimet_torch.verification.measures import Agreement, is_scores
from aimet_torch.verification.qdq_file import Float8Pair, Pair, QdqFile
from aimet_torch.verification.recording import Recording
from aimet_torch.verification.results import Limits, NodeRow, OutputRow
from aimet_torch.verification.targets import Outcome

_NARROW_BITS = 8
_SHOWN = 5
_EPSILON = 1e-6


def node_rows(
    cut: Groups,
    recordings: Sequence[Recording],
    fed: Outcome,
    chain: Outcome | None,
    limits: Limits,
) -> list[NodeRow]:
    """One row for each group of operators.

    Args:
        cut: the groups.
        recordings: the simulation's calls.
        fed: results of the groups, each fed with the simulation's integers.
        chain: results of the same tensors in the whole model.
        limits: what counts as agreement.
    """
    names = [value.name for value in cut.model.graph.outputs]
    rows = []
    for pair, name in zip(cut.outputs, names, strict=True):
        row = _node_row(pair, cut.operators[pair.quantized], recordings, fed, name)
        if chain is not None:
            steps = Agreement()
            for recording, results in zip(recordings, chain.outputs, strict=True):
                codes = pair.returned_codes(results[pair.returned])
                steps.add_codes(recording.codes[pair.quantized], codes)
            row |= {"chain_equal": steps.equal, "chain_steps": steps.largest}
        rows.append(NodeRow(**row, is_within=_is_within(row, limits)))
    return rows


def _node_row(
    pair: Pair, operators: str, recordings: Sequence[Recording], fed: Outcome, name: str
) -> dict[str, Any]:
    steps, values = Agreement(), Agreement()
    for recording, results in zip(recordings, fed.outputs, strict=True):
        expected = recording.codes[pair.quantized]
        actual = pair.returned_codes(results[name].reshape(expected.shape))
        steps.add_codes(expected, actual)
        if steps.largest:
            values.add(pair.values(expected), pair.values(actual))
    return {
        "tensor": pair.tensor,
        "quantizer": pair.quantizer or "",
        "operators": operators,
        "bitwidth": pair.dtype.bitwidth,
        "step": pair.step,
        "elements": steps.elements,
        "equal": steps.equal,
        "steps": steps.largest,
        "sqnr_db": values.sqnr_db,
        "off_grid": max(r.off_grid[pair.quantized] for r in recordings),
    }


def _is_within(row: dict[str, Any], limits: Limits) -> bool:
    limit = limits.of(row["operators"])
    if row["off_grid"]:
        return False
    if row["steps"] <= limit.steps and row["equal"] >= limit.equal:
        return True
    is_wide = row["bitwidth"] > _NARROW_BITS and limits.wide_sqnr_db is not None
    return bool(is_wide and row["sqnr_db"] >= limits.wide_sqnr_db)


def node_problems(rows: Sequence[NodeRow], limits: Limits) -> list[str]:
    """What is outside the limits, in sentences."""
    problems = []
    shifted = [row for row in rows if row.off_grid]
    if shifted:
        problems.append(
            f"{len(shifted)} tensor(s) have another grid in the file than in the simulation, "
            f"{_names(shifted)}: the simulation was calibrated or changed after the export"
        )
    for row in [row for row in rows if not row.is_within and not row.off_grid][:_SHOWN]:
        limit = limits.of(row.operators)
        problems.append(
            f"{row.operators} `{row.tensor}`, fed with the simulation's values, differs by "
            f"{row.steps:g} step(s) (limit {limit.steps:g}) and is equal in "
            f"{100 * row.equal:.4g} % (limit {100 * limit.equal:g} %)"
        )
    more = sum(not row.is_within and not row.off_grid for row in rows) - _SHOWN
    if more > 0:
        problems.append(f"{more} more operator(s) are outside the limits")
    return problems


def _names(rows: Sequence[NodeRow]) -> str:
    shown = ", ".join(f"`{row.tensor}`" for row in rows[:_SHOWN])
    return shown + (" and others" if len(rows) > _SHOWN else "")


def output_rows(
    case: str,
    file: QdqFile,
    recordings: Sequence[Recording],
    outcome: Outcome,
    limits: Limits,
) -> list[OutputRow]:
    """One row for each output of the model.

    Raises:
        ValueError: the simulation returns another number of tensors, or of other shapes.
    """
    names = [value.name or "" for value in file.model.graph.outputs]
    counts = {len(recording.outputs) for recording in recordings}
    if counts != {len(names)}:
        raise ValueError(
            f"verify: `onnx_path` {file.path} has {len(names)} output(s), `sim` returns "
            f"{counts.pop()} tensor(s); it is of another model"
        )
    grids = {pair.tensor: pair for pair in file.pairs}
    rows = []
    for index, name in enumerate(names):
        noise, target, whole, steps = Agreement(), Agreement(), Agreement(), Agreement()
        pair = grids.get(name)
        for recording, results in zip(recordings, outcome.outputs, strict=True):
            simulated, in_float = recording.outputs[index], recording.floats[index]
            actual = results[name]
            if actual.size != simulated.size:
                raise ValueError(
                    f"verify: output `{name}` of `onnx_path` {file.path} has shape "
                    f"{list(actual.shape)}, `sim` returns {list(simulated.shape)}; it is of "
                    "another model"
                )
            noise.add(in_float, simulated)
            target.add(simulated, actual)
            whole.add(in_float, actual)
            if isinstance(pair, Float8Pair):
                steps.add_codes(pair.codes(simulated)[0], pair.codes(actual)[0])
            elif pair is not None:
                steps.largest = target.largest / pair.step
            if is_scores(simulated):
                noise.add_ranks(in_float, simulated)
                target.add_ranks(simulated, actual)
                whole.add_ranks(in_float, actual)
        largest = None if pair is None else steps.largest
        rows.append(_output_row(case, name, largest, noise, target, whole, limits))
    return rows


def _output_row(
    case: str,
    name: str,
    steps: float | None,
    noise: Agreement,
    target: Agreement,
    whole: Agreement,
    limits: Limits,
) -> OutputRow:
    is_close = target.sqnr_db == np.inf or target.sqnr_db >= noise.sqnr_db + limits.margin_db
    # A target that departs by less than a step from outputs that are as good as FP32 is no worse.
    is_close |= steps is not None and steps <= 1 + _EPSILON
    return OutputRow(
        case=case,
        name=name,
        noise_db=noise.sqnr_db,
        sqnr_db=target.sqnr_db,
        float_db=whole.sqnr_db,
        equal=target.equal,
        top1=target.top1,
        noise_top1=noise.top1,
        float_top1=whole.top1,
        largest=target.largest,
        steps=None if steps is None else round(steps, 3),
        is_within=bool(is_close and (target.top1 is None or target.top1 >= limits.top1)),
    )


def output_problems(rows: Sequence[OutputRow], limits: Limits) -> list[str]:
    """What is outside the limits, in sentences."""
    return [
        f"{row.case}: output `{row.name}` agrees with the simulation to {row.sqnr_db:.1f} dB and "
        f"in {100 * (1 if row.top1 is None else row.top1):.4g} % of the first choices; the "
        f"quantization noise is {row.noise_db:.1f} dB (limits: {limits.margin_db:+g} dB, "
        f"{100 * limits.top1:g} %)"
        for row in rows
        if not row.is_within
    ]
