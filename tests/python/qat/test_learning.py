"""Learned ranges: every method's formulas in float64, what stays the same, what cannot happen."""

from __future__ import annotations

import copy
import io
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from aimet_torch import ops
from aimet_torch.qat import learn_ranges, parameter_groups
from aimet_torch.quantization.affine import GroupedBlockQuantizeDequantize, QuantizeDequantize
from aimet_torch.quantization.affine.ranges import (
    LsqPlusRange,
    LsqRange,
    MinMaxRange,
    PactRange,
    TqtRange,
)
from aimet_torch.quantsim import QuantizationSimModel

METHODS = {
    "min_max": MinMaxRange,
    "lsq": LsqRange,
    "lsq+": LsqPlusRange,
    "tqt": TqtRange,
    "pact": PactRange,
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def quantizer(bits=4, symmetric=False, shape=(), low=-1.0, high=2.0, method=None):
    result = QuantizeDequantize(shape, bitwidth=bits, symmetric=symmetric).double()
    result.set_range(low, high)
    if method is not None:
        result.set_parametrization(method)
    return result


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    )


def simulation(bits=4):
    x = torch.randn(16, 1, 8, 8)
    sim = QuantizationSimModel(
        network().eval(), x[:1], default_param_bw=bits, default_output_bw=bits
    )
    sim.compute_encodings([x])
    return sim, x


# -- formulas, restated here in float64 --------------------------------------------------------


def lsq_terms(x, scale, offset, qmin, qmax):
    """(is in range, dx^/ds) of LSQ, eq. 3, with an offset."""
    code = torch.round(x / scale) - offset
    inside = (code >= qmin) & (code <= qmax)
    level = code.clamp(qmin, qmax)
    return inside, level, torch.where(inside, torch.round(x / scale) - x / scale, level + offset)


