"""Several layers in one model: one export, which takes a second or two, tells of all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from aimet_torch.quantsim import QuantizationSimModel

Layers = Mapping[str, tuple[Callable[[], nn.Module], Sequence[tuple[int, ...]]]]


class SideBySide(nn.Module):
    """Layers that know nothing of each other, each with inputs of its own."""

    def __init__(self, layers: Sequence[nn.Module], counts: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.counts = counts

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        rest = iter(inputs)
        return tuple(
            layer(*itertools.islice(rest, count))
            for layer, count in zip(self.layers, self.counts, strict=True)
        )


def simulated_side_by_side(layers: Layers) -> tuple[QuantizationSimModel, tuple[Tensor, ...]]:
    """A calibrated simulation of `layers` (how to build one, shapes of its inputs), and inputs."""
    built, inputs = [], []
    for build, shapes in layers.values():
        torch.manual_seed(0)
        built.append(nn.Sequential(build()) if len(shapes) == 1 else build())
        inputs += [torch.randn(shape) for shape in shapes]
    counts = [len(shapes) for _, shapes in layers.values()]
    sim = QuantizationSimModel(SideBySide(built, counts).eval(), tuple(inputs))
    sim.compute_encodings(lambda model: model(*inputs))
    return sim, tuple(inputs)


def behind(path: str | Path) -> list[set[str]]:
    """For each output of an ONNX file: the names of all tensors that it is computed from."""
    graph = onnx.load(path).graph
    producers = {name: node for node in graph.node for name in node.output}
    found = []
    for output in graph.output:
        seen: set[str] = set()
        open_names = [output.name]
        while open_names:
            name = open_names.pop()
            seen.add(name)
            open_names += producers[name].input if name in producers else ()
        found.append(seen)
    return found
