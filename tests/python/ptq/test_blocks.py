"""Where the blocks of a network begin and end."""

from __future__ import annotations

import torch
from torch import nn

from aimet_torch.graph import trace
from aimet_torch.ptq.blocks import find_blocks
from aimet_torch.ptq.layers import LAYER_TYPES


def blocks_of(model, x, max_layers=4):
    graph = trace(model, x)
    graph.to_module()
    found = find_blocks(graph, lambda op: isinstance(op.module, LAYER_TYPES), max_layers)
    return [(block.name, [op.name for op in block.layers.values()]) for block in found]


class Basic(nn.Module):
    def __init__(self, is_first: bool) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.shortcut = nn.Conv2d(4, 4, 1) if is_first else nn.Identity()
        self.relu = nn.ReLU()
        self.shortcut_comes_first = is_first

    def forward(self, x):
        if self.shortcut_comes_first:
            y = self.shortcut(x)
            return self.relu(self.conv2(torch.relu(self.conv1(x))) + y)
        return self.relu(self.conv2(torch.relu(self.conv1(x))) + self.shortcut(x))


def test_residual_blocks_end_behind_their_activation():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.ReLU(), Basic(True), Basic(False), nn.Flatten(), nn.Linear(64, 2)
    )
    assert blocks_of(model, torch.zeros(1, 3, 4, 4)) == [
        ("1", ["0"]),
        ("2.relu", ["2.shortcut", "2.conv1", "2.conv2"]),
        ("5", ["3.conv1", "3.conv2", "5"]),
    ]


def test_chains_are_divided_by_the_number_of_layers():
    model = nn.Sequential(*(m for _ in range(5) for m in (nn.Linear(3, 3), nn.ReLU())))
    x = torch.zeros(1, 3)
    assert blocks_of(model, x, 2) == [("3", ["0", "2"]), ("7", ["4", "6"]), ("9", ["8"])]
    assert blocks_of(model, x, 9) == [("9", ["0", "2", "4", "6", "8"])]
    assert [len(layers) for _, layers in blocks_of(model, x, 1)] == [1] * 5


class Skipping(nn.Module):
    """A value that crosses several blocks, as in a U-Net, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle, self.up = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(6, 3)
        self.head = nn.Linear(3, 1)

    def forward(self, x):
        skip = torch.relu(self.down(x))
        y = torch.relu(self.middle(skip))
        z = torch.relu(self.up(torch.cat([skip, y], 1)))
        return self.head(z), z


def test_values_that_cross_a_block_do_not_widen_it():
    found = blocks_of(Skipping(), torch.zeros(1, 3))
    assert found[0] == ("relu", ["down"])
    assert [layers for _, layers in found] == [["down"], ["middle", "up"], ["head"]]


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x):
        return self.inner(x) if x.sum() > -1e9 else x


def test_parts_that_cannot_be_traced_belong_to_no_block():
    model = nn.Sequential(nn.Linear(3, 3), Untraceable(), nn.Linear(3, 3))
    assert blocks_of(model, torch.zeros(1, 3)) == [("0", ["0"]), ("2", ["2"])]
    assert blocks_of(Untraceable(), torch.zeros(1, 3)) == []
