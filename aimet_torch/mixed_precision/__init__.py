"""Which tensor gets how many bits: by hand, by search, or by an exact choice under a budget."""

from aimet_torch.mixed_precision.callbacks import EvalCallbackFactory
from aimet_torch.mixed_precision.choose import choose_mixed_precision
from aimet_torch.mixed_precision.configurator import MixedPrecisionConfigurator
from aimet_torch.mixed_precision.greedy import (
    AccuracyPoint,
    GreedyMixedPrecisionAlgo,
    ParetoPoint,
)
from aimet_torch.mixed_precision.optimal import optimize_mixed_precision
from aimet_torch.mixed_precision.plan import CurvePoint, PrecisionPlan
from aimet_torch.mixed_precision.precision import Candidate, Precision, SupportedDType
from aimet_torch.mixed_precision.resolution import Change, PrecisionConflictError
from aimet_torch.mixed_precision.search import AMPSearchAlgo

__all__ = [
    "AMPSearchAlgo",
    "AccuracyPoint",
    "Candidate",
    "Change",
    "CurvePoint",
    "EvalCallbackFactory",
    "GreedyMixedPrecisionAlgo",
    "MixedPrecisionConfigurator",
    "ParetoPoint",
    "Precision",
    "PrecisionConflictError",
    "PrecisionPlan",
    "SupportedDType",
    "choose_mixed_precision",
    "optimize_mixed_precision",
]
