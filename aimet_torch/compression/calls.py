"""What a model is called with: recorded, counted in samples, cut into parts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree

__all__ = ["Call", "CallRecorder", "first_batches", "first_samples", "split_call"]

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""Positional and keyword arguments."""


class CallRecorder:
    """A context in which the arguments of a model's calls are kept.

    Args:
        model: That is called.
        samples: No more calls are kept once they hold so many.

    Attributes:
        calls: Copies of the arguments.
    """

    def __init__(self, model: nn.Module, samples: int) -> None:
        self.calls: list[Call] = []
        self._model = model
        self._missing = samples
        self._handle: Any = None

    def _record(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._missing > 0:
            copied = _pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), (args, kwargs))
            self.calls.append(copied)
            self._missing -= _length(copied)

    def __enter__(self) -> CallRecorder:
        self._handle = self._model.register_forward_pre_hook(self._record, with_kwargs=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def first_batches(batches: Iterable[Any], samples: int) -> Iterator[Any]:
    """Batches until they hold that many samples; endless loaders are not read further."""
    for batch in batches:
        yield batch
        samples -= _length(batch)
        if samples <= 0:
            return


def first_samples(calls: Sequence[Call], samples: int) -> list[Call]:
    """Calls with that many samples in all; the last one is cut where that can be done."""
    kept: list[Call] = []
    for call in calls:
        if samples <= 0:
            break
        kept.append(next(split_call(call, samples)))
        samples -= _length(call)
    return kept


def split_call(call: Call, samples: int) -> Iterator[Call]:
    """Parts of a call, none with more samples, where all of its tensors have the same length."""
    leaves, structure = _pytree.tree_flatten(call)
    lengths = {len(x) if x.dim() else 0 for x in leaves if isinstance(x, Tensor)}
    if len(lengths) != 1 or max(lengths) <= samples:
        yield call
        return
    for begin in range(0, max(lengths), samples):
        part = [x[begin : begin + samples] if isinstance(x, Tensor) else x for x in leaves]
        yield _pytree.tree_unflatten(part, structure)


def _length(value: Any) -> int:
    """Length of the first tensor in it."""
    first = next((x for x in _pytree.tree_leaves(value) if isinstance(x, Tensor)), None)
    return 1 if first is None or not first.dim() else len(first)
