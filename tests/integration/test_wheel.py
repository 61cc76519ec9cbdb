"""The wheel: what is in it, and that it works where there is no source tree."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.integration.commands import ROOT


def test_wheel_serves_every_python(installed_wheel) -> None:
    name, _version, python, abi, platform = installed_wheel.wheel.stem.split("-")
    assert (name, python, abi) == ("aimet_torch", "py3", "none")
    assert platform.startswith("linux_")


def test_wheel_holds_library_headers_cmake_package_and_data(installed_wheel) -> None:
    names = set(zipfile.ZipFile(installed_wheel.wheel).namelist())
    wanted = {
        "aimet_torch/lib/libaimet.so",
        "aimet_torch/include/aimet/aimet.h",
        "aimet_torch/share/cmake/aimet/aimetConfig.cmake",
        "aimet_torch/share/cmake/aimet/aimetTargets.cmake",
        "aimet_common/__init__.py",
        "aimet_torch/py.typed",
    }
    assert wanted <= names, wanted - names
    packages = {name.split("/")[0] for name in names}
    assert {name for name in packages if not name.endswith(".dist-info")} == {
        "aimet_torch",
        "aimet_common",
    }


def test_wheel_holds_every_file_of_the_package(installed_wheel) -> None:
    packed = set(zipfile.ZipFile(installed_wheel.wheel).namelist())
    listing = subprocess.run(
        ["git", "ls-files", "aimet_torch"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listing.returncode != 0:
        pytest.skip("not a git checkout")
    files = {
        path.replace("aimet_torch/_aimet_common", "aimet_common") for path in listing.stdout.split()
    }
    assert files <= packed, files - packed


def test_wheel_runs_the_main_job(installed_wheel, tmp_path: Path) -> None:
    code = """
import torch, aimet_torch
from aimet_torch import QuantizationSimModel
from aimet_torch.report import QuantizationReport, describe_quantizers
print(aimet_torch.__file__)
x = torch.randn(4, 3, 8, 8)
sim = QuantizationSimModel(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()), x)
sim.compute_encodings([x])
assert sim.model(x).shape == (4, 4, 6, 6)
QuantizationReport("wheel", quantizers=describe_quantizers(sim)).write_html("report.html")
"""
    output = installed_wheel.run("-c", code, cwd=tmp_path)
    assert Path(output.splitlines()[-1]).is_relative_to(installed_wheel.python.parents[1])
    assert "per tensor" in (tmp_path / "report.html").read_text()
