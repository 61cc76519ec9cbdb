"""Small models, one for each thing that a graph tracer can stumble over.

``FIXTURES`` lists them with inputs for any batch size; tests of every package run through it.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclasses.dataclass(frozen=True)
class Fixture:
    """A model, inputs for it, and what its graph must look like.

    Attributes:
        build: Makes the model.
        inputs: Batch size -> what ``trace`` takes as dummy input: a tensor, a tuple of arguments or
            a dict.
        boundaries: Names of the modules that cannot be traced into.
        exact: Whether the rewritten model's output is bit-equal (attention and SiLU are decomposed:
            it is not).
        any_batch: Whether the rewritten model takes other batch sizes than the traced one.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[int], Any]
    boundaries: tuple[str, ...] = ()
    exact: bool = True
    any_batch: bool = True

    def call(self, model: nn.Module, batch: int) -> Any:
        """Run ``model`` on inputs of this batch size."""
        return call_model(model, self.inputs(batch))


def call_model(model: nn.Module, inputs: Any) -> Any:
    """Run ``model`` on a dummy input: a tensor, a tuple of arguments, or keyword arguments."""
    if isinstance(inputs, dict):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def image(batch: int, channels: int = 3, size: int = 8) -> Tensor:
    """A random image batch, the same for the same arguments."""
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(batch))


def rows(batch: int, *shape: int) -> Tensor:
    """Random (batch, \\*shape), the same for the same arguments."""
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch + 1))


def tokens(batch: int, length: int = 5, vocabulary: int = 11) -> Tensor:
    """Random int64 (batch, length)."""
    return torch.randint(
        vocabulary, (batch, length), generator=torch.Generator().manual_seed(batch)
    )


FIXTURES: dict[str, Fixture] = {}


def fixture(
    inputs: Callable[[int], Any], *args: Any, **options: Any
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Class decorator: put ``cls(*args)`` into ``FIXTURES``."""

    def register(cls: type[nn.Module]) -> type[nn.Module]:
        FIXTURES[cls.__name__] = Fixture(lambda: cls(*args), inputs, **options)
        return cls

    return register


@fixture(image)
class FunctionalOps(nn.Module):
    """Convolutions as modules, everything else as functions and operators."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv1(x))
        z = torch.relu(self.conv2(y)) + y
        z = F.max_pool2d(2 * z - 1, 2) / 3.0
        z = torch.sigmoid(z) * torch.tanh(z) ** 2
        z = F.adaptive_avg_pool2d(1 - z, (1, 1)).flatten(1)
        return F.softmax(self.fc(z), dim=-1)


@fixture(image)
class ReusedModules(nn.Module):
    """One ReLU for three places, one convolution (and its parameters) called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn(self.conv(x)))
        y = self.relu(self.bn(self.conv(y)))
        return self.relu(y - x)


@fixture(lambda b: rows(b, 6))
class SharedParameters(nn.Module):
    """Two layers with one weight, and the same parameter used functionally."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 6)
        self.b = nn.Linear(6, 6)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.b(F.relu(self.a(x))), self.a.weight.t())


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn(self.conv(x))
        out += x
        return self.act(out)


class _Stage(nn.Sequential):
    """A user's subclass of nn.Sequential with operations of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, super().forward(x)], dim=1)


@fixture(image)
class Nested(nn.Module):
    """Blocks in Sequential, in a subclass of it, in a ModuleList and in a ModuleDict; names that
    contain each other."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), act=nn.ReLU6()))
        self.stem1 = _Stage(_Block(4), _Block(4))
        self.blocks = nn.ModuleList([_Block(8), _Block(8)])
        self.heads = nn.ModuleDict({"left": nn.Conv2d(8, 2, 1), "right": nn.Conv2d(8, 2, 1)})

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem1(self.stem(x))
        for index, block in enumerate(self.blocks):
            x = block(x) * (index + 1)
        return tuple(head(x) for head in self.heads.values())


class Pair(NamedTuple):
    """Two tensors."""

    first: Tensor
    second: Tensor


@dataclasses.dataclass
class Report:
    """A result with a tensor and a number."""

    logits: Tensor
    count: int


@fixture(
    lambda b: ((image(b), image(b, 3)), {"gain": rows(b, 1, 1, 1), "bias": [rows(b, 1, 1, 1)]})
)
class NestedInputs(nn.Module):
    """A tuple and a dict that holds a list come in, a dict with a tuple goes out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, images: tuple[Tensor, Tensor], extra: dict[str, Any]) -> dict[str, Any]:
        left, right = images
        y = self.conv(left) * extra["gain"] + extra["bias"][0]
        return {"sum": y + right, "both": (y, [right]), "number": 3}


@fixture(lambda b: {"x": rows(b, 4), "y": rows(b, 4)})
class KeywordInputs(nn.Module):
    """Keyword arguments, and an optional one that is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, y: Tensor, scale: float = 2.0
    ) -> Tensor:
        if mask is not None:
            x = x * mask
        return self.fc(x) * scale + y


@fixture(lambda b: (rows(b, 4), rows(b, 4), rows(b, 4)))
class Starred(nn.Module):
    """``*args`` and ``**kwargs``, a NamedTuple out."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, *args: Tensor, **kwargs: Any) -> Pair:
        return Pair(sum(self.fc(a) for a in args), torch.stack(list(args)).mean(0))  # type: ignore[arg-type]


@fixture(lambda b: rows(b, 4))
class DataclassOutput(nn.Module):
    """A dataclass goes through a submodule and out."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Report:
        return Report(logits=self.fc(x).relu(), count=2)


