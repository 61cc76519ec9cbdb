"""Recurrent and attention layers in training: gradients, falling loss, export afterwards."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from aimet_torch.export import onnx_qdq
from aimet_torch.qat import learn_ranges, parameter_groups
from aimet_torch.quantization.affine import QuantizeDequantize
from aimet_torch.quantsim import QuantizationSimModel
from tests.python.export.agreement import run

WIDTH, LENGTH, CLASSES = 6, 5, 3


class Recurrent(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.rnn = layer
        hidden = layer.proj_size or layer.hidden_size
        self.head = nn.Linear(hidden * (2 if layer.bidirectional else 1), CLASSES)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


class LastState(nn.Module):
    """Uses what a recurrent layer returns beside its sequence."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, 4, batch_first=True)
        self.gru = nn.GRU(4, 4, batch_first=True)
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x):
        y, (hidden, cell) = self.lstm(x)
        y, _ = self.gru(y, hidden + cell)
        return self.head(y)


class SelfAttention(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True, **options)
        self.norm = nn.LayerNorm(WIDTH)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)  # ones lie on the grid, without a gradient
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        return self.head(self.norm(x + self.attention(x, x, x, need_weights=False)[0]))


class CrossAttention(nn.Module):
    """Other widths for keys and values, so that each has a weight of its own."""

    def __init__(self):
        super().__init__()
        self.memory = nn.Linear(WIDTH, 4)
        self.attention = nn.MultiheadAttention(WIDTH, 3, kdim=4, vdim=4, batch_first=True)
        self.head = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        memory = self.memory(x)
        return self.head(self.attention(x, memory, memory)[0])


