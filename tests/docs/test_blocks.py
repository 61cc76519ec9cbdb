"""Every block of code of every page runs, or is held to what runs elsewhere."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import jinja2
import pytest

from aimet_torch.cli import main
from tests.docs.blocks import PAGES, Block, blocks, namespace
from tests.integration.commands import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: test_site.py runs the first page in a process of its own.
PYTHON_PAGES = [page for page in PAGES if blocks(page, "python") and page != "getting_started.md"]
#: Optional packages: without them, a block runs with what everybody has.
SUBSTITUTES = {"onnxruntime_qnn": ('target="htp"', 'target="onnxruntime"')}


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])


@pytest.mark.parametrize("page", PYTHON_PAGES)
def test_python_runs(page: str) -> None:
    names = namespace(page)
    for block in blocks(page, "python"):
        text = block.text
        for package, (wanted, instead) in SUBSTITUTES.items():
            if importlib.util.find_spec(package) is None:
                text = text.replace(wanted, instead)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile("\n" * block.line + text, str(PAGES[page]), "exec"), names)


def commands(block: Block) -> list[list[str]]:
    """Return the words of each command, without comments."""
    lines = [shlex.split(line, comments=True) for line in block.text.splitlines()]
    return [words for line in lines for words in _split(line) if words]


def _split(words: list[str]) -> list[list[str]]:
    found: list[list[str]] = [[]]
    for word in words:
        if word == "&&":
            found.append([])
        elif found[-1] or not re.match(r"[A-Z_]+=", word):  # variables of the environment
            found[-1].append(word)
    return found


def _aimet(words: list[str]) -> None:
    """Run it. `diff` and `check` tell by their exit code; the files here are fine."""
    assert main(words[1:]) == 0, words


def _make(words: list[str]) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert words[1] in targets


def _pytest(words: list[str]) -> None:
    assert all((ROOT / word).exists() for word in words if word.startswith("tests"))


def _python(words: list[str]) -> None:
    assert words[1] == "-m"
    assert importlib.util.find_spec(words[2]) is not None


def _pip(words: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    known = {project["name"], *(f"{project['name']}[{extra}]" for extra in extras)}
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    known |= {re.match(r"[\w-]+", name).group() for name in settings["build-system"]["requires"]}
    known |= {re.match(r"[\w-]+", name).group() for names in extras.values() for name in names}
    wanted = [word for word in words[2:] if not word.startswith("-")]
    assert words[1] == "install"
    assert set(wanted) <= known | {"."}


def _cmake(words: list[str]) -> None:
    """Presets exist; what configures a program is what builds the examples in the tests."""
    if "--preset" in words:
        presets = (ROOT / "CMakePresets.json").read_text()
        assert f'"name": "{words[words.index("--preset") + 1]}"' in presets
    elif "-S" in words:
        assert shlex.join(words[:-1]) in (ROOT / "examples/cpp/CMakeLists.txt").read_text()
        assert words[-1] in (ROOT / "examples/cpp/CMakeLists.txt").read_text().replace('"', "")
    else:
        assert words[1] == "--build"


def _torchrun(words: list[str]) -> None:
    """`tests/integration/test_on_several_machines.py` runs them, word for word."""
    assert words[-1] == "--fsdp" or words[-1].endswith(".py")
    assert "docs/qat.md" in (ROOT / "tests/integration/test_on_several_machines.py").read_text()


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "aimet": _aimet,
    "cmake": _cmake,
    "ctest": _cmake,
    "make": _make,
    "pip": _pip,
    "pytest": _pytest,
    "python": _python,
    "torchrun": _torchrun,
}


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "bash")])
def test_commands_run(page: str) -> None:
    namespace(page)
    for block in blocks(page, "bash"):
        for words in commands(block):
            COMMANDS[words[0]](words)


def test_the_recipe_of_the_page_runs() -> None:
    namespace("command_line.md")
    (block,) = blocks("command_line.md", "toml")
    Path("recipe.toml").write_text(block.text)
    assert main(["quantize", "--recipe", "recipe.toml", "--image-size", "16"]) == 0


def test_templates_are_valid() -> None:
    (block,) = blocks("contributing.md", "jinja")
    jinja2.Environment().parse(block.text)
    for name in re.findall(r'(?:extends|from) "([\w.]+)"', block.text):
        assert (ROOT / "aimet_torch" / "report" / name).exists()


def test_cmake_is_that_of_the_examples() -> None:
    example = (ROOT / "examples/cpp_app/CMakeLists.txt").read_text()
    for page in PAGES:
        for block in blocks(page, "cmake"):
            assert all(line in example for line in block.text.splitlines())


#: What no test here runs, and why that is right.
ELSEWHERE = {
    "cpp": "tests/integration/conftest.py compiles them beside the examples",
    "text": "lists of files and layers",
}


def test_every_block_has_a_language_that_is_covered() -> None:
    covered = {"python", "bash", "toml", "jinja", "cmake", *ELSEWHERE}
    for page in PAGES:
        fences = re.findall(r"^ *```", PAGES[page].read_text(), re.MULTILINE)
        assert len(fences) == 2 * len(blocks(page)), f"{page}: a block that is indented"
        for block in blocks(page):
            assert block.language in covered, f"{page}, line {block.line}: {block.language!r}"
    assert [page for page in PAGES if blocks(page, "toml")] == ["command_line.md"]
    assert [page for page in PAGES if blocks(page, "jinja")] == ["contributing.md"]


def test_module_paths_of_the_migration_page_are_there() -> None:
    table = PAGES["migration.md"].read_text().partition("| technique | module paths |")[2]
    paths = re.findall(r"`(aimet_\w+(?:\.\w+)*|\.\w+(?:\.\w+)*)`", table.partition("\n## ")[0])
    assert len(paths) > 20
    for path in paths:
        importlib.import_module(f"aimet_torch{path}" if path.startswith(".") else path)
