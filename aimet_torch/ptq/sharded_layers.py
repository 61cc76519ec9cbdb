"""Layers that several ranks solve together: data and rows are divided, results are those of one.

Every rank runs its part of the data through the network. The second moments of a layer are sums
over the data, so the ranks add theirs; then each rank solves some of the rows (output channels) of
the layer's weight, which do not depend on each other, and all get all of them.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.common.collectives import Ranks
from aimet_torch.ptq.checkpoint import Checkpoint
from aimet_torch.ptq.layer_rounding import LayerResult
from aimet_torch.ptq.layer_view import LayerView, WeightGrid

__all__ = ["open_checkpoint", "solve_rows"]


def open_checkpoint(folder: Path, identity: str, ranks: Ranks) -> Checkpoint:
    """A `Checkpoint` that the first rank keeps and all ranks read.

    Args:
        folder: as for `Checkpoint`; only the first rank needs to reach it.
        identity: of this rank's part of the job.
        ranks: of the job.
    """
    if ranks.size == 1:
        return Checkpoint(folder, identity)
    digest = hashlib.sha256("".join(ranks.gather(identity)).encode()).hexdigest()
    return _SharedCheckpoint(folder, digest, ranks)


class _SharedCheckpoint(Checkpoint):
    """All methods are exchanges: every rank calls them, the first one works."""

    def __init__(self, folder: Path, identity: str, ranks: Ranks) -> None:
        self._ranks = ranks
        self._of_first: Any = None
        ranks.of_first(lambda: self._open(folder, identity))

    def _open(self, folder: Path, identity: str) -> None:
        self._of_first = Checkpoint(folder, identity)

    def _let_first(self, method: str, *args: Any) -> Any:
        return self._ranks.of_first(lambda: getattr(self._of_first, method)(*args))

    def has(self, name: str) -> bool:
        """See `Checkpoint.has`."""
        return bool(self._let_first("has", name))

    def load(self, name: str) -> LayerResult | None:
        """See `Checkpoint.load`."""
        found: LayerResult | None = self._let_first("load", name)
        return found

    def save(self, name: str, result: LayerResult) -> None:
        """See `Checkpoint.save`."""
        self._let_first("save", name, result)

    def remove(self) -> None:
        """See `Checkpoint.remove`."""
        self._let_first("remove")


def solve_rows(solve: Callable[[Any], LayerResult], task: Any, ranks: Ranks) -> LayerResult:
    """What ``solve(task)`` gives, each rank doing a part of the rows.

    Args:
        solve: solves a layer, whose rows do not depend on each other.
        task: an `aimet_torch.ptq.layerwise.LayerTask` with the sums over all ranks' data.
        ranks: who solves.

    The first rank alone solves layers with one output a group, which are small, and layers whose
    rows have a grid in common.
    """
    if ranks.size == 1:
        return solve(task)
    count = task.view.outputs
    if task.grid.is_shared or count == 1:
        return ranks.of_first(lambda: solve(task))
    first, last = (count * i // ranks.size for i in (ranks.rank, ranks.rank + 1))
    own = solve(_part(task, first, last)) if first < last else None
    return _joined(task.view, [part for part in ranks.gather(own) if part is not None])


def _part(task: Any, first: int, last: int) -> Any:
    """The task of the outputs from ``first`` to before ``last`` of each group."""
    whole: LayerView = task.view
    layer: Any = whole.layer
    part = copy.copy(layer)
    weight = _sliced(whole, layer.weight.detach(), first, last)
    bias = None if layer.bias is None else _sliced(whole, layer.bias.detach(), first, last)
    part.__dict__["_parameters"] = {
        name: None if value is None else nn.Parameter(value, requires_grad=False)
        for name, value in (("weight", weight), ("bias", bias))
    }
    view = LayerView(part)
    view.cost = whole.cost  # how much a solver tries depends on the whole layer
    quantizer: Any = copy.deepcopy(task.grid.quantizer)
    for tensors in (quantizer._parameters, quantizer._buffers):
        for name, value in tensors.items():
            sliced = _sliced(whole, value.detach(), first, last)
            tensors[name] = nn.Parameter(sliced) if isinstance(value, nn.Parameter) else sliced
            quantizer.shape = tuple(sliced.shape)
    cross, output_sum = (
        t[:, first:last].contiguous() for t in (task.sums.cross, task.sums.output_sum)
    )
    return dataclasses.replace(
        task,
        view=view,
        grid=WeightGrid(quantizer, task.grid.blocks, is_shared=False),
        sums=task.sums._replace(cross=cross, output_sum=output_sum),
    )


def _joined(view: LayerView, parts: Sequence[LayerResult]) -> LayerResult:
    """The result of all outputs from those of the parts, in their order."""
    biases = [part.bias for part in parts if part.bias is not None]
    return LayerResult(
        torch.cat([part.codes for part in parts], 1),
        _cat(view, [part.min for part in parts]),
        _cat(view, [part.max for part in parts]),
        _cat(view, biases) if biases else None,
        sum(part.error for part in parts),
        sum(part.nearest_error for part in parts),
    )


def _sliced(view: LayerView, tensor: Tensor, first: int, last: int) -> Tensor:
    """Some outputs of a tensor in the shape of the weight, of its quantizer, or of the bias."""
    if view.transposed and tensor.dim() > 1:
        return tensor[:, first:last].contiguous()
    split = tensor.reshape(view.groups, -1, *tensor.shape[1:])
    return split[:, first:last].reshape(-1, *tensor.shape[1:])


def _cat(view: LayerView, parts: Sequence[Tensor]) -> Tensor:
    """The inverse of :func:`_sliced`."""
    if view.transposed and parts[0].dim() > 1:
        return torch.cat(list(parts), 1)
    tail = parts[0].shape[1:]
    split = [part.reshape(view.groups, -1, *tail) for part in parts]
    return torch.cat(split, 1).reshape(-1, *tail)
