"""Modules whose forward is one function."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class FunctionModule(nn.Module):
    """A module whose forward is one function."""

    function: Callable[..., Any]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """``function(*args, **kwargs)``."""
        return type(self).function(*args, **kwargs)


class _OperatorName(str):
    """What stands for an operator in a pickle: ``aten.abs.default``."""


class FunctionCall(FunctionModule):
    """Calls `function`, which must be picklable for the module to be picklable.

    Operators of the dispatcher (``torch.ops.aten.abs.default``), which are not, are kept by name.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """``function(*args, **kwargs)``."""
        return self.function(*args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if isinstance(self.function, torch._ops.OpOverload):
            state["function"] = _OperatorName(str(self.function))
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if isinstance(self.function, _OperatorName):
            self.function = operator.attrgetter(str(self.function))(torch.ops)

    def extra_repr(self) -> str:
        """The function's name."""
        return function_name(self.function)


class TrainingFunctionCall(FunctionCall):
    """Calls `function` with ``training=self.training``, so that it follows the mode."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """``function(*args, **kwargs, training=self.training)``."""
        return self.function(*args, **kwargs, training=self.training)


def function_name(function: Any) -> str:
    """A readable name of a function, method descriptor or partial."""
    if isinstance(function, functools.partial):
        return function_name(function.func)
    return str(getattr(function, "__name__", None) or function)
