"""What became of a model and its layers: as a table and as JSON."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from torch import nn

from aimet_torch.common import tables
from aimet_torch.compression.cost import ModelCost

__all__ = ["CompressedModel", "LayerFactorization", "SmallerModel"]


class SmallerModel:
    """What all results share that have the costs `before` and `after` and a `to_dict`."""

    before: ModelCost
    after: ModelCost

    @property
    def mac_ratio(self) -> float:
        """Multiply-accumulates of the copy over those of the original."""
        return self.after.macs / max(self.before.macs, 1)

    @property
    def memory_ratio(self) -> float:
        """Parameters of the copy over those of the original."""
        return self.after.parameters / max(self.before.parameters, 1)

    @property
    def costs_in_words(self) -> str:
        """Both costs, before and after, in a line."""
        return (
            f"MACs {self.before.macs:,} -> {self.after.macs:,} ({self.mac_ratio:.1%}), parameters "
            f"{self.before.parameters:,} -> {self.after.parameters:,} ({self.memory_ratio:.1%})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything but the model as plain lists and dicts, for JSON."""
        raise NotImplementedError

    def write_json(self, path: str | os.PathLike[str]) -> Path:
        """Write it as JSON to ``path`` and return that."""
        return tables.write_json(path, tables.json_ready(self.to_dict()))


@dataclasses.dataclass(frozen=True)
class LayerFactorization:
    """What became of a layer.

    Attributes:
        name: Dotted name.
        kind: Its class.
        asked: Cost ratio that was asked for; None for layers that were only fitted again.
        reached: Cost of the factors over that of the layer; None where it keeps its shape.
        factorization: ``spatial``, ``spatial_horizontal``, ``weight``, ``weight_output``; None
            where it keeps its shape.
        rank: Channels between the factors, of each group.
        full_rank: Of the weight, seen as that matrix.
        weight_error: Share of the squared weights that truncation at this rank loses.
        plain_error: Share of the variance of the layer's outputs that plain truncation of its
            weight loses on the data, given the inputs that the layer gets in the compressed model.
        output_error: Share that is lost with the factors it has; None without data.
        note: Why it was left as it is, or what to know.
    """

    name: str
    kind: str
    asked: float | None = None
    reached: float | None = None
    factorization: str | None = None
    rank: int | None = None
    full_rank: int | None = None
    weight_error: float | None = None
    plain_error: float | None = None
    output_error: float | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class CompressedModel(SmallerModel):
    """A smaller model and how it came about. `print` shows it as a table.

    Attributes:
        model: The compressed copy; its new layers are modules of ``torch.nn``.
        layers: What became of each layer that was asked for or changed.
        before: What the original costs for the example input.
        after: What the copy costs.
    """

    model: nn.Module
    layers: list[LayerFactorization]
    before: ModelCost
    after: ModelCost

    @property
    def left(self) -> dict[str, str]:
        """Why layers that were asked for keep their shape, by name."""
        return {
            row.name: row.note
            for row in self.layers
            if row.asked is not None and row.factorization is None
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything but the model as plain lists and dicts, for JSON."""
        return {
            "mac_ratio": self.mac_ratio,
            "memory_ratio": self.memory_ratio,
            "layers": [dataclasses.asdict(row) for row in self.layers],
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
        }

    def __str__(self) -> str:
        table = tables.text_table(_HEADER, [_cells(row) for row in self.layers])
        return f"{self.costs_in_words}\n{table}"


_HEADER = (
    "layer",
    "type",
    "asked",
    "reached",
    "factorization",
    "rank",
    "weights lost",
    "outputs lost: plain",
    "with data",
    "note",
)


def _cells(row: LayerFactorization) -> tuple[str, ...]:
    return (
        row.name,
        row.kind,
        tables.NOTHING if row.asked is None else f"{row.asked:g}",
        tables.NOTHING if row.reached is None else f"{row.reached:.3f}",
        row.factorization or tables.NOTHING,
        tables.NOTHING if row.rank is None else f"{row.rank} of {row.full_rank}",
        tables.format_percent(row.weight_error, 2),
        tables.format_percent(row.plain_error, 2),
        tables.format_percent(row.output_error, 2),
        row.note,
    )
