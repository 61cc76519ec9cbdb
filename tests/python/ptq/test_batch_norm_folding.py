"""Folding keeps outputs, finds what can be folded, and says why the rest cannot."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aimet_torch.graph import trace
from aimet_torch.ptq.batch_norm_folding import (
    find_all_batch_norms_to_fold,
    find_standalone_batchnorm_ops,
    fold_all_batch_norms,
    fold_given_batch_norms,
)
from tests.python.models import FIXTURES
from tests.python.ptq.networks import (
    assert_computes_the_same,
    mobile_network,
    relative_difference,
    trained,
)
from tests.python.vision import architecture


def norms(model):
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


# Model, input shape, folded batch normalizations, batch normalizations left over.
CASES = {
    "conv1d": ([nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6)], (2, 3, 9), 1, 0),
    "conv2d": ([nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)], (2, 3, 9, 9), 1, 0),
    "conv3d": ([nn.Conv3d(3, 6, 3, bias=False), nn.BatchNorm3d(6)], (2, 3, 5, 5, 5), 1, 0),
    "grouped": ([nn.Conv2d(6, 9, 3, groups=3), nn.BatchNorm2d(9)], (2, 6, 5, 5), 1, 0),
    "transposed1d": ([nn.ConvTranspose1d(3, 6, 3, 2), nn.BatchNorm1d(6)], (2, 3, 5), 1, 0),
    "transposed2d": (
        [nn.ConvTranspose2d(4, 6, 3, 2, 1, groups=2, bias=False), nn.BatchNorm2d(6)],
        (2, 4, 5, 5), 1, 0,
    ),
    "transposed3d": ([nn.ConvTranspose3d(2, 3, 2), nn.BatchNorm3d(3)], (2, 2, 4, 4, 4), 1, 0),
    "linear": ([nn.Linear(5, 7), nn.BatchNorm1d(7)], (4, 5), 1, 0),
    "linear_of_sequences": ([nn.Linear(5, 7), nn.BatchNorm1d(6)], (4, 6, 5), 0, 1),
    "linear_of_square_sequences": ([nn.Linear(5, 7), nn.BatchNorm1d(7)], (4, 7, 5), 0, 1),
    "without_affine": (
        [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, affine=False)], (2, 3, 5, 5), 1, 0,
    ),
    "without_statistics": (
        [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6, track_running_stats=False)], (2, 3, 5, 5), 0, 1,
    ),
    "twice": ([nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.BatchNorm2d(6)], (2, 3, 5, 5), 2, 0),
    "through_identity": (
        [nn.Conv2d(3, 6, 3), nn.Identity(), nn.Dropout(), nn.BatchNorm2d(6)], (2, 3, 5, 5), 1, 0,
    ),
    "before_conv": ([nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2)], (2, 4, 5, 5), 1, 0),
    "before_linear": ([nn.BatchNorm1d(4), nn.Linear(4, 6, bias=False)], (5, 4), 1, 0),
    "before_padding": ([nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1)], (2, 4, 5, 5), 0, 1),
    "before_same_padding": (
        [nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding="same")], (2, 4, 5, 5), 0, 1,
    ),
    "before_reflected_padding": (
        [nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect")],
        (2, 4, 5, 5), 1, 0,
    ),
    "before_transposed": ([nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 6, 3)], (2, 4, 5, 5), 0, 1),
    "on_both_sides": (
        [nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)], (2, 4, 5, 5), 2, 0,
    ),
    "between_layers": (
        [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3)], (2, 3, 7, 7), 1, 0,
    ),
    "alone": ([nn.ReLU(), nn.BatchNorm2d(3), nn.ReLU()], (2, 3, 5, 5), 0, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_folding_keeps_the_outputs(name, dtype):
    layers, shape, folded_count, left_count = CASES[name]
    model = trained(nn.Sequential(*copy.deepcopy(layers))).to(dtype)
    x = torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = model(x)
    folded = fold_all_batch_norms(model, shape)
    assert len(folded) == folded_count
    assert len(folded.standalone) + len(folded.unchanged) == left_count
    assert len(norms(model)) == left_count
    with torch.no_grad():
        assert relative_difference(model(x), expected) < (1e-5 if dtype == torch.float32 else 1e-13)
    assert all(isinstance(layer, nn.Module) and layer.bias is not None for layer, _ in folded)


def test_standalone_batch_norms_become_affine():
    model = trained(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3, eps=0.1), nn.ReLU()))
    norm = model[1]
    scale = (norm.weight / (norm.running_var + 0.1).sqrt()).detach().clone()
    folded = fold_all_batch_norms(model, (2, 3, 5, 5))
    assert "(Relu)" in folded.standalone["1"]
    torch.testing.assert_close(norm.weight.detach(), scale)
    assert norm.running_mean.eq(0).all()
    assert norm.running_var.eq(1).all()
    assert norm.eps == 0


def test_batch_norm_without_affine_becomes_affine():
    model = trained(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3, affine=False)))
    x = torch.rand(2, 3, 4, 4)
    expected = model(x)
    assert list(fold_all_batch_norms(model, (2, 3, 4, 4)).standalone) == ["1"]
    assert model[1].affine
    torch.testing.assert_close(model(x), expected)


def test_pairs_modules_and_training_modes():
    model = trained(mobile_network())
    conv, norm = model[0], model[1]
    conv.train()
    norm.train()
    weight = conv.weight
    folded = fold_all_batch_norms(model, (2, 3, 12, 12))
    assert folded[0] == (conv, norm)
    assert len(folded) == 8
    assert isinstance(model[1], nn.Identity)
    assert model[1].training
    assert conv.weight is weight
    assert conv.bias.requires_grad


class Reused(nn.Module):
    """The reasons for leaving a batch normalization alone, one after the other."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 1)
        self.after_twice = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm_twice = nn.BatchNorm2d(3)
        self.branching = nn.Conv2d(3, 3, 1)
        self.on_branch = nn.BatchNorm2d(3)
        self.tied_a, self.tied_b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.tied_b.weight = self.tied_a.weight
        self.after_tied = nn.BatchNorm2d(3)
        self.parametrized = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1))
        self.after_parametrized = nn.BatchNorm2d(3)

    def forward(self, x):
        x = F.relu(self.after_twice(self.twice(self.twice(x))))
        x = self.norm_twice(F.relu(self.norm_twice(self.conv(x))))
        y = self.branching(x)
        x = F.relu(y) + self.on_branch(y)
        x = self.after_tied(self.tied_a(F.relu(self.tied_b(x))))
        x = self.after_parametrized(self.parametrized(F.relu(x)))
        return F.batch_norm(x, torch.zeros(3), torch.ones(3))


