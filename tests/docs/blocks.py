"""The code blocks of the pages, and the names that they take for granted.

A page shows what matters: `model` is the reader's network, `data_loader` their data. Here is a
small one of each for every page, so that its blocks run word for word, one after the other.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from aimet_torch.quantsim import QuantizationSimModel
from tests.integration.commands import ROOT

PAGES = {path.name: path for path in sorted((ROOT / "docs").glob("*.md"))}
_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of code: its page, the line it starts in, its language and its text."""

    page: str
    line: int
    language: str
    text: str


def blocks(page: str, language: str | None = None) -> list[Block]:
    """Return the blocks of a page, those of one language if it is named."""
    text = PAGES[page].read_text()
    found = [
        Block(page, text.count("\n", 0, match.start()) + 1, match.group(1), match.group(2))
        for match in _FENCE.finditer(text)
    ]
    return [block for block in found if language in (None, block.language)]


class Net(nn.Module):
    """Batch norms, two activations, a sum, a depthwise layer, a classifier."""

    def __init__(self, stride: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, stride, padding=1), nn.BatchNorm2d(16)
        self.relu1 = nn.ReLU()
        self.conv2, self.bn2 = nn.Conv2d(16, 16, 3, groups=16), nn.BatchNorm2d(16)
        self.relu2 = nn.ReLU6()
        self.conv3, self.bn3 = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)))
        x = x + torch.relu(self.bn3(self.conv3(x)))
        return self.fc(x.mean((2, 3)))


class Features(nn.Module):
    """A part that is named `features`, as in torchvision's networks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.features = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(torch.relu(self.conv1(x))).mean((2, 3)))


def network(stride: int = 1) -> Net:
    """Return a network whose batch norms have seen data."""
    torch.manual_seed(0)
    net = Net(stride)
    for _ in range(8):
        net(torch.randn(16, 3, 16 * stride, 16 * stride))
    return net.eval()


def load() -> Net:
    """Return one that is quick for photographs of the usual size."""
    return network(stride=6)


def simulation(model: nn.Module, example: Tensor, data: list[Tensor]) -> QuantizationSimModel:
    """Return a calibrated simulation."""
    sim = QuantizationSimModel(model, example)
    sim.compute_encodings(data)
    return sim


def names() -> dict[str, Any]:
    """Return what every page may take for granted."""
    model = network()
    data = list(torch.randn(8, 8, 3, 16, 16))
    example = data[0][:1]
    with torch.no_grad():
        labeled = [(x, model(x).argmax(1)) for x in data]

    def accuracy(candidate: nn.Module, *_: Any) -> float:
        with torch.no_grad():
            right = [(candidate(x).argmax(1) == y).float().mean() for x, y in labeled]
        return 100 * float(torch.stack(right).mean())

    return {
        "torch": torch,
        "np": np,
        "nn": nn,
        "F": nn.functional,
        "QuantizationSimModel": QuantizationSimModel,
        "model": model,
        "other_model": network(),
        "example": example,
        "dummy_input": example,
        "x": example,
        "data": data,
        "batches": data,
        "data_loader": data,
        "loader": data,
        "samples": list(data[0].split(1)),
        "accuracy": accuracy,
        "evaluate": accuracy,
        "eval_callback": accuracy,
        "unlabeled_loader": data,
        "calibration_batches": data,
        "labeled": labeled,
    }


def _with_simulation(given: dict[str, Any]) -> None:
    given["sim"] = simulation(given["model"], given["example"], given["data"])


def _bits(given: dict[str, Any]) -> None:
    given["model"] = Features().eval()
    _with_simulation(given)


def _exported(given: dict[str, Any]) -> None:
    _with_simulation(given)
    given["sim"].onnx.export(given["example"], "net.onnx")
    shutil.copy("net.encodings", "before.encodings")
    shutil.copy("net.encodings", "after.encodings")


def _workplace(given: dict[str, Any]) -> None:
    """A file with a model, and photographs beside it."""
    Path("my_model.py").write_text("from tests.docs.blocks import load\n")
    Path("photographs").mkdir()
    for i, pixels in enumerate(
        np.random.default_rng(0).integers(0, 255, (12, 48, 60, 3), np.uint8)
    ):
        Image.fromarray(pixels).save(f"photographs/{i}.png")


def _training(given: dict[str, Any]) -> None:
    given["loader"] = given["labeled"]
    given["images"], given["labels"] = given["labeled"][0]


def _more_data(given: dict[str, Any]) -> None:
    given["data_loader"] = 2 * given["data"]


#: What single pages take for granted beyond `names`.
SETUPS: dict[str, Callable[[dict[str, Any]], None]] = {
    "analysis.md": _with_simulation,
    "bn_reestimation.md": _with_simulation,
    "mixed_precision.md": _bits,
    "tools.md": _with_simulation,
    "integer.md": _exported,
    "verification.md": _exported,
    "encodings.md": _exported,
    "command_line.md": _workplace,
    "qat.md": _training,
    "rounding.md": _more_data,
}


def namespace(page: str) -> dict[str, Any]:
    """Return the names with which the blocks of a page start."""
    given = names()
    SETUPS.get(page, lambda _: None)(given)
    return {"__name__": "page", **given}
