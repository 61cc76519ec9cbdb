"""Quantized parameters that are kept, and results that are quantized in place."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aimet_torch import ops
from aimet_torch.nn import QuantizationMixin
from aimet_torch.quantization.affine import QuantizeDequantize


class Counter:
    """Counts calls of a function of `aimet_torch.ops`, as quantizers call it."""

    def __init__(self, monkeypatch, name):
        self.calls = 0
        original = getattr(ops, name)

        def counted(*args, **kwargs):
            self.calls += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(ops, name, counted)

    def during(self, function, *args):
        before = self.calls
        function(*args)
        return self.calls - before


def linear(bitwidth=8):
    torch.manual_seed(0)
    module = QuantizationMixin.from_module(nn.Linear(6, 4))
    module.param_quantizers["weight"] = QuantizeDequantize((4, 1), bitwidth, True)
    module.compute_param_encodings()
    return module


@torch.no_grad()
def run(module, x):
    return module(x)


def fresh(module, x):
    """What the module computes when nothing was kept."""
    with torch.no_grad():
        return copy.deepcopy(module)(x)


X = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))


def test_a_parameter_is_quantized_once_outside_training(monkeypatch):
    module, counter = linear(), Counter(monkeypatch, "quantize_dequantize")
    assert counter.during(run, module, X) == 1
    assert counter.during(run, module, X) == 0
    assert counter.during(module, X) == 1  # gradients: never kept
    assert counter.during(run, module, X) == 1  # and training has let it go
    with torch.inference_mode():
        assert counter.during(module, X) == 1  # inference tensors cannot be saved for backward
        assert counter.during(module, X) == 0


def optimizer_step(module):
    module(X).sum().backward()
    torch.optim.SGD(module.parameters(), lr=0.1).step()


def write_data(module):
    module.weight.data.mul_(1.01)


def write_few_values_of_the_range(module):
    module.param_quantizers["weight"].max.data[2] *= 2


def replace_data(module):
    module.weight.data = module.weight.data * 1.5


def replace_parameter(module):
    module.weight = nn.Parameter(module.weight.detach() * 2)


def swap_quantizer(module):
    other = QuantizeDequantize((), 4, True)
    other.set_range(-1.0, 0.9)
    module.param_quantizers["weight"] = other


def load(module):
    state = {k: v.clone() * 1.25 for k, v in module.state_dict().items()}
    module.load_state_dict(state)


CHANGES = {
    "optimizer step": optimizer_step,
    "copy_": lambda m: m.weight.detach().copy_(torch.randn(4, 6)),
    "write through data": write_data,
    "write through numpy": lambda m: m.weight.detach().numpy().__imul__(1.1),
    "new data": replace_data,
    "new parameter": replace_parameter,
    "load_state_dict": load,
    "set_range": lambda m: m.param_quantizers["weight"].set_range(-0.2, 0.2),
    "range through data": write_few_values_of_the_range,
    "calibration": lambda m: (m.weight.data.mul_(3), m.compute_param_encodings()),
    "bitwidth": lambda m: setattr(m.param_quantizers["weight"], "bitwidth", 4),
    "grid": lambda m: setattr(m.param_quantizers["weight"], "qmin", -64),
    "shift": lambda m: setattr(m.param_quantizers["weight"], "zero_point_shift", 0.5),
    "quantizer off": lambda m: m._remove_param_quantizers(),
    "another quantizer": swap_quantizer,
    "fold": lambda m: (m.fold_param_quantizers(), m.weight.data.mul_(1.3)),
    "bias": lambda m: m.bias.data.add_(1.0),
    "to float64": lambda m: m.double(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_every_change_is_seen(change):
    module = linear()
    before = run(module, X)
    x = X
    change(module)
    x = X.to(module.weight.dtype)
    after = run(module, x)
    assert torch.equal(after, fresh(module, x))
    assert after.dtype != before.dtype or not torch.equal(after, before)
    assert torch.equal(run(module, x), after)


def test_a_quantizer_taken_out_and_put_back():
    module = linear(4)
    before = run(module, X)
    with module._remove_param_quantizers():
        plain = run(module, X)
    assert torch.equal(plain, F.linear(X, module.weight, module.bias))
    assert torch.equal(run(module, X), before)
    assert not torch.equal(plain, before)


def test_train_and_eval_and_frozen_layers_agree():
    module = linear(4)
    before = run(module, X)
    module.train()
    assert torch.equal(run(module, X), before)
    module.requires_grad_(False)
    assert torch.equal(module(X), before)
    module.eval()
    assert torch.equal(run(module, X), before)


def test_copies_and_files_begin_with_nothing_kept():
    module = linear()
    run(module, X)
    assert set(module.state_dict()) == set(linear().state_dict())
    twin = copy.deepcopy(module)
    assert not twin._parameter_cache._entries
    assert module._parameter_cache._entries
    twin.weight.data.zero_()
    assert torch.equal(run(twin, X), module.bias.expand(3, 4).detach())
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert not loaded._parameter_cache._entries
    assert torch.equal(run(loaded, X), run(module, X))


def test_graphs_do_not_hold_what_was_kept():
    module = linear().eval()
    want = run(module, X)
    traced = torch.jit.trace(module, X, check_trace=False)
    with torch.no_grad():
        module.weight.mul_(2)
        compiled = torch.compile(module, fullgraph=True, backend="eager")
        assert torch.equal(compiled(X), fresh(module, X))
        assert torch.equal(compiled(X), run(module, X))
        program = torch.export.export(module, (X,)).module()
        assert torch.equal(program(X), run(module, X))
        module.weight.mul_(2)
        assert torch.equal(compiled(X), run(module, X))
        assert not torch.equal(traced(X), want)  # it reads the parameter, which has changed


def test_functional_call_and_vmap():
    module = linear()
    run(module, X)
    with torch.no_grad():
        doubled = torch.func.functional_call(module, {"weight": module.weight * 2}, (X,))
        assert not torch.equal(doubled, run(module, X))
        rows = torch.vmap(module)(X)
    assert torch.allclose(rows, run(module, X))


def test_a_subclass_of_the_quantizer_is_not_taken_for_granted(monkeypatch):
    class Doubling(QuantizeDequantize):
        def simulate(self, input):
            return 2 * super().simulate(input)

    module = linear()
    module.param_quantizers["weight"] = quantizer = Doubling((), 8, True)
    module.output_quantizers[0] = output = Doubling((), 8, False)
    quantizer.set_range(-1.0, 1.0)
    output.set_range(-3.0, 3.0)
    counter = Counter(monkeypatch, "quantize_dequantize")
    assert counter.during(run, module, X) == 2
    assert counter.during(run, module, X) == 2
    with torch.enable_grad():
        assert torch.equal(run(module, X), module(X))


@pytest.mark.parametrize(
    "make",
    [lambda: nn.Linear(6, 6), nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.GELU, lambda: nn.LayerNorm(6)],
)
def test_results_are_quantized_in_place_without_gradients(make, monkeypatch):
    torch.manual_seed(4)
    module = QuantizationMixin.from_module(make())
    module.output_quantizers[0] = quantizer = QuantizeDequantize((), 8, False)
    quantizer.set_range(-0.5, 1.5)
    x = X.clone()
    counter = Counter(monkeypatch, "quantize_dequantize_by_range_")
    want = module(x).detach()
    assert counter.calls == 0
    assert torch.equal(run(module, x), want)
    assert counter.calls == 1
    assert torch.equal(x, X)


@pytest.mark.parametrize("module", [nn.Identity(), nn.Flatten(), nn.Dropout(), nn.ReLU(True)])
def test_what_may_be_the_input_is_never_overwritten(module, monkeypatch):
    quantized = QuantizationMixin.from_module(module.eval())
    quantized.output_quantizers[0] = quantizer = QuantizeDequantize((), 2, False)
    quantizer.set_range(-0.5, 1.5)
    x = X.clone()
    counter = Counter(monkeypatch, "quantize_dequantize_by_range_")
    run(quantized, x)
    assert counter.calls == 0
    assert torch.equal(x, X.relu() if isinstance(module, nn.ReLU) else X)