def test_shared_things_are_left_alone_and_named():
    model = trained(Reused())
    x = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        expected = model(x)
    folded = fold_all_batch_norms(model, None, x)
    assert folded == []
    reasons = {**folded.standalone, **folded.unchanged}
    assert "called 2 times" in reasons["after_twice"]
    assert "called 2 times" in reasons["norm_twice"]
    assert "2 operations read it" in reasons["on_branch"]
    assert "another module shares its weight" in reasons["after_tied"]
    assert "its weight is computed" in reasons["after_parametrized"]
    assert "function call" in reasons["batch_norm"]
    with torch.no_grad():
        assert relative_difference(model(x), expected) < 1e-5


def test_shared_affine_parameters_are_not_touched():
    model = trained(
        nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3))
    )
    model[3].weight = model[1].weight
    weight = model[1].weight.detach().clone()
    folded = fold_all_batch_norms(model, (2, 3, 4, 4))
    assert folded == []
    assert folded.standalone == {}
    assert all("shares its weight" in reason for reason in folded.unchanged.values())
    assert model[1].weight.equal(weight)


def test_output_of_the_model_is_not_folded_away():
    class TwoOutputs(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.conv(x)
            return y, self.norm(y)

    model = trained(TwoOutputs())
    folded = fold_all_batch_norms(model, (1, 3, 4, 4))
    assert "output of the model" in folded.standalone["norm"]


def test_module_in_an_untraceable_part_is_left_alone():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(self.conv(x)) if float(x.sum()) > 0 else self.conv(x)

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = Branch()

        def forward(self, x):
            return self.branch(x).relu()

    model = trained(Outer())
    folded = fold_all_batch_norms(model, (1, 3, 4, 4))
    assert folded == []
    assert "`branch` cannot be traced" in folded.unchanged["branch.norm"]
    assert len(norms(model)) == 1


def test_finders_agree_with_folding():
    model = trained(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4))
    )
    graph = trace(model, torch.rand(1, 3, 6, 6))
    assert find_all_batch_norms_to_fold(graph) == [(model[0], model[1])]
    assert [op.name for op in find_standalone_batchnorm_ops(graph)] == ["3"]


