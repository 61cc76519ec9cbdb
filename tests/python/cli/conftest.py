"""A folder as a user has one: a file with a model, photographs, arrays."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aimet_torch.cli import main

MODEL = """
import signal

import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, stride=2, padding=1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = x + torch.relu(self.bn1(self.conv1(x[:, :3]))).mean((2, 3), keepdim=True)
        x = torch.relu(self.conv2(x))
        return self.fc(x.mean((2, 3)))


def load():
    torch.manual_seed(0)
    return Net().eval()


def batches():
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        x = torch.randn(8, 3, 16, 16, generator=generator)
        yield x, torch.randint(0, 10, (8,), generator=generator)


def interrupted():
    yield from batches()
    signal.raise_signal(signal.SIGINT)


def broken():
    raise RuntimeError("the weights are\\nnot there")


def score(model):
    return 3


NUMBER = 3
"""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder: my_model.py, photographs/, x.npy."""
    (tmp_path / "my_model.py").write_text(MODEL)
    generator = np.random.default_rng(0)
    (tmp_path / "photographs" / "cats").mkdir(parents=True)
    for i in range(6):
        pixels = generator.integers(0, 255, (20 + i, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photographs" / "cats" / f"{i}.png")
    np.save(tmp_path / "x.npy", generator.normal(size=(20, 3, 16, 16)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    sys.modules.pop("my_model", None)


Aimet = Callable[..., tuple[int, str, str]]


@pytest.fixture
def aimet(capsys: pytest.CaptureFixture[str]) -> Iterator[Aimet]:
    """Runs the command line: exit code, standard output, standard error."""
    # A shell starts what runs in the background with Ctrl-C ignored, and pytest inherits that.
    earlier = signal.signal(signal.SIGINT, signal.default_int_handler)

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    yield run
    signal.signal(signal.SIGINT, earlier)
