"""Walking nested arguments and results."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor


def is_namedtuple(value: Any) -> bool:
    """Whether ``value`` is an instance of a NamedTuple class."""
    return isinstance(value, tuple) and hasattr(value, "_fields")


def leaves(value: Any, kind: type | tuple[type, ...] = Tensor) -> list[Any]:
    """The objects of type ``kind`` in ``value``, in positional order, repetitions kept."""
    found: list[Any] = []
    _visit(value, kind, found)
    return found


def _visit(value: Any, kind: Any, found: list[Any]) -> None:
    if isinstance(value, kind):
        found.append(value)
    elif isinstance(value, (tuple, list)):
        for item in value:
            _visit(item, kind, found)
    elif isinstance(value, dict):
        for item in value.values():
            _visit(item, kind, found)
    elif isinstance(value, slice):
        for item in (value.start, value.stop, value.step):
            _visit(item, kind, found)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            _visit(getattr(value, field.name), kind, found)


def rebuild(
    value: Any, function: Callable[..., Any], *, with_path: bool = False, path: tuple[Any, ...] = ()
) -> Any:
    """``value`` with ``function`` applied to its leaves.

    Args:
        value: Nested tuples, lists, dicts, slices, dataclasses.
        function: Called with each leaf; ``with_path``: with (path, tensor), for tensors only.
        with_path: See ``function``. A path holds indices and keys, ``("attr", name)`` for the field
            of a dataclass.
        path: Of ``value`` itself.

    Returns:
        ``value`` itself when no leaf changed.
    """
    if isinstance(value, (tuple, list)):
        items = [
            rebuild(v, function, with_path=with_path, path=(*path, i)) for i, v in enumerate(value)
        ]
        if all(a is b for a, b in zip(items, value, strict=True)):
            return value
        if is_namedtuple(value):
            return type(value)(*items)
        return list(items) if isinstance(value, list) else tuple(items)
    if isinstance(value, dict):
        changed = {
            k: rebuild(v, function, with_path=with_path, path=(*path, k)) for k, v in value.items()
        }
        return value if all(changed[k] is value[k] for k in value) else _like(value, changed)
    if isinstance(value, slice):
        parts = [
            rebuild(v, function, with_path=with_path, path=path)
            for v in (value.start, value.stop, value.step)
        ]
        return slice(*parts)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        new = {
            k: rebuild(v, function, with_path=with_path, path=(*path, ("attr", k)))
            for k, v in fields.items()
        }
        return (
            value if all(new[k] is fields[k] for k in fields) else dataclasses.replace(value, **new)
        )
    if with_path:
        return function(path, value) if isinstance(value, Tensor) else value
    return function(value)


def _like(original: dict[Any, Any], changed: dict[Any, Any]) -> Any:
    return changed if type(original) is dict else type(original)(changed)
