"""Which layers are equalized together, and why others are left alone."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aimet_torch.nn.modules.channelwise_clip import ChannelwiseClip
from aimet_torch.ptq.batch_norm_folding import fold_all_batch_norms
from aimet_torch.ptq.cross_layer_equalization import GraphSearchUtils, equalize_model
from tests.python.ptq.networks import (
    SHAPE,
    mobile_network,
    outputs,
    relative_difference,
    trained,
    uneven,
)

# Layers, input shape, names of the layers of each chain.
CHAINS = {
    "linear": ([nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)], (4, 3), [["0", "2"]]),
    "linear_on_sequences": ([nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)], (4, 5, 3), [["0", "2"]]),
    "conv1d": (
        [nn.Conv1d(3, 8, 3), nn.LeakyReLU(0.2), nn.Conv1d(8, 2, 3)], (2, 3, 9), [["0", "2"]],
    ),
    "conv3d": ([nn.Conv3d(3, 4, 2), nn.Conv3d(4, 2, 2)], (1, 3, 5, 5, 5), [["0", "1"]]),
    "transposed": (
        [nn.ConvTranspose2d(4, 6, 3, 2, groups=2), nn.PReLU(6), nn.ConvTranspose2d(6, 3, 3)],
        (2, 4, 5, 5), [["0", "2"]],
    ),
    "transposed1d": (
        [nn.ConvTranspose1d(4, 6, 3), nn.PReLU(), nn.Conv1d(6, 3, 3)], (2, 4, 5), [["0", "2"]],
    ),
    "grouped": (
        [nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 9, 3, groups=3), nn.ReLU(),
         nn.Conv2d(9, 2, 1)],
        (2, 4, 9, 9), [["0", "2"], ["2", "4"]],
    ),
    "depthwise_with_multiplier": (
        [nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 2, 1)],
        (2, 3, 5, 5), [["0", "1"], ["1", "3"]],
    ),
    "two_depthwise": (
        [nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(),
         nn.ConvTranspose2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 2, 1)],
        (2, 3, 7, 7), [["0", "2", "4", "6"]],
    ),
    "starting_depthwise": (
        [nn.Conv2d(4, 4, 3, groups=4), nn.ReLU(), nn.Conv2d(4, 2, 1)], (2, 4, 5, 5), [["0", "2"]],
    ),
    "pooled_and_flattened": (
        [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 2), nn.ReLU6(),
         nn.AvgPool2d(2, padding=1), nn.Flatten(), nn.Dropout(), nn.Linear(24, 5)],
        (2, 3, 8, 8), [["0", "3"], ["3", "8"]],
    ),
    "padded_and_resized": (
        [nn.Conv2d(3, 4, 3), nn.ZeroPad2d(1), nn.ReLU(), nn.Upsample(scale_factor=2),
         nn.Conv2d(4, 2, 3)],
        (2, 3, 6, 6), [["0", "4"]],
    ),
    "padded_with_ones": (
        [nn.Conv2d(3, 4, 3), nn.ConstantPad2d(1, 1.0), nn.Conv2d(4, 2, 3)], (2, 3, 6, 6), [],
    ),
    "sigmoid": ([nn.Linear(3, 8), nn.Sigmoid(), nn.Linear(8, 2)], (4, 3), []),
    "channels_elsewhere": ([nn.Linear(5, 6), nn.ReLU(), nn.Conv1d(3, 2, 1)], (2, 3, 5), []),
    "flattened_from_the_batch": (
        [nn.Conv2d(3, 4, 3), nn.Flatten(2), nn.Linear(4, 4)], (2, 3, 4, 4), [],
    ),
    "batch_norm_between": (
        [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3, padding=1)],
        (2, 3, 6, 6), [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CHAINS))
def test_chains(name):
    layers, shape, chains = CHAINS[name]
    model = trained(uneven(*copy.deepcopy(layers)).double())
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = outputs(model, x)
    before = [p.detach().clone() for p in model.parameters()]
    report = equalize_model(model, shape)
    assert report.layers == chains
    assert relative_difference(outputs(model, x), expected) < 1e-12
    is_changed = any(not a.equal(b) for a, b in zip(before, model.parameters(), strict=True))
    assert is_changed == bool(chains) or name == "batch_norm_between"


class Functional(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)
        self.activation = activation

    def forward(self, x):
        return self.second(self.activation(self.first(x)))


@pytest.mark.parametrize(
    "activation",
    [F.relu, lambda x: F.leaky_relu(x, 0.3), lambda x: F.pad(F.relu(x), (1, 1)), lambda x: x],
)
def test_functional_operations_between(activation):
    model = uneven(Functional(activation))[0]
    expected = outputs(model)
    report = equalize_model(model, SHAPE)
    assert report.layers == [["first", "second"]]
    assert relative_difference(outputs(model), expected) < 1e-5


@pytest.mark.parametrize(
    ("activation", "reason"),
    [
        (F.relu6, "function call"),
        (lambda x: x.clamp(-1, 1), "function call"),
        (lambda x: F.pad(x, (1, 1), value=2.0), "(Pad) follows"),
        (lambda x: F.pad(x, (0, 0, 0, 0, 0, 0)), None),
        (lambda x: x * 2, "(Mul) follows"),
        (lambda x: x + x, "2 operations read it"),
    ],
)
def test_functional_operations_that_end_a_chain(activation, reason):
    model = Functional(activation)
    expected = outputs(model)
    report = equalize_model(model, SHAPE)
    if reason is None:
        assert report.layers == [["first", "second"]]
    else:
        assert report.layers == []
        assert reason in report.skipped["first"]
    assert relative_difference(outputs(model), expected) < 1e-5


class Sharing(nn.Module):
    def __init__(self):
        super().__init__()
        self.twice, self.a, self.b, self.c = (nn.Conv2d(3, 3, 1) for _ in range(4))
        self.relu6 = nn.ReLU6()
        self.tied_a, self.tied_b = nn.Linear(3, 3), nn.Linear(3, 3)
        self.tied_b.weight = self.tied_a.weight

    def forward(self, x):
        x = self.twice(F.relu(self.twice(x)))
        x = self.c(self.relu6(self.b(self.relu6(self.a(x.sigmoid())))))
        x = x.mean((2, 3))
        return self.tied_b(F.relu(self.tied_a(x))) + self.tied_a.bias


def test_shared_modules_and_parameters_are_left_alone_and_named():
    model = Sharing()
    expected = outputs(model)
    report = equalize_model(model, SHAPE)
    assert report.layers == []
    assert "called 2 times" in report.skipped["twice"]
    assert "its module is called 2 times" in report.skipped["a"]
    assert "another module shares its weight" in report.skipped["tied_a"]
    assert outputs(model).equal(expected)


def test_shared_relu_is_no_obstacle():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = (nn.Conv2d(3, 3, 1) for _ in range(3))
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x):
            return self.c(self.relu(self.b(self.relu(self.a(x)))))

    model = Network()
    expected = outputs(model)
    assert equalize_model(model, SHAPE).layers == [["a", "b"], ["b", "c"]]
    assert relative_difference(outputs(model), expected) < 1e-5


def test_module_under_two_names_is_replaced_under_both():
    model = nn.Sequential(trained(mobile_network()), nn.Identity())
    model[1].alias = model[0][3].expand[2]  # registered there, never called there
    equalize_model(model, SHAPE)
    assert isinstance(model[0][3].expand[2], ChannelwiseClip)
    assert model[1].alias is model[0][3].expand[2]


def test_graph_search():
    model = mobile_network(nn.ReLU)
    fold_all_batch_norms(model, SHAPE)
    search = GraphSearchUtils(model, SHAPE)
    groups = search.find_layer_groups_to_scale()
    assert [[op.name for op in group] for group in groups] == [
        ["3.expand.0", "3.depthwise.0", "3.project.0"],
        ["4.expand.0", "4.depthwise.0", "4.project.0"],
        ["5", "11"],
    ]
    sets = [s for group in groups for s in search.convert_layer_group_to_cls_sets(group)]
    assert search.is_relu_activation_present_in_cls_sets(sets) == [[True, True]] * 2 + [[True]]
