"""Biases on the accumulator's grid, and steps of weights that keep accumulators off boundaries."""

from __future__ import annotations

import copy
from fractions import Fraction

import pytest
import torch
from torch import nn

from aimet_torch.ptq import apply_gptq
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.quantsim.accumulators import TOLERANCE
from tests.python.quantsim.conftest import sqnr


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU6())
        self.normed = nn.Sequential(
            nn.Conv2d(6, 6, 3, groups=6, bias=False), nn.BatchNorm2d(6), nn.ReLU()
        )
        self.up = nn.ConvTranspose2d(6, 4, 2, groups=2)
        self.head = nn.Linear(4, 5)
        norm = self.normed[1]
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            nn.init.normal_(tensor)
        nn.init.uniform_(norm.running_var, 0.5, 2.0)

    def forward(self, x):
        return self.head(self.up(self.normed(self.stem(x))).mean((2, 3)))


@pytest.fixture
def calibrated():
    torch.manual_seed(0)
    model = Layers().eval()
    x = torch.randn(4, 3, 9, 9)
    sim = QuantizationSimModel(model, x)
    sim.compute_encodings([x])
    return model, sim, x


def multipliers(sim):
    """(input step * weight step / output step) of the first and the last layer."""
    modules = dict(sim.model.named_modules())
    first = modules["stem.0"]
    chains = [
        (first.input_quantizers[0], first, modules["stem.1"].output_quantizers[0]),
        (
            modules["mean"].output_quantizers[0],
            modules["head"],
            modules["head"].output_quantizers[0],
        ),
    ]
    for source, layer, output in chains:
        weight = layer.param_quantizers["weight"].get_scale().detach().double().flatten()
        yield weight * source.get_scale().item() / output.get_scale().item()


def test_after_calibration_accumulators_avoid_boundaries(calibrated):
    _, sim, _ = calibrated
    for multiplier in multipliers(sim):
        for number in multiplier.tolist():
            fraction = Fraction(number).limit_denominator(20_001)
            assert abs(float(fraction) / number - 1) < 3e-7  # float32 holds the step
            assert fraction.denominator % 2 == 1


def test_calibrating_again_changes_nothing(calibrated):
    """Biases are not rounded by a range that is about to be replaced."""
    _, sim, x = calibrated
    before = {name: tensor.clone() for name, tensor in sim.model.state_dict().items()}
    outputs = sim.model(x)
    sim.compute_encodings([x])
    for name, tensor in sim.model.state_dict().items():
        assert tensor.equal(before[name]), name
    assert sim.model(x).equal(outputs)


def test_steps_of_weights_move_by_less_than_the_tolerance(calibrated):
    model, sim, _ = calibrated
    weight = model.stem[0].weight.detach()
    bound = torch.maximum(weight.amax((1, 2, 3)) / 127, -weight.amin((1, 2, 3)) / 128)
    scale = sim.model.stem[0].param_quantizers["weight"].get_scale().detach().flatten()
    assert ((scale / bound - 1).abs() <= TOLERANCE * 1.01).all()
    assert not torch.equal(scale, bound)


def test_frozen_steps_stay(calibrated):
    _model, sim, x = calibrated
    quantizer = sim.model.stem[0].param_quantizers["weight"]
    quantizer.set_range(torch.full((6, 1, 1, 1), -1.28), torch.full((6, 1, 1, 1), 1.27))
    quantizer.allow_overwrite(False)
    before = quantizer.get_scale().detach().clone()
    sim.compute_encodings([x])
    assert torch.equal(quantizer.get_scale(), before)


def accumulator_steps(sim):
    modules = dict(sim.model.named_modules())
    layer = modules["stem.0"]
    scale = layer.param_quantizers["weight"].get_scale().detach().flatten()
    return scale * layer.input_quantizers[0].get_scale().detach()


def test_biases_are_multiples_of_the_accumulators_step(calibrated):
    _, sim, x = calibrated
    layer = sim.model.stem[0]
    rounded = layer.bias_grids[0].round(layer.bias.detach())
    steps = accumulator_steps(sim)
    assert torch.equal(rounded, torch.round(layer.bias.detach() / steps) * steps)
    assert not torch.equal(rounded, layer.bias)
    # The layer uses it: with the rounded bias in place nothing changes any more.
    with torch.no_grad():
        before = sim.model(x)
        layer.bias.copy_(rounded)
        assert torch.equal(sim.model(x), before)


def test_a_batch_norms_bias_is_rounded_so_that_the_folded_bias_is(calibrated):
    model, sim, _ = calibrated
    norm = sim.model.normed[1]
    grid = norm.bias_grids[0]
    beta = grid.round(norm.bias).detach().double()
    factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    folded = beta - norm.running_mean.double() * factor
    steps = grid.scale().double()
    torch.testing.assert_close(folded / steps, (folded / steps).round(), rtol=0, atol=2e-2)
    assert ((beta - model.normed[1].bias.double()).abs() <= 0.51 * steps).all()


def test_training_leaves_a_batch_norms_bias_and_passes_gradients(calibrated):
    _, sim, x = calibrated
    norm = sim.model.normed[1]
    sim.model.train()
    assert norm.bias_grids[0].round(norm.bias) is norm.bias
    sim.model(x).square().sum().backward()
    assert norm.bias.grad.abs().sum() > 0
    assert sim.model.stem[0].bias.grad.abs().sum() > 0


def test_parameters_and_state_dict_stay(calibrated):
    model, sim, _ = calibrated
    state = sim.model.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor)
    assert not any("bias_grid" in name for name in state)


