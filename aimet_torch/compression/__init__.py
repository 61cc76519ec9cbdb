"""Smaller models: what they cost, low-rank factorizations, and their application to a model."""

from aimet_torch.compression.cost import LayerCost, ModelCost, estimate_cost
from aimet_torch.compression.factorize import factorize
from aimet_torch.compression.latency import Latency, measure_latency
from aimet_torch.compression.results import CompressedModel, LayerFactorization

__all__ = [
    "CompressedModel",
    "Latency",
    "LayerCost",
    "LayerFactorization",
    "ModelCost",
    "estimate_cost",
    "factorize",
    "measure_latency",
]
