"""Shared by the tests of the graph."""

from __future__ import annotations

import torch
from torch import nn

from aimet_torch.graph import trace
from tests.python.models import FIXTURES


def graph_of(name: str):
    torch.manual_seed(0)
    fixture = FIXTURES[name]
    return trace(fixture.build().eval(), fixture.inputs(2))


def module(forward, **children) -> nn.Module:
    """A module with these children whose forward is ``forward(self, *args)``."""
    cls = type("Inline", (nn.Module,), {"forward": forward})
    model = cls()
    for name, child in children.items():
        setattr(model, name, child)
    return model.eval()


def types(graph) -> list[str]:
    return [op.op_type for op in graph.ops]
