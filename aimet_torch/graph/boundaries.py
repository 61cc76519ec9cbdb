"""What is known about a module that could not be traced into."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor, nn


@dataclasses.dataclass
class LeafCall:
    """The calls of one leaf module inside a boundary during the trace."""

    name: str
    module: nn.Module
    inputs: list[
        tuple[tuple[int, ...], Any]
    ]  # shape and dtype of each tensor input of the first call
    outputs: list[tuple[tuple[int, ...], Any]]
    calls: int = 1


@dataclasses.dataclass
class BoundaryRecord:
    """An opaque module: why it is one, and what ran inside."""

    name: str
    reason: str
    leaf_calls: dict[str, LeafCall] = dataclasses.field(default_factory=dict)
    functions: dict[str, int] = dataclasses.field(default_factory=dict)

    def module_called(
        self, name: str, module: nn.Module, inputs: list[Tensor], outputs: list[Tensor]
    ) -> None:
        """Count a call of a leaf module."""
        call = self.leaf_calls.get(name)
        if call is not None:
            call.calls += 1
        else:
            self.leaf_calls[name] = LeafCall(name, module, _describe(inputs), _describe(outputs))

    def function_called(self, name: str, outputs: list[Tensor]) -> None:
        """Count a functional operation with floating outputs: it gets no quantizer."""
        if any(t.is_floating_point() for t in outputs):
            self.functions[name] = self.functions.get(name, 0) + 1


def _describe(tensors: list[Tensor]) -> list[tuple[tuple[int, ...], Any]]:
    return [(tuple(t.shape), t.dtype) for t in tensors]
