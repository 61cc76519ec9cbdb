"""Fashion-MNIST and three small networks trained on it: labels, so that accuracies can be compared.

The data come from Debian's package ``dataset-fashion-mnist`` (MIT, 31 MB), fetched once into
``.cache/assets``. Each network is trained once, with a fixed seed and one thread, and kept under
``.cache/fashion_mnist``; a change of its code or of the recipe trains it anew::

    model = fashion_mnist.trained("residual")  # in evaluation mode
    fashion_mnist.accuracy(model)              # on the 10,000 test images
    fashion_mnist.calibration_batches(1024)    # unlabelled batches of training images

``python -m benchmarks.fashion_mnist`` fetches, trains and prints the accuracies.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import inspect
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

CACHE = Path(__file__).resolve().parents[1] / ".cache"
DATA = CACHE / "assets" / "fashion_mnist.npz"
NETWORKS_FOLDER = CACHE / "fashion_mnist"
_PACKAGE = "dataset-fashion-mnist"
_MEAN, _STD = 0.286, 0.353
_BATCH_SIZE = 128


class Residual(nn.Module):
    """Two convolutions with batch norms, and a shortcut that is added before the last ReLU."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Images to images, both (N, channels, height, width)."""
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.shortcut(x))


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> list:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


def cnn() -> nn.Module:
    """Two convolutions with max pooling and two linear layers; 0.3 M parameters."""
    return nn.Sequential(
        *_convolution(1, 24, 3), nn.ReLU(), nn.MaxPool2d(2),
        *_convolution(24, 48, 3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(48 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip


def residual() -> nn.Module:
    """A stem and three residual blocks with additions."""
    return nn.Sequential(
        *_convolution(1, 16, 3, 2), nn.ReLU(),
        Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def resnet() -> nn.Module:
    """A stem at full size and three residual blocks; nine million multiply-accumulates."""
    return nn.Sequential(
        *_convolution(1, 16, 3), nn.ReLU(),
        Residual(16, 32, 2), Residual(32, 64, 2), Residual(64, 64, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def separable() -> nn.Module:
    """A stem and five depthwise-separable blocks with ReLU6, as in MobileNet."""
    layers = [*_convolution(1, 16, 3, 2), nn.ReLU6()]
    for inputs, outputs, stride in (
        (16, 32, 1),
        (32, 48, 2),
        (48, 48, 1),
        (48, 96, 2),
        (96, 96, 1),
    ):
        layers += [*_convolution(inputs, inputs, 3, stride, groups=inputs), nn.ReLU6()]
        layers += [*_convolution(inputs, outputs, 1), nn.ReLU6()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))


#: Name -> (constructor, epochs).
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "cnn": (cnn, 2),
    "residual": (residual, 1),
    "separable": (separable, 1),
}
#: Likewise: those that only compression is measured on.
LARGER_NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {"resnet": (resnet, 3)}


def fetch() -> None:
    """Fetch the data where they are missing.

    Raises:
        RuntimeError: Debian's package cannot be had.
    """
    if DATA.exists():
        return
    from examples import assets

    DATA.parent.mkdir(parents=True, exist_ok=True)
    print(f"fetching Fashion-MNIST (Debian package {_PACKAGE}, 31 MB)", file=sys.stderr)
    arrays = {}
    with tempfile.TemporaryDirectory() as name:
        root = assets.unpack_debian_package(_PACKAGE, Path(name))
        folder = root / "usr" / "share" / "datasets" / "fashion-mnist"
        for part, stem in (("train", "train"), ("test", "t10k")):
            images = _read_idx(next(folder.glob(f"{stem}-images*")))
            arrays[f"{part}_images"] = images.reshape(-1, 1, 28, 28)
            arrays[f"{part}_labels"] = _read_idx(next(folder.glob(f"{stem}-labels*")))
    # Under another name until it is whole. Not compressed: it is read at every start.
    temporary = DATA.with_suffix(".part.npz")
    np.savez(temporary, **arrays)
    temporary.replace(DATA)


def _read_idx(path: Path) -> np.ndarray:
    # IDX: 2 zero bytes, type 8 (uint8), number of dimensions, sizes as big-endian u32, elements.
    data = gzip.decompress(path.read_bytes())
    dimensions = data[3]
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dimensions)


@functools.lru_cache(maxsize=2)
def load(part: str) -> tuple[Tensor, Tensor]:
    """Return images, float32 (N, 1, 28, 28) of mean 0 and deviation 1, and labels, int64 (N,).

    Args:
        part: "train" (60,000) or "test" (10,000).
    """
    fetch()
    with np.load(DATA) as arrays:
        images = torch.from_numpy(arrays[f"{part}_images"]).float() / 255
        labels = torch.from_numpy(arrays[f"{part}_labels"]).long()
    return (images - _MEAN) / _STD, labels


def calibration_batches(count: int, batch_size: int = 64, seed: int = 0) -> list[Tensor]:
    """Return ``count`` training images, chosen by ``seed``, in batches without labels."""
    images, _ = load("train")
    chosen = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:count]
    return list(images[chosen].split(batch_size))


@torch.no_grad()
def logits(model: nn.Module, count: int | None = None) -> Tensor:
    """Return the logits (N, 10) of the first ``count`` test images, all by default."""
    return _logits(model, load("test")[0][:count])


def accuracy(model: nn.Module, count: int | None = None) -> float:
    """Return the top-1 accuracy in percent on the first ``count`` test images."""
    images, labels = load("test")
    return accuracy_on(model, images[:count], labels[:count])


@torch.no_grad()
def accuracy_on(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the top-1 accuracy in percent on images (N, 1, 28, 28) with labels (N,)."""
    return 100 * (_logits(model, images).argmax(1) == labels).double().mean().item()


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    return torch.cat([model(batch) for batch in images.split(250)])


def trained(name: str) -> nn.Module:
    """Return a trained network in evaluation mode; it is trained where there is none yet.

    Args:
        name: a key of `NETWORKS` or `LARGER_NETWORKS`.

    Raises:
        ValueError: there is no such network.
    """
    if name not in {*NETWORKS, *LARGER_NETWORKS}:
        known = ", ".join([*NETWORKS, *LARGER_NETWORKS])
        raise ValueError(f"fashion_mnist: `name` must be one of {known}, got {name!r}")
    make, _ = _recipe(name)
    path = NETWORKS_FOLDER / f"{name}-{_recipe_digest(name)}.pth"
    if not path.exists():
        model = _train(name)
        NETWORKS_FOLDER.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        torch.save(model.state_dict(), temporary)
        temporary.replace(path)
    model = make()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def _recipe(name: str) -> tuple[Callable[[], nn.Module], int]:
    return NETWORKS.get(name) or LARGER_NETWORKS[name]


def _recipe_digest(name: str) -> str:
    """A name for what decides a trained network: its structure and the way it is trained."""
    make, epochs = _recipe(name)
    # As the line read when the first networks were trained: what it does to them is the same.
    training = inspect.getsource(_train).replace("_recipe(name)", "NETWORKS[name]")
    parts = [repr(make()), inspect.getsource(Residual.forward), training]
    recipe = "".join([*parts, repr((epochs, _MEAN, _STD, _BATCH_SIZE))])
    return hashlib.sha256(recipe.encode()).hexdigest()[:10]


def _train(name: str) -> nn.Module:
    make, epochs = _recipe(name)
    images, labels = load("train")
    threads, start = torch.get_num_threads(), time.perf_counter()
    torch.set_num_threads(1)  # sums of gradients in one order, on every machine
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = make().train()
            steps = epochs * -(-len(images) // _BATCH_SIZE)
            optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
            for epoch in range(epochs):
                for batch in torch.randperm(len(images)).split(_BATCH_SIZE):
                    loss = functional.cross_entropy(model(images[batch]), labels[batch])
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                seconds = time.perf_counter() - start
                print(f"{name}: epoch {epoch + 1} of {epochs}, {seconds:.0f} s", file=sys.stderr)
    finally:
        torch.set_num_threads(threads)
    return model.eval()


if __name__ == "__main__":
    for network in NETWORKS:
        parameters = sum(p.numel() for p in trained(network).parameters())
        print(f"{network}: {accuracy(trained(network)):.2f} % of {parameters:,} parameters")
