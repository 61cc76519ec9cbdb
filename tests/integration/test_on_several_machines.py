"""The commands of docs/qat.md for several processes, word for word."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.integration.commands import ROOT


@pytest.mark.slow
def test_the_commands_train_and_save(tmp_path: Path) -> None:
    section = (ROOT / "docs" / "qat.md").read_text().partition("## On several machines")[2]
    commands = re.search(r"^```bash\n(.*?)^```$", section, re.DOTALL | re.MULTILINE).group(1)
    assert len(commands.splitlines()) == 2
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    started = []
    for index, command in enumerate(commands.splitlines()):  # side by side, to save time
        folder = tmp_path / str(index)
        folder.mkdir()
        (folder / "examples").symlink_to(ROOT / "examples")
        process = subprocess.Popen(
            ["bash", "-c", command],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append((process, folder))
    states = []
    for process, folder in started:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        losses = dict(re.findall(r"rank (\d), epoch 1: loss ([\d.]+)", output))
        assert sorted(losses) == ["0", "1"]
        states.append(torch.load(folder / "checkpoint.pt", weights_only=True))
    first, second = states
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-3, atol=1e-4)
