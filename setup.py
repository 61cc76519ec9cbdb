"""Builds the C++ library with CMake and puts it into the package; metadata is in pyproject.toml.

Environment: AIMET_CMAKE_ARGS, further arguments of cmake (e.g. "-DAIMET_WITH_CUDA=ON");
AIMET_BUILD_JOBS, number of parallel compilers (default: number of processors).
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
INSTALLED_FOLDERS = ("lib", "include", "share")


class CMakeBuild(build_ext):
    """Configures, builds and installs the `release` preset into aimet_torch/{lib,include,share}."""

    def run(self) -> None:
        package = (ROOT if self.editable_mode else Path(self.build_lib).resolve()) / "aimet_torch"
        build = ROOT / "build" / "release"
        configure = [
            "cmake", "--preset", "release",
            f"-DPython3_EXECUTABLE={sys.executable}",
            "-UTorch_DIR", "-UAIMET_LIBRARY_*", "-UAIMET_TORCH_VERSION_HEADER",
            "-UAIMET_JSON_HEADERS",
        ]  # fmt: skip
        search_path = os.pathsep.join(
            [str(Path(sys.executable).parent), os.environ.get("PATH", "")]
        )
        ninja = shutil.which("ninja", path=search_path)
        if ninja:
            configure.append(f"-DCMAKE_MAKE_PROGRAM={ninja}")
        configure += shlex.split(os.environ.get("AIMET_CMAKE_ARGS", ""))
        jobs = os.environ.get("AIMET_BUILD_JOBS", str(os.cpu_count() or 1))
        self._cmake(configure)
        self._cmake(["cmake", "--build", str(build), "--parallel", jobs])
        self._cmake(["cmake", "--install", str(build), "--prefix", str(package), "--strip"])

    def _cmake(self, command: list[str]) -> None:
        try:
            subprocess.run(command, cwd=ROOT, check=True)
        except FileNotFoundError:
            raise SystemExit("CMake 3.24 or later is needed: pip install cmake") from None
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"`{shlex.join(command)}` failed with {error.returncode}") from None

    def get_source_files(self) -> list[str]:
        return []

    def get_outputs(self) -> list[str]:
        package = Path(self.build_lib) / "aimet_torch"
        paths = (path for folder in INSTALLED_FOLDERS for path in (package / folder).rglob("*"))
        return [str(path) for path in paths if path.is_file()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class AnyPythonWheel(bdist_wheel):
    """The library links no Python symbol, so one wheel serves every Python version."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


# `aimet_common`, AIMET's second top-level package, is a name of `aimet_torch.common`.
ALIAS_FOLDER = "aimet_torch/_aimet_common"

setup(
    packages=[
        *find_packages(include=["aimet_torch*"], exclude=[ALIAS_FOLDER.replace("/", ".")]),
        "aimet_common",
    ],
    package_dir={"aimet_common": ALIAS_FOLDER},
    ext_modules=[Extension("aimet_torch.lib.libaimet", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": AnyPythonWheel},
)
