"""AIMET's module paths lead to the modules of this project."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from aimet_torch import _aliases

PACKAGE = Path(_aliases.__file__).parent


def run(code: str) -> str:
    """Run code in a fresh interpreter; return what it prints."""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


@pytest.mark.parametrize("alias", _aliases.ALIASES)
def test_alias_is_the_target_or_an_ordinary_import_error(alias):
    target = _aliases.resolve(alias)
    if exists(target):
        assert importlib.import_module(alias) is importlib.import_module(target)
    else:
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(alias)


def test_no_alias_hides_a_module_of_the_package():
    for alias in _aliases.ALIASES:
        if alias.startswith("aimet_torch."):
            path = PACKAGE.joinpath(*alias.split(".")[1:])
            assert not path.with_suffix(".py").exists(), alias
            assert not (path / "__init__.py").exists(), alias


@pytest.mark.parametrize(
    ("statement", "expression"),
    [
        ("from aimet_common.defs import QuantScheme", "QuantScheme.__module__"),
        ("import aimet_common.defs", "aimet_common.defs.QuantScheme.__module__"),
        ("from aimet_torch.v2.common.defs import QuantScheme", "QuantScheme.__module__"),
    ],
)
def test_paths_work_as_the_first_import_of_a_script(statement, expression):
    assert run(f"{statement}; print({expression})") == "aimet_torch.common.defs"


def test_classes_exist_once():
    code = (
        "import aimet_torch.v2.nn.true_quant as a, aimet_torch.nn as b;"
        "import aimet_torch.v2.quantization.affine.quantizer as c;"
        "from aimet_torch.quantization.affine import QuantizeDequantize as d;"
        "print(a.QuantizedConv2d is b.QuantizedConv2d, c.QuantizeDequantize is d)"
    )
    assert run(code) == "True True"


def test_importing_the_package_loads_only_the_operators():
    code = (
        "import aimet_torch, sys, torch;"
        "print([m for m in ('onnx', 'onnxscript', 'aimet_torch.nn', 'aimet_torch.quantsim')"
        " if m in sys.modules], hasattr(torch.ops.aimet, 'quantize_dequantize'))"
    )
    assert run(code) == "[] True"


def test_names_come_on_first_use():
    code = (
        "import aimet_torch;"
        "print(aimet_torch.quantization.affine.QuantizeDequantize.__name__,"
        " aimet_torch.elementwise_ops.__name__, aimet_torch.__version__.count('.') > 0)"
    )
    assert run(code) == "QuantizeDequantize aimet_torch.nn.modules.custom True"


def test_unknown_names_are_ordinary_errors():
    aimet_torch = importlib.import_module("aimet_torch")
    with pytest.raises(AttributeError, match="has no attribute 'no_such_name'"):
        _ = aimet_torch.no_such_name
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("aimet_torch.no_such_module")


def test_installing_twice_changes_nothing():
    finders = list(sys.meta_path)
    _aliases.install()
    assert sys.meta_path == finders
