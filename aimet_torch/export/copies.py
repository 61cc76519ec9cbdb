"""Copies of simulations for exports to run and to change."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn


def shared_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode that shares the parameters of `model`.

    It has buffers of its own: some models write into them whenever they run.
    """
    memo: dict[int, Any] = {id(parameter): parameter for parameter in model.parameters()}
    return copy.deepcopy(model, memo).eval()
