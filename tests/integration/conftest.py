"""The wheel, built once and installed into an environment of its own; C++ programs against it."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.docs import cpp_blocks
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


@dataclass(frozen=True)
class Examples:
    """The programs of examples/cpp, built against the installed wheel."""

    folder: Path
    wheel: InstalledWheel

    def run(self, program: str, *arguments: object) -> str:
        """Run one of them on one thread; its output is part of the failure when it fails."""
        command = [str(self.folder / program), *map(str, arguments)]
        return run(command, self.folder, {"OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="session")
def examples(installed_wheel: InstalledWheel, tmp_path_factory: pytest.TempPathFactory) -> Examples:
    source = tmp_path_factory.mktemp("examples") / "cpp"
    shutil.copytree(ROOT / "examples" / "cpp", source)
    (source / "pages.cpp").write_text(cpp_blocks.program())
    with (source / "CMakeLists.txt").open("a") as file:
        file.write(cpp_blocks.CMAKE)
    # The commands of examples/cpp/CMakeLists.txt, with ninja and two compilers.
    commands = """
    cmake -S . -B build -G Ninja -DCMAKE_PREFIX_PATH="$(python -m aimet_torch --cmake-prefix-path)"
    cmake --build build --parallel 2
    """
    scripts = [installed_wheel.python.parent, Path(sys.executable).parent]
    path = os.pathsep.join([*map(str, scripts), os.environ["PATH"]])
    run(["bash", "-e", "-c", commands], source, {"PATH": path})
    return Examples(source / "build", installed_wheel)
