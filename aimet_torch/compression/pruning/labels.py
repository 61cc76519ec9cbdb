"""Labels of channels: what every element of a tensor belongs to, as a tensor of its shape.

Whoever makes channels (the outputs of a layer, the entries of a parameter) gives each of them an
atom, a number. Labels are float64 tensors of atoms, so that the network's own functions can move
them: a reshape, a transposition, a channel shuffle or a concatenation of labels is what it is of
values. Along dimensions in which labels do not vary they are expanded, and take no memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["FIXED", "NEUTRAL", "Partition", "compact", "is_expanded", "kept_indices", "varying"]

FIXED = 0
"""The atom of everything that stays."""
NEUTRAL = -1
"""No atom: constants, which fit any channel that they meet."""


class Partition:
    """A union-find over atoms, all tensors at once. A class is named by its least atom.

    Attributes:
        root: Class of every atom.
    """

    def __init__(self) -> None:
        self.root = torch.zeros(1, dtype=torch.long)

    def new(self, count: int) -> Tensor:
        """Atoms that nobody has yet, (count,) int64, each a class of its own."""
        start = len(self.root)
        atoms = torch.arange(start, start + count)
        self.root = torch.cat([self.root, atoms])
        return atoms

    def classes(self, labels: Tensor) -> Tensor:
        """The class of each label, int64; NEUTRAL stays."""
        atoms = labels.long()
        return torch.where(atoms < 0, atoms, self.root[atoms.clamp_min(0)])

    def unite(self, a: Tensor, b: Tensor) -> None:
        """Make each pair of atoms one class; pairs with NEUTRAL say nothing."""
        a, b = a.long().flatten(), b.long().flatten()
        both = (a >= 0) & (b >= 0)
        a, b = a[both], b[both]
        while True:
            one, two = self.root[a], self.root[b]
            low, high = torch.minimum(one, two), torch.maximum(one, two)
            apart = low != high
            if not bool(apart.any()):
                return
            target = torch.arange(len(self.root))
            target.scatter_reduce_(0, high[apart], low[apart], "amin")
            while True:
                further = target[target]
                if torch.equal(further, target):
                    break
                target = further
            self.root = target[self.root]


def is_expanded(labels: Tensor, dim: int) -> bool:
    """Whether a dimension needs no memory: all its entries are the same."""
    return labels.shape[dim] != 1 and labels.stride(dim) == 0


def compact(labels: Tensor) -> Tensor:
    """``labels`` with one entry in every dimension that is only expanded."""
    for dim in range(labels.dim()):
        if is_expanded(labels, dim):
            labels = labels.narrow(dim, 0, min(1, labels.shape[dim]))
    return labels


def varying(classes: Tensor) -> list[int]:
    """The dimensions along which there is more than one class."""
    dims = []
    for dim, size in enumerate(classes.shape):
        if size > 1 and not is_expanded(classes, dim):
            first = classes.narrow(dim, 0, 1)
            if bool((classes != first).any()):
                dims.append(dim)
    return dims


def kept_indices(keep: Tensor) -> list[Tensor | None] | None:
    """The indices of each dimension that stay, None for all of them.

    Args:
        keep: Which elements of a tensor stay, bool; dimensions may be expanded.

    Returns:
        None where what stays is no rectangle.
    """
    small = compact(keep)
    indices: list[Tensor | None] = []
    rectangle = torch.ones((), dtype=torch.bool)
    for dim in range(keep.dim()):
        others = [d for d in range(keep.dim()) if d != dim]
        line = small.amax(others) if others else small
        shape: Sequence[int] = [-1 if d == dim else 1 for d in range(keep.dim())]
        rectangle = rectangle & line.view(shape)
        all_stay = bool(line.all())
        indices.append(None if all_stay else line.nonzero().flatten())
    if not torch.equal(rectangle.expand_as(small), small):
        return None
    return indices
