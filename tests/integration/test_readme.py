"""The blocks of the README, run word for word outside the source tree."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from tests.integration.commands import ROOT, run

README = ROOT / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)


def test_every_block_is_covered() -> None:
    languages = re.findall(r"^```(\w+)$", README.read_text(), re.MULTILINE)
    assert sorted(languages) == ["bash", "bash", "cmake", "cpp", "python"]


def test_commands_are_those_that_ci_runs() -> None:
    commands = [line.partition("#")[0].strip() for line in blocks("bash")[0].splitlines()]
    ci = (ROOT / ".ci" / "run").read_text()
    assert sorted(commands) == ["make demo", "make test"]
    assert all(re.search(rf"^{command} ", ci, re.MULTILINE) for command in commands)


@pytest.mark.parametrize(
    ("language", "file"),
    [
        ("python", "examples/quickstart.py"),
        ("cpp", "examples/cpp_app/main.cpp"),
        ("cmake", "examples/cpp_app/CMakeLists.txt"),
    ],
)
def test_blocks_are_the_examples(language: str, file: str) -> None:
    assert blocks(language) == [(ROOT / file).read_text()]


def test_python_example_runs(tmp_path: Path) -> None:
    output = run([sys.executable, "-c", blocks("python")[0]], cwd=tmp_path)
    assert "Conv" in output
    assert {"model.onnx", "model.encodings"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_cpp_example_builds_from_the_installed_wheel(installed_wheel, tmp_path: Path) -> None:
    (tmp_path / "main.cpp").write_text(blocks("cpp")[0])
    (tmp_path / "CMakeLists.txt").write_text(blocks("cmake")[0])
    path = os.pathsep.join([str(installed_wheel.python.parent), os.environ["PATH"]])
    output = run(["bash", "-e", "-c", blocks("bash")[1]], cwd=tmp_path, environment={"PATH": path})
    printed = dict(line.split(": ") for line in output.splitlines()[-2:])
    # Half a step, and what rounding of the division and of the product may add.
    assert 0.4 < float(printed["largest error"].split()[0]) <= 0.5001
    assert printed["gradient"] == "true"
    libraries = run(["ldd", "build/app"], cwd=tmp_path)
    assert (
        str(installed_wheel.python.parents[1])
        in shlex.split(next(line for line in libraries.splitlines() if "libaimet" in line))[2]
    )


def test_results_are_those_recorded() -> None:
    specification = importlib.util.spec_from_file_location(
        "record", ROOT / ".ci" / "record_demo.py"
    )
    record = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(record)
    results = json.loads(record.RESULTS.read_text())
    assert record.TABLE.search(README.read_text()).group() == record.markdown(results)


def test_linked_files_exist() -> None:
    for document in (README, *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
