"""Bias correction: what is left of the mean errors, and how they are computed without data."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from aimet_torch import QuantizationSimModel
from aimet_torch.batch_norm_fold import fold_all_batch_norms
from aimet_torch.bias_correction import correct_bias, find_all_conv_bn_with_activation
from aimet_torch.common.defs import ActivationType, QuantScheme
from aimet_torch.ops import algorithms
from aimet_torch.ptq.bias_correction import _before_rounding, correct_biases_of_sim
from aimet_torch.quantsim import QuantParams


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
    return model.eval()


def data(count=4):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 3, 9, 9, generator=generator) for _ in range(count)]


class Loops(nn.Module):
    """Cannot be traced: how often it loops depends on the data."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 6)

    def forward(self, x):
        while x.abs().max() > 3:
            x = x / 2
        return self.inner(x)


def layer_means(sim, batches, names):
    """Mean of each channel before it is rounded, with all layers before it as they are."""
    means = {}
    for name in names:
        module = sim.model.get_submodule(name)
        seen = []
        hook = module.register_forward_hook(lambda m, i, o, seen=seen: seen.append(o))
        with torch.no_grad(), _before_rounding(module):
            for x in batches:
                sim.model(x)
        hook.remove()
        outputs = torch.cat([torch.as_tensor(o).double() for o in seen])
        means[name] = outputs.mean([d for d in range(outputs.dim()) if d != 1])
    return means


@pytest.mark.parametrize("boundary", [False, True])
def test_no_mean_error_is_left_in_any_layer(boundary):
    model = network()
    fold_all_batch_norms(model, (1, 3, 9, 9))
    if boundary:
        model.insert(9, Loops())
    batches = data()
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    sim = QuantizationSimModel(model, batches[0], default_param_bw=4, default_output_bw=5)
    sim.compute_encodings(batches)
    reference = layer_means(QuantizationSimModelOff(model, batches), batches, names)
    before = layer_means(sim, batches, names)
    report = correct_biases_of_sim(sim, batches)
    after = layer_means(sim, batches, names)
    assert set(report.empirical) == set(names)
    for name in names:
        assert (after[name] - reference[name]).abs().max() < 1e-6
        assert (before[name] - reference[name]).abs().max() > 1e-3


def QuantizationSimModelOff(model, batches):
    """The same structure without any quantizer."""
    sim = QuantizationSimModel(model, batches[0])
    for module in sim.qmodules():
        module._remove_all_quantizers()
        module.bias_grids = None
    return sim


def test_the_model_itself_is_corrected_for_a_simulation_to_come():
    model = network()
    fold_all_batch_norms(model, (1, 3, 9, 9))
    model[6].bias = None
    original = copy.deepcopy(model)
    batches = data()
    params = QuantParams(weight_bw=3, quant_scheme=QuantScheme.min_max)
    report = correct_bias(model, params, 16, [(x, "label") for x in batches], 32)
    assert list(report.empirical) == ["0", "3", "6", "9"]
    assert model[6].bias is not None
    for name in ("0", "3", "6", "9"):
        assert model.get_submodule(name).weight.equal(original.get_submodule(name).weight)

    def error(network):
        sim = QuantizationSimModel(network, batches[0], "min_max", default_param_bw=3)
        sim.compute_encodings(batches)
        with torch.no_grad():
            outputs = [torch.cat([m(x) for x in batches]) for m in (sim.model, original)]
        return (outputs[0] - outputs[1]).square().mean()

    assert error(model) < 0.5 * error(original)


def test_samples_are_counted_and_layers_ignored():
    model = network()
    fold_all_batch_norms(model, (1, 3, 9, 9))
    read = []

    def loader():
        for batch in data(6):
            read.append(len(batch))
            yield batch

    before = model[3].bias.clone()
    report = correct_bias(model, QuantParams(), 10, loader(), 20, layers_to_ignore=[model[3]])
    assert sum(read[:-1]) < 20 + 8
    assert model[3].bias.equal(before)
    assert report.skipped == {"3": "it is to be ignored"}


