"""Quantized modules: a quantized class for every class of torch.nn, and for your own.

``QuantizedConv2d``, ``QuantizedLinear``, ... come from one table (table.py); `QuantizationMixin`
makes others on the fly. ``FakeQuantized*`` are AIMET's other names of the same classes.
"""

from aimet_torch.nn.base import BaseQuantizationMixin
from aimet_torch.nn.calibration import compute_encodings, compute_param_encodings
from aimet_torch.nn.mixin import QuantizationMixin
from aimet_torch.nn.table import CLASSES
from aimet_torch.quantization.base import QuantizerBase

globals().update(CLASSES)
globals().update({f"Fake{name}": quantized for name, quantized in CLASSES.items()})
FakeQuantizationMixin = QuantizationMixin

__all__ = [  # noqa: PLE0604 - the names in the table are strings
    "BaseQuantizationMixin",
    "FakeQuantizationMixin",
    "QuantizationMixin",
    "QuantizerBase",
    "compute_encodings",
    "compute_param_encodings",
    *CLASSES,
    *(f"Fake{name}" for name in CLASSES),
]
