"""Where a network loses accuracy, and what to do: groups, switching, sensitivity, advice."""

from aimet_torch.analysis.advice import Finding, NetworkFacts, TensorFacts, advise
from aimet_torch.analysis.groups import QuantizerGroup, find_quantizer_groups
from aimet_torch.analysis.one_pass import estimate_sensitivity
from aimet_torch.analysis.precision import Candidate, Precision
from aimet_torch.analysis.run import Analysis, ModelScores, analyze
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
    "Analysis",
    "Candidate",
    "Finding",
    "GroupScore",
    "GroupScores",
    "ModelScores",
    "NetworkFacts",
    "Precision",
    "QuantizerGroup",
    "Sensitivity",
    "SensitivityRow",
    "Switchboard",
    "TensorFacts",
    "advise",
    "analyze",
    "candidate_setting",
    "estimate_sensitivity",
    "evaluate_settings",
    "find_quantizer_groups",
    "measure_groups",
]
