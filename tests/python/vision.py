"""torchvision for tests: also where its C++ operators do not load (a wheel for another build of
torch)."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable
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


def small_architecture(name: str) -> nn.Module:
    """The same kinds of blocks, a few of each and narrow ones, with random statistics."""
    models = torchvision().models
    torch.manual_seed(0)
    makers: dict[str, Callable[[], nn.Module]] = {
        "resnet18": lambda: models.ResNet(models.resnet.BasicBlock, [2, 1, 1, 1]),
        "mobilenet_v3_small": lambda: _mobilenet_v3(models.mobilenetv3),
        "shufflenet_v2_x1_0": lambda: models.ShuffleNetV2([2, 2, 1], [8, 16, 32, 64, 64]),
        "vit_b_16": lambda: models.VisionTransformer(32, 16, 2, 4, 32, 64),
        "swin_t": lambda: models.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [4, 4]),
        "convnext_tiny": lambda: _convnext(models.convnext),
        "efficientnet_b0": lambda: _efficientnet(models.efficientnet),
        "squeezenet1_1": lambda: models.SqueezeNet("1_1"),
        "googlenet": lambda: models.GoogLeNet(aux_logits=False, init_weights=False),
        "densenet121": lambda: models.DenseNet(8, (2, 2, 2), 16),
    }
    model = makers[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(0.0, 0.02)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0.0, 0.1)
                module.running_var.uniform_(0.5, 2.0)
    return model.eval()


def _mobilenet_v3(module: Any) -> nn.Module:
    def block(*sizes: Any) -> Any:
        return module.InvertedResidualConfig(*sizes, 1, 1.0)

    blocks = [block(16, 3, 16, 16, True, "RE", 2), block(16, 5, 48, 24, True, "HS", 2)]
    blocks += [block(24, 3, 48, 24, False, "HS", 1)]
    return module.MobileNetV3(blocks, 64)


def _convnext(module: Any) -> nn.Module:
    blocks = [module.CNBlockConfig(16, 32, 2), module.CNBlockConfig(32, None, 1)]
    return module.ConvNeXt(blocks, layer_scale=0.5)


def _efficientnet(module: Any) -> nn.Module:
    blocks = [module.MBConvConfig(1, 3, 1, 16, 16, 1), module.MBConvConfig(6, 5, 2, 16, 24, 2)]
    return module.EfficientNet(blocks, 0.2, last_channel=64)


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
