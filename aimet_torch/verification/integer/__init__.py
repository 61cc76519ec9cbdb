"""A QDQ file on a target that computes with integers only."""

from aimet_torch.verification.integer.results import IntegerOutput, IntegerPrediction, IntegerRow

__all__ = ["IntegerOutput", "IntegerPrediction", "IntegerRow"]
