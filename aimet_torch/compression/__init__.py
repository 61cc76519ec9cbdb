"""Smaller models: costs, low-rank factors, channel pruning, and ratios chosen automatically."""

from aimet_torch.compression.compress import ModelCompressor
from aimet_torch.compression.cost import LayerCost, ModelCost, estimate_cost
from aimet_torch.compression.factorize import factorize
from aimet_torch.compression.job import CompressedLayer, Trainer
from aimet_torch.compression.latency import Latency, measure_latency
from aimet_torch.compression.pruning import (
    LayerPruning,
    PrunedGroup,
    PrunedModel,
    PruningPlan,
    prune,
)
from aimet_torch.compression.results import CompressedModel, LayerFactorization

__all__ = [
    "CompressedLayer",
    "CompressedModel",
    "Latency",
    "LayerCost",
    "LayerFactorization",
    "LayerPruning",
    "ModelCompressor",
    "ModelCost",
    "PrunedGroup",
    "PrunedModel",
    "PruningPlan",
    "Trainer",
    "estimate_cost",
    "factorize",
    "measure_latency",
    "prune",
]
