"""Neural-network quantization and compression for PyTorch, with a C++ core.

Importing this package loads the C++ library, so that ``torch.ops.aimet`` and ``torch.jit.load``
know its operators and a torch that does not fit is named at once. The names below come on first
use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from aimet_torch import _aliases
from aimet_torch import _native as _native
from aimet_torch.common import services

_aliases.install()
for _name, _module in (
    ("export_onnx_with_encodings", "onnx_encodings"),
    ("export_torchscript", "torchscript"),
    ("export_torchscript_with_encodings", "torchscript"),
    ("export_program", "program"),
    ("export_compiled", "program"),
):
    services.provide(_name, f"aimet_torch.export.{_module}:{_name}")
services.provide("analysis_page", "aimet_torch.report.analysis:write_analysis_page")
services.provide("deployment_report", "aimet_torch.report.deployment:deployment_report")
services.provide("compression_report", "aimet_torch.report.compression:compression_report")
services.provide("verify", "aimet_torch.verification:verify")

#: Module of each public name that is not a module itself.
_OBJECTS = {
    "QuantizationSimModel": "aimet_torch.quantsim",
    "__version__": "aimet_torch.common.version",
    "verify": "aimet_torch.verification",
}
_MODULES = (
    *("analysis", "common", "encodings", "export", "graph", "nn", "onnx", "ops", "ptq"),
    *("qat", "quantization", "quantsim", "report", "verification"),
)

__all__ = ["QuantizationSimModel", "__version__", "verify", *_MODULES]  # noqa: PLE0604 - all are strings

if TYPE_CHECKING:
    from aimet_torch.common.version import __version__
    from aimet_torch.quantsim import QuantizationSimModel
    from aimet_torch.verification import verify


def __getattr__(name: str) -> Any:
    if name in _OBJECTS:
        value = getattr(importlib.import_module(_OBJECTS[name]), name)
    elif name in _MODULES or _aliases.resolve(f"{__name__}.{name}"):
        try:
            return importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith(__name__):
                raise  # something that the module needs is missing
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from error
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
