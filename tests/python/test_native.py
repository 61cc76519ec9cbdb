"""Loading the C++ library, and what it says when that cannot work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aimet_torch import _native, ops


def test_the_library_was_built_for_the_running_torch() -> None:
    built_for = ops.build_info()["torch_version"]
    assert torch.__version__.startswith(built_for + ".")
    assert _native.LIBRARY_PATH.is_file()


def test_headers_and_cmake_package_are_beside_it() -> None:
    assert (_native.INCLUDE_DIR / "aimet" / "aimet.h").is_file()
    assert (_native.CMAKE_DIR / "aimet" / "aimetConfig.cmake").is_file()


@pytest.mark.parametrize("running", ["2.13.0", "2.13.1+cpu", "2.13.0a0+git123"])
def test_patch_releases_and_builds_fit(running: str) -> None:
    _native.check_version(Path("libaimet.so"), "2.13", running)


def test_another_torch_is_named_with_the_command_that_mends_it() -> None:
    with pytest.raises(ImportError) as caught:
        _native.check_version(Path("/somewhere/libaimet.so"), "2.13", "2.14.0+cu130")
    assert str(caught.value) == (
        "aimet_torch: /somewhere/libaimet.so was built for torch 2.13, but torch 2.14.0+cu130 is "
        "running. Build it again for this torch, in the folder of the sources: "
        "pip install --no-build-isolation --force-reinstall --no-deps ."
    )


def test_a_library_for_another_torch_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    library = tmp_path / "libaimet.so"
    library.write_bytes(b"not a library")
    library.with_suffix(".json").write_text(json.dumps({"torch_version": "2.11"}))
    with pytest.raises(ImportError, match=r"built for torch 2\.11, but torch 2\.13\.0 is running"):
        _native.load(library, "2.13.0")


def test_a_missing_library_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ImportError, match=r"the C\+\+ library .*nothing\.so is missing .*pip install"
    ):
        _native.load(tmp_path / "nothing.so", torch.__version__)


def test_a_broken_library_is_named_with_the_reason(tmp_path: Path) -> None:
    library = tmp_path / "libaimet.so"
    library.write_bytes(b"not a library")
    library.with_suffix(".json").write_text(json.dumps({"torch_version": torch.__version__}))
    with pytest.raises(
        ImportError, match=r"cannot load .*libaimet\.so, built for torch .*pip install"
    ):
        _native.load(library, torch.__version__)


def test_the_library_needs_no_python_symbol() -> None:
    """So that one wheel serves every Python, and C++ programs need none."""
    symbols = subprocess.run(
        ["nm", "-D", "--undefined-only", str(_native.LIBRARY_PATH)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "c10" in symbols
    assert not [line for line in symbols.splitlines() if line.split()[-1].startswith(("Py", "_Py"))]


def test_only_the_interface_is_exported() -> None:
    symbols = subprocess.run(
        ["nm", "-DC", "--defined-only", str(_native.LIBRARY_PATH)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "aimet::quantize_dequantize(" in symbols
    for hidden in ("aimet::cpu::", "aimet::ops::", "aimet::core::", "nlohmann", "fmt::"):
        assert hidden not in symbols, hidden


def test_a_program_can_load_it_without_the_package() -> None:
    program = (
        "import sys, torch; torch.ops.load_library(sys.argv[1]); "
        "scale, offset = torch.tensor(0.4), torch.tensor(0.0); "
        "x = torch.ops.aimet.quantize_dequantize(torch.ones(2), scale, offset, -8, 7); "
        "print(x.tolist())"
    )
    command = [sys.executable, "-c", program, str(_native.LIBRARY_PATH)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "0.8" in result.stdout
