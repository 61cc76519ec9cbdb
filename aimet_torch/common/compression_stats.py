"""What a compression did to a model and how its ratios were chosen: as tables and as JSON."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from aimet_torch.common import tables

__all__ = ["CompressionStats", "LayerStats", "RatioSelectionStats"]


@dataclasses.dataclass(frozen=True)
class LayerStats:
    """What became of a layer, or of a group of layers whose channels go together.

    Attributes:
        name: Dotted name.
        compression_ratio: That was chosen; None where it keeps its shape.
        reached: Its cost over what it was, by the metric that was asked for.
        macs: Multiply-accumulates before and after.
        parameters: Before and after.
        detail: What it became: ``spatial, rank 12 of 48``.
        note: Why it keeps its shape, or what to know.
    """

    name: str
    compression_ratio: float | None
    reached: float | None = None
    macs: tuple[int, int] = (0, 0)
    parameters: tuple[int, int] = (0, 0)
    detail: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class RatioSelectionStats:
    """How the ratios of the layers were chosen.

    Attributes:
        method: ``greedy`` or ``exact``.
        target: The ratio that was asked for, of the whole model.
        achieved: The ratio that the choice was counted to have.
        eval_scores_dictionary: By layer and ratio. greedy: what ``eval_callback`` returned with
            this layer alone compressed. exact: power of the error that this adds to the model's
            outputs over the power of the outputs.
        threshold: greedy: the least score that a layer may have.
        error: exact: the sum of what the layers add.
        curve: Other budgets: pairs of the model's ratio and the threshold or the error there.
        is_exact: exact: no better choice of these candidates exists.
        evaluations: How often the model was evaluated for it.
        seconds: Time that it took.
        chosen: By layer: the ratio that was chosen, and its score or error. Ratios between those of
            ``eval_scores_dictionary`` use up the budget; theirs are interpolated.
        note: Why less was reached than what was asked for, if it is more than 1 % less.
    """

    method: str
    target: float
    achieved: float
    eval_scores_dictionary: dict[str, dict[float, float]]
    threshold: float | None = None
    error: float | None = None
    curve: list[tuple[float, float]] = dataclasses.field(default_factory=list)
    is_exact: bool = False
    evaluations: int = 0
    seconds: float = 0.0
    chosen: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    note: str = ""

    def __str__(self) -> str:
        ratios = sorted({ratio for row in self.eval_scores_dictionary.values() for ratio in row})
        cells = [
            (name, *(_number(row.get(ratio)) for ratio in ratios))
            for name, row in self.eval_scores_dictionary.items()
        ]
        what = "scores" if self.method == "greedy" else "error added to the outputs"
        head = f"{self.method}: {what} of each layer by its ratio; {self.seconds:.1f} s"
        if self.note:
            head = f"{self.note}\n{head}"
        return f"{head}\n{tables.text_table(('layer', *(f'{r:g}' for r in ratios)), cells)}"


@dataclasses.dataclass(frozen=True)
class CompressionStats:
    """What a compression did to a model. `print` shows it as a table.

    Attributes:
        baseline_model_accuracy: What ``eval_callback`` returned for the model as it was.
        compressed_model_accuracy: For the compressed one.
        memory_compression_ratio: Parameters of the compressed model over those of the original.
        mac_compression_ratio: Multiply-accumulates likewise.
        per_layer_stats: What became of each layer.
        compression_ratio_selection_stats: How the ratios were chosen; None in manual mode.
        scheme: How layers were made smaller.
        metric: Cost that the ratios are of.
        latency_ratio: Measured time of the compressed model over that of the original; None unless
            the metric is latency.
    """

    baseline_model_accuracy: float
    compressed_model_accuracy: float
    memory_compression_ratio: float
    mac_compression_ratio: float
    per_layer_stats: list[LayerStats]
    compression_ratio_selection_stats: RatioSelectionStats | None = None
    scheme: str = ""
    metric: str = ""
    latency_ratio: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain lists and dicts, for JSON."""
        return dataclasses.asdict(self)

    def write_json(self, path: str | os.PathLike[str]) -> Path:
        """Write it as JSON to ``path`` and return that."""
        return tables.write_json(path, tables.json_ready(self.to_dict()))

    @property
    def summary(self) -> str:
        """The table of the layers and what they come to, without the scores of all candidates."""
        lines = [
            f"accuracy {self.baseline_model_accuracy:.6g} -> {self.compressed_model_accuracy:.6g}",
            f"MACs {self.mac_compression_ratio:.1%}, parameters "
            f"{self.memory_compression_ratio:.1%} of what they were",
        ]
        if self.latency_ratio is not None:
            lines[-1] += f", measured time {self.latency_ratio:.1%}"
        cells = [
            (
                row.name,
                tables.NOTHING if row.compression_ratio is None else f"{row.compression_ratio:g}",
                tables.NOTHING if row.reached is None else f"{row.reached:.3f}",
                _change(row.macs),
                _change(row.parameters),
                row.detail,
                row.note,
            )
            for row in self.per_layer_stats
        ]
        lines.append(tables.text_table(_HEADER, cells))
        return "\n".join(lines)

    def __str__(self) -> str:
        if self.compression_ratio_selection_stats is None:
            return self.summary
        return f"{self.summary}\n{self.compression_ratio_selection_stats}"


_HEADER = ("layer", "ratio", "reached", "MACs", "parameters", "became", "note")


def _number(value: float | None) -> str:
    return tables.NOTHING if value is None else f"{value:.4g}"


def _change(values: tuple[int, int]) -> str:
    before, after = values
    return f"{before:,}" if before == after else f"{before:,} -> {after:,}"
