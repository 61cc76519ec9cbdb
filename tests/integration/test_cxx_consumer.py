"""A C++ program that finds the installed library with CMake, calls it, and runs TorchScript."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from aimet_torch import _native, ops

SOURCES = Path(__file__).parent / "cxx_consumer"


def run(*command: str | Path) -> str:
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build = tmp_path_factory.mktemp("cxx_consumer")
    search = f"{sysconfig.get_path('scripts')}:{Path(sys.executable).parent}"
    tools = {
        name: shutil.which(name) or shutil.which(name, path=search) for name in ("cmake", "ninja")
    }
    prefix = f"{_native.CMAKE_DIR};{torch.utils.cmake_prefix_path}"
    generator = ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tools['ninja']}") if tools["ninja"] else ()
    run(tools["cmake"], "-S", SOURCES, "-B", build, *generator, f"-DCMAKE_PREFIX_PATH={prefix}")
    run(tools["cmake"], "--build", build)
    return build


def test_a_program_computes_values_gradients_and_sees_errors(programs: Path) -> None:
    values, message = run(programs / "calls_operators").splitlines()
    assert [float(value) for value in values.split()] == pytest.approx([-4, 0.5, 3.5, -8 + 0.4 + 7])
    assert message.startswith("quantize: `scale` must be positive and finite, got -1")


def test_a_program_that_names_no_symbol_runs_torchscript(programs: Path, tmp_path: Path) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scale, offset = torch.tensor(0.5), torch.tensor(0.0)
            return torch.ops.aimet.quantize_dequantize(x, scale, offset, -8, 7)

    x = torch.tensor([-9.0, 0.3, 9.0])
    file = tmp_path / "model.pt"
    torch.jit.trace(Model(), x).save(str(file))
    output = [float(value) for value in run(programs / "loads_torchscript", file).split()]
    expected = ops.quantize_dequantize(x, torch.tensor(0.5), torch.tensor(0.0), -8, 7)
    assert output == expected.tolist()
