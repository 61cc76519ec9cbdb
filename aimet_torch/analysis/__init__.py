"""Where a network loses accuracy: quantizer groups, switching, sensitivity."""

from aimet_torch.analysis.groups import QuantizerGroup, find_quantizer_groups
from aimet_torch.analysis.precision import Candidate, Precision
from aimet_torch.analysis.sensitivity import (
    GroupScore,
    GroupScores,
    Sensitivity,
    SensitivityRow,
    candidate_setting,
    measure_groups,
)
from aimet_torch.analysis.switching import OFF, Switchboard, evaluate_settings

__all__ = [
    "OFF",
    "Candidate",
    "GroupScore",
    "GroupScores",
    "Precision",
    "QuantizerGroup",
    "Sensitivity",
    "SensitivityRow",
    "Switchboard",
    "candidate_setting",
    "evaluate_settings",
    "find_quantizer_groups",
    "measure_groups",
]
