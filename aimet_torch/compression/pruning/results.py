"""What became of a model whose channels were pruned: as a table and as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn

from aimet_torch.common import tables
from aimet_torch.compression.cost import ModelCost
from aimet_torch.compression.results import SmallerModel

__all__ = ["LayerPruning", "PrunedGroup", "PrunedModel"]


@dataclasses.dataclass(frozen=True)
class PrunedGroup:
    """Channels that were decided on together.

    Attributes:
        name: Of the first layer that makes them.
        makers: Layers whose outputs they are, coupled by additions and the like.
        readers: Layers that read them.
        units: What stays or goes as one.
        kept: How many of them stay.
        error: What the others cost in the original model, as `GroupOrder.errors` counts it.
    """

    name: str
    makers: list[str]
    readers: list[str]
    units: int
    kept: int
    error: float


@dataclasses.dataclass(frozen=True)
class LayerPruning:
    """What became of a layer.

    Attributes:
        name: Dotted name.
        kind: Its class, or the operation.
        asked: Share of its input channels that was asked to stay; None without such a wish.
        inputs: Input channels of the original.
        kept_inputs: Those that stay.
        outputs: Output channels of the original.
        kept_outputs: Those that stay.
        plain_error: Share of the variance of its outputs that the weights as they were lose on the
            data, given the inputs that it gets in the smaller model.
        output_error: Share that is lost with the weights it has.
        note: Why its input channels stay, or what to know.
    """

    name: str
    kind: str
    asked: float | None
    inputs: int
    kept_inputs: int
    outputs: int
    kept_outputs: int
    plain_error: float | None = None
    output_error: float | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True)
class PrunedModel(SmallerModel):
    """A model with fewer channels and how it came about. `print` shows it as a table.

    Attributes:
        model: The smaller copy: modules of the same classes and names.
        layers: All convolutions and linear layers, in the order of the graph.
        groups: The channels that can be pruned.
        before: What the original costs for the example input.
        after: What the copy costs.
        notes: What else to know, such as modules that the trace does not call.
    """

    model: nn.Module
    layers: list[LayerPruning]
    groups: list[PrunedGroup]
    before: ModelCost
    after: ModelCost
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def left(self) -> dict[str, str]:
        """Why layers that were asked for keep their input channels, by name."""
        return {
            row.name: row.note
            for row in self.layers
            if row.asked is not None and row.kept_inputs == row.inputs and row.note
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything but the model as plain lists and dicts, for JSON."""
        return {
            "mac_ratio": self.mac_ratio,
            "memory_ratio": self.memory_ratio,
            "layers": [dataclasses.asdict(row) for row in self.layers],
            "groups": [dataclasses.asdict(group) for group in self.groups],
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "notes": self.notes,
        }

    def __str__(self) -> str:
        table = tables.text_table(_HEADER, [_cells(row) for row in self.layers])
        return "\n".join([self.costs_in_words, table, *self.notes])


_HEADER = ("layer", "type", "asked", "inputs", "outputs", "outputs lost: plain", "fitted", "note")


def _cells(row: LayerPruning) -> tuple[str, ...]:
    return (
        row.name,
        row.kind,
        tables.NOTHING if row.asked is None else f"{row.asked:g}",
        _count(row.kept_inputs, row.inputs),
        _count(row.kept_outputs, row.outputs),
        tables.format_percent(row.plain_error, 2),
        tables.format_percent(row.output_error, 2),
        row.note,
    )


def _count(kept: int, count: int) -> str:
    return str(count) if kept == count else f"{kept} of {count}"
