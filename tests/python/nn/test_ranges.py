"""Quantized modules: setting ranges, removing and folding quantizers, weights on a grid."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import aimet_torch.nn as qnn
from aimet_torch.nn import QuantizationMixin, removal
from aimet_torch.quantization.affine import QuantizeDequantize


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def quantizer(*limits, bits=8, symmetric=False, shape=()):
    result = QuantizeDequantize(shape, bits, symmetric)
    if limits:
        result.set_range(*limits)
    return result


def model_with_two_branches():
    model = nn.ModuleDict({"used": nn.Linear(4, 3), "unused": nn.Linear(4, 3)})
    for name in model:
        model[name] = QuantizationMixin.from_module(model[name])
        model[name].param_quantizers["weight"] = quantizer(symmetric=True)
        model[name].output_quantizers[0] = quantizer()
    return model


def test_calibration_passes_activations_unchanged_and_quantizes_parameters():
    model = model_with_two_branches()
    x = torch.randn(20, 4)
    with (
        pytest.warns(UserWarning, match="1 of 2 quantizers found no range") as record,
        qnn.compute_encodings(model),
    ):
        inside = model["used"](x)
    weight = model["used"].param_quantizers["weight"](model["used"].weight)
    assert torch.equal(inside, F.linear(x, weight, model["used"].bias))
    assert "unused.output_quantizers.0: no data was observed" in str(record[0].message)
    output = model["used"].output_quantizers[0]
    assert output.get_max().item() == pytest.approx(inside.max().item(), rel=0.02)


def test_quantizers_that_saw_nothing_let_tensors_pass_afterwards():
    model = model_with_two_branches()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with qnn.compute_encodings(model):
            model["used"](torch.randn(2, 4))
    x = torch.randn(3, 4)
    weight = model["unused"].param_quantizers["weight"](model["unused"].weight)
    assert torch.equal(model["unused"](x), F.linear(x, weight, model["unused"].bias))


def test_a_module_that_was_never_calibrated_says_so():
    model = model_with_two_branches()
    with pytest.raises(RuntimeError, match="no range to quantize with"):
        model["used"](torch.randn(2, 4))


def test_parameters_without_a_range_compute_it_at_the_first_forward():
    module = QuantizationMixin.from_module(nn.Linear(4, 3))
    module.param_quantizers["weight"] = quantizer(symmetric=True)
    module(torch.randn(2, 4))
    expected = quantizer(symmetric=True)
    with expected.compute_encodings():
        expected(module.weight)
    assert module.param_quantizers["weight"].get_scale() == expected.get_scale()


def test_a_shared_quantizer_sees_all_its_users():
    shared = quantizer()
    model = nn.ModuleList([QuantizationMixin.from_module(nn.ReLU()) for _ in range(2)])
    for module in model:
        module.output_quantizers[0] = shared
    with qnn.compute_encodings(model):
        model[0](torch.tensor([1.0]))
        model[1](torch.tensor([5.0]))
    assert shared.get_max().item() == pytest.approx(5.0)


def test_standalone_quantizers_are_calibrated_too():
    class WithQuantizer(nn.Module):
        def __init__(self):
            super().__init__()
            self.quantizer = quantizer()

        def forward(self, x):
            return self.quantizer(x)

    model = WithQuantizer()
    with qnn.compute_encodings(model):
        model(torch.tensor([2.0]))
    assert model.quantizer.is_initialized()


def test_an_exception_during_calibration_ends_it():
    model = model_with_two_branches()

    def fail():
        with qnn.compute_encodings(model):
            raise KeyError("from the callback")

    with pytest.raises(KeyError):
        fail()
    assert not any(m.output_quantizers[0].begin_calibration() is False for m in model.values())


def test_compute_param_encodings_respects_frozen_quantizers():
    model = model_with_two_branches()
    qnn.compute_param_encodings(model)
    frozen, free = (model[name].param_quantizers["weight"] for name in ("used", "unused"))
    frozen.allow_overwrite(False)
    before = frozen.get_scale().item(), free.get_scale().item()
    with torch.no_grad():
        for module in model.values():
            module.weight.mul_(3)
    qnn.compute_param_encodings(model)
    assert frozen.get_scale().item() == before[0]
    assert free.get_scale().item() == pytest.approx(3 * before[1])


# -- removal and folding ---------------------------------------------------------------------------


def test_removed_quantizers_come_back():
    module = QuantizationMixin.from_module(nn.Linear(4, 3))
    parts = {
        "input": quantizer(-1.0, 1.0),
        "output": quantizer(-1.0, 1.0),
        "weight": quantizer(-1.0, 1.0, symmetric=True),
    }
    module.input_quantizers[0], module.output_quantizers[0] = parts["input"], parts["output"]
    module.param_quantizers["weight"] = parts["weight"]

    def present():
        held = (module.input_quantizers[0], module.output_quantizers[0])
        return {n for n, q in parts.items() if q in (*held, module.param_quantizers["weight"])}

    with module._remove_input_quantizers():
        assert present() == {"output", "weight"}
    with module._remove_output_quantizers(0):
        assert present() == {"input", "weight"}
    with module._remove_output_quantizers([]):
        assert present() == set(parts)
    with module._remove_param_quantizers("weight"):
        assert present() == {"input", "output"}
    with module._remove_activation_quantizers():
        assert present() == {"weight"}
    with module._remove_all_quantizers():
        assert present() == set()
    assert present() == set(parts)
    module._remove_all_quantizers()
    assert present() == set()


def test_folding_replaces_parameters_and_keeps_the_encoding():
    original = nn.Linear(4, 3)
    module = QuantizationMixin.from_module(original)
    module.param_quantizers["weight"] = quantizer(bits=4, symmetric=True, shape=(3, 1))
    x = torch.randn(2, 4)
    before, raw = module(x), original.weight.clone()
    encoding = module.export_param_encodings("1.0.0")
    module.fold_param_quantizers()
    assert module.param_quantizers["weight"] is None
    assert torch.equal(module(x), before)
    assert torch.equal(original.weight, raw)
    assert module.export_param_encodings("1.0.0") == encoding
    assert module.folded_param_encodings["weight"].bitwidth == 4
    assert copy.deepcopy(module).export_param_encodings("1.0.0") == encoding


def test_exported_encodings():
    module = QuantizationMixin.from_module(nn.Linear(4, 3))
    module.input_quantizers[0] = quantizer(-1.0, 2.0)
    assert module.export_input_encodings("1.0.0")[0]["offset"] == [-85]
    assert module.export_output_encodings("0.6.1") == [None]
    assert module.export_param_encodings("0.6.1") == {"weight": None, "bias": None}


# -- weights on a grid -----------------------------------------------------------------------------

WEIGHTS = {
    "Conv2d": (nn.Conv2d(5, 6, 3), (6, 1, 1, 1), None),
    "Conv2d of few values": (nn.Conv2d(6, 6, 3, groups=6), (6, 1, 1, 1), None),
    "ConvTranspose2d": (nn.ConvTranspose2d(5, 6, 3), (1, 6, 1, 1), None),
    "Linear": (nn.Linear(40, 7), (7, 1), None),
    "Linear per tensor": (nn.Linear(40, 7), (), None),
    "Linear blockwise": (nn.Linear(40, 7), (7, 5), (1, 8)),
}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("module", "shape", "block_size"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_on_a_grid_keep_their_values(module, shape, block_size, bits):
    first = QuantizeDequantize(shape, bits, True, block_size=block_size)
    weight = torch.randn_like(module.weight)
    with first.compute_encodings():
        first(weight)
    with torch.no_grad():
        # Leave the outermost integers out, so that minimum and maximum give another grid.
        integers = first(weight).quantized_repr().float().clamp(-(2 ** (bits - 2)), 2 ** (bits - 2))
        on_grid = first.get_encodings().dequantize(integers)
    naive = QuantizeDequantize(shape, bits, True, block_size=block_size)
    with naive.compute_encodings():
        naive(on_grid)
    assert not torch.allclose(naive(on_grid), on_grid, rtol=1e-4)

    quantized = QuantizationMixin.from_module(copy.deepcopy(module))
    with torch.no_grad():
        quantized.weight.copy_(on_grid)
    again = QuantizeDequantize(shape, bits, True, block_size=block_size)
    quantized.param_quantizers["weight"] = again
    quantized.compute_param_encodings()
    # 2 ulp: the scale is recovered by one division, and rounded once more as (max - min) / steps
    torch.testing.assert_close(again(quantized.weight), on_grid, rtol=2.4e-7, atol=0)


@pytest.mark.parametrize(("bits", "step"), [(8, 1 / 64), (4, 1 / 4)])
def test_constant_weights_are_exact_and_leave_fine_steps_to_training(bits, step):
    module = QuantizationMixin.from_module(nn.LayerNorm(6))
    module.param_quantizers["weight"] = quantizer(bits=bits, symmetric=True)
    module.compute_param_encodings()
    weight = module.param_quantizers["weight"](module.weight)
    assert torch.equal(weight, torch.ones(6))
    assert module.param_quantizers["weight"].get_scale().item() == pytest.approx(step)


def test_sparse_weights_on_a_grid_keep_their_values():
    integers = torch.zeros(3, 400)
    integers[:, ::37] = torch.randint(-50, 50, (3, 11)).float()
    integers[:, 5] = torch.tensor([-128.0, 127.0, 126.0])
    module = QuantizationMixin.from_module(nn.Linear(400, 3))
    with torch.no_grad():
        module.weight.copy_(integers * torch.tensor([[0.01], [0.37], [3.0]]))
    module.param_quantizers["weight"] = quantizer(bits=8, symmetric=True, shape=(3, 1))
    module.compute_param_encodings()
    weight = module.param_quantizers["weight"](module.weight)
    torch.testing.assert_close(weight, module.weight.detach(), rtol=2.4e-7, atol=0)
    assert torch.equal(weight.quantized_repr().float(), integers)


def test_zero_weights_stay_zero():
    module = QuantizationMixin.from_module(nn.Linear(4, 3))
    with torch.no_grad():
        module.weight[1].zero_()
    for shape in ((3, 1), ()):
        module.param_quantizers["weight"] = quantizer(bits=4, symmetric=True, shape=shape)
        module.compute_param_encodings()
        assert module.param_quantizers["weight"](module.weight)[1].abs().max() == 0


def test_random_weights_are_on_no_grid():
    module = QuantizationMixin.from_module(nn.Linear(40, 7))
    module.param_quantizers["weight"] = quantizer(bits=8, symmetric=True, shape=(7, 1))
    module.compute_param_encodings()
    limits = module.weight.abs().amax(1, keepdim=True)
    ends = torch.maximum(
        module.param_quantizers["weight"].max, -module.param_quantizers["weight"].min
    )
    assert (ends >= limits * (1 - 1e-6)).all()
    assert (ends <= limits * 1.01).all()


def test_weights_without_a_finite_value_pass_unchanged():
    module = QuantizationMixin.from_module(nn.Linear(2, 2))
    with torch.no_grad():
        module.weight.fill_(float("nan"))
    module.param_quantizers["weight"] = quantizer(symmetric=True)
    with pytest.warns(UserWarning, match="QuantizedLinear.weight: all values of the 1 observed"):
        module.compute_param_encodings()
    assert module(torch.ones(1, 2)).isnan().all()


def test_removing_the_quantizers_of_a_model():
    shared = quantizer(0.0, 3.0, bits=2)
    model = nn.Sequential(*(QuantizationMixin.from_module(m) for m in (nn.Linear(2, 2), nn.ReLU())))
    model[0].param_quantizers["weight"] = quantizer(-1.0, 1.0, symmetric=True)
    model[0].input_quantizers[0] = model[1].output_quantizers[0] = shared

    def present():
        linear, relu = model
        held = (linear.input_quantizers[0], relu.output_quantizers[0])
        return [q is not None for q in (*held, linear.param_quantizers["weight"])]

    with removal.remove_input_quantizers(model):
        assert present() == [False, True, True]
    with removal.remove_output_quantizers([model[1], model]):
        assert present() == [True, False, True]
    with removal.remove_param_quantizers(model):
        assert present() == [True, True, False]
    with removal.remove_activation_quantizers(model):
        assert present() == [False, False, True]
        with removal.remove_all_quantizers(model):
            assert present() == [False, False, False]
        assert present() == [False, False, True]
    assert present() == [True, True, True]
