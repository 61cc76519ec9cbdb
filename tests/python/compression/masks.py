"""The network that a pruned one must equal: weights that read removed channels are zero."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

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
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm):
            stays = keep[structure.labels.elements[f"{name}.weight"]]
        elif isinstance(module, nn.GroupNorm):
            stays = keep[structure.labels.axes[name]]
        else:
            continue
        owner, _, attribute = name.rpartition(".")
        setattr(copied.get_submodule(owner), attribute, MaskedNorm(module, stays))
    return copied


class MaskedNorm(nn.Module):
    """A layer or group norm without some channels in its statistics; it gives zeros for them."""

    def __init__(self, norm, stays):
        super().__init__()
        self.norm, self.index = norm, stays.nonzero().flatten()

    def forward(self, x):
        norm, index = self.norm, self.index
        weight, bias = norm.weight[index], norm.bias[index]
        if isinstance(norm, nn.LayerNorm):
            dim = -1 if type(norm) is nn.LayerNorm else 1  # torchvision's LayerNorm2d
            moved = x.index_select(dim, index).movedim(dim, -1)
            given = F.layer_norm(moved, (len(index),), weight, bias, norm.eps).movedim(-1, dim)
        else:
            dim = 1
            groups = norm.num_groups
            if norm.num_groups >= 8:  # whole groups are gone
                groups = len(index) * groups // norm.num_channels
            given = F.group_norm(x.index_select(1, index), groups, weight, bias, norm.eps)
        return torch.zeros_like(x).index_copy(dim, index, given)


def smaller_and_masked(model, x, seed):
    """The plan, the smaller network and the masked one for a random choice of channels."""
    plan = PruningPlan(model, x)
    keep = random_keep(plan, seed)
    plan.structure.labels.check(keep)
    small = copy.deepcopy(model)
    remove_channels(small, plan.structure, keep)
    return plan, small, masked(model, plan.structure, keep)