class Functional(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.head = nn.Linear(WIDTH, CLASSES)
        self.options = options

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.head(F.scaled_dot_product_attention(q, k, v, **self.options))


RECURRENT = {
    "lstm": lambda: nn.LSTM(WIDTH, 4, batch_first=True),
    "lstm, 2 layers, both ways": lambda: nn.LSTM(WIDTH, 3, 2, batch_first=True, bidirectional=True),
    "lstm, projected": lambda: nn.LSTM(WIDTH, 5, proj_size=3, batch_first=True),
    "gru": lambda: nn.GRU(WIDTH, 4, batch_first=True),
    "gru, 2 layers, both ways": lambda: nn.GRU(WIDTH, 3, 2, batch_first=True, bidirectional=True),
    "rnn": lambda: nn.RNN(WIDTH, 4, batch_first=True),
    "rnn, relu, 2 layers, both ways": lambda: nn.RNN(
        WIDTH, 3, 2, nonlinearity="relu", batch_first=True, bidirectional=True
    ),
}
NETWORKS = {
    **{name: (lambda make=make: Recurrent(make())) for name, make in RECURRENT.items()},
    "states": LastState,
    "self-attention": SelfAttention,
    "self-attention without biases": lambda: SelfAttention(bias=False),
    "cross-attention": CrossAttention,
    "functional attention": Functional,
    "functional attention, causal": lambda: Functional(is_causal=True),
}


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(16, LENGTH, WIDTH, generator=generator), torch.randint(
        CLASSES, (16, LENGTH), generator=generator
    )


def simulation(name, bits=8, method=None, dtype=torch.float32):
    torch.manual_seed(0)
    model = NETWORKS[name]().to(dtype)
    x = data()[0].to(dtype)
    sim = QuantizationSimModel(model, x[:1], default_param_bw=bits, default_output_bw=bits)
    sim.compute_encodings([x])
    sim.model.to(dtype)  # ranges too
    if method is not None:
        learn_ranges(sim, method)
    return sim, model


def loss_of(model, dtype=torch.float32):
    x, labels = data()
    return F.cross_entropy(model(x.to(dtype)).flatten(0, 1), labels.flatten())


# -- gradients against formulas written with autograd's own operations, in float64 -------------


def rounded(x):
    """Rounding with derivative 1."""
    return x + (torch.round(x) - x).detach()


def formula(quantizer, x):
    """docs/numerics.md: the encoding of a range, then quantize-dequantize."""
    low, high, qmin, qmax = quantizer.min, quantizer.max, quantizer.qmin, quantizer.qmax
    scale = (high - low) / (qmax - qmin)
    offset = torch.zeros_like(scale)
    if not quantizer.symmetric:
        offset = (rounded(low / scale) - qmin).clamp(-qmax, -qmin)
    return ((rounded(x / scale) - offset).clamp(qmin, qmax) + offset) * scale


def assert_same_gradients(model, reference):
    wanted = dict(reference.named_parameters())
    for name, parameter in model.named_parameters():
        want = wanted[name].grad
        if want is None:
            assert parameter.grad is None, name
        else:
            torch.testing.assert_close(parameter.grad, want, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("name", RECURRENT)
def test_gradients_of_recurrent_layers(name):
    """The whole network restated: quantized weights into PyTorch's own layer."""
    sim, model = simulation(name, bits=4, dtype=torch.float64)
    sim.model.head.bias_grids = None
    reference = copy.deepcopy(sim.model)
    rnn, head = reference.rnn, reference.head

    def quantized(quantizer, x):
        return x if quantizer is None else formula(quantizer, x)

    def forward(x):
        weights = {
            key: quantized(quantizer, getattr(rnn, key))
            for key, quantizer in rnn.param_quantizers.items()
        }
        assert sum(q is not None for q in rnn.param_quantizers.values()) >= len(weights) // 2
        y = functional_call(model.rnn, weights, (quantized(rnn.input_quantizers[0], x),))[0]
        y = quantized(rnn.output_quantizers[0], y)
        weight = formula(head.param_quantizers["weight"], head.weight)
        return formula(head.output_quantizers[0], F.linear(y, weight, head.bias))

    x = data()[0].double()
    torch.testing.assert_close(sim.model(x), forward(x), rtol=1e-12, atol=1e-12)
    loss_of(sim.model, torch.float64).backward()
    loss_of(forward, torch.float64).backward()
    assert_same_gradients(sim.model, reference)


class Formula(QuantizeDequantize):
    def simulate(self, input):
        return formula(self, input)


@pytest.mark.parametrize("name", sorted(set(NETWORKS) - set(RECURRENT)))
def test_gradients_of_attention(name):
    """The same simulation with every quantizer's operator replaced by its formula."""
    sim, _ = simulation(name, bits=4, dtype=torch.float64)
    reference = copy.deepcopy(sim.model)
    count = 0
    for module in reference.modules():
        if type(module) is QuantizeDequantize:
            module.__class__ = Formula
            count += 1
    assert count > 5
    torch.testing.assert_close(
        loss_of(sim.model, torch.float64), loss_of(reference, torch.float64), rtol=1e-12, atol=0
    )
    loss_of(sim.model, torch.float64).backward()
    loss_of(reference, torch.float64).backward()
    assert_same_gradients(sim.model, reference)


# -- training and export -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_it_trains_and_is_exported(name, tmp_path):
    sim, _ = simulation(name, method="lsq")
    groups = parameter_groups(sim, 0.02, param_range_lr=1e-5, activation_range_lr=1e-4)
    optimizer = torch.optim.Adam(groups)
    losses = []
    for step in range(25):
        optimizer.zero_grad()
        loss = loss_of(sim.model)
        loss.backward()
        if step == 0:
            for key, parameter in sim.model.named_parameters():
                assert parameter.grad is not None, key
                assert parameter.grad.isfinite().all(), key
                # A bias before a softmax over its keys changes nothing.
                assert parameter.grad.any() or "bias" in key, key
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    if name in EXPORTED:
        assert_runs_elsewhere(sim.model.eval(), sim, tmp_path / "net.onnx")


# One of a kind: most of the time of this file goes into torch.onnx.
EXPORTED = {
    "lstm, 2 layers, both ways",
    "gru, 2 layers, both ways",
    "rnn, relu, 2 layers, both ways",
    "cross-attention",
    "functional attention, causal",
}


def assert_runs_elsewhere(model, sim, path):
    x = data()[0][:2]
    onnx_qdq.export(sim, (x,), path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    with torch.no_grad():
        expected = model(x).numpy()
    step = float(model.head.output_quantizers[0].get_scale().detach())
    difference = np.abs(run(path, x)[0] - expected)
    # exp, tanh and sums of another library: now and then the other side of a boundary.
    assert difference.max() <= 2.01 * step
    assert (difference < 0.5 * step).mean() > 0.9


def test_projections_have_no_onnx_form(tmp_path):
    sim, _ = simulation("lstm, projected")
    with pytest.raises(NotImplementedError, match=r"no projection, and \['rnn'\] of the model"):
        onnx_qdq.export(sim, (data()[0],), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


# -- placement ---------------------------------------------------------------------------------


def test_states_that_nobody_reads_have_no_quantizer():
    sim, _ = simulation("lstm")
    assert [q is not None for q in sim.model.rnn.output_quantizers] == [True, False, False]
    sim, _ = simulation("states")
    assert all(q is not None for q in sim.model.lstm.output_quantizers)
    assert [q is not None for q in sim.model.gru.output_quantizers] == [True, False]


def test_biases_of_recurrent_layers_follow_the_rule_for_biases():
    sim, _ = simulation("gru, 2 layers, both ways", bits=4)
    for name, quantizer in sim.model.rnn.param_quantizers.items():
        assert (quantizer is None) == name.startswith("bias"), name


def test_packed_weights_of_attention_are_weights_where_keys_differ_from_queries():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True)

        def forward(self, x, memory):
            return self.attention(x, memory, memory)[0]

    inputs = torch.randn(2, LENGTH, WIDTH), torch.randn(2, 3, WIDTH)
    sim = QuantizationSimModel(Packed(), inputs, default_param_bw=4)
    sim.compute_encodings([inputs])
    found = {name: q for name, q in sim.named_quantizers() if "split" in name}
    ((_, quantizer),) = found.items()  # none for the biases
    assert (quantizer.bitwidth, quantizer.symmetric) == (4, True)
    assert quantizer.shape == (3 * WIDTH, 1)
