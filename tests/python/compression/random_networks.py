"""Networks put together at random from what channels can run through."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch import nn


class Excitation(nn.Module):
    """A gate for every channel, from the means of all of them."""

    def __init__(self, channels):
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 5, 1), nn.Conv2d(5, channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Scale(nn.Module):
    """A parameter for every channel."""

    def __init__(self, channels):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(channels) + 0.5)

    def forward(self, x):
        return x * self.scale.view(1, -1, 1, 1)


class RandomNetwork(nn.Module):
    """``steps`` operations, each on what some of the earlier ones gave.

    Args:
        seed: Of all choices.
        steps: How many operations.
        norms: With layer norms, whose statistics channels leave.
    """

    def __init__(self, seed, steps=14, norms=False):
        super().__init__()
        choose = random.Random(seed)
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.modules_ = nn.ModuleList()
        self.steps = []
        channels = [12]
        kinds = [
            "conv", "conv", "conv", "depthwise", "grouped", "norm", "relu", "prelu", "add", "add",
            "cat", "chunk", "shuffle", "gate", "scale", "up", "pad", "functional",
        ]  # fmt: skip
        if norms:
            kinds += ["layer_norm"] * 3
        for _ in range(steps):
            kind, source = choose.choice(kinds), choose.randrange(len(channels))
            if choose.random() < 0.6:
                source = len(channels) - 1
            width, module, other = channels[source], nn.Identity(), source
            if kind == "conv":
                new = choose.choice([8, 12, 16])
                module, width = nn.Conv2d(width, new, choose.choice([1, 3]), padding="same"), new
            elif kind == "depthwise":
                module = nn.Conv2d(width, 2 * width, 3, padding=1, groups=width)
                width *= 2
            elif kind == "grouped" and width % 4 == 0:
                module, width = nn.Conv2d(width, 16, 3, padding=1, groups=2), 16
            elif kind == "norm":
                module = nn.BatchNorm2d(width)
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
            elif kind == "layer_norm":
                module = nn.LayerNorm(width)
            elif kind == "prelu":
                module = nn.PReLU(width)
            elif kind == "add":
                other = choose.choice([i for i, c in enumerate(channels) if c == width])
            elif kind == "cat":
                other = choose.randrange(len(channels))
                width += channels[other]
            elif kind == "chunk" and width % 2 == 0:
                width //= 2
            elif kind == "shuffle" and width % 2 == 0:
                module = nn.ChannelShuffle(2)
            elif kind == "gate":
                module = Excitation(width)
            elif kind == "scale":
                module = Scale(width)
            elif kind == "up":
                module, width = nn.ConvTranspose2d(width, 8, 3, padding=1), 8
            elif kind == "pad":
                width += 2
            if (kind in ("chunk", "shuffle") and channels[source] % 2) or (
                kind == "grouped" and isinstance(module, nn.Identity)
            ):
                kind = "nothing"
            self.modules_.append(module)
            self.steps.append((kind, source, other))
            channels.append(width)
        self.pool = nn.AdaptiveAvgPool2d(2)
        read = {source for _, source, _ in self.steps}
        read |= {other for kind, _, other in self.steps if kind in ("add", "cat")}
        self.last = [i for i in range(len(channels)) if i not in read]
        self.head = nn.Linear(4 * sum(channels[i] for i in self.last), 5)
        self.second = nn.Conv2d(channels[len(channels) // 2], 3, 1)

    def forward(self, x):
        values = [self.stem(x)]
        for (kind, source, other), module in zip(self.steps, self.modules_, strict=True):
            value = values[source]
            if kind == "relu":
                value = F.relu(value)
            elif kind == "add":
                value = value + F.hardswish(values[other])
            elif kind == "cat":
                value = torch.cat([value, values[other]], dim=1)
            elif kind == "chunk":
                value = value.chunk(2, dim=1)[0] - value.chunk(2, dim=1)[1].abs()
            elif kind == "pad":
                value = F.pad(value, (0, 0, 0, 0, 1, 1))
            elif kind == "layer_norm":
                value = module(value.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            else:
                value = module(value)
            values.append(value)
        ends = [self.pool(values[i]) for i in self.last]  # code that nothing reads is not traced
        out = self.head(torch.flatten(torch.cat(ends, 1), 1))
        return out, self.second(values[len(values) // 2])
