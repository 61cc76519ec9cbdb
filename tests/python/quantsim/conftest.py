"""Small networks and helpers that the tests of the simulation share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Net(nn.Module):
    """Conv-bn-relu, a functional residual addition, one ReLU used twice, pooling and a
    classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.conv2(y) + y)
        y = F.adaptive_avg_pool2d(y, 1).flatten(1)
        return self.fc(y)


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(3)
    return Net().eval()


@pytest.fixture
def data() -> Tensor:
    return torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def make_sim(net: nn.Module, data: Tensor) -> Callable:
    """Builds a simulation of `net` and calibrates it on `data`."""
    from aimet_torch.quantsim import QuantizationSimModel

    def make(**options: object) -> QuantizationSimModel:
        sim = QuantizationSimModel(net, data, **options)
        sim.compute_encodings([data])
        return sim

    return make


def sqnr(expected: Tensor, actual: Tensor) -> float:
    """Signal to quantization-noise ratio in dB."""
    noise = (expected - actual).pow(2).sum()
    return float("inf") if noise == 0 else (10 * torch.log10(expected.pow(2).sum() / noise)).item()