@pytest.mark.parametrize("has_batch", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
def test_lsq_gradient(symmetric, has_batch):
    q = quantizer(symmetric=symmetric, method=LsqRange(has_batch=has_batch))
    scale, offset = q.get_scale().detach(), q.get_offset()
    x = (4 * torch.randn(6, 50, dtype=torch.float64)).requires_grad_()
    g = torch.randn_like(x)
    q.simulate(x).backward(g)
    inside, _, slope = lsq_terms(x.detach(), scale, offset, q.qmin, q.qmax)
    elements = 50 if has_batch else 300
    want = (g * slope).sum() / math.sqrt(elements * q.qmax)
    torch.testing.assert_close(q.scale.grad, want)
    torch.testing.assert_close(x.grad, torch.where(inside, g, 0.0))


def test_lsq_gradient_of_channels():
    q = quantizer(symmetric=True, shape=(3, 1), method=LsqRange(has_batch=False))
    x, g = torch.randn(2, 3, 20, dtype=torch.float64)
    q.simulate(x).backward(g)
    _, _, slope = lsq_terms(x, q.get_scale().detach(), 0.0, q.qmin, q.qmax)
    want = (g * slope).sum(1, keepdim=True) / math.sqrt(20 * 7)
    torch.testing.assert_close(q.scale.grad, want)


def test_lsq_plus_gradient():
    q = quantizer(method=LsqPlusRange(gradient_scale=False))
    scale, offset, beta = q.get_scale().detach(), q.get_offset().detach(), q.beta.detach().clone()
    torch.testing.assert_close(beta, offset * scale)
    x = 4 * torch.randn(400, dtype=torch.float64)
    g = torch.randn_like(x)
    q.simulate(x).backward(g)
    inside, level, slope = lsq_terms(x, scale, offset, q.qmin, q.qmax)
    # Paper, eq. 4 and 5: x^ = level s + beta.
    want = torch.where(inside, level - (x - beta) / scale, level)
    torch.testing.assert_close(q.scale.grad, (g * want).sum())
    torch.testing.assert_close(q.beta.grad, g[~inside].sum())
    assert (~inside).sum() > 50
    assert slope.shape == want.shape


@pytest.mark.parametrize("symmetric", [True, False])
def test_tqt_gradient_and_powers_of_two(symmetric):
    q = quantizer(symmetric=symmetric, method=TqtRange())
    scale, offset = q.get_scale().detach(), q.get_offset()
    bits = 3 if symmetric else 4
    threshold = q.log2_threshold.detach()
    assert scale == 2 ** math.ceil(threshold) / 2**bits
    assert math.frexp(scale.item())[0] == 0.5
    x = 4 * torch.randn(300, dtype=torch.float64)
    g = torch.randn_like(x)
    q.simulate(x).backward(g)
    _, _, slope = lsq_terms(x, scale, offset, q.qmin, q.qmax)
    torch.testing.assert_close(q.log2_threshold.grad, (g * slope).sum() * scale * math.log(2))


def test_pact_gradient():
    q = quantizer(low=0.0, high=1.5, method=PactRange())
    assert q.alpha.item() == pytest.approx(1.5)
    x = (2 * torch.randn(300, dtype=torch.float64)).requires_grad_()
    g = torch.randn_like(x)
    y = q.simulate(x)
    y.backward(g)
    torch.testing.assert_close(q.alpha.grad, g[x > 1.5].sum())
    torch.testing.assert_close(x.grad, torch.where((x >= 0) & (x <= 1.5), g, 0.0))
    clipped = x.detach().clamp(0, 1.5)
    torch.testing.assert_close(y.detach(), torch.round(clipped * 15 / 1.5) * 1.5 / 15)


def test_pact_gradient_on_a_signed_grid():
    q = quantizer(symmetric=True, low=-2.0, high=1.75, method=PactRange())
    x = 3 * torch.randn(300, dtype=torch.float64)
    g = torch.randn_like(x)
    q.simulate(x).backward(g)
    want = (g[x > 1.75] * (7 / 8)).sum() - g[x < -2].sum()
    torch.testing.assert_close(q.alpha.grad, want)


# -- what stays the same -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "symmetric"),
    [
        (m, symmetric)
        for m in METHODS
        for symmetric in (True, False)
        if (m, symmetric) != ("lsq+", True)
    ],
)
def test_every_method_gives_the_same_grid_and_output(method, symmetric):
    plain = quantizer(symmetric=symmetric, bits=6)
    if method == "tqt":
        plain.set_range(0.25 * plain.qmin, 0.25 * plain.qmax)
    other = copy.deepcopy(plain)
    other.set_parametrization(METHODS[method]())
    x = 2 * torch.randn(500, dtype=torch.float64)
    assert "min" not in dict(other.named_parameters()) or method == "min_max"
    for name in ("get_scale", "get_offset", "get_min", "get_max"):
        torch.testing.assert_close(getattr(other, name)(), getattr(plain, name)())
    torch.testing.assert_close(other.simulate(x), plain.simulate(x))
    torch.testing.assert_close(other(x).as_subclass(torch.Tensor), plain.simulate(x))
    if method != "min_max":
        torch.testing.assert_close(other.max.detach(), plain.get_max().detach())
    other.set_range(plain.min / 2, plain.max / 2)
    torch.testing.assert_close(other.get_scale(), plain.get_scale() / 2)
    with other.compute_encodings():
        other(8 * plain.get_max().detach().reshape(1) * torch.tensor([-1.0, 1.0]))
    assert other.get_scale() > 2 * plain.get_scale()


@pytest.mark.parametrize("method", METHODS)
def test_state_pickle_and_copies(method):
    source = quantizer(method=METHODS[method](), bits=5)
    buffer = io.BytesIO()
    torch.save(source.state_dict(), buffer)
    buffer.seek(0)
    target = QuantizeDequantize((), 5, False).double()
    target.set_parametrization(METHODS[method]())
    assert not target.is_initialized()
    assert target.get_scale() is None
    target.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(source)))
    for other in (target, copied):
        assert other.get_scale() == source.get_scale()
        assert other.get_offset() == source.get_offset()
    target.allow_overwrite(False)
    other = copy.deepcopy(source)
    other.set_range(-9.0, 9.0)
    target.load_state_dict(other.state_dict())
    assert target.get_scale() == source.get_scale()


@pytest.mark.parametrize("method", METHODS)
def test_bits_and_precision_keep_the_range(method):
    q = quantizer(bits=8, method=METHODS[method](), low=0.0, high=255 / 128)
    q.bitwidth = 4
    want = 15 / 4 if method == "tqt" else 255 / 128  # the next power of two
    assert q.get_max().item() == pytest.approx(want)
    q.float().half()
    assert {p.dtype for p in q.parameters()} | {b.dtype for b in q.buffers()} == {torch.float32}
    assert q.simulate(torch.randn(8).half()).dtype == torch.float16


def test_going_back_to_limits():
    q = quantizer(bits=8)
    before = q.get_scale().item()
    for method in (LsqRange(), TqtRange(power_of_two=False), PactRange(), MinMaxRange()):
        q.set_parametrization(method)
        assert q.get_scale().item() == pytest.approx(before)
    assert sorted(name for name, _ in q.named_parameters()) == ["max", "min"]
    assert not list(q.buffers())


