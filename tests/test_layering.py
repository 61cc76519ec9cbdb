"""What the tree promises: direction of includes and imports, header budget, size of files, what
must not appear.

The layers are those of docs/architecture.md. Plain text and ``ast`` only: nothing is imported, so
this runs first.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CSRC = ROOT / "csrc" / "aimet"
PACKAGE = ROOT / "aimet_torch"

LONGEST_FILE = 500

# Folder of csrc/aimet -> the folders it may include besides itself.
CXX_LAYERS: dict[str, set[str]] = {
    "core": set(),
    "encodings": {"core"},
    "cpu": {"core"},
    "cuda": {"core"},
    "ops": {"core", "cpu", "cuda", "encodings"},
    "algorithms": {"core", "cpu", "cuda", "ops"},
    "nn": {"core", "ops"},
    "simulation": {"core", "ops", "algorithms", "encodings"},
}
# Third-party headers that a folder may include; all may include the standard library unless listed
# below.
CXX_LIBRARIES: dict[str, re.Pattern[str]] = {
    "encodings": re.compile(r"^(nlohmann|fmt)/|^(fcntl|unistd)\.h$|^sys/"),
    "cpu": re.compile(r"^(immintrin|cpuid)\.h$"),
    "cuda": re.compile(r"^cuda_runtime\.h$"),
    "ops": re.compile(r"^(ATen|c10|torch/library\.h|torch/csrc/autograd|fmt|nlohmann|sys/mman\.h)"),
    "algorithms": re.compile(r"^(ATen|c10|torch/library\.h|torch/csrc/autograd|fmt)"),
    "nn": re.compile(r"^(ATen|c10|torch/(arg\.h|nn/|serialize/))"),
    "simulation": re.compile(r"^(ATen|c10|torch/csrc/jit/)"),
}
# Defines what the umbrella header declares itself.
UMBRELLA_SOURCE = "build_info.cpp"
# Headers without memory, exceptions or templates that a linker could take from the wrong object.
PLAIN_HEADERS = {"cmath", "cstdint", "cstddef", "cstring", "limits", "type_traits", "immintrin.h"}
FORBIDDEN_HEADERS = re.compile(
    r"^(torch/(torch|extension|all|script)\.h|ATen/ATen\.h|pybind11/.*|Python\.h)$"
)
# Parses a whole schema and autograd graph into the file: only where a gradient is defined.
AUTOGRAD_HEADER = "torch/csrc/autograd/custom_function.h"

# Module of aimet_torch -> the modules it may import besides itself, each with what that one may
# import.
PYTHON_LAYERS: dict[str, set[str]] = {
    "_native": set(),
    "ops": {"_native"},
    "common": {"ops"},
    "encodings": {"quantization"},
    "quantization": {"common"},
    "nn": {"quantization"},
    "graph": {"nn"},
    "quantsim": {"graph", "encodings"},
    "ptq": {"quantsim"},
    "qat": {"quantsim"},
    "analysis": {"ptq"},
    "compression": {"ptq"},
    "export": {"quantsim"},
    "report": {"ptq", "qat", "analysis", "compression", "export"},
    "mixed_precision": {"report"},
    "verification": {"report"},
    "cli": {"verification", "mixed_precision"},
    "__main__": {"cli"},
}
# The package's front door: they put names together and hold no logic.
FACADES = {"__init__", "_aliases", "_aimet_common"}


def source_files(*suffixes: str, under: Path = ROOT) -> list[Path]:
    skipped = {".venv", ".git", ".cache", "build", "dist", "demo_out", "lib", "include", "share"}
    return sorted(
        path
        for path in under.rglob("*")
        if path.suffix in suffixes and not skipped.intersection(path.relative_to(ROOT).parts[:2])
    )


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


CXX_FILES = source_files(".h", ".cpp", ".cu", ".cuh", under=CSRC)
PYTHON_FILES = source_files(".py", under=PACKAGE)


def includes(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        found = re.match(r'\s*#\s*include\s*[<"]([^>"]+)[>"]', line)
        if found:
            yield number, found.group(1)


def closure(layer: str) -> set[str]:
    below = set(PYTHON_LAYERS[layer])
    for other in PYTHON_LAYERS[layer]:
        below |= closure(other)
    return below


def test_there_is_something_to_check() -> None:
    assert len(CXX_FILES) > 20
    assert len(PYTHON_FILES) > 20
    assert KERNELS


@pytest.mark.parametrize("path", CXX_FILES, ids=relative)
def test_cxx_includes_point_downwards(path: Path) -> None:
    folder = path.relative_to(CSRC).parts[0] if path.parent != CSRC else None
    if folder is None:  # aimet.h, the umbrella header
        allowed = set(CXX_LAYERS)
    else:
        assert folder in CXX_LAYERS, f"csrc/aimet/{folder} is not a layer of docs/architecture.md"
        allowed = CXX_LAYERS[folder] | {folder}
    for number, name in includes(path):
        where = f"{relative(path)}:{number}: {name}"
        assert not FORBIDDEN_HEADERS.match(name), f"{where} is over the header budget"
        if name.startswith("aimet/"):
            target = name.split("/")[1]
            own = {"aimet.h"} if path.name == UMBRELLA_SOURCE else set()
            assert target in {*allowed, "export.h", *own}, f"{where} points upwards"
        elif folder == "core":
            assert name in PLAIN_HEADERS, f"{where} does not belong into core"
        elif "/" in name or name.endswith(".h"):
            assert folder is None or CXX_LIBRARIES[folder].match(name), (
                f"{where} does not belong into {folder}"
            )
        if name == AUTOGRAD_HEADER:
            assert "autograd" in path.name, f"{where} costs 15 s a file: only in *_autograd.cpp"


KERNELS = [
    path for path in CXX_FILES if path.stem.endswith("_kernel") and path.parent.name == "cpu"
]


@pytest.mark.parametrize("path", KERNELS, ids=relative)
def test_kernels_stay_free_of_templates_of_the_standard_library(path: Path) -> None:
    # A template instantiated in an AVX-512 object may be the copy that the linker keeps for the
    # whole library.
    headers = {name for _, name in includes(path) if not name.startswith("aimet/")}
    assert headers <= PLAIN_HEADERS, f"{relative(path)}: {headers - PLAIN_HEADERS}"


def imported_layers(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, layer) for each import of a part of aimet_torch, wherever in the file it
    stands."""
    package = ("aimet_torch", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, node.module) if node.module else base)
            names = (
                [f"{module}.{alias.name}" for alias in node.names]
                if module == "aimet_torch"
                else [module]
            )
        for name in names:
            parts = name.split(".")
            if parts[0] == "aimet_torch" and len(parts) > 1:
                yield node.lineno, parts[1]


