"""Functions of upper layers that lower layers offer to users as methods.

`sim.export(...)` belongs to the simulation in the eyes of a user, but exporting is a layer above
it. The package's `__init__` registers here which function provides a service; nothing is imported
before the first call.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

__all__ = ["provide", "service"]

_PROVIDERS: dict[str, str] = {}


def provide(name: str, target: str) -> None:
    """Register `target` ("package.module:function") as the provider of the service `name`."""
    _PROVIDERS[name] = target


def service(name: str) -> Callable[..., Any]:
    """The function that provides a service.

    Raises:
        LookupError: nothing provides it.
    """
    if name not in _PROVIDERS:
        raise LookupError(f"service: `name` must be one of {', '.join(_PROVIDERS)}, got {name!r}")
    module, function = _PROVIDERS[name].split(":")
    return getattr(importlib.import_module(module), function)
