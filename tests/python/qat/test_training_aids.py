"""Frozen batch norms, oscillations, distillation, anomalies."""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aimet_torch.qat import (
    DistillationLoss,
    IterativeFreezing,
    detect_anomaly,
    freeze_batch_norms,
    oscillation_dampening,
)
from aimet_torch.quantsim import QuantizationSimModel


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def simulation(bits=4):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.Dropout(0.4),
        nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip
    x = torch.randn(8, 1, 6, 6)
    sim = QuantizationSimModel(model.eval(), x[:1], default_param_bw=bits)
    sim.compute_encodings([x])
    return sim, x, model


# -- modes and batch norms ---------------------------------------------------------------------


def test_modes_leave_settings_alone():
    sim, x, _ = simulation()
    norm, dropout = sim.model[1], sim.model[3]
    for mode in (True, False, True):
        sim.model.train(mode)
        sim.model(x)
        assert (norm.momentum, norm.eps, dropout.p) == (0.3, 1e-5, 0.4)
        assert norm.training is dropout.training is mode


def test_frozen_batch_norms_stay_until_restored():
    sim, x, _ = simulation()
    norm = sim.model[1]
    sim.model.train()
    handle = freeze_batch_norms(sim, parameters=True)
    assert handle.names == ["1"]
    assert freeze_batch_norms(sim).names == []
    before = {k: v.clone() for k, v in norm.state_dict().items()}
    sim.model.train()
    sim.model(x)
    assert all(torch.equal(v, before[k]) for k, v in norm.state_dict().items())
    assert not norm.weight.requires_grad
    for copied in (copy.deepcopy(sim.model), pickle.loads(pickle.dumps(sim.model))):
        copied.train()
        assert not copied[1].training
        assert copied[3].training
    handle.restore()
    assert norm.training
    assert norm.weight.requires_grad
    sim.model(x)
    assert not torch.equal(norm.running_mean, before["running_mean"])
    with freeze_batch_norms(sim):
        assert not norm.training
    assert norm.training


# -- oscillations ------------------------------------------------------------------------------


