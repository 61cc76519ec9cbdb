"""What a model takes with fewer channels: each layer measured at some numbers of them.

A layer with fewer inputs and fewer outputs is measured on this machine in turns with the layer as
it is; between the numbers that are measured, time is interpolated in both. What is left of the
model's time (norms, activations, additions, the calls themselves) goes with its activations.
"""

from __future__ import annotations

import bisect
import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.compression.latency import measure_latency
from aimet_torch.compression.pruning.costs import PruningCosts
from aimet_torch.compression.pruning.propagation import Layer
from aimet_torch.compression.pruning.surgery import shrink_layer
from aimet_torch.compression.schemes import record_layer_inputs

__all__ = ["PruningLatency"]

_STEPS = 5  # numbers of channels that are measured, from one multiple to all
_ROUNDS = 15


class PruningLatency:
    """Seconds of a model as a function of how many units each group keeps.

    Args:
        costs: Knows which channels of a layer a group has.
        model: What was traced, in evaluation mode while this measures.
        dummy_input: What it is measured on.

    Attributes:
        total: Seconds of the model as it is.
    """

    def __init__(self, costs: PruningCosts, model: nn.Module, dummy_input: Any) -> None:
        model = copy.deepcopy(model).eval()
        layers = {layer.name: layer for layer in costs.structure.layers if layer.module is not None}
        inputs = record_layer_inputs(model, dummy_input, layers)
        self._costs = costs
        self._tables = {
            name: _Table(layers[name], model.get_submodule(name), own, costs.multiplicity)
            for name, own in inputs.items()
        }
        activations = {row.name: row.activations for row in costs.before.layers}
        self._activations = {name: activations.get(name, 0) for name in layers}
        own = sum(table.full for table in self._tables.values())
        self._rest = max(measure_latency(model, dummy_input).seconds - own, 0.0)
        self.total = own + self._rest

    def cost(self, kept: Mapping[str, int]) -> float:
        """Seconds with all units of groups that are not in ``kept``."""
        seconds, all_activations, activations = 0.0, 0.0, 0.0
        for name, (ins, outs) in self._costs.shares(kept).items():
            if name in self._tables:
                seconds += self._tables[name].seconds(ins, outs)
            all_activations += self._activations.get(name, 0)
            activations += self._activations.get(name, 0) * outs
        return seconds + self._rest * (activations / all_activations if all_activations else 1.0)


class _Table:
    """Seconds of a layer, measured where they are asked for.

    Attributes:
        full: Seconds with all channels.
    """

    def __init__(self, layer: Layer, module: nn.Module, inputs: list[Tensor], step: int) -> None:
        self._layer, self._module, self._inputs = layer, module, inputs
        # Of each group; of a grouped layer that loses whole groups, the groups themselves.
        sizes = [len(atoms) // layer.groups for atoms in (layer.inputs, layer.outputs)]
        if layer.removes_groups:
            sizes = [1, layer.groups]
        self._counts = [_grid(size, step) for size in sizes]
        self._seconds: dict[tuple[int, int], float] = {}
        self.full = sum(measure_latency(module, x).seconds for x in inputs)
        self._seconds[sizes[0], sizes[1]] = self.full

    def seconds(self, ins: float, outs: float) -> float:
        """With these shares of the channels: between the four measured numbers around them."""
        if self._layer.removes_groups:
            ins = 1.0
        total = 0.0
        for a, weight_a in _around(self._counts[0], ins):
            for b, weight_b in _around(self._counts[1], outs):
                total += weight_a * weight_b * self._at(a, b)
        return total

    def _at(self, ins: int, outs: int) -> float:
        if (ins, outs) not in self._seconds:
            smaller, keep = _shrunk(self._layer, self._module, ins, outs)
            dim = -1 if isinstance(smaller, nn.Linear) else -self._module.weight.dim() + 1  # type: ignore[operator]
            # In turns, as ratios: a machine that is slower for a moment slows both.
            ratios = []
            for x in self._inputs:
                narrow = _Bound(smaller, x.index_select(dim, keep.to(x.device)))
                speedup = measure_latency(
                    narrow, torch.zeros(1), baseline=_Bound(self._module, x), rounds=_ROUNDS
                ).speedup
                assert speedup is not None
                ratios.append(1 / speedup)
            self._seconds[ins, outs] = self.full * sum(ratios) / len(ratios)
        return self._seconds[ins, outs]


class _Bound(nn.Module):
    """A layer together with what it reads, so that two with different inputs can take turns."""

    def __init__(self, layer: nn.Module, x: Tensor) -> None:
        super().__init__()
        self.layer, self.x = layer, x

    def forward(self, _: Tensor) -> Tensor:
        """The outputs of the layer."""
        result: Tensor = self.layer(self.x)
        return result


def _grid(size: int, step: int) -> list[int]:
    """Numbers of channels that are measured, ascending: multiples, and all."""
    wanted = (size * index / _STEPS for index in range(_STEPS + 1))
    return sorted({min(max(-(-round(count) // step), 1) * step, size) for count in wanted})


def _around(counts: list[int], share: float) -> list[tuple[int, float]]:
    """The measured numbers on either side of a share, with their weights."""
    count = min(max(share * counts[-1], counts[0]), counts[-1])
    after = bisect.bisect_left(counts, count - 1e-9)
    if counts[after] - count <= 1e-9:
        return [(counts[after], 1.0)]
    low, high = counts[after - 1], counts[after]
    part = (count - low) / (high - low)
    return [(low, 1 - part), (high, part)]


def _shrunk(layer: Layer, module: nn.Module, ins: int, outs: int) -> tuple[nn.Module, Tensor]:
    """The layer with its first channels, and which of its inputs those are.

    Args:
        layer: Of the structure.
        module: What it stands for.
        ins: Input channels of each group that stay; ignored where whole groups go.
        outs: Output channels of each group; groups, where those go.
    """
    keeps = []
    for atoms, count in ((layer.inputs, ins), (layer.outputs, outs)):
        size = len(atoms) // layer.groups
        places = torch.arange(len(atoms))
        is_kept = places // size < outs if layer.removes_groups else places % size < count
        keeps.append(is_kept)
    first, second = (len(keep) for keep in keeps)
    # A copy of the layer's record that stands alone.
    alone = dataclasses.replace(
        layer,
        name="0",
        weight="0.weight",
        bias=None if layer.bias is None else "0.bias",
        inputs=torch.arange(first),
        outputs=first + torch.arange(second),
    )
    holder = nn.Sequential(copy.deepcopy(module))
    with torch.no_grad():
        shrink_layer(holder, alone, torch.cat(keeps))
    return holder[0], keeps[0].nonzero().flatten()
