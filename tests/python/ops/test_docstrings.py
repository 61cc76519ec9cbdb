"""The examples in the docstrings of aimet_torch.ops."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

from aimet_torch import ops

MODULES = [module.name for module in pkgutil.iter_modules(ops.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(f"aimet_torch.ops.{name}")
    assert doctest.testmod(module).failed == 0


def test_there_are_examples() -> None:
    modules = [importlib.import_module(f"aimet_torch.ops.{name}") for name in MODULES]
    assert sum(doctest.testmod(module).attempted for module in modules) >= 8