def test_given_pairs():
    model = trained(
        nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3)
        )
    )
    x = torch.randn(2, 3, 8, 8)
    expected = model(x)
    fold_given_batch_norms(model, [(model[0], model[1]), (model[3], model[4])])
    assert norms(model) == []
    assert relative_difference(model(x), expected) < 1e-5


def test_given_pairs_that_cannot_be_folded():
    conv, norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
    model = nn.Sequential(conv, norm, nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(TypeError, match=r"`layer_pairs` must hold pairs .* got \(Conv2d, Conv2d\)"):
        fold_given_batch_norms(model, [(conv, conv)])
    with pytest.raises(ValueError, match="is not part of `model`"):
        fold_given_batch_norms(model, [(conv, nn.BatchNorm2d(4))])
    with pytest.raises(ValueError, match="has no running statistics"):
        fold_given_batch_norms(model, [(conv, model[2])])
    model.append(nn.BatchNorm2d(3))
    with pytest.raises(ValueError, match="pads with zeros"):
        fold_given_batch_norms(model, [(model[3], conv)])
    with pytest.raises(ValueError, match=r"`running_mean` must have shape \(4\)"):
        fold_given_batch_norms(model, [(conv, model[3])])


def test_arguments():
    with pytest.raises(TypeError, match=r"`model` must be an nn\.Module, got int"):
        fold_all_batch_norms(3, (1, 3))
    with pytest.raises(ValueError, match="give `input_shapes` or `dummy_input`"):
        fold_all_batch_norms(nn.ReLU(), None)
    with pytest.raises(TypeError, match="`input_shapes` must be a shape or a list of shapes"):
        fold_all_batch_norms(nn.ReLU(), "3x3")


def test_several_inputs_by_shape():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, a, b):
            return self.norm(self.conv(a)) + b

    assert len(fold_all_batch_norms(trained(Sum()), [(1, 3, 5, 5), (1, 4, 5, 5)])) == 1


def test_half_precision_is_rounded_once():
    layer = nn.Conv2d(3, 4, 3, bias=False)
    model = trained(nn.Sequential(layer, nn.BatchNorm2d(4)))
    exact = copy.deepcopy(model).double()
    for parameter, half in zip(exact.parameters(), model.bfloat16().parameters(), strict=True):
        parameter.data.copy_(half)
    for buffer, half in zip(exact.buffers(), model.buffers(), strict=True):
        buffer.copy_(half)
    fold_all_batch_norms(model, (1, 3, 5, 5))
    fold_all_batch_norms(exact, (1, 3, 5, 5))
    assert model[0].weight.dtype == torch.bfloat16
    assert model[0].weight.equal(exact[0].weight.bfloat16())
    assert model[0].bias.equal(exact[0].bias.bfloat16())


def test_nan_stays_in_its_channel():
    model = trained(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    model[1].running_var[2] = float("nan")
    fold_all_batch_norms(model, (1, 3, 5, 5))
    assert model[0].weight.isnan().any(dim=(1, 2, 3)).tolist() == [False, False, True, False]


@pytest.mark.parametrize("name", sorted(FIXTURES))
def test_every_fixture_computes_the_same(name):
    assert_computes_the_same(
        FIXTURES[name], lambda model, inputs: fold_all_batch_norms(model, None, inputs)
    )


# Name -> (batch normalizations folded, left over).
ARCHITECTURES = {
    "resnet18": (20, 0),
    "shufflenet_v2_x1_0": (56, 0),
    "densenet121": (59, 62),
}


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_architectures(name):
    folded_count, left_count = ARCHITECTURES[name]
    model = architecture(name).double()
    x = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = model(x)
        folded = fold_all_batch_norms(model, (1, 3, 32, 32))
        assert (len(folded), len(folded.standalone)) == (folded_count, left_count)
        assert folded.unchanged == {}
        assert relative_difference(model(x), expected) < 1e-11
