"""Which quantizers belong together."""

import torch
from torch import nn

from aimet_torch.analysis import find_quantizer_groups
from aimet_torch.quantsim import QuantizationSimModel
from tests.python.analysis.networks import simulation


def test_an_activation_goes_with_the_weights_of_all_that_read_it():
    groups = {group.name: group for group in find_quantizer_groups(simulation())}
    branches = groups["left + right"]
    assert branches.activations == ("relu.output_quantizers.0",)
    assert branches.params == ("left.param_quantizers.weight", "right.param_quantizers.weight")
    assert branches.readers == ("left", "right")
    assert branches.op_types == ("Conv",)
    assert groups["stem"].activations == ("stem.input_quantizers.0",)


def test_a_layer_that_is_called_twice_joins_its_inputs():
    groups = {group.name: group for group in find_quantizer_groups(simulation())}
    assert set(groups["again"].activations) == {
        "add.output_quantizers.0",
        "tanh.output_quantizers.0",
    }
    assert groups["again"].readers == ("again", "again.1")


def test_operations_that_only_move_values_are_looked_through():
    fc = next(group for group in find_quantizer_groups(simulation()) if group.name == "fc")
    assert fc.activations == ("sigmoid.output_quantizers.0",)  # behind max_pool2d and flatten
    assert fc.readers == ("fc",)


def test_every_quantizer_is_in_exactly_one_group():
    sim = simulation()
    found = [name for group in find_quantizer_groups(sim) for name in group.quantizers]
    assert sorted(found) == sorted(name for name, _ in sim.named_quantizers())
    names = [group.name for group in find_quantizer_groups(sim)]
    assert len(set(names)) == len(names)


def test_shared_weights_join_their_layers():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    sim = QuantizationSimModel(model, torch.randn(1, 4))
    shared = sim.model[0].param_quantizers["weight"]
    sim.model[2].param_quantizers["weight"] = shared
    group = next(g for g in find_quantizer_groups(sim) if g.params)
    assert set(group.activations) == {"0.input_quantizers.0", "1.output_quantizers.0"}


def test_parameters_in_a_product_count_as_weights():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(4, 3))

        def forward(self, x):
            return torch.relu(x) @ self.matrix

    sim = QuantizationSimModel(Product(), torch.randn(2, 4))
    group = next(g for g in find_quantizer_groups(sim) if g.params)
    assert group.activations == ("relu.output_quantizers.0",)
    assert group.op_types == ("MatMul",)


def test_layers_of_a_part_that_cannot_be_traced_are_groups_of_their_own():
    class Dynamic(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            return self.inner(x) if float(x.sum()) > -1e9 else x

    sim = QuantizationSimModel(nn.Sequential(nn.Linear(4, 4), Dynamic()), torch.randn(2, 4))
    names = [name for group in find_quantizer_groups(sim) for name in group.quantizers]
    assert sorted(names) == sorted(name for name, _ in sim.named_quantizers())
    assert any("1.inner.param_quantizers.weight" in g.params for g in find_quantizer_groups(sim))


def test_aimets_list_of_a_group():
    groups = {group.name: group for group in find_quantizer_groups(simulation())}
    assert groups["left + right"].to_list() == [
        ("output", "relu"),
        ("weight", "left"),
        ("weight", "right"),
    ]
    assert groups["stem"].to_list()[0] == ("input", "stem_input_quantizer_idx_0")
