"""Data that the command line names: a folder of images, ``.npy``, ``.npz`` or a function."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aimet_torch.cli._models import object_named
from aimet_torch.cli._options import Option
from aimet_torch.common.progress import progress

__all__ = ["DATA_OPTIONS", "Batches", "ImageSettings", "load_batches"]

_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}

_DATA_OPTIONS = (
    Option(
        "data",
        "inputs without labels: a folder of images, a .npy or .npz file, or "
        "package.module:function, of a function that returns an iterable of batches",
        metavar="DATA",
    ),
    Option("samples", "how many samples calibrate", 128, int, metavar="N"),
    Option("measure_samples", "how many others measure", 64, int, metavar="N"),
    Option("batch_size", "samples of a batch, for folders and arrays", 16, int, metavar="N"),
    Option("image_size", "images: height and width after cropping", 224, int, metavar="PIXELS"),
    Option(
        "mean",
        "images: mean of each channel, of values from 0 to 1",
        (0.485, 0.456, 0.406),
        float,
        metavar="X",
        is_list=True,
    ),
    Option(
        "std",
        "images: standard deviation of each channel",
        (0.229, 0.224, 0.225),
        float,
        metavar="X",
        is_list=True,
    ),
)
#: Options of every command that reads data.
DATA_OPTIONS = tuple(dataclasses.replace(option, group="data") for option in _DATA_OPTIONS)


@dataclass(frozen=True)
class ImageSettings:
    """How a picture becomes a tensor, as for networks trained on ImageNet.

    The shorter side is scaled to 8/7 of ``size``, the middle cut out, values from 0 to 1
    normalized.

    Attributes:
        size: Height and width, in pixels.
        mean: Of each channel: three for color, one for gray.
        std: Likewise.
    """

    size: int
    mean: Sequence[float]
    std: Sequence[float]

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"--image-size must be positive, got {self.size}")
        if len(self.mean) not in (1, 3) or len(self.mean) != len(self.std):
            raise ValueError(
                "--mean and --std must have one value each (gray) or three (color), got "
                f"{len(self.mean)} and {len(self.std)}"
            )
        if not all(value > 0 for value in self.std):
            raise ValueError(f"--std must be positive, got {list(self.std)}")


@dataclass
class Batches:
    """What a command works on.

    Attributes:
        calibration: Batches that calibrate: a tensor, a tuple of inputs, or a dict of them.
        measurement: Batches that measure; the same where there are no others.
        labels: One tensor for each batch of ``measurement``, where the data has labels.
        note: What the user should know of the choice.
    """

    calibration: list[Any]
    measurement: list[Any]
    labels: list[Tensor] = field(default_factory=list)
    note: str = ""

    @property
    def example(self) -> Any:
        """One sample, in a batch of its own."""
        return torch.utils._pytree.tree_map(
            lambda leaf: leaf[:1] if isinstance(leaf, Tensor) and leaf.dim() else leaf,
            self.calibration[0],
        )


def load_batches(
    spec: str,
    *,
    samples: int,
    measure_samples: int,
    batch_size: int,
    images: ImageSettings,
    inputs: int | None,
) -> Batches:
    """Read data and choose what calibrates and what measures.

    Of folders and arrays, samples from all over are taken; every so many of them measures.

    Args:
        spec: As the user wrote it.
        samples: How many calibrate.
        measure_samples: How many measure.
        batch_size: Of folders and arrays.
        images: How pictures become tensors.
        inputs: How many entries of a tuple are inputs; what follows is labels.

    Raises:
        ValueError: there is no such data, it is empty, or of the wrong kind.
        ModuleNotFoundError: images need Pillow.
    """
    for name, value in (("samples", samples), ("batch-size", batch_size)):
        if value < 1:
            raise ValueError(f"--{name} must be positive, got {value}")
    if measure_samples < 0:
        raise ValueError(f"--measure-samples must not be negative, got {measure_samples}")
    path = Path(spec)
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in _SUFFIXES)
        if not files:
            raise ValueError(f"--data {spec}: no images in this folder")
        return _divide(
            len(files),
            lambda i: _image(files[i], images),
            samples,
            measure_samples,
            batch_size,
        )
    if path.suffix in (".npy", ".npz"):
        count, sample = _arrays(path)
        return _divide(count, sample, samples, measure_samples, batch_size)
    if ":" not in spec:
        raise ValueError(
            f"--data {spec!r}: no such folder; write a folder of images, a .npy or .npz file, or "
            "package.module:function"
        )
    return _of_function(spec, samples, measure_samples, inputs)


def _divide(
    count: int, sample: Callable[[int], Any], samples: int, measured: int, batch_size: int
) -> Batches:
    """Samples from all over; those that measure lie evenly among those that calibrate."""
    note = ""
    total = min(count, samples + measured)
    chosen = [i * count // total for i in range(total)]
    share = (
        measured if total == samples + measured else round(total * measured / (samples + measured))
    )
    places = {i * total // share for i in range(share)} if share else set()
    calibrating = [index for place, index in enumerate(chosen) if place not in places]
    measuring = [index for place, index in enumerate(chosen) if place in places]
    if total < samples + measured:
        note = f"only {count} samples: {len(calibrating)} calibrate, {len(measuring)} measure"
    if not calibrating:
        calibrating = measuring
    if measured and not measuring:
        measuring, note = calibrating, "the samples that calibrate also measure"

    def read(indices: list[int], description: str) -> list[Any]:
        values = [sample(index) for index in progress(indices, description, unit="sample")]
        groups = [values[i : i + batch_size] for i in range(0, len(values), batch_size)]
        return [_stack(group) for group in groups]

    calibration = read(calibrating, "Reading samples that calibrate")
    same = measuring is calibrating
    measurement = calibration if same else read(measuring, "Reading samples that measure")
    return Batches(calibration, measurement, note=note)


def _stack(samples: list[Any]) -> Any:
    if isinstance(samples[0], dict):
        return {key: torch.stack([sample[key] for sample in samples]) for key in samples[0]}
    return torch.stack(samples)


def _image(path: Path, settings: ImageSettings) -> Tensor:
    try:
        from PIL import Image
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "--data: images need Pillow: pip install pillow", name=error.name
        ) from error
    mode = "RGB" if len(settings.mean) == 3 else "L"
    try:
        with Image.open(path) as opened:
            picture = opened.convert(mode)
    except OSError as error:
        raise ValueError(f"--data {path}: not an image: {error}") from error
    shorter = math.ceil(settings.size * 8 / 7)
    ratio = shorter / min(picture.size)
    width, height = (max(round(side * ratio), settings.size) for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - settings.size) // 2, (height - settings.size) // 2
    picture = picture.crop((left, top, left + settings.size, top + settings.size))
    values = torch.from_numpy(np.array(picture, dtype=np.float32) / 255)
    values = values.reshape(settings.size, settings.size, -1).permute(2, 0, 1)
    mean, std = (torch.tensor(v).reshape(-1, 1, 1) for v in (settings.mean, settings.std))
    return ((values - mean) / std).contiguous()


def _arrays(path: Path) -> tuple[int, Callable[[int], Any]]:
    """Number of samples in an array file, and a function from a place to a sample."""
    try:
        loaded = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None)
        arrays = {"": loaded} if path.suffix == ".npy" else {k: loaded[k] for k in loaded.files}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"--data {path}: not a NumPy file: {error}") from error
    counts = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
    if len(counts) != 1 or 0 in counts:
        shapes = ", ".join(f"{name or 'the array'} {a.shape}" for name, a in arrays.items())
        raise ValueError(
            f"--data {path}: the first axis must be the samples, as many in each array, got "
            f"{shapes or 'no array'}"
        )
    if len(arrays) == 1:
        (array,) = arrays.values()
        return counts.pop(), lambda i: _tensor(array[i])
    return counts.pop(), lambda i: {name: _tensor(array[i]) for name, array in arrays.items()}


def _tensor(array: Any) -> Tensor:
    copied = np.array(array)
    return torch.from_numpy(copied.astype(np.float32) if copied.dtype == np.float64 else copied)


def _of_function(spec: str, samples: int, measured: int, inputs: int | None) -> Batches:
    found = object_named(spec, "--data")
    source = found() if callable(found) and not isinstance(found, Iterable) else found
    if not isinstance(source, Iterable) or isinstance(source, (Tensor, str)):
        raise ValueError(
            f"--data {spec}: must give an iterable of batches, got {type(source).__name__}"
        )
    iterator = iter(source)
    calibration = [_inputs_of(batch, inputs) for batch in _take(iterator, samples, "calibrate")]
    if not calibration:
        raise ValueError(f"--data {spec}: no batches")
    taken = list(_take(iterator, measured, "measure"))
    note = ""
    if measured and not taken:
        taken = [batch for batch, _ in zip(source, calibration, strict=False)]
        note = "the samples that calibrate also measure"
    labels = [_labels_of(batch, inputs) for batch in taken]
    return Batches(
        calibration,
        [_inputs_of(batch, inputs) for batch in taken] or (calibration if measured else []),
        [label for label in labels if label is not None] if None not in labels else [],
        note,
    )


def _take(iterator: Iterator[Any], samples: int, verb: str) -> Iterator[Any]:
    """Batches until there are so many samples, without one too many."""
    count = 0
    if samples:
        # A chain has no close(): the iterator goes on where this leaves it.
        rest = itertools.chain(iterator)
        for batch in progress(rest, f"Reading samples that {verb}", unit="batch"):
            yield batch
            count += _size(batch)
            if count >= samples:
                return


def _size(batch: Any) -> int:
    leaves = [x for x in torch.utils._pytree.tree_leaves(batch) if isinstance(x, Tensor)]
    return leaves[0].shape[0] if leaves and leaves[0].dim() else 1


def _inputs_of(batch: Any, inputs: int | None) -> Any:
    if isinstance(batch, (tuple, list)) and inputs is not None:
        return tuple(batch[:inputs]) if inputs > 1 else batch[0]
    return tuple(batch) if isinstance(batch, list) else batch


def _labels_of(batch: Any, inputs: int | None) -> Tensor | None:
    """Class numbers behind the inputs."""
    if not isinstance(batch, (tuple, list)) or inputs is None or len(batch) != inputs + 1:
        return None
    label = batch[-1]
    is_class = isinstance(label, Tensor) and label.dim() == 1 and not label.is_floating_point()
    return label if is_class else None