def layer_of_two_bits(values, scale=1.0):
    model = nn.Sequential(nn.Linear(len(values), 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([values]))
    sim = QuantizationSimModel(model, torch.randn(1, len(values)), default_param_bw=2)
    sim.compute_encodings([torch.randn(4, len(values))])
    sim.model[0].param_quantizers["weight"].set_range(-2 * scale, scale)
    return sim


def test_dampening_loss_and_gradient():
    sim = layer_of_two_bits([0.3, -0.6, 0.0, 1.7, -5.0], scale=0.5)
    weight = sim.model[0].weight
    loss = oscillation_dampening(sim)
    # On the grid of step 0.5 from -1 to 0.5, and clipped beyond it.
    want = (0.3 - 0.5) ** 2 + (-0.6 + 0.5) ** 2
    assert loss.item() == pytest.approx(want)
    loss.backward()
    expected = torch.tensor([[2 * (0.3 - 0.5), 2 * (-0.6 + 0.5), 0.0, 0.0, 0.0]])
    torch.testing.assert_close(weight.grad, expected)
    assert all(p.grad is None for p in sim.quantizer_parameters())
    assert oscillation_dampening(sim, max_bits=1).item() == 0


def test_freezing_counts_and_freezes():
    sim = layer_of_two_bits([0.4, 0.0, -1.0])
    weight = sim.model[0].weight
    freezing = IterativeFreezing(sim, threshold=0.35, momentum=0.2)
    freezing.step()
    frequency, average, direction, integers = 0.0, 0.0, 0, [0]
    for step in range(1, 12):
        value = 0.6 if step % 3 else 0.4  # 0, 1, 1, 0, 1, 1, 0, ...
        with torch.no_grad():
            weight[0, 0] = value
            weight[0, 1] = 0.1 * step / 12
        freezing.step()
        integers.append(round(value))
        change = integers[-1] - integers[-2]
        frequency += 0.2 * (float(change * direction < 0) - frequency)
        average += 0.2 * (integers[-1] - average)
        direction = change or direction
        if frequency > 0.35:
            break
        assert freezing.frozen_fraction() == 0
    assert 2 < step < 11
    assert freezing.frozen_fraction() == pytest.approx(1 / 3)
    assert weight[0, 0].item() == round(average)
    saved = freezing.state_dict()
    with torch.no_grad():
        weight[0, 0] = -2.0
    sim.model[0].param_quantizers["weight"].set_range(-4.0, 2.0)
    freezing.step()
    assert weight[0, 0].item() == 2 * round(average)  # the integer stays, the scale may not
    other = IterativeFreezing(sim, threshold=0.35, momentum=0.2)
    other.load_state_dict(saved)
    with torch.no_grad():
        weight[0, 0] = -2.0
    other.step()
    assert weight[0, 0].item() == 2 * round(average)
    assert other.oscillating_fraction() == 0
    with pytest.raises(ValueError, match="none of this model's weights"):
        other.load_state_dict({"other.frequency": torch.zeros(3)})
    with pytest.raises(ValueError, match="`threshold` must be between 0 and 1, got 2"):
        IterativeFreezing(sim, threshold=2)


def test_freezing_stops_an_oscillation_of_training():
    def jumps(freeze):
        sim = layer_of_two_bits([0.5])
        weight = sim.model[0].weight
        freezing = IterativeFreezing(sim, threshold=0.2, momentum=0.1)
        optimizer = torch.optim.SGD([weight], lr=0.06)
        seen = []
        for _ in range(80):
            optimizer.zero_grad()
            quantized = sim.model[0].param_quantizers["weight"](weight).as_subclass(torch.Tensor)
            (quantized - 0.45).square().sum().backward()
            optimizer.step()
            if freeze:
                freezing.step()
            seen.append(weight.detach().round().item())
        return sum(a != b for a, b in itertools.pairwise(seen[40:]))

    assert jumps(freeze=False) > 5
    assert jumps(freeze=True) == 0


# -- distillation ------------------------------------------------------------------------------


def test_distillation_loss():
    sim, x, teacher = simulation()
    labels = torch.randint(3, (8,))
    teacher.train()
    criterion = DistillationLoss(teacher, weight=0.3, temperature=2.0)
    assert list(criterion.parameters()) == []
    output = sim.model(x)
    loss = criterion(output, x, labels)
    loss.backward()
    assert teacher.training
    assert all(p.grad is None for p in teacher.parameters())
    teacher.eval()
    student, target = (output.detach() / 2).softmax(1), (teacher(x).detach() / 2).softmax(1)
    divergence = (target * (target.log() - student.log())).sum(1).mean()
    want = 0.7 * F.cross_entropy(output, labels) + 0.3 * 4 * divergence
    torch.testing.assert_close(loss, want)
    torch.testing.assert_close(criterion(output, (x,)), 4 * divergence)
    mse = DistillationLoss(teacher, kind="mse")
    torch.testing.assert_close(mse(output, x), (output - teacher(x)).square().mean())
    for kwargs, message in (
        ({"weight": 2}, "`weight` must be from 0 to 1"),
        ({"temperature": 0}, "`temperature` must be positive"),
        ({"kind": "l1"}, "`kind` must be"),
    ):
        with pytest.raises(ValueError, match=message):
            DistillationLoss(teacher, **kwargs)


# -- anomalies ---------------------------------------------------------------------------------


class Root(nn.Module):
    def forward(self, x):
        return x.sqrt()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.root, self.last = nn.Linear(4, 4), Root(), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.root(self.first(x).abs() * 0 + (x if self.training else x.abs())))


def test_anomaly_in_forward_names_the_layer():
    model = Net()
    message = r"NaN first appeared in the output of `root` \("
    with pytest.raises(FloatingPointError, match=message), detect_anomaly(model):
        model(torch.randn(3, 4))
    model(torch.randn(3, 4))  # outside nothing is checked
    assert not any(m._forward_hooks for m in model.modules())
    sim, x, _ = simulation()
    with torch.no_grad():
        sim.model[5].weight[0, 0] = math.nan
    message = r"output of `5` \(QuantizedLinear\), whose inputs are finite; .* weight"
    with pytest.raises(FloatingPointError, match=message), detect_anomaly(sim):
        sim.model(x)


def test_anomaly_in_backward_names_the_layer():
    model = Net()
    x = torch.zeros(3, 4)
    message = r"gradient of the input of `root`"
    with pytest.raises(FloatingPointError, match=message), detect_anomaly(model):
        model(x).sum().backward()
    sim, x, _ = simulation()
    with pytest.raises(FloatingPointError, match="the loss made it"), detect_anomaly(sim):
        (sim.model(x).sum() * math.inf).backward()
    with detect_anomaly(sim):
        sim.model(x).sum().backward()
