"""Quantization-aware training in the user's own loop: learned ranges, and what repairs low bits."""

from aimet_torch.qat.anomaly import detect_anomaly
from aimet_torch.qat.batch_norms import FrozenBatchNorms, freeze_batch_norms
from aimet_torch.qat.distillation import DistillationLoss
from aimet_torch.qat.learning import learn_ranges, parameter_groups
from aimet_torch.qat.oscillation import IterativeFreezing, oscillation_dampening
from aimet_torch.qat.sharding import fully_shard

__all__ = [
    "DistillationLoss",
    "FrozenBatchNorms",
    "IterativeFreezing",
    "detect_anomaly",
    "freeze_batch_norms",
    "fully_shard",
    "learn_ranges",
    "oscillation_dampening",
    "parameter_groups",
]
