"""Batch-norm re-estimation: statistics of the quantized network in place of those of training.

After quantization-aware training at few bits the running statistics lag behind weights that jump
between neighboring integers. Source: Nagel et al. 2022 (arXiv 2203.11086), section 3.2. AIMET's
names, under its path ``aimet_torch.bn_reestimation`` too.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from aimet_torch.common.progress import progress

__all__ = ["DEFAULT_NUM_BATCHES", "Handle", "reestimate_bn_stats"]

DEFAULT_NUM_BATCHES = 100


class Handle:
    """Undoes a change once, at the latest when a ``with`` block ends."""

    def __init__(self, undo: Callable[[], None]) -> None:
        self._undo: Callable[[], None] | None = undo

    def remove(self) -> None:
        """Undo the change; a second call does nothing."""
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()

    def __enter__(self) -> Handle:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def reestimate_bn_stats(
    model: nn.Module,
    dataloader: Iterable[Any],
    num_batches: int = DEFAULT_NUM_BATCHES,
    forward_fn: Callable[[nn.Module, Any], Any] | None = None,
) -> Handle:
    """Replace running means and variances by averages of those of batches, in place.

    Everything but the batch normalizations runs as in evaluation mode.

    Args:
        model: A network or ``sim.model``.
        dataloader: Batches; no label is read.
        num_batches: How many are used.
        forward_fn: ``forward_fn(model, batch)`` runs one; None: a batch is the input, or a tuple or
            list that begins with it.

    Returns:
        Its ``remove()`` restores the statistics from before.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: ``num_batches`` is not positive, or there is no batch.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"reestimate_bn_stats: `model` must be an nn.Module, got {type(model).__name__}"
        )
    if num_batches < 1:
        raise ValueError(f"reestimate_bn_stats: `num_batches` must be positive, got {num_batches}")
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    before = [tuple(tensor.clone() for tensor in _statistics(norm)) for norm in norms]
    trackers = [norm.num_batches_tracked for norm in norms]
    counts = [None if count is None else count.clone() for count in trackers]
    momenta = [norm.momentum for norm in norms]
    modes = [(module, module.training) for module in model.modules()]

    def restore() -> None:
        with torch.no_grad():
            for norm, values in zip(norms, before, strict=True):
                for tensor, old in zip(_statistics(norm), values, strict=True):
                    tensor.copy_(old)

    sums = [tuple(torch.zeros_like(t, dtype=torch.float64) for t in _statistics(n)) for n in norms]
    seen = [0] * len(norms)
    hooks = [
        norm.register_forward_hook(lambda m, *_, i=index: _add(m, sums[i], seen, i))
        for index, norm in enumerate(norms)
    ]
    batch_count = 0
    try:
        model.eval()
        for norm in norms:
            norm.train()
            norm.momentum = 1.0  # running statistics are those of the last batch
        with torch.no_grad():
            batches = itertools.islice(dataloader, num_batches)
            for batch in progress(batches, "Re-estimating batch norms", num_batches, "batch"):
                _run(model, batch, forward_fn)
                batch_count += 1
        if batch_count == 0:
            raise ValueError("reestimate_bn_stats: `dataloader` gave no batch")
    except BaseException:
        restore()
        raise
    finally:
        for hook in hooks:
            hook.remove()
        for norm, momentum, tracker, count in zip(norms, momenta, trackers, counts, strict=True):
            norm.momentum = momentum
            if tracker is not None and count is not None:
                tracker.copy_(count)
        for module, training in modes:
            module.training = training
    with torch.no_grad():
        for norm, total, updates in zip(norms, sums, seen, strict=True):
            if updates:  # one that no batch reached keeps what it had
                for tensor, value in zip(_statistics(norm), total, strict=True):
                    tensor.copy_(value / updates)
    return Handle(restore)


def _statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


def _add(norm: _BatchNorm, sums: tuple[Tensor, ...], seen: list[int], index: int) -> None:
    for total, tensor in zip(sums, _statistics(norm), strict=True):
        total.add_(tensor)
    seen[index] += 1


def _run(model: nn.Module, batch: Any, forward_fn: Callable[[nn.Module, Any], Any] | None) -> None:
    if forward_fn is not None:
        forward_fn(model, batch)
        return
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    batch = batch[0] if isinstance(batch, tuple | list) else batch
    inputs = torch.utils._pytree.tree_map(
        lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, batch
    )
    if isinstance(inputs, dict):
        model(**inputs)
    else:
        model(inputs)
