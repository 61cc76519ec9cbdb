"""Networks for the tests of this folder, with batch normalizations that have something to fold."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from aimet_torch.graph.structure import leaves
from tests.python.models import Fixture


def trained(model: nn.Module, seed: int = 0) -> nn.Module:
    """``model`` in eval mode with uneven statistics, as training leaves them."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            n = module.num_features
            if module.running_mean is not None:
                module.running_mean.copy_(torch.randn(n, generator=generator))
                module.running_var.copy_(torch.rand(n, generator=generator) * 4 + 0.05)
            if module.affine:
                with torch.no_grad():
                    module.weight.copy_(torch.randn(n, generator=generator).exp())
                    module.bias.copy_(torch.randn(n, generator=generator))
    return model.eval()


SHAPE = (2, 3, 12, 12)
IMAGES = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(3)) * 3
"""Input of :func:`mobile_network`, and its shape for a batch of two."""


def outputs(model: nn.Module, x: Tensor = IMAGES) -> Tensor:
    """What ``model`` computes, without gradients."""
    with torch.no_grad():
        return model(x)


def uneven(*layers: nn.Module) -> nn.Sequential:
    """A sequence of layers whose channels have very different ranges."""
    torch.manual_seed(0)
    for layer in layers:
        if hasattr(layer, "weight") and layer.weight.dim() > 1:
            with torch.no_grad():
                factors = torch.logspace(-2, 1, layer.weight.shape[0])
                layer.weight.mul_(factors.view(-1, *[1] * (layer.weight.dim() - 1)))
    return nn.Sequential(*layers)


def relative_difference(a: Tensor, b: Tensor) -> float:
    """Largest difference over largest value."""
    assert b.abs().max() > 0
    return float(((a - b).abs().max() / b.abs().max()).detach())


def assert_computes_the_same(fixture: Fixture, change: Callable[[nn.Module, Any], object]) -> None:
    """Run ``change(model, inputs)`` on a fixture's model and compare its outputs with before."""
    torch.manual_seed(0)
    model = trained(fixture.build())
    with torch.no_grad():
        expected = fixture.call(copy.deepcopy(model), 2)  # a copy: some models keep state
        change(model, fixture.inputs(2))
        actual = fixture.call(model, 2)
    torch.testing.assert_close(leaves(actual), leaves(expected), rtol=1e-4, atol=1e-4)


class Block(nn.Module):
    """Inverted residual of MobileNetV2: expansion, depthwise, projection; added to its input."""

    def __init__(self, channels: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        wide = 3 * channels
        self.expand = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), activation()
        )
        self.depthwise = nn.Sequential(
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            activation(),
        )
        self.project = nn.Sequential(
            nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.depthwise(self.expand(x)))


def mobile_network(activation: Callable[[], nn.Module] = nn.ReLU6) -> nn.Sequential:
    """A network like MobileNetV2, the same each time: input (N, 3, 12, 12), 10 classes."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        activation(),
        Block(8, activation),
        Block(8, activation),
        nn.Conv2d(8, 16, 1, bias=False),
        nn.BatchNorm2d(16),
        activation(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(16, 10),
    )
