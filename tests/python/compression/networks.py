"""A small network that has something to lose, and an evaluation of it."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Small(nn.Module):
    """Convolutions with a shortcut and an in-place ReLU, a depthwise one and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.conv1 = nn.Conv2d(12, 12, 3, padding=1)
        self.conv2 = nn.Conv2d(12, 12, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.down = nn.Conv2d(12, 24, 3, stride=2, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(24 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, 8, 8) to (N, 10)."""
        x = self.relu(self.stem(x))
        x = self.relu(self.bn(self.conv2(F.relu(self.conv1(x)))) + x)
        x = F.relu_(self.down(self.depthwise(x)))
        return self.fc(x.flatten(1))


def images(count: int = 32, seed: int = 0) -> Tensor:
    """Smooth images: neighbors are alike, as in photographs."""
    noise = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return F.avg_pool2d(noise, 3, 1, 1) * 3


def small(seed: int = 0) -> Small:
    """The network in evaluation mode, with sensible batch-norm statistics."""
    torch.manual_seed(seed)
    model = Small().train()
    for _ in range(10):
        model(images())
    return model.eval()


@functools.lru_cache(maxsize=1)
def _wanted() -> Tensor:
    with torch.no_grad():
        return small()(images(64, seed=5))


def likeness(model: nn.Module, iterations: int | None = None, use_cuda: bool = False) -> float:
    """How like the outputs of `small()` those of a model are: minus the mean squared difference."""
    data = images(64, seed=5).split(24)  # the last batch is smaller
    with torch.no_grad():
        outputs = torch.cat([model(batch) for batch in data])
    return -float((outputs - _wanted()).square().mean())