def test_the_state_dict_alone_restores_the_numbers(calibrated):
    model, sim, x = calibrated
    other = QuantizationSimModel(model, x)
    other.model.load_state_dict(sim.model.state_dict())
    with torch.no_grad():
        assert torch.equal(other.model(x), sim.model(x))


def test_a_copy_has_grids_of_its_own(calibrated):
    _, sim, x = calibrated
    twin = copy.deepcopy(sim.model)
    source = twin.stem[0].bias_grids[0].source
    assert source is twin.stem[0]
    with torch.no_grad():
        assert torch.equal(twin(x), sim.model(x))


def test_without_an_input_quantizer_biases_stay(calibrated):
    _, sim, _ = calibrated
    layer = sim.model.stem[0]
    layer._remove_input_quantizers()
    assert layer.bias_grids[0].round(layer.bias) is layer.bias


def test_a_bias_that_does_not_fit_raises_the_weights_step():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 2, 1)).eval()
    with torch.no_grad():
        model[0].weight[0] = 0.0
        model[0].bias[0] = 100.0
    x = torch.randn(2, 3, 4, 4)
    sim = QuantizationSimModel(model, x)
    sim.compute_encodings([x])
    with torch.no_grad():
        result = sim.model(x)[:, 0]
    assert (result - 100.0).abs().max() <= sim.model[0].output_quantizers[0].get_scale().item()


def test_compiled_and_traced_models_compute_the_same(calibrated):
    _, sim, x = calibrated
    with torch.no_grad():
        expected = sim.model(x)
        traced = torch.jit.trace(sim.model, x, check_trace=False)
        assert torch.equal(traced(x), expected)
        exported = torch.export.export(sim.model, (x,)).module()
        assert torch.equal(exported(x), expected)
        compiled = torch.compile(sim.model, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x), expected)


def test_biases_of_layers_that_share_a_weight_fit_their_accumulators():
    """At 16 bits a bias of 1 takes more than 32 bits of the small steps; the steps grow."""

    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight
            nn.init.constant_(self.b.bias, 1.0)

        def forward(self, x):
            return self.b(torch.tanh(self.a(x)))

    torch.manual_seed(0)
    model, x = Shared(), torch.randn(8, 4)
    sim = QuantizationSimModel(model, x, default_output_bw=16, default_param_bw=16)
    sim.compute_encodings([x])
    assert sqnr(model(x), sim.model(x)) > 60
    a, b = (layer.param_quantizers["weight"].get_scale() for layer in (sim.model.a, sim.model.b))
    assert torch.equal(a, b)  # one weight, one grid


@pytest.mark.parametrize("config", [None, "htp_v73"], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.BatchNorm1d])
def test_a_normalization_rounds_its_bias_on_its_accumulator(norm, config):
    torch.manual_seed(0)
    model = nn.Sequential(norm(6)).eval()
    nn.init.normal_(model[0].weight)
    nn.init.normal_(model[0].bias)
    x = torch.randn(5, 6)
    sim = QuantizationSimModel(model, x, config_file=config)
    sim.compute_encodings([x])
    layer = sim.model[0]
    step = layer.input_quantizers[0].get_scale() * layer.param_quantizers["weight"].get_scale()
    levels = layer._quantized_parameters()["bias"] / step
    assert torch.equal(levels.round() * step, layer._quantized_parameters()["bias"])
    assert not torch.equal(layer._quantized_parameters()["bias"], layer.bias)


def steps_and_codes(sim):
    layers = [sim.model.stem[0], sim.model.head]
    scales = [layer.param_quantizers["weight"].get_scale().detach() for layer in layers]
    codes = [(layer.weight.detach() / s).round() for layer, s in zip(layers, scales, strict=True)]
    return scales, codes


@pytest.mark.parametrize("bits", [4, 8])
def test_rounded_weights_follow_their_steps(bits):
    torch.manual_seed(0)
    x = torch.randn(4, 3, 9, 9)
    sim = QuantizationSimModel(Layers().eval(), x, default_param_bw=bits)
    sim.compute_encodings([x])
    apply_gptq(sim, [x], search_scales=True)
    after_rounding = steps_and_codes(sim)
    sim.compute_encodings([1.3 * x])
    for multiplier in multipliers(sim):
        for number in multiplier.tolist():
            fraction = Fraction(number).limit_denominator(20_001)
            assert abs(float(fraction) / number - 1) < 3e-7
            assert fraction.denominator % 2 == 1
    (scales, codes), (before, old_codes) = steps_and_codes(sim), after_rounding
    for scale, earlier, code, old in zip(scales, before, codes, old_codes, strict=True):
        assert not torch.equal(scale, earlier)
        assert ((scale / earlier - 1).abs() <= TOLERANCE * 1.01).all()
        assert torch.equal(code, old)
    layer = sim.model.stem[0]
    assert torch.equal(layer.param_quantizers["weight"](layer.weight), layer.weight)


def test_weights_that_were_trained_since_stay():
    torch.manual_seed(0)
    x = torch.randn(4, 3, 9, 9)
    sim = QuantizationSimModel(Layers().eval(), x, default_param_bw=4)
    sim.compute_encodings([x])
    apply_gptq(sim, [x], search_scales=True)
    layer = sim.model.stem[0]
    with torch.no_grad():
        layer.weight += 0.3 * layer.param_quantizers["weight"].get_scale()
    weight, scale = layer.weight.clone(), layer.param_quantizers["weight"].get_scale().clone()
    sim.compute_encodings([1.3 * x])
    assert torch.equal(layer.weight, weight)
    assert torch.equal(layer.param_quantizers["weight"].get_scale(), scale)
