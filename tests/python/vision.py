"""torchvision for tests: also where its C++ operators do not load (a wheel for another build of
torch)."""

from __future__ import annotations

import contextlib
import copy
import functools
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

_LIBRARY = torch.library.Library("torchvision", "FRAGMENT")


def torchvision() -> Any:
    """The package; skips the test when it is not installed."""
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):  # defined already
            _LIBRARY.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return pytest.importorskip("torchvision", reason="torchvision is not installed")


def architecture(name: str) -> nn.Module:
    """A torchvision classifier with random weights, in eval mode; no parameter is zero."""
    return copy.deepcopy(_architecture(name))


@functools.lru_cache(maxsize=2)
def _architecture(name: str) -> nn.Module:
    package = torchvision()
    torch.manual_seed(0)
    options = {"init_weights": False} if name == "googlenet" else {}

    def normal(tensor: Tensor, mean: float = 0.0, std: float = 1.0, *limits: float) -> Tensor:
        return nn.init.normal_(tensor, mean, std)  # ten times faster than the truncated one

    with mock.patch("torch.nn.init.trunc_normal_", normal):
        model: nn.Module = getattr(package.models, name)(weights=None, **options)
    with torch.no_grad():
        for parameter in model.parameters():  # a zero head would hide every difference
            if parameter.abs().max() == 0:
                parameter.normal_(0.0, 0.02)
    return model.eval()
