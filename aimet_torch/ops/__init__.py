"""Typed functions over the C++ operators ``torch.ops.aimet.*``.

The only package that names ``torch.ops.aimet``. The functions check, compute and differentiate in
C++ and work in eager mode, ``torch.compile(fullgraph=True)``, ``torch.export`` and under autocast.
TorchScript calls ``torch.ops.aimet.*`` itself. Formulas and edge cases: ``docs/numerics.md``.
"""

from __future__ import annotations

from aimet_torch import _native as _native  # registers the operators
from aimet_torch.ops.affine import (
    clamp_quantize_dequantize,
    dequantize,
    quantize,
    quantize_dequantize,
    quantize_dequantize_min_max,
)
from aimet_torch.ops.encoding import encoding_from_range, grouped_scale, range_from_min_max
from aimet_torch.ops.formats import (
    quantize_dequantize_float,
    quantize_dequantize_mx,
    quantize_dequantize_nvfp4,
)
from aimet_torch.ops.info import build_info, cpu_capability
from aimet_torch.ops.random_choice import choose_randomly
from aimet_torch.ops.range_search import (
    range_before_norm,
    range_from_cross_entropy,
    range_from_entropy,
    range_from_mse,
    range_from_percentile,
    range_from_sqnr,
    range_from_values,
)
from aimet_torch.ops.simulation import (
    fingerprint,
    quantize_dequantize_,
    quantize_dequantize_by_range_,
)
from aimet_torch.ops.statistics import (
    min_max,
    quantization_errors,
    rebin_histogram,
    update_histogram_,
)

__all__ = [
    "build_info",
    "choose_randomly",
    "clamp_quantize_dequantize",
    "cpu_capability",
    "dequantize",
    "encoding_from_range",
    "fingerprint",
    "grouped_scale",
    "min_max",
    "quantization_errors",
    "quantize",
    "quantize_dequantize",
    "quantize_dequantize_",
    "quantize_dequantize_by_range_",
    "quantize_dequantize_float",
    "quantize_dequantize_min_max",
    "quantize_dequantize_mx",
    "quantize_dequantize_nvfp4",
    "range_before_norm",
    "range_from_cross_entropy",
    "range_from_entropy",
    "range_from_min_max",
    "range_from_mse",
    "range_from_percentile",
    "range_from_sqnr",
    "range_from_values",
    "rebin_histogram",
    "update_histogram_",
]