# -- what cannot happen ------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    method=st.sampled_from(sorted(METHODS)),
    bits=st.sampled_from([1, 2, 4, 8, 16]),
    optimizer=st.sampled_from(["SGD", "Adam", "RMSprop"]),
    lr=st.sampled_from([1e-2, 1e3, 1e20, 1e30]),
    grads=st.lists(
        st.sampled_from([0.0, 1.0, -1.0, 1e30, -1e38, math.nan, math.inf, -math.inf]),
        min_size=1,
        max_size=6,
    ),
)
def test_a_scale_stays_positive_and_finite(method, bits, optimizer, lr, grads):
    q = QuantizeDequantize((), bits, False)
    q.set_range(-1.0, 2.0)
    q.set_parametrization(METHODS[method]())
    optimizer = getattr(torch.optim, optimizer)(q.parameters(), lr=lr, weight_decay=0.1)
    x = torch.linspace(-5, 5, 30)
    for g in grads:
        optimizer.zero_grad()
        q.simulate(x).backward(torch.full_like(x, g))
        optimizer.step()
        scale, offset = q.get_scale(), q.get_offset()
        assert math.isfinite(scale.item())
        assert scale.item() > 0
        assert -q.qmax <= offset.item() <= -q.qmin
        assert q.simulate(x).isfinite().all()


@pytest.mark.parametrize("method", ["lsq", "lsq+", "tqt", "pact"])
def test_a_scale_at_its_bound_comes_back(method):
    q = quantizer(bits=4, method=METHODS[method](), low=0.0, high=1.0)
    with torch.no_grad():
        for parameter in q.parameters():
            parameter.fill_(-1e6 if method != "tqt" else -60.0)
    tiny = q.get_scale().item()
    if method == "tqt":
        optimizer = torch.optim.Adam(q.parameters(), lr=2.0)
    else:
        optimizer = torch.optim.SGD(q.parameters(), lr=1e6)
    x = torch.rand(64, dtype=torch.float64)
    for _ in range(40):
        optimizer.zero_grad()
        (q.simulate(x) - 1).square().sum().backward()
        optimizer.step()
    assert q.get_scale().item() > 1e3 * tiny


def test_what_cannot_be_learned_says_why():
    with pytest.raises(NotImplementedError, match="no offset to learn"):
        quantizer(symmetric=True).set_parametrization(LsqPlusRange())
    blocks = QuantizeDequantize((4, 1), 4, True, block_size=(1, 4))
    with pytest.raises(NotImplementedError, match="'pact' here: blocks"):
        blocks.set_parametrization(PactRange())
    grouped = GroupedBlockQuantizeDequantize((4, 2), 4, True, 8, None, (1, 4), (1, -1))
    with pytest.raises(NotImplementedError, match="computes its scale from"):
        grouped.set_parametrization(LsqRange())


