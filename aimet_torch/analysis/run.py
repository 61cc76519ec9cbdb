"""The whole analysis in one call: what hurts, where, why, and what to do about it."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aimet_torch.analysis.advice import Finding, NetworkFacts, TensorFacts, advise
from aimet_torch.analysis.facts import GraphNode, graph_nodes, tensor_facts, unfolded
from aimet_torch.analysis.histograms import (
    TensorHistogram,
    activation_histograms,
    weight_histograms,
)
from aimet_torch.analysis.layers import LayerAgreement, compare_layers
from aimet_torch.analysis.one_pass import OutputLoss, estimate_sensitivity
from aimet_torch.analysis.sensitivity import Sensitivity
from aimet_torch.analysis.switching import Evaluate, Switchboard, evaluate_settings
from aimet_torch.common.defs import QuantScheme
from aimet_torch.common.services import service
from aimet_torch.common.tables import json_ready, text_table, write_json
from aimet_torch.graph import bind_inputs
from aimet_torch.ptq.batch_norm_folding import fold_all_batch_norms
from aimet_torch.ptq.replay import record_inputs
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.quantsim.calibration import evaluation_mode

__all__ = ["Analysis", "ModelScores", "analyze"]

#: Values are counted finely enough to tell a tail of 100 times the rest.
_BINS = 1024


@dataclass(frozen=True)
class ModelScores:
    """Scores of the whole model.

    Attributes:
        fp32: without any quantizer.
        weights: with the quantizers of parameters alone.
        activations: with those of activations alone.
        quantized: with all.
    """

    fp32: float
    weights: float
    activations: float
    quantized: float


@dataclass
class Analysis:
    """What was found out about a simulation. `print` shows the findings and the worst layers.

    Attributes:
        title: name of the model.
        settings: what was simulated, in words: bits, scheme, samples.
        findings: what to do, the most rewarding first.
        scores: of the whole model; None without ``eval_fn``.
        enabled: score with the quantizers of one layer alone, by layer; empty unless asked for.
        disabled: score with all quantizers but those of one layer.
        layers: agreement of every layer with itself in FP32, in the order of execution.
        tensors: facts about every quantizer.
        sensitivity: of every quantizer at several bit widths.
        histograms: of weights and activations.
        nodes: of the network's graph.
        seconds: that it took.
    """

    title: str
    settings: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    scores: ModelScores | None = None
    enabled: dict[str, float] = field(default_factory=dict)
    disabled: dict[str, float] = field(default_factory=dict)
    layers: list[LayerAgreement] = field(default_factory=list)
    tensors: list[TensorFacts] = field(default_factory=list)
    sensitivity: Sensitivity = field(default_factory=Sensitivity)
    histograms: list[TensorHistogram] = field(default_factory=list)
    nodes: list[GraphNode] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def headline(self) -> str:
        """The result in a few sentences."""
        weights = sum(t.share for t in self.tensors if t.is_param)
        parts = [f"{len(self.tensors)} quantized tensors in {len(self.layers)} layers."]
        if self.tensors:
            parts.append(
                f"Weights cause {100 * weights:.0f} % of the expected loss, activations "
                f"{100 * (1 - weights):.0f} %."
            )
        if self.layers:
            parts.append(f"The last layer has {self.layers[-1].sqnr_db:.1f} dB.")
        if self.scores is not None:
            parts.append(
                f"Score in FP32 {self.scores.fp32:.5g}, quantized {self.scores.quantized:.5g} "
                f"(weights alone {self.scores.weights:.5g}, activations alone "
                f"{self.scores.activations:.5g})."
            )
        return " ".join(parts)

    def set_scores(
        self,
        scores: tuple[float, float, float],
        enabled: Mapping[str, float],
        disabled: Mapping[str, float],
        quantized: float,
    ) -> None:
        """Take over scores that were measured elsewhere.

        Args:
            scores: in FP32, with weights alone and with activations alone quantized.
            enabled: with one layer quantized, by layer.
            disabled: with one layer in floating point.
            quantized: with all.
        """
        self.scores = ModelScores(*scores, quantized)
        self.enabled, self.disabled = dict(enabled), dict(disabled)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and dicts."""
        document: dict[str, Any] = json_ready({"headline": self.headline, **asdict(self)})
        return document

    def write_json(self, path: str | os.PathLike[str]) -> Path:
        """Write everything to a JSON file and return its path."""
        return write_json(path, self.to_dict())

    def write_html(self, path: str | os.PathLike[str]) -> Path:
        """Write one self-contained HTML page and return its path."""
        written: Path = service("analysis_page")(self, path)
        return written

    def __str__(self) -> str:
        parts = [self.headline]
        for finding in self.findings:
            code = "\n".join(f"    {line}" for line in finding.call.splitlines())
            parts.append(f"* {finding.cause}\n  -> {finding.fix}:\n{code}")
        worst = sorted(self.tensors, key=lambda t: t.share, reverse=True)[:10]
        if worst:
            rows = [
                (
                    t.layer,
                    t.tensor,
                    str(t.bitwidth),
                    f"{100 * t.share:.1f} %",
                    f"{t.sqnr_db:.1f} dB",
                )
                for t in worst
            ]
            header = ("layer", "tensor", "bits", "expected loss", "SQNR of the tensor")
            parts.append(text_table(header, rows))
        return "\n\n".join(parts)


