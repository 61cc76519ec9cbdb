"""Batch-norm re-estimation: statistics of the quantized network in place of those of training.

After quantization-aware training at few bits the running statistics lag behind weights that jump
between neighboring integers. Source: Nagel et al. 2022 (arXiv 2203.11086), section 3.2. AIMET's
names, under its path ``aimet_torch.bn_reestimation`` too.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from aimet_torch.common.progress import progress

__all__ = ["DEFAULT_NUM_BATCHES", "Handle", "reestimate_bn_stats"]

DEFAULT_NUM_BATCHES = 100
_Forward = Callable[[nn.Module, Any], Any]


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
    *,
    sequential: bool = False,
) -> Handle:
    """Replace running means and variances by those of batches, in place.

    Everything but the batch normalizations runs as in evaluation mode. AIMET's way, the default,
    takes one pass: every batch is normalized by its own statistics, and their averages become the
    running ones. Later layers then saw inputs that evaluation never gives them; at 2 or 3 bits, a
    code that flips early moves every statistic behind it. ``sequential`` measures one
    normalization after the other, each behind those that have their new statistics already: the
    mean and variance over all batches of what it gets in evaluation.

    Args:
        model: A network or ``sim.model``.
        dataloader: Batches; no label is read.
        num_batches: How many are used.
        forward_fn: ``forward_fn(model, batch)`` runs one; None: a batch is the input, or a tuple or
            list that begins with it.
        sequential: One normalization after the other, in the order in which the first batch
            reaches them; reads the batches once, keeps them, and runs each as far as every
            normalization.

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
    modes = [(module, module.training) for module in model.modules()]

    def restore() -> None:
        with torch.no_grad():
            for norm, values in zip(norms, before, strict=True):
                for tensor, old in zip(_statistics(norm), values, strict=True):
                    tensor.copy_(old)

    batches = itertools.islice(dataloader, num_batches)
    try:
        model.eval()
        with torch.no_grad():
            if sequential:
                count = _measure_in_turn(model, norms, list(batches), forward_fn)
            else:
                reported = progress(batches, "Re-estimating batch norms", num_batches, "batch")
                count = _average(model, norms, reported, forward_fn)
        if count == 0:
            raise ValueError("reestimate_bn_stats: `dataloader` gave no batch")
    except BaseException:
        restore()
        raise
    finally:
        for module, training in modes:
            module.training = training
    return Handle(restore)


def _statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


@contextlib.contextmanager
def _following_each_batch(norms: list[_BatchNorm]) -> Iterator[None]:
    """Running statistics are those of the last batch; momentum and counters are restored."""
    before = [(norm, norm.momentum, norm.num_batches_tracked, norm.training) for norm in norms]
    counts = [None if count is None else count.clone() for _, _, count, _ in before]
    try:
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        yield
    finally:
        for (norm, momentum, tracker, training), count in zip(before, counts, strict=True):
            norm.momentum = momentum
            norm.training = training
            if tracker is not None and count is not None:
                tracker.copy_(count)


def _average(
    model: nn.Module, norms: list[_BatchNorm], batches: Iterable[Any], forward_fn: _Forward | None
) -> int:
    """Set the averages of the batches' statistics; returns how many batches there were."""
    sums = [tuple(torch.zeros_like(t, dtype=torch.float64) for t in _statistics(n)) for n in norms]
    seen = [0] * len(norms)

    def add(norm: _BatchNorm, index: int) -> None:
        for total, tensor in zip(sums[index], _statistics(norm), strict=True):
            total.add_(tensor)
        seen[index] += 1

    hooks = [
        norm.register_forward_hook(lambda module, *_, i=index: add(module, i))
        for index, norm in enumerate(norms)
    ]
    batch_count = 0
    try:
        with _following_each_batch(norms):
            for batch in batches:
                _run(model, batch, forward_fn)
                batch_count += 1
    finally:
        for hook in hooks:
            hook.remove()
    for norm, total, updates in zip(norms, sums, seen, strict=True):
        if updates:  # one that no batch reached keeps what it had
            for tensor, value in zip(_statistics(norm), total, strict=True):
                tensor.copy_(value / updates)
    return batch_count


class _Reached(BaseException):
    """Ends a pass at the normalization that is measured; what lies behind it is not needed.

    No `Exception`: a `forward_fn` that survives faults of its data must not survive this one.
    """


def _measure_in_turn(
    model: nn.Module, norms: list[_BatchNorm], batches: list[Any], forward_fn: _Forward | None
) -> int:
    """Set the statistics of one normalization after the other; returns the number of batches."""
    if not batches:
        return 0
    reached = _calls(model, norms, batches[0], forward_fn)
    for norm, calls in progress(reached.items(), "Re-estimating batch norms", len(reached), "norm"):
        moments = _Moments(norm)
        with _following_each_batch([norm]):
            for batch in batches:
                _run_to(model, batch, forward_fn, norm, calls, moments)
        moments.set()
    return len(batches)


def _calls(
    model: nn.Module, norms: list[_BatchNorm], batch: Any, forward_fn: _Forward | None
) -> dict[_BatchNorm, int]:
    """How often a pass calls each normalization, in the order of first calls."""
    calls: dict[_BatchNorm, int] = {}

    def count(norm: Any, _: Any) -> None:
        calls[norm] = calls.get(norm, 0) + 1

    hooks = [norm.register_forward_pre_hook(count) for norm in norms]
    try:
        _run(model, batch, forward_fn)
    finally:
        for hook in hooks:
            hook.remove()
    return calls


class _Moments:
    """Mean and variance over all batches of what a normalization gets, per channel, float64."""

    def __init__(self, norm: _BatchNorm) -> None:
        self._norm = norm
        self._count = 0
        self._mean, self._squares = (
            torch.zeros_like(tensor, dtype=torch.float64) for tensor in _statistics(norm)
        )

    def add(self, count: int) -> None:
        """Merge in the running statistics, those of ``count`` values (Chan et al. 1979, eq. 2.1).

        They are read, not computed from the input: a quantizer of the norm's own comes before.
        """
        mean, variance = (tensor.double() for tensor in _statistics(self._norm))
        difference, total = mean - self._mean, self._count + count
        self._squares += (count - 1) * variance + difference**2 * (self._count * count / total)
        self._mean += difference * (count / total)
        self._count = total

    def set(self) -> None:
        """Make them the running statistics; the variance without bias, as training has it."""
        mean, variance = _statistics(self._norm)
        mean.copy_(self._mean)
        variance.copy_(self._squares / max(self._count - 1, 1))


def _run_to(
    model: nn.Module,
    batch: Any,
    forward_fn: _Forward | None,
    norm: _BatchNorm,
    calls: int,
    moments: _Moments,
) -> None:
    """Run ``batch`` up to the last call of ``norm`` and add its inputs to ``moments``."""
    left = calls

    def measure(_: nn.Module, arguments: tuple[Tensor, ...], __: Tensor) -> None:
        nonlocal left
        moments.add(arguments[0].numel() // arguments[0].shape[1])
        left -= 1
        if left == 0:
            raise _Reached

    with norm.register_forward_hook(measure), contextlib.suppress(_Reached):
        _run(model, batch, forward_fn)


def _run(model: nn.Module, batch: Any, forward_fn: _Forward | None) -> None:
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
