"""Quantization simulation: `QuantizationSimModel` and what configures it."""

from __future__ import annotations

from aimet_torch.quantsim.quant_params import QuantParams
from aimet_torch.quantsim.sim import QuantizationSimModel, load_encodings_to_sim
from aimet_torch.quantsim.summary import Summary, SummaryRow

__all__ = [
    "QuantParams",
    "QuantizationSimModel",
    "Summary",
    "SummaryRow",
    "load_encodings_to_sim",
]
