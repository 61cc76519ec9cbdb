"""Equalization keeps outputs, equalizes ranges, knows ReLU6, and says what it leaves alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from aimet_torch.nn.modules.channelwise_clip import ChannelwiseClip
from aimet_torch.ptq.batch_norm_folding import fold_all_batch_norms
from aimet_torch.ptq.cross_layer_equalization import (
    ClsSetInfo,
    CrossLayerScaling,
    HighBiasFold,
    equalize_bn_folded_model,
    equalize_model,
)
from tests.python.models import FIXTURES
from tests.python.ptq.networks import (
    IMAGES,
    SHAPE,
    assert_computes_the_same,
    mobile_network,
    outputs,
    relative_difference,
    trained,
    uneven,
)
from tests.python.vision import architecture


def output_ranges(layer):
    return layer.weight.detach().abs().flatten(1).amax(1)


def input_ranges(layer):
    return layer.weight.detach().abs().transpose(0, 1).flatten(1).amax(1)


# ------------------------------------------------------------------------------- the whole recipe


@pytest.mark.parametrize("high_bias", ["exact", "off"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, lambda: nn.Hardtanh(-0.7, 1.3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equalized_network_computes_the_same(activation, high_bias, dtype):
    model = trained(mobile_network(activation)).to(dtype)
    x = IMAGES.to(dtype)
    expected = outputs(model, x)
    report = equalize_model(model, SHAPE, high_bias=high_bias)
    assert len(report.batch_norms) == 8
    assert report.layers[0] == ["3.expand.0", "3.depthwise.0", "3.project.0"]
    assert report.layers[-1] == ["5", "11"]
    assert relative_difference(outputs(model, x), expected) < (
        1e-5 if dtype == torch.float32 else 1e-12
    )


def test_equalization_evens_out_the_ranges():
    model = trained(mobile_network())
    equalize_model(model, SHAPE)
    for block in (model[3], model[4]):
        first, second, third = block.expand[0], block.depthwise[0], block.project[0]
        torch.testing.assert_close(output_ranges(first), output_ranges(second), rtol=5e-3, atol=0)
        torch.testing.assert_close(output_ranges(second), input_ranges(third), rtol=5e-3, atol=0)


def test_report_names_what_happened():
    model = trained(mobile_network())
    report = equalize_model(model, SHAPE)
    assert report.replaced_activations["3.expand.2"] == "ChannelwiseClip"
    assert "2" not in report.replaced_activations  # its channels are those of a residual sum
    assert report.skipped["0"] == "2 operations read it"
    assert report.skipped["3.project.0"] == "`3.add` (Add) follows"
    assert report.skipped["11"] == "it is an output of the model"
    assert sum(report.absorbed.values()) > 0
    text = str(report)
    assert "8 batch normalizations folded, 0 left" in text
    assert "3.expand.0 - 3.depthwise.0 - 3.project.0" in text
    assert "3.project.0: `3.add` (Add) follows" in text


def test_relu6_becomes_a_clip_with_limits_per_channel():
    model = trained(mobile_network())
    report = equalize_model(model, SHAPE, high_bias="off")
    clip = model[3].expand[2]
    assert isinstance(clip, ChannelwiseClip)
    assert clip.max.shape == (24, 1, 1)
    scale = report.cls_sets[0].cls_pair_info_list[0].scale_factor
    torch.testing.assert_close(clip.max.flatten().double(), 6 / scale, rtol=1e-6, atol=0)
    assert clip.min.eq(0).all()
    assert not clip.training
    assert "24 channels, limits within [0, " in repr(clip)


def test_relu6_can_become_relu_or_stay():
    model = trained(mobile_network())
    with_relu = trained(mobile_network(nn.ReLU))
    report = equalize_model(model, SHAPE, relu6="relu", high_bias="off")
    assert report.replaced_activations["3.expand.2"] == "ReLU"
    assert len(report.layers) == 3
    model[2] = nn.ReLU()  # not beside an equalized pair, so it stayed a ReLU6
    assert relative_difference(outputs(model), outputs(with_relu)) < 1e-5

    kept = trained(mobile_network())
    expected = outputs(kept)
    report = equalize_model(kept, SHAPE, relu6="keep")
    assert report.layers == []
    assert isinstance(kept[3].expand[2], nn.ReLU6)
    assert "(Clip) follows, which is kept" in report.skipped["3.expand.0"]
    assert relative_difference(outputs(kept), expected) < 1e-5


def test_hardtanh_with_a_negative_limit_cannot_become_relu():
    model = uneven(nn.Conv2d(3, 4, 1), nn.Hardtanh(), nn.Conv2d(4, 5, 1))
    report = equalize_model(model, SHAPE, relu6="relu")
    assert "lower limit of -1" in report.skipped["0"]
    assert isinstance(model[1], nn.Hardtanh)


def test_equalizing_twice_changes_nothing_more():
    model = trained(mobile_network())
    expected = outputs(model)
    equalize_model(model, SHAPE)
    clip = model[3].expand[2]
    report = equalize_model(model, SHAPE)
    assert report.sweep_count == 1
    assert model[3].expand[2] is clip
    assert relative_difference(outputs(model), expected) < 1e-5


def test_steps_one_by_one_give_the_same():
    whole, steps = trained(mobile_network()), trained(mobile_network())
    equalize_model(whole, SHAPE)
    folded = fold_all_batch_norms(steps, SHAPE)
    report = equalize_bn_folded_model(steps, SHAPE, folded)
    assert sum(report.absorbed.values()) > 0
    for a, b in zip(whole.parameters(), steps.parameters(), strict=True):
        assert a.equal(b)


def test_options_are_checked():
    with pytest.raises(ValueError, match=r"`relu6` must be one of .*, got 'cap'"):
        equalize_model(mobile_network(), SHAPE, relu6="cap")
    with pytest.raises(ValueError, match=r"`high_bias` must be one of .*, got 'no'"):
        equalize_bn_folded_model(mobile_network(), SHAPE, [], high_bias="no")
    with pytest.raises(TypeError, match=r"equalize_model: `model` must be an nn\.Module"):
        equalize_model("model", SHAPE)
    with pytest.raises(ValueError, match="give `input_shapes` or `dummy_input`"):
        CrossLayerScaling.scale_model(mobile_network())


@pytest.mark.parametrize("name", sorted(FIXTURES))
def test_every_fixture_computes_the_same(name):
    assert_computes_the_same(
        FIXTURES[name], lambda model, inputs: equalize_model(model, None, inputs)
    )


# Name -> number of chains.
ARCHITECTURES = {
    "resnet18": 8,
    "mobilenet_v2": 20,
    "mobilenet_v3_small": 12,
    "shufflenet_v2_x1_0": 19,
    "squeezenet1_1": 1,
}


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_architectures(name):
    model = architecture(name).double()
    x = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    expected = outputs(model, x)
    report = equalize_model(model, (1, 3, 32, 32))
    assert len(report.layers) == ARCHITECTURES[name]
    assert relative_difference(outputs(model, x), expected) < 1e-10


# ----------------------------------------------------------------------------------- hostile values


def test_dead_channels_and_nan_keep_their_scale():
    model = uneven(nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 2, 1))
    with torch.no_grad():
        model[0].weight[0] = 0
        model[2].weight[:, 1] = 0
        model[0].weight[2, 0] = float("nan")
        model[2].weight[0, 3] = float("inf")
    before = model[0].weight.detach().clone()
    info = CrossLayerScaling.scale_model(model, SHAPE)[0].cls_pair_info_list[0]
    assert info.scale_factor[:4].eq(1).all()
    assert info.scale_factor[4:].ne(1).all()
    torch.testing.assert_close(model[0].weight[:4], before[:4], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_nearly_dead_channels_do_not_blow_up_the_bias(dtype):
    model = uneven(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1)).to(dtype)
    with torch.no_grad():
        model[0].weight[0] = 1e-7
        model[0].bias[0] = 3.0
    CrossLayerScaling.scale_model(model, SHAPE)
    assert model[0].bias[0] <= 3.0 * 1024
    assert all(parameter.isfinite().all() for parameter in model.parameters())


# --------------------------------------------------------------------------------- AIMET's pieces


def test_scale_cls_set_of_a_pair_and_a_triplet():
    a, b = nn.Linear(3, 3), nn.Linear(3, 1)
    with torch.no_grad():
        a.weight.copy_(torch.diag(torch.tensor([4.0, 1.0, 0.5])))
        b.weight.copy_(torch.tensor([[1.0, 4.0, 0.5]]))
    scale = CrossLayerScaling.scale_cls_set((a, b))
    torch.testing.assert_close(scale, torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64))
    torch.testing.assert_close(b.weight.detach(), torch.tensor([[2.0, 2.0, 0.5]]))

    triplet = [nn.Conv2d(1, 1, 1) for _ in range(3)]
    for layer, value in zip(triplet, (4.0, 1.0, 0.25), strict=True):
        nn.init.constant_(layer.weight, value)
    first, second = CrossLayerScaling.scale_cls_set(triplet)
    assert (first.item(), second.item()) == pytest.approx((4, 4))
    assert [layer.weight.item() for layer in triplet] == pytest.approx([1, 1, 1])


def test_scale_cls_sets_refuses_other_modules():
    with pytest.raises(TypeError, match=r"`cls_sets` must hold convolutions .*, got ReLU"):
        CrossLayerScaling.scale_cls_set((nn.Linear(2, 2), nn.ReLU()))
    with pytest.raises(ValueError, match="has 3 input channels, but the layer before it has 2"):
        CrossLayerScaling.scale_cls_set((nn.Linear(2, 2), nn.Linear(3, 3)))


def pair_with_high_bias(activation, padding=0):
    model = trained(
        nn.Sequential(
            nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6), activation, nn.Conv2d(6, 4, 3, padding=padding)
        )
    )
    with torch.no_grad():
        model[1].weight.fill_(0.1)
        model[1].bias.copy_(torch.linspace(-1, 2, 6))
        model[1].running_mean.zero_()
        model[1].running_var.fill_(1.0)
    return model


def test_bias_fold_as_in_aimet():
    model = pair_with_high_bias(nn.ReLU())
    expected = outputs(model)
    norms = dict(fold_all_batch_norms(model, SHAPE))
    infos = CrossLayerScaling.scale_model(model, SHAPE)
    assert isinstance(infos[0], ClsSetInfo)
    bias, next_bias = model[0].bias.detach().clone(), model[3].bias.detach().clone()
    HighBiasFold.bias_fold(infos, norms)
    scale = infos[0].cls_pair_info_list[0].scale_factor
    absorbed = (norms[model[0]].bias.detach() - 0.3).clamp_min(0) / scale
    torch.testing.assert_close(bias - model[0].bias.detach(), absorbed.float())
    gained = torch.einsum("oikl,i->o", model[3].weight.detach(), absorbed.float())
    torch.testing.assert_close(model[3].bias.detach() - next_bias, gained)
    # 0.135 % of the values lie below what was absorbed.
    assert 0 < relative_difference(outputs(model), expected) < 0.1


@pytest.mark.parametrize(
    ("activation", "high_bias", "padding", "is_absorbed", "is_exact"),
    [
        (nn.ReLU(), "exact", 0, False, True),
        (nn.ReLU(), "approximate", 0, True, False),
        (nn.ReLU6(), "exact", 0, True, True),
        (nn.ReLU6(), "approximate", 0, True, True),
        (nn.ReLU6(), "off", 0, False, True),
        (nn.Identity(), "exact", 0, True, True),
        (nn.Identity(), "exact", 1, False, True),
        (nn.ReLU6(), "approximate", 1, False, True),
        (nn.PReLU(), "approximate", 0, False, True),
        (nn.Sequential(nn.ReLU6(), nn.AvgPool2d(2, 1)), "exact", 0, False, True),
        (nn.Sequential(nn.ReLU6(), nn.MaxPool2d(2, 1, 1)), "exact", 0, True, True),
    ],
)
def test_absorption(activation, high_bias, padding, is_absorbed, is_exact):
    model = pair_with_high_bias(copy.deepcopy(activation), padding)
    expected = outputs(model)
    report = equalize_model(model, SHAPE, high_bias=high_bias)
    assert bool(report.absorbed) == is_absorbed
    assert (relative_difference(outputs(model), expected) < 1e-5) == is_exact


def test_statistics_from_before_a_layer_are_not_absorbed():
    model = trained(
        nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1), nn.Identity(), nn.Conv2d(3, 2, 1))
    )
    expected = outputs(model)
    report = equalize_model(model, SHAPE)
    assert len(report.batch_norms.into_next) == 1
    assert report.absorbed == {}
    assert relative_difference(outputs(model), expected) < 1e-5


def test_clip_module():
    with pytest.raises(ValueError, match=r"vectors of one length, got shapes \(2,\) and \(3,\)"):
        ChannelwiseClip(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"must not be above `max`, got 1.0 and 0.0 in channel 1"):
        ChannelwiseClip(torch.tensor([0.0, 1.0]), torch.zeros(2))
    clip = ChannelwiseClip(torch.tensor([0.0, -1.0]), torch.tensor([1.0, 2.0]), trailing_dims=0)
    assert clip(torch.tensor([[-3.0, -3.0], [3.0, 3.0]])).tolist() == [[0, -1], [1, 2]]
