"""What a target computes, beside the simulation: ONNX Runtime and Qualcomm's HTP, emulated."""

from aimet_torch.verification.integer import IntegerOutput, IntegerPrediction, IntegerRow
from aimet_torch.verification.results import (
    Limit,
    Limits,
    NodeRow,
    OutputRow,
    Verification,
)
from aimet_torch.verification.run import verify

__all__ = [
    "IntegerOutput",
    "IntegerPrediction",
    "IntegerRow",
    "Limit",
    "Limits",
    "NodeRow",
    "OutputRow",
    "Verification",
    "verify",
]