# -- whole models ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_learn_ranges_of_a_simulation_keeps_its_numbers_and_trains(method):
    sim, x = simulation(bits=8)
    before = sim.model(x)
    names = learn_ranges(sim, method)
    assert set(names) == {name for name, _ in sim.named_quantizers()}
    if method != "tqt":  # powers of two are other ranges
        torch.testing.assert_close(sim.model(x), before, atol=0.02, rtol=0)
    sim.model.train()
    groups = parameter_groups(sim, lr=0.02, activation_range_lr=1e-3, param_range_lr=1e-3)
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    target = torch.randint(3, (16,))
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(sim.model(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    assert all(p.grad is not None for p in sim.quantizer_parameters())


@pytest.mark.parametrize("method", [None, *METHODS])
def test_a_nan_leaves_every_range_as_it_was(method):
    """One bad batch and a step of the optimizer do not take a quantizer's range away."""
    sim, x = simulation()
    if method is not None:
        learn_ranges(sim, method)
    before = copy.deepcopy(sim.quantizer_state_dict())
    optimizer = torch.optim.SGD([p for p in sim.quantizer_parameters() if p.requires_grad], lr=0.1)
    x = x.clone()
    x[0, 0, 0, 0] = torch.nan
    sim.model(x).sum().backward()
    optimizer.step()
    for name, tensor in sim.quantizer_state_dict().items():
        assert tensor.isfinite().all(), name
    optimizer.zero_grad()
    sim.model(x.nan_to_num(0.0)).sum().backward()
    optimizer.step()
    after = sim.quantizer_state_dict()
    assert any(not torch.equal(after[name], before[name]) for name in after)


@pytest.mark.parametrize("method", METHODS)
def test_results_are_quantized_in_place_without_gradients(method, monkeypatch):
    sim, x = simulation()
    learn_ranges(sim, method)
    want = sim.model(x).detach()  # with gradients: every step by itself
    calls = []
    original = ops.quantize_dequantize_

    def counted(input, *args):
        calls.append(args[-2:])
        original(input, *args)

    monkeypatch.setattr(ops, "quantize_dequantize_", counted)
    with torch.no_grad():
        assert torch.equal(sim.model(x), want)
    assert calls == [(None, None) if method == "pact" else (0.0, None), (None, None)]


@pytest.mark.parametrize("method", ["min_max", "lsq", "lsq+", "tqt"])
def test_activation_functions_and_quantizers_train_as_one_operation(method, monkeypatch):
    sim, x = simulation()
    learn_ranges(sim, method)
    apart = copy.deepcopy(sim.model)
    apart[2].output_quantizers[0].register_forward_pre_hook(lambda *_: None)
    calls = []
    original = ops.clamp_quantize_dequantize
    monkeypatch.setattr(
        ops, "clamp_quantize_dequantize", lambda *args: calls.append(args) or original(*args)
    )
    sim.model(x).square().sum().backward()
    assert len(calls) == 1
    apart(x).square().sum().backward()
    for ours, theirs in zip(sim.model.parameters(), apart.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        assert ours.grad is None or torch.equal(ours.grad, theirs.grad)


def test_export_of_learned_ranges(tmp_path):
    sim, x = simulation(bits=8)
    want = {n: q.get_scale().detach() for n, q in sim.named_quantizers()}
    learn_ranges(sim, "lsq", "lsq+")
    sim.save_encodings_to_json(tmp_path, "encodings")
    fresh, _ = simulation(bits=8)
    fresh.model[0].param_quantizers["weight"].set_range(-9.0, 9.0)
    fresh.load_encodings(tmp_path / "encodings.json")
    for name, q in fresh.named_quantizers():
        torch.testing.assert_close(q.get_scale().detach(), want[name])
    sim.compute_encodings([x])  # calibrates learned ranges too
    for name, q in sim.named_quantizers():
        torch.testing.assert_close(q.get_scale().detach(), want[name])


def test_initialization_of_lsq():
    sim, _ = simulation(bits=4)
    learn_ranges(sim, "lsq", initialization="lsq")
    weight = sim.model[0].weight
    want = 2 * weight.abs().mean((1, 2, 3), keepdim=True) / math.sqrt(7)
    torch.testing.assert_close(
        sim.model[0].param_quantizers["weight"].scale.detach(), want.detach()
    )


def test_frozen_quantizers_stay_and_groups_leave_them_out():
    sim, _ = simulation()
    frozen = sim.model[0].param_quantizers["weight"]
    frozen.freeze()
    names = learn_ranges(sim, "lsq", "pact")
    assert "0.param_quantizers.weight" not in names
    assert sorted(n for n, _ in frozen.named_parameters()) == ["max", "min"]
    kinds = {q.parametrization.method for _, q in sim.named_quantizers() if q is not frozen}
    assert kinds == {"lsq", "pact"}
    groups = {g["name"]: g for g in parameter_groups(sim, 0.1, 1e-4, param_range_lr=0.01)}
    assert groups["parameters"]["weight_decay"] == 1e-4
    assert groups["parameter_ranges"]["lr"] == 0.01
    assert groups["activation_ranges"]["lr"] == 0.1
    assert groups["activation_ranges"]["weight_decay"] == 0.0
    grouped = [id(p) for g in groups.values() for p in g["params"]]
    trained = [p for p in sim.model.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(id(p) for p in trained)
    assert id(frozen.min) not in grouped


def test_arguments():
    with pytest.raises(ValueError, match="`method` must be one of min_max, lsq"):
        learn_ranges(network(), "LSQ")
    with pytest.raises(ValueError, match='"calibrated" or "lsq", got'):
        learn_ranges(network(), "lsq", initialization="mse")
    with pytest.raises(TypeError, match="parameter_groups: `model` must be"):
        parameter_groups(3, 0.1)


def test_compiled_training_has_no_graph_break():
    sim, x = simulation()
    learn_ranges(sim, "lsq", "lsq+")
    again = copy.deepcopy(sim.model)
    torch.compile(sim.model, backend="aot_eager", fullgraph=True)(x).square().sum().backward()
    again(x).square().sum().backward()
    for (name, p), other in zip(sim.model.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(p.grad, other.grad, msg=name)