@fixture(lambda b: (tokens(b), torch.ones(b, 5, dtype=torch.bool)))
class TokenModel(nn.Module):
    """Integer inputs: embeddings, positions from ``arange``, a boolean mask, a buffer read by
    code."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.position = nn.Embedding(16, 8)
        self.register_buffer("shift", torch.linspace(-1, 1, 8))
        self.gain = nn.Parameter(torch.full((8,), 1.5))
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        positions = torch.arange(ids.size(1), device=ids.device).unsqueeze(0)
        x = self.embed(ids) + self.position(positions)
        x = self.norm(x) * self.gain + self.shift
        x = x.masked_fill(~mask.unsqueeze(-1), 0.0)
        return self.head(x)


@fixture(image)
class ShapeArithmetic(nn.Module):
    """Views with sizes of the input, new tensors of computed sizes, control flow on shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        if height % 2 == 0:
            x = F.pad(x, (0, 1, 0, 1))
        x = self.conv(x)
        x = x + torch.zeros(batch, 1, x.size(-2), x.shape[3], device=x.device)
        x = x.view(x.size(0), 4, -1)
        assert x.shape[-1] == (height // 2) * (width // 2)
        x = x * torch.arange(x.shape[2], dtype=x.dtype, device=x.device) / x.numel()
        return self.fc(x.reshape(batch * 4, int(x.shape[-1] * 1.0))).view(batch, -1)


@fixture(image, boundaries=("",))
class DataDependentRoot(nn.Module):
    """Control flow on tensor data at the top level."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y * 2 if y.sum() > 0 else -y


class _Router(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(4, 4, 1)
        self.right = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(x)
        return self.left(y) if bool((y.mean() > 1e9).item()) else self.right(y) + 1


@fixture(image, boundaries=("router",))
class DataDependentPart(nn.Module):
    """Control flow on tensor data inside a submodule."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.router = _Router()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.router(self.conv(x)))


@fixture(image)
class InPlace(nn.Module):
    """In-place functions, methods, operators, item assignment, a write through a view, and the old
    value used later."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = y * 1.0
        self.relu(z)
        z.add_(1.0).mul_(y)
        z[:, 0] = 0.5
        z[:, 1] += y[:, 2]
        flat = z.view(z.size(0), -1)
        z.clamp_(-2.0, 2.0)
        F.leaky_relu(flat, 0.1, inplace=True)
        out = torch.zeros_like(z)
        out[:, 1:].copy_(z[:, 1:])
        return out + flat.sum(dim=1).view(-1, 1, 1, 1)


@fixture(image)
class SplitCat(nn.Module):
    """Chunk, split, unbind, cat, stack, channel shuffle by view and transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.branch = nn.Conv2d(4, 4, 3, padding=1, groups=4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.conv(x).chunk(2, dim=1)
        x = torch.cat((left, self.branch(right)), 1)
        batch, channels, height, width = x.size()
        x = (
            x.view(batch, 2, channels // 2, height, width)
            .transpose(1, 2)
            .contiguous()
            .view(batch, -1, height, width)
        )
        a, b, _ = torch.split(x, [2, 2, 4], dim=1)
        first, second = torch.stack([a, b]).unbind(0)
        return torch.cat([first, second[..., :height]], -1)


@fixture(image)
class Dropouts(nn.Module):
    """Dropout as module and as function, and a module that is the identity in eval mode only."""

    class DropPath(nn.Module):
        """Drops whole samples while training."""

        def forward(self, x: Tensor) -> Tensor:
            return x * (torch.rand(x.shape[0], 1, 1, 1) > 0.5) if self.training else x

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.drop = nn.Dropout(0.5)
        self.path = self.DropPath()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = y + self.path(y)
        y = y + self.drop(y)
        return y + F.dropout(y, 0.5, self.training)


def _layers(
    name: str, inputs: Callable[[int], Any], *layers: Callable[[], nn.Module], **options: Any
) -> None:
    FIXTURES[name] = Fixture(lambda: nn.Sequential(*(make() for make in layers)), inputs, **options)


_layers(
    "Activations", image,
    lambda: nn.Conv2d(3, 4, 1), nn.ReLU6, nn.PReLU, nn.LeakyReLU,
    lambda: nn.Conv2d(4, 4, 1), nn.Hardtanh, lambda: nn.Conv2d(4, 4, 1), nn.SiLU, nn.GELU,
    nn.Hardswish, lambda: nn.Softmax(1), nn.Identity,
    exact=False,
)  # fmt: skip
_layers(
    "Convolutions", image,
    lambda: nn.Conv2d(3, 6, 3, groups=3), lambda: nn.BatchNorm2d(6), nn.ReLU,
    lambda: nn.Conv2d(6, 6, 3, groups=6, bias=False), lambda: nn.BatchNorm2d(6), nn.ReLU,
    lambda: nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2), lambda: nn.BatchNorm2d(4),
    lambda: nn.PixelShuffle(2), lambda: nn.Upsample(scale_factor=2), lambda: nn.AvgPool2d(2),
    lambda: nn.AdaptiveAvgPool2d(1), nn.Flatten, lambda: nn.Linear(1, 5), lambda: nn.BatchNorm1d(5),
)  # fmt: skip
_layers(
    "Conv1d",
    lambda b: rows(b, 3, 9),
    lambda: nn.Conv1d(3, 4, 3),
    lambda: nn.BatchNorm1d(4),
    nn.ReLU,
)
_layers(
    "Conv3d",
    lambda b: rows(b, 2, 4, 4, 4),
    lambda: nn.Conv3d(2, 3, 3),
    lambda: nn.BatchNorm3d(3),
    nn.ReLU6,
)


import tests.python.more_models  # noqa: E402, F401  (adds its models to FIXTURES)
