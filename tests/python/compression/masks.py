"""The network that a pruned one must equal: weights that read removed channels are zero."""

from __future__ import annotations

import copy

import torch

from aimet_torch.compression import PruningPlan
from aimet_torch.compression.pruning.surgery import remove_channels


def random_keep(plan, seed):
    """About 60 % of every group, at least what must stay."""
    generator = torch.Generator().manual_seed(seed)
    units = {}
    for name, group in plan.groups.items():
        stays = torch.rand(group.size, generator=generator) < 0.6
        stays[int(torch.randint(group.size, (1,), generator=generator))] = True
        units[name] = stays
    return plan.structure.keep(units)


def masked(model, structure, keep):
    """A copy of the model in which nothing reads what is removed."""
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for layer in structure.layers:
            weight = copied.get_parameter(layer.weight)
            gone = ~keep[layer.inputs]
            if layer.removes_groups:  # depthwise: read and removed as one
                continue
            if layer.transposed:
                weight[gone] = 0
            else:
                weight[:, gone[: weight.shape[1]]] = 0
    return copied


def smaller_and_masked(model, x, seed):
    """The plan, the smaller network and the masked one for a random choice of channels."""
    plan = PruningPlan(model, x)
    keep = random_keep(plan, seed)
    plan.structure.labels.check(keep)
    small = copy.deepcopy(model)
    remove_channels(small, plan.structure, keep)
    return plan, small, masked(model, plan.structure, keep)
