"""Smaller models: what they cost, low-rank factorizations, and their application to a model."""

from aimet_torch.compression.cost import LayerCost, ModelCost, estimate_cost
from aimet_torch.compression.latency import Latency, measure_latency

__all__ = ["Latency", "LayerCost", "ModelCost", "estimate_cost", "measure_latency"]
