"""Functions that rewritten graphs call when they run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx.node import has_side_effect


@has_side_effect
def check_argument(value: Any, expected: Any, name: str) -> None:
    """Refuse a non-tensor argument that differs from the one the graph was traced with.

    Raises:
        ValueError: `value` is not `expected`; the graph holds only what the model does for
            `expected`.
    """
    same = (
        value is None if expected is None else type(value) is type(expected) and value == expected
    )
    if not same:
        shown = "a tensor" if isinstance(value, torch.Tensor) else repr(value)
        raise ValueError(
            f"forward: argument `{name}` was {expected!r} when the model was traced and is fixed "
            f"at that; got {shown}. Trace the model with a dummy input that passes `{name}`."
        )


@has_side_effect
def check_length(container: Any, expected: int, name: str) -> None:
    """Refuse a tuple, list or dict input of another length than the traced one.

    Raises:
        ValueError: the lengths differ.
    """
    if len(container) != expected:
        raise ValueError(
            f"forward: argument `{name}` had {expected} entries when the model was traced; got "
            f"{len(container)}. Trace the model with a dummy input of this structure."
        )


@has_side_effect
def check_specialization(value: Any, expected: Any, text: str) -> None:
    """Refuse shapes for which the model's Python code would take another path.

    Raises:
        ValueError: `value` differs from `expected`.
    """
    if (
        torch._C._get_tracing_state() is not None
    ):  # sizes are tensors there, and torch.jit.trace fixes them itself
        return
    if isinstance(expected, bool):  # a branch: torch.compile cannot compare its symbols with True
        holds = expected if value else not expected
    else:
        holds = value == expected
    if not holds:
        raise ValueError(
            f"forward: the graph was traced where {text} was {expected!r}, and the model's code "
            f"depends on it; with this input it is {value!r}. Trace the model again with a dummy "
            f"input of this shape."
        )


def apply_on_copy(
    function: Callable[..., Any], target: torch.Tensor, *args: Any, **kwargs: Any
) -> torch.Tensor:
    """The value of `target` after the in-place `function`, `target` itself left as it is."""
    copy = target.clone()
    function(copy, *args, **kwargs)
    return copy


def write_through(
    base: torch.Tensor,
    value: torch.Tensor,
    view: Callable[..., Any],
    path: Sequence[Any],
    view_args: Sequence[Any],
    view_kwargs: dict[str, Any],
) -> torch.Tensor:
    """The value of `base` after `value` was written into a view of it.

    The view is ``view(base, *view_args, **view_kwargs)`` and then each index of `path`.
    """
    copy = base.clone()
    target = view(copy, *view_args, **view_kwargs)
    for index in path:
        target = target[index]
    target.copy_(value)
    return copy


def device_of(tensor: torch.Tensor) -> torch.device:
    """The device of a tensor: new tensors are made beside the input, wherever it moved."""
    return tensor.device
