"""Channel pruning: smaller networks of the same modules."""

from aimet_torch.compression.pruning.plan import PruningPlan, prune
from aimet_torch.compression.pruning.results import LayerPruning, PrunedGroup, PrunedModel

__all__ = ["LayerPruning", "PrunedGroup", "PrunedModel", "PruningPlan", "prune"]
