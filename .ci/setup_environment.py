"""Make the virtual environment that ``make`` builds, tests and runs in. Standard library only.

usage: python .ci/setup_environment.py VENV

torch is taken from the environment this script runs in when that has a version we build against:
its site-packages are put behind those of VENV with a ``.pth`` file, which unlike
``--system-site-packages`` also works from inside another virtual environment. Otherwise the pinned
version is installed. What the build needs from outside the project (``--no-build-isolation``) comes
from PyPI where the machine lacks it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

SUPPORTED_TORCH = ("2.11", "2.12", "2.13")
PINNED_TORCH = "2.13.0"
# torchvision's architectures are used by the demo and the tests only; each release fits one torch.
TORCHVISION = {"2.11": "0.26.0", "2.12": "0.27.0", "2.13": "0.28.0"}
OLDEST_PYTHON = (3, 10)
OLDEST_CMAKE = (3, 24)


def main(venv: Path) -> None:
    """Make or complete the environment in `venv`."""
    if sys.version_info < OLDEST_PYTHON:
        sys.exit(
            f"Python {'.'.join(map(str, OLDEST_PYTHON))} or newer is needed,"
            f" this is {sys.version.split()[0]}"
        )
    python = venv / "bin" / "python"
    active_version, active_folder = torch_of(Path(sys.executable))
    if not python.exists():
        print(f"creating {venv}", flush=True)
        if subprocess.run([sys.executable, "-m", "venv", str(venv)], check=False).returncode != 0:
            shutil.rmtree(venv, ignore_errors=True)
            sys.exit("python -m venv failed; on Debian and Ubuntu: apt-get install python3-venv")
    if active_folder and Path(active_folder).is_relative_to(venv):
        pass  # VENV itself is the active environment and has its torch already
    elif minor(active_version) in SUPPORTED_TORCH:
        use_folder(python, active_folder)
        print(
            f"using torch {active_version} of the active environment ({active_folder})", flush=True
        )
    elif active_version:
        print(
            f"torch {active_version} of the active environment is not one of "
            + ", ".join(SUPPORTED_TORCH),
            flush=True,
        )
    if minor(torch_of(python)[0]) not in SUPPORTED_TORCH:
        pip(python, f"torch=={PINNED_TORCH}")
    version, _ = torch_of(python)
    # Whatever is installed later must leave this torch alone: another one would not fit the built
    # library.
    constraints = venv / "constraints.txt"
    constraints.write_text(f"torch=={version}\n")
    pip(python, "-c", str(constraints), *build_tools(python))
    if not can_import(python, "torchvision"):
        pip(python, "--no-deps", f"torchvision=={TORCHVISION[minor(version)]}")


def minor(version: str) -> str:
    """Return "2.13" of "2.13.0+cpu"."""
    return ".".join(version.split(".")[:2])


def torch_of(python: Path) -> tuple[str, str]:
    """Return (version, folder that holds the package) of an interpreter's torch, or ("", "")."""
    code = "import torch; print(torch.__version__, torch.__path__[0], sep='\\n')"
    # From / so that a folder called torch in the working directory is not taken for the package.
    result = subprocess.run(
        [str(python), "-c", code], capture_output=True, text=True, cwd="/", check=False
    )
    if result.returncode != 0:
        return "", ""
    version, package = result.stdout.strip().splitlines()[-2:]
    return version, str(Path(package).parent)


def use_folder(python: Path, folder: str) -> None:
    """Put `folder` behind the site-packages of the interpreter `python`."""
    code = "import sysconfig as s; print(s.get_path('purelib'), s.get_python_version(), sep='\\n')"
    result = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    site_packages, version = result.stdout.split()
    if version != sysconfig.get_python_version():
        sys.exit(
            f"{python} is Python {version}, the active one {sysconfig.get_python_version()};"
            " remove it: make clean-all"
        )
    (Path(site_packages) / "active_environment.pth").write_text(folder + "\n")


def can_import(python: Path, package: str) -> bool:
    """Return whether the interpreter has the package; it is not imported."""
    code = f"import importlib.util, sys; sys.exit(importlib.util.find_spec('{package}') is None)"
    return subprocess.run([str(python), "-c", code], cwd="/", check=False).returncode == 0


def build_tools(python: Path) -> list[str]:
    """Return the requirements of the build that neither `python` nor the machine has."""
    tools = ["setuptools>=77", "wheel"]
    if not can_import(python, "nlohmann_json"):
        tools.append("nlohmann-json")
    if shutil.which("ninja") is None:
        tools.append("ninja")
    if cmake_version() < OLDEST_CMAKE:
        tools.append("cmake>=3.24,<4")
    return tools


def cmake_version() -> tuple[int, ...]:
    """Return (major, minor) of the cmake in PATH, (0,) without one."""
    if shutil.which("cmake") is None:
        return (0,)
    output = subprocess.run(
        ["cmake", "--version"], capture_output=True, text=True, check=True
    ).stdout
    found = re.search(r"(\d+)\.(\d+)", output)
    return tuple(map(int, found.groups())) if found else (0,)


def pip(python: Path, *arguments: str) -> None:
    """Install into the environment of the interpreter `python`."""
    print("pip install", *arguments, flush=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *arguments], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute())
