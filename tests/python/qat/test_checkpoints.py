"""Checkpoints of training: whole, refused as a whole, resumed to the bit."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

from aimet_torch.qat import learn_ranges, parameter_groups
from aimet_torch.quantization.float import (
    FloatQuantizeDequantize,
    MXQuantizeDequantize,
    NVFP4QuantizeDequantize,
)
from aimet_torch.quantsim import QuantizationSimModel


def simulation(bits=8, out=3, method=None, seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3),
        nn.Flatten(), nn.Linear(64, out),
    )  # fmt: skip
    torch.manual_seed(0)
    x = torch.randn(8, 1, 6, 6)
    sim = QuantizationSimModel(model.eval(), x[:1], default_param_bw=bits)
    sim.compute_encodings([x])
    if method is not None:
        learn_ranges(sim, method)
    return sim, x


def through_a_file(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("method", [None, "lsq", "lsq+", "tqt", "pact"])
def test_everything_is_in_the_state(method):
    sim, x = simulation(method=method)
    frozen = sim.model[5].param_quantizers["weight"]
    frozen.freeze()
    sim.model[2].output_quantizers[0].allow_overwrite(min=False)
    other, _ = simulation(method=method, seed=1)
    other.model.load_state_dict(through_a_file(sim.model.state_dict()), strict=True)
    assert torch.equal(other.model(x), sim.model(x))
    loaded = other.model[5].param_quantizers["weight"]
    assert not loaded.is_overwrite_allowed()
    assert not any(p.requires_grad for p in loaded.parameters())
    ends = other.model[2].output_quantizers[0]
    assert (ends.is_overwrite_allowed("min"), ends.is_overwrite_allowed("max")) == (False, True)
    assert same(other.model.state_dict(), sim.model.state_dict())


def test_safetensors():
    safetensors = pytest.importorskip("safetensors.torch")
    sim, x = simulation(method="lsq")
    other, _ = simulation(method="lsq", seed=1)
    other.model.load_state_dict(safetensors.load(safetensors.save(sim.model.state_dict())))
    assert torch.equal(other.model(x), sim.model(x))


CASES = {
    "bits": (
        {"bits": 4},
        r"0.param_quantizers.weight: has bits 8, the model 4",
        r"5.param_quantizers.weight: has integers \(-128, 127\), the model \(-8, 7\)",
    ),
    "architecture": (
        {"out": 5},
        r"5.weight: has the shape \(3, 64\), the model \(5, 64\)",
        r"5.bias: has the shape \(3,\), the model \(5,\)",
    ),
    "method": (
        {"method": "lsq"},
        r"2.output_quantizers.0: has the method min_max, the model lsq",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_misfit_is_refused_and_changes_nothing(case):
    kwargs, *messages = CASES[case]
    state = simulation()[0].model.state_dict()
    sim, x = simulation(seed=1, **kwargs)
    before, output = copy.deepcopy(sim.model.state_dict()), sim.model(x)
    for message in messages:
        with pytest.raises(RuntimeError, match=message):
            sim.model.load_state_dict(state)
    assert same(before, sim.model.state_dict())
    assert torch.equal(sim.model(x), output)


def test_every_other_misfit_is_named_too():
    sim, _ = simulation()
    state = sim.model.state_dict()
    del state["1.running_mean"]
    state["extra.weight"] = torch.zeros(2)
    state["0.param_quantizers.weight._extra_state"] = torch.full((8,), 7)
    sim.model[5].output_quantizers[0].symmetric = True
    removed = [k for k in state if k.startswith("2.output_quantizers.0.")]
    for key in removed:
        del state[key]
    with pytest.raises(RuntimeError) as error:
        sim.model.load_state_dict(state)
    text = str(error.value)
    for line in (
        "5 differences",
        "1.running_mean: only the model has it",
        "extra.weight: only the checkpoint has it",
        "0.param_quantizers.weight: is of version 7, which is not known",
        "5.output_quantizers.0: has symmetric = False, the model True",
        "2.output_quantizers.0: the model has this quantizer, the checkpoint has not",
    ):
        assert line in text


def test_without_strict_the_grid_is_taken_over():
    sim, x = simulation(bits=4)
    other, _ = simulation(bits=8, seed=1)
    result = other.model.load_state_dict(sim.quantizer_state_dict(), strict=False)
    assert "0.weight" in result.missing_keys
    assert other.model[0].param_quantizers["weight"].bitwidth == 4
    other.model.load_state_dict(sim.model.state_dict())
    assert torch.equal(other.model(x), sim.model(x))


def test_checkpoints_without_extra_state_load():
    sim, x = simulation()
    state = {k: v for k, v in sim.model.state_dict().items() if not k.endswith("_extra_state")}
    other, _ = simulation(seed=1)
    other.model.load_state_dict(state, strict=True)
    assert torch.equal(other.model(x), sim.model(x))


def train(sim, optimizer, x, steps):
    sim.model.train()
    target = torch.arange(8) % 3
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(sim.model(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("stop", [1, 4])
@pytest.mark.parametrize("method", ["min_max", "lsq+", "tqt"])
def test_resuming_gives_the_same_losses_to_the_bit(method, stop):
    def start(seed):
        sim, x = simulation(bits=4, method=method, seed=seed)
        groups = parameter_groups(sim, 0.05, 1e-4, activation_range_lr=1e-3)
        if method == "tqt":
            return sim, torch.optim.AdamW(groups, lr=0.01), x
        return sim, torch.optim.SGD(groups, momentum=0.9), x

    sim, optimizer, x = start(0)
    torch.manual_seed(3)
    want = train(sim, optimizer, x, 7)
    sim, optimizer, x = start(0)
    torch.manual_seed(3)
    got = train(sim, optimizer, x, stop)
    state = through_a_file([sim.model.state_dict(), optimizer.state_dict(), torch.get_rng_state()])
    other, optimizer, x = start(1)
    other.model.load_state_dict(state[0])
    optimizer.load_state_dict(state[1])
    torch.set_rng_state(state[2])
    got += train(other, optimizer, x, 7 - stop)
    assert got == want
    assert want[-1] != want[0]


FLOATS = {
    "bfloat16": lambda: FloatQuantizeDequantize(dtype=torch.bfloat16),
    "float8": lambda: FloatQuantizeDequantize(4, 3, finite=True),
    "mx": lambda: MXQuantizeDequantize("float4e2m1", axis=1, block_size=16),
    "nvfp4": lambda: NVFP4QuantizeDequantize(axis=1),
}


def simulation_in_floats(kind, seed=0):
    sim, x = simulation(seed=seed)
    for module in (sim.model[0], sim.model[5]):
        module.param_quantizers["weight"] = FLOATS[kind]()
        module.compute_param_encodings()
    return sim, x


@pytest.mark.parametrize("kind", FLOATS)
def test_floating_point_formats(kind):
    sim, x = simulation_in_floats(kind)
    other, _ = simulation_in_floats(kind, seed=1)
    quantizer = sim.model[5].param_quantizers["weight"]
    if quantizer._range_names:
        quantizer.freeze()
    other.model.load_state_dict(through_a_file(sim.model.state_dict()), strict=True)
    assert torch.equal(other.model(x), sim.model(x))
    assert same(other.model.state_dict(), sim.model.state_dict())
    loaded = other.model[5].param_quantizers["weight"]
    assert loaded.is_overwrite_allowed() == quantizer.is_overwrite_allowed()
    before = {k: v for k, v in sim.model.state_dict().items() if not k.endswith("_extra_state")}
    other.model.load_state_dict(before)  # of AIMET
    assert torch.equal(other.model(x), sim.model(x))


@pytest.mark.parametrize(
    ("mine", "theirs", "message"),
    [
        ("float8", "e5m2", "0.param_quantizers.weight: has exponent bits 5, the model 4"),
        ("bfloat16", "float16", "0.param_quantizers.weight: has exponent bits 5, the model 8"),
        ("mx", "mx8", "0.param_quantizers.weight: has block size 32, the model 16"),
        ("mx", "integers", "0.param_quantizers.weight: belongs to a quantizer of another kind"),
        ("integers", "mx", "0.param_quantizers.weight: belongs to a quantizer of another kind"),
    ],
)
def test_other_floating_point_formats_are_refused(mine, theirs, message):
    def build(kind):
        if kind == "integers":
            return simulation()[0]
        quantizer = {
            "e5m2": lambda: FloatQuantizeDequantize(5, 2),
            "float16": lambda: FloatQuantizeDequantize(dtype=torch.float16),
            "mx8": lambda: MXQuantizeDequantize("float4e2m1", axis=1),
        }.get(kind, FLOATS.get(kind))
        sim, _ = simulation()
        sim.model[0].param_quantizers["weight"] = quantizer()
        sim.model[0].compute_param_encodings()
        return sim

    sim = build(mine)
    before = copy.deepcopy(sim.model.state_dict())
    with pytest.raises(RuntimeError, match=message):
        sim.model.load_state_dict(build(theirs).model.state_dict())
    assert same(before, sim.model.state_dict())


@pytest.mark.parametrize("kind", ["float8", "mx"])
def test_a_quantizer_by_itself_takes_over_the_format(kind):
    x = torch.randn(4, 32)
    quantizer = FLOATS[kind]()
    with quantizer.compute_encodings():
        quantizer(x)
    other = FloatQuantizeDequantize(3, 2) if kind == "float8" else MXQuantizeDequantize("int8")
    other.load_state_dict(quantizer.state_dict())
    assert torch.equal(other(x), quantizer(x))