@pytest.mark.parametrize("path", PYTHON_FILES, ids=relative)
def test_python_imports_point_downwards(path: Path) -> None:
    layer = Path(path.relative_to(PACKAGE).parts[0]).stem
    if layer in FACADES:
        return
    assert layer in PYTHON_LAYERS, f"aimet_torch/{layer} is not a layer of docs/architecture.md"
    allowed = closure(layer) | {layer}
    for number, target in imported_layers(path):
        # Names of the front door come from any layer: take them from where they live.
        assert target in {*allowed, "__version__"}, (
            f"{relative(path)}:{number}: {layer} must not import {target} from aimet_torch"
        )


@pytest.mark.parametrize("path", PYTHON_FILES, ids=relative)
def test_only_ops_calls_the_operators(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[0] in ("ops", "_native.py"):
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            assert ast.unparse(node) not in ("torch.ops.aimet", "torch.classes.aimet"), (
                f"{relative(path)}:{node.lineno}: call aimet_torch.ops instead of torch.ops.aimet"
            )


@pytest.mark.parametrize("path", CXX_FILES, ids=relative)
def test_checks_have_a_message(path: Path) -> None:
    # A check is bare when its argument list ends before a string literal starts.
    for found in re.finditer(r"\bTORCH_CHECK\w*\(([^;]*?)\);", path.read_text(), re.DOTALL):
        line = path.read_text()[: found.start()].count("\n") + 1
        assert (
            '"' in found.group(1) or "fmt::format" in found.group(1) or "message" in found.group(1)
        ), f"{relative(path)}:{line}: a check without a message"


@pytest.mark.parametrize("path", PYTHON_FILES, ids=relative)
def test_the_package_needs_nothing_beside_it(path: Path) -> None:
    beside = {"benchmarks", "examples", "tests", "zoo"}
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [str(node.module)]
        found = beside.intersection(name.partition(".")[0] for name in names)
        assert not found, f"{relative(path)}: the wheel has no {', '.join(sorted(found))}"


def test_no_file_is_too_long() -> None:
    files = source_files(".py", ".cpp", ".h", ".cu", ".cuh", ".cmake", ".md")
    lengths = {relative(path): len(path.read_text().splitlines()) for path in files}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_nothing_changes_arithmetic_behind_the_contract() -> None:
    build_files = [
        ROOT / "CMakeLists.txt",
        ROOT / "CMakePresets.json",
        ROOT / "setup.py",
        *source_files(".cmake"),
    ]
    flags = re.compile(
        r"-f?fast-math|-Ofast|use_fast_math|-funsafe-math|-march=native|-ffp-contract=(fast|on)"
    )
    for path in [*build_files, *CXX_FILES]:
        found = flags.search(path.read_text())
        assert found is None, f"{relative(path)}: {found and found.group()} breaks docs/numerics.md"
    assert "-ffp-contract=off" in "".join(path.read_text() for path in build_files)


def test_no_pybind11() -> None:
    for path in [
        *CXX_FILES,
        *PYTHON_FILES,
        ROOT / "CMakeLists.txt",
        ROOT / "setup.py",
        ROOT / "pyproject.toml",
    ]:
        assert not re.search(r"pybind11|PYBIND11_MODULE|cpp_extension", path.read_text()), relative(
            path
        )


def test_every_folder_of_modules_is_a_package_that_the_wheel_holds() -> None:
    folders = {path.parent for path in source_files(".py", under=PACKAGE)}
    missing = {str(f.relative_to(ROOT)) for f in folders if not (f / "__init__.py").exists()}
    assert not missing, f"no __init__.py, so the wheel leaves them out: {sorted(missing)}"