def analyze(
    model: QuantizationSimModel | nn.Module,
    dummy_input: Any,
    data: Iterable[Any],
    eval_fn: Evaluate | None = None,
    *,
    bitwidths: Sequence[int] = (4, 8, 16),
    loss: OutputLoss = "squared_error",
    per_layer: bool = False,
    num_batches: int | None = None,
    title: str | None = None,
    default_param_bw: int = 8,
    default_output_bw: int = 8,
    quant_scheme: QuantScheme | str = QuantScheme.min_max,
    config_file: str | Path | dict[str, Any] | None = None,
    process_group: Any = None,
) -> Analysis:
    """Find out which tensors of a network suffer from quantization, why, and what helps.

    Sensitivity comes from one backward pass for each batch (`estimate_sensitivity`), the agreement
    of all layers from two forward passes, the histograms from one more. The model is evaluated only
    where there is an ``eval_fn``: four times, and with ``per_layer`` twice for each layer.

    Args:
        model: A calibrated simulation, which is left as it is; or a trained network, of which a
            copy is folded, simulated and calibrated first.
        dummy_input: Example input, as for `QuantizationSimModel`.
        data: Batches of inputs, or of inputs followed by labels, which are not read. They are kept
            in memory; 32 to 256 samples do.
        eval_fn: ``eval_fn(model)`` gives a score, larger is better.
        bitwidths: That sensitivity is estimated for; the tensors' own are added.
        loss: What an error of the outputs is: "squared_error", or "cross_entropy" for logits.
        per_layer: Evaluate with the quantizers of each layer alone, and with all others, too.
        num_batches: How many batches are used; None: all.
        title: Name of the model on the page; None: its class.
        default_param_bw: Bits of parameters, for a network.
        default_output_bw: Bits of activations, for a network.
        quant_scheme: How ranges are found, for a network.
        config_file: Placement rules, for a network.
        process_group: Whose ranks share the evaluations, each with all of the data.

    Returns:
        The findings with what they rest on; ``write_html(path)`` makes a page of it.

    Raises:
        TypeError: ``model`` is neither a simulation nor a module.
        ValueError: There is no batch, or no quantizer has a range.
    """
    start = time.perf_counter()
    if not isinstance(model, QuantizationSimModel | nn.Module):
        raise TypeError(
            "analyze: `model` must be a QuantizationSimModel or an nn.Module, got "
            f"{type(model).__name__}"
        )
    if isinstance(model, QuantizationSimModel):
        sim = model
        calls = record_inputs(sim.model, data, None, num_batches, sim._positional_count())
    else:
        prepared = copy.deepcopy(model).eval()
        count = len(bind_inputs(prepared, dummy_input)[0])
        calls = record_inputs(prepared, data, None, num_batches, count)
        fold_all_batch_norms(prepared, None, dummy_input)
        sim = QuantizationSimModel(
            prepared,
            dummy_input,
            quant_scheme,
            default_output_bw,
            default_param_bw,
            in_place=True,
            config_file=config_file,
        )
        sim.compute_encodings(_Calls(calls).run_all)
    board = Switchboard(sim)
    if not any(quantizer.is_initialized() for quantizer in board.quantizers.values()):
        raise ValueError(
            "analyze: `model` has no quantizer with a range; call sim.compute_encodings(data) first"
        )
    return _Job(board, _Calls(calls), loss, bitwidths, process_group).run(
        title or _name_of(sim.model), eval_fn, per_layer, start
    )


