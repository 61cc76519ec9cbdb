"""`verify`: a simulation beside what its ONNX file computes on a target."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from aimet_torch.export.files import save_model
from aimet_torch.ops.integer import Rounding
from aimet_torch.verification import groups, judge
from aimet_torch.verification.encoded_file import load_with_encodings
from aimet_torch.verification.htp import LIMITS as HTP_LIMITS
from aimet_torch.verification.htp import Htp
from aimet_torch.verification.integer.prediction import check_options, predict
from aimet_torch.verification.qdq_file import Float8Pair, Pair, QdqFile, is_quantized, load_model
from aimet_torch.verification.recording import Recorder, Recording, calls_of
from aimet_torch.verification.results import Limits, Verification
from aimet_torch.verification.targets import Job, OnnxRuntime, Outcome, Target, saturates

END_TO_END = "end to end"
OPTIMIZED = "graph optimizations"


def verify(
    sim: Any,
    onnx_path: str | os.PathLike[str],
    inputs: Any,
    *,
    target: str = "onnxruntime",
    node_by_node: bool = True,
    end_to_end: bool = True,
    optimized: bool = True,
    integer: bool | Rounding = False,
    accumulator_bits: int = 32,
    limits: Limits | None = None,
    htp_options: Mapping[str, str] | None = None,
    encodings_path: str | os.PathLike[str] | None = None,
    export_options: Mapping[str, Any] | None = None,
) -> Verification:
    """Run a QDQ file on a target and tell where it departs from the simulation.

    Node by node, every group of operators between two quantized tensors is fed with the integers
    that the simulation has there; what it returns is compared with the simulation's next integers.
    End to end, the target gets the model's input only. Differences are counted in steps of each
    tensor's grid.

    Args:
        sim: the `QuantizationSimModel` that was exported; calibrated, left as it is.
        onnx_path: file that `aimet_torch.onnx.export` wrote; or one without quantizers that
            `sim.onnx.export` wrote, with its encodings file.
        inputs: one call of the model, as in the export: a tensor, a tuple of positional or a dict
            of keyword inputs; or several: a list or an iterator of such, which are compared
            together. The integers of all quantized tensors of all calls are kept in memory.
        target: "onnxruntime" (its CPU provider), or "htp": Qualcomm's HTP, emulated, which needs
            the package onnxruntime-qnn and an x86-64 machine, and for which all calls must have
            the same shape.
        node_by_node: compare every group of operators.
        end_to_end: compare the whole model.
        optimized: also run the whole model with ONNX Runtime's graph optimizations, which replace
            operators by integer ones; some processors saturate their sums, which a note tells.
        integer: also predict what a target computes that has integers only, and which of its
            accumulators could overflow: True, or how it rounds when it requantizes: "gemmlowp"
            (the same as True), "single" or "half_even" (docs/integer.md).
        accumulator_bits: of that target, 32 or 64.
        limits: what counts as agreement, instead of the target's own limits.
        htp_options: options of the QNN execution provider, such as {"soc_model": "43"}.
        encodings_path: the encodings file, if it is not `onnx_path` with that suffix.
        export_options: with an encodings file: the options for `torch.onnx.export` that were passed
            when the file was written, as far as they change names of tensors.

    Returns:
        The rows, what is outside the limits (`problems`, `ok`), as table, JSON and HTML.

    Raises:
        FileNotFoundError: there is no such file.
        ModuleNotFoundError: a package that the target needs is missing.
        ValueError: the file is not of this simulation, `inputs` does not fit it or is not finite,
            or an argument is none of its values.
        NotImplementedError: `integer` with a file that has tensors of float8.

    >>> import tempfile, torch, aimet_torch
    >>> model, x = torch.nn.Sequential(torch.nn.Linear(4, 2)), torch.randn(8, 4)
    >>> sim = aimet_torch.QuantizationSimModel(model, x)
    >>> sim.compute_encodings([x])
    >>> path = tempfile.mkdtemp() + "/model.onnx"
    >>> aimet_torch.onnx.export(sim, x, path)
    >>> aimet_torch.verify(sim, path, x).ok
    True
    """
    start = time.perf_counter()
    rounding = "gemmlowp" if integer is True else integer
    if rounding:
        check_options(rounding, accumulator_bits)
    runner, limits = _target(target, limits, htp_options)
    calls = calls_of(inputs)
    file = _load(Path(onnx_path), encodings_path, sim, calls[0], export_options)
    if rounding and any(isinstance(pair, Float8Pair) for pair in file.pairs):
        raise NotImplementedError(
            f"verify: `integer` must be False for `onnx_path` {file.path}, which has tensors of "
            "float8: a target with integers only does not run it"
        )
    recorder = Recorder(sim, file)
    recordings = [recorder(call) for call in calls]
    fed = set.intersection(*(set(r.codes) for r in recordings))
    pairs = [pair for pair in file.pairs if pair.quantized in fed]
    result = Verification(runner.name, file.path.name, len(recordings), limits=limits)
    left_out = len(recorder.pairs) - len(pairs)
    if left_out:
        result.notes.append(
            f"{left_out} quantized tensor(s) are not compared one by one: their quantizers run "
            "several times in a call, or not at all"
        )
    work = _Work(file, pairs, recordings, runner, result)
    with tempfile.TemporaryDirectory(prefix="aimet-verify-") as folder:
        work.run(Path(folder), node_by_node, end_to_end, optimized and target == "onnxruntime")
    if rounding:
        result.integer = predict(file.model, recordings, rounding, accumulator_bits)
        result.problems += result.integer.problems
        result.notes += result.integer.notes
    result.seconds = time.perf_counter() - start
    return result


def _load(
    path: Path,
    encodings_path: str | os.PathLike[str] | None,
    sim: Any,
    call: Any,
    export_options: Mapping[str, Any] | None,
) -> QdqFile:
    model = load_model(path)
    if is_quantized(model):
        return QdqFile.of(path, model)
    beside = encodings_path or path.with_suffix(".encodings")
    return load_with_encodings(path, beside, sim, call, export_options)


def _target(
    name: str, limits: Limits | None, htp_options: Mapping[str, str] | None
) -> tuple[Target, Limits]:
    if name == "htp":
        return Htp(htp_options), limits or HTP_LIMITS
    if name == "onnxruntime":
        return OnnxRuntime(), limits or Limits()
    raise ValueError(f"verify: `target` must be 'onnxruntime' or 'htp', got {name!r}")


class _Work:
    """One verification: what runs, and what is made of it."""

    def __init__(
        self,
        file: QdqFile,
        pairs: list[Pair],
        recordings: list[Recording],
        target: Target,
        result: Verification,
    ) -> None:
        self.file = file
        self.pairs = pairs
        self.recordings = recordings
        self.target = target
        self.result = result
        self._is_htp = target.name == "htp"

    def run(self, folder: Path, node_by_node: bool, end_to_end: bool, optimized: bool) -> None:
        """Run the parts that were asked for, all jobs at once, and judge what they gave."""
        jobs: dict[str, Job] = {}
        cut = groups.cut(self.file, self.pairs)
        if node_by_node:
            feeds = [cut.feeds(r.codes, r.feeds) for r in self.recordings]
            jobs["nodes"] = self._job(cut.model, folder / "groups.onnx", feeds)
        whole = [r.feeds for r in self.recordings]
        if end_to_end:
            # The file as it is on the HTP, where returning more would make another graph of it.
            model = self.file.model.clone()
            if not self._is_htp:
                model = groups.with_inner_results(self.file, self.pairs)
            jobs[END_TO_END] = self._job(model, folder / "whole.onnx", whole)
        if optimized:
            jobs[OPTIMIZED] = replace(
                self._job(self.file.model.clone(), folder / "plain.onnx", whole), optimized=True
            )
        outcomes = dict(zip(jobs, self.target.run(list(jobs.values())), strict=True))
        self.result.environment.update(self.target.versions)
        self._judge(outcomes, cut)

    def _job(self, model: ir.Model, path: Path, feeds: list[dict[str, np.ndarray]]) -> Job:
        if self._is_htp:
            groups.without_open_sizes(model, feeds)
        save_model(model, path)
        return Job(path, feeds)

    def _judge(self, outcomes: dict[str, Outcome], cut: groups.Groups) -> None:
        result, limits = self.result, self.result.limits
        chain = outcomes.get(END_TO_END)
        for case, outcome in outcomes.items():
            # What optimizations make of the graph is not the file's fault.
            found = result.notes if case == OPTIMIZED else result.problems
            if outcome.error is not None:
                found.append(f"{case}: the {result.target} refuses it: {outcome.error}")
            if outcome.elsewhere:
                shown = ", ".join(outcome.elsewhere[:5])
                result.problems.append(
                    f"{case}: {len(outcome.elsewhere)} operator(s) run on the CPU instead of the "
                    f"{result.target}: {shown}"
                )
            if outcome.error is None and case != "nodes":
                rows = judge.output_rows(case, self.file, self.recordings, outcome, limits)
                result.outputs += rows
                found += judge.output_problems(rows, limits)
        nodes = outcomes.get("nodes")
        if nodes is not None and nodes.error is None:
            is_chained = chain is not None and not self._is_htp
            result.nodes = judge.node_rows(
                cut, self.recordings, nodes, chain if is_chained else None, limits
            )
            result.problems += judge.node_problems(result.nodes, limits)
        if OPTIMIZED in outcomes and saturates():
            result.notes.append(
                "ONNX Runtime saturates products of uint8 and int8 on this CPU, which has AVX2 or "
                "AVX-512 without VNNI: with graph optimizations, results may be far off; session "
                "option `session.x64quantprecision`=1 or weights of 7 bits avoid it"
            )