def test_analytic_correction_needs_no_data_for_what_follows_a_batch_norm():
    model = network()
    infos = find_all_conv_bn_with_activation(model, (1, 3, 9, 9))
    first, depthwise, last = (infos[model[i]] for i in (0, 3, 6))
    assert (first.input_bn, first.output_bn) == (None, model[1])
    assert first.out_activation_type == ActivationType.relu6
    assert depthwise.input_bn is model[1]
    assert depthwise.in_activation_type == ActivationType.relu6
    assert (last.input_bn, last.in_activation_type) == (model[4], ActivationType.relu)
    fold_all_batch_norms(model, (1, 3, 9, 9))
    weight, bias = model[6].weight.detach().clone(), model[6].bias.detach().clone()
    params = QuantParams(weight_bw=4, quant_scheme="min_max")
    report = correct_bias(
        model, params, 8, data(), 8, conv_bn_dict=infos, perform_only_empirical_bias_corr=False
    )
    assert set(report.analytic) == {"3", "6"}
    assert set(report.empirical) == {"0", "9"}
    beta, gamma = last.input_bn.bias.double(), last.input_bn.weight.double()
    samples = torch.randn(
        1_000_000, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    expected = (beta + gamma * samples).relu().mean(0)
    sim = QuantizationSimModel(model, data()[0], "min_max", default_param_bw=4)
    sim.compute_encodings(data())
    rounded = sim.model.get_submodule("6").param_quantizers["weight"].simulate(weight)
    shift = ((rounded - weight).double().sum((2, 3)) * expected).sum(1)
    # A million samples leave an error of about a thousandth in each mean.
    torch.testing.assert_close(bias.double() - shift, model[6].bias.double(), rtol=0, atol=1e-3)


@pytest.mark.parametrize(("lower", "upper"), [(None, None), (0.0, None), (0.0, 6.0), (-1.0, 0.5)])
def test_moments_behind_a_clip_are_those_of_samples(lower, upper):
    generator = torch.Generator().manual_seed(0)
    mean = torch.tensor([-9.0, -1.0, 0.0, 0.5, 3.0, 7.0], dtype=torch.float64)
    deviation = torch.tensor([0.5, 0.5, 1.0, -2.0, 4.0, 0.0], dtype=torch.float64)
    samples = mean + deviation * torch.randn(400_000, 6, dtype=torch.float64, generator=generator)
    samples = samples if lower is None and upper is None else samples.clamp(lower, upper)
    limits = [None if x is None else torch.tensor(x, dtype=torch.float64) for x in (lower, upper)]
    got = algorithms.clipped_normal_moments(mean, deviation, *limits)
    # Four standard errors of 400,000 samples of deviation 4.
    torch.testing.assert_close(got[0], samples.mean(0), rtol=0, atol=0.03)
    torch.testing.assert_close(got[1], samples.std(0), rtol=0, atol=0.03)


def test_moments_of_aimets_examples():
    mean, deviation = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([1.0, 0.5, 0.7])
    relu = algorithms.clipped_normal_moments(mean, deviation, torch.tensor(0.0))[0]
    torch.testing.assert_close(relu, torch.tensor([0.6977966, 0.0042454, 2.0004391]))
    relu6 = algorithms.clipped_normal_moments(
        mean, deviation, torch.tensor(0.0), torch.tensor(6.0)
    )[0]
    torch.testing.assert_close(relu6, relu)  # 6 is far away
    far = algorithms.clipped_normal_moments(
        torch.tensor([-40.0]), torch.tensor([1.0]), torch.tensor(0.0)
    )
    assert [value.item() for value in far] == [0.0, 0.0]


def test_errors():
    model = network()
    fold_all_batch_norms(model, (1, 3, 9, 9))
    with pytest.raises(ValueError, match="`num_bias_correct_samples` must be positive, got 0"):
        correct_bias(model, QuantParams(), 8, data(), 0)
    with pytest.raises(ValueError, match="`conv_bn_dict` is needed"):
        correct_bias(model, QuantParams(), 8, data(), 8, perform_only_empirical_bias_corr=False)
    with pytest.raises(ValueError, match="`layers_to_ignore` has a Linear that is no module"):
        correct_bias(model, QuantParams(), 8, data(), 8, layers_to_ignore=[nn.Linear(2, 2)])
    with pytest.raises(ValueError, match="`data_loader` gave no batch"):
        correct_bias(model, QuantParams(), 8, [], 8)
    with pytest.raises(ValueError, match="`round_mode` must be 'nearest', got 'stochastic'"):
        QuantParams(round_mode="stochastic")
    with pytest.raises(ValueError, match="`lower` must not be above `upper`"):
        algorithms.clipped_normal_moments(
            torch.zeros(2), torch.ones(2), torch.tensor(1.0), torch.tensor(0.0)
        )
    with pytest.raises(TypeError, match="`mean` must have a floating-point dtype"):
        algorithms.clipped_normal_moments(torch.zeros(2, dtype=torch.int64), torch.ones(2))
    with pytest.raises(ValueError, match=r"`sums` must have shape \(3\)"):
        algorithms.add_channel_sums_(torch.zeros(2, dtype=torch.float64), torch.ones(2, 3), 1)
    with pytest.raises(ValueError, match="`expected_input` has 2"):
        algorithms.correct_bias_analytically(
            torch.zeros(4), torch.ones(4, 3), torch.ones(4, 3), torch.ones(2)
        )