class _Calls(list[tuple[tuple[Any, ...], dict[str, Any]]]):
    """Calls of a model, which every measurement repeats."""

    def run(self, model: nn.Module, index: int) -> Any:
        args, kwargs = self[index]
        return model(*args, **kwargs)

    def forward(self, model: nn.Module, call: tuple[tuple[Any, ...], dict[str, Any]]) -> Any:
        args, kwargs = call
        return model(*args, **kwargs)

    def run_all(self, model: nn.Module) -> None:
        with torch.no_grad():
            for index in range(len(self)):
                self.run(model, index)


@dataclass
class _Job:
    board: Switchboard
    calls: _Calls
    loss: OutputLoss
    bitwidths: Sequence[int]
    process_group: Any

    def run(self, title: str, eval_fn: Evaluate | None, per_layer: bool, start: float) -> Analysis:
        board, sim = self.board, self.board.sim
        own = {quantizer.bitwidth for quantizer in board.quantizers.values()}
        sensitivity = estimate_sensitivity(
            sim,
            self.calls,
            sorted({*self.bitwidths, *own}),
            loss=self.loss,
            forward_fn=self.calls.forward,
            board=board,
        )
        histograms = [
            *weight_histograms(board, _BINS),
            *activation_histograms(board, self.calls.run_all, _BINS),
        ]
        with evaluation_mode(sim.model):
            layers = compare_layers(board, self.calls.run, len(self.calls))
        result = Analysis(
            title,
            self._settings(sensitivity),
            layers=layers,
            tensors=tensor_facts(board, sensitivity, histograms),
            sensitivity=sensitivity,
            histograms=histograms,
            nodes=graph_nodes(sim),
        )
        if eval_fn is not None:
            self._evaluate(result, eval_fn, per_layer)
        result.findings = advise(self._facts(result))
        result.seconds = time.perf_counter() - start
        return result

    def _settings(self, sensitivity: Sensitivity) -> dict[str, str]:
        settings = self.board.sim.settings
        return {
            "weights": f"{settings.param_bitwidth} bits",
            "activations": f"{settings.output_bitwidth} bits",
            "ranges": settings.scheme.name,
            "samples": str(sensitivity.samples),
            "expected loss": sensitivity.measure,
        }

    def _evaluate(self, result: Analysis, eval_fn: Evaluate, per_layer: bool) -> None:
        board = self.board
        settings: dict[str, Any] = {
            "fp32": dict.fromkeys(board.quantizers),
            "weights": dict.fromkeys(board.activations),
            "activations": dict.fromkeys(board.params),
            "quantized": {},
        }
        scores = evaluate_settings(board, settings, eval_fn, process_group=self.process_group)
        result.scores = ModelScores(*scores.values())
        if not per_layer:
            return
        layers, off = board.by_layer(), dict.fromkeys(board.quantizers)
        options: dict[str, Any] = {"process_group": self.process_group, "description": "Layers"}
        only = {
            layer: {n: None for n in board.quantizers if n not in names}
            for layer, names in layers.items()
        }
        without = {layer: dict.fromkeys(names) for layer, names in layers.items()}
        result.enabled = evaluate_settings(board, only, eval_fn, base=off, **options)
        result.disabled = evaluate_settings(board, without, eval_fn, base={}, **options)

    def _facts(self, result: Analysis) -> NetworkFacts:
        sim = self.board.sim
        facts = NetworkFacts(
            result.tensors,
            sim.settings.scheme.name,
            unfolded(sim),
            [name for name, q in self.board.quantizers.items() if not q.is_initialized()],
            output_sqnr_db=result.layers[-1].sqnr_db if result.layers else None,
        )
        if result.scores is None:
            return facts
        scores = result.scores
        return replace(
            facts,
            fp32_score=scores.fp32,
            weights_score=scores.weights,
            activations_score=scores.activations,
        )


def _name_of(model: nn.Module) -> str:
    """Class of the user's model: that of a simulation is made on the fly."""
    for cls in type(model).__mro__:
        if not cls.__module__.startswith("aimet_torch"):
            return cls.__name__
    return type(model).__name__
