"""The wheel, built once and installed into a virtual environment of its own."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from tests.integration.commands import ROOT, InstalledWheel, run


@pytest.fixture(scope="session")
def installed_wheel(tmp_path_factory: pytest.TempPathFactory) -> InstalledWheel:
    folder = tmp_path_factory.mktemp("wheel")
    # setuptools packs whatever an earlier build left here.
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    run([*pip, *build], cwd=folder)
    (wheel,) = folder.glob("*.whl")

    environment = folder / "environment"
    run([sys.executable, "-m", "venv", "--without-pip", str(environment)], cwd=folder)
    python = environment / "bin" / "python"
    site_packages = sysconfig.get_path(
        "purelib", "posix_prefix", {"base": str(environment), "platbase": str(environment)}
    )
    # torch and what it needs, seen as plain folders: an editable install in there stays unseen,
    # because the .pth files of such folders are not read.
    folders = {str(Path(torch.__file__).parents[1]), sysconfig.get_path("purelib")}
    (Path(site_packages) / "torch.pth").write_text("\n".join(sorted(folders)) + "\n")
    run(
        [*pip, "--python", str(python), "install", "--no-deps", "--force-reinstall", str(wheel)],
        folder,
    )
    return InstalledWheel(wheel, python)
