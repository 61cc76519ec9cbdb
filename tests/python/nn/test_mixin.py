"""Quantized modules: making them, running them, taking them apart again."""

from __future__ import annotations

import copy
import pickle
import threading
import typing

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aimet_torch.nn import QuantizationMixin
from aimet_torch.nn.kernels import kernel_of
from aimet_torch.nn.modules import custom
from aimet_torch.quantization import DequantizedTensor
from aimet_torch.quantization.affine import QuantizeDequantize


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def quantizer(*limits, bits=8, symmetric=False, shape=()):
    result = QuantizeDequantize(shape, bits, symmetric)
    if limits:
        result.set_range(*limits)
    return result


class Pair(typing.NamedTuple):
    first: torch.Tensor
    second: torch.Tensor


class Nested(nn.Module):
    """Takes and returns tensors in containers, counts its calls, has a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([0.3, 1.0]))
        self.calls = 0

    def forward(self, x, others, *, flag=True, extra=None):
        self.calls += 1
        first, second = others["a"], others["b"][0]
        result = {"sum": x * self.gain, "pair": Pair(first + 1, second), "list": [x.long(), None]}
        return (result, extra) if flag else result


# -- from_module, wrap, implements, ignore ---------------------------------------------------------


def test_from_module_shares_everything_and_changes_nothing():
    module = nn.BatchNorm2d(3)
    module.register_forward_hook(lambda *_: None)
    before = dict(module.__dict__)
    quantized = QuantizationMixin.from_module(module)
    assert type(module) is nn.BatchNorm2d
    assert module.__dict__.keys() == before.keys()
    assert list(module._modules) == []
    assert quantized.weight is module.weight
    assert quantized.running_mean is module.running_mean
    assert isinstance(quantized, nn.BatchNorm2d)
    assert len(quantized._forward_hooks) == 1
    assert QuantizationMixin.from_module(quantized) is quantized


def test_original_module_comes_back():
    module = nn.Linear(3, 2)
    quantized = QuantizationMixin.from_module(module)
    quantized.param_quantizers["weight"] = quantizer(-1.0, 1.0, symmetric=True)
    original = quantized.get_original_module()
    assert type(original) is nn.Linear
    assert original.weight is module.weight
    assert original.__dict__.keys() == module.__dict__.keys()
    assert list(original._modules) == []
    assert quantized.param_quantizers["weight"] is not None


def test_any_class_gets_a_quantized_class_made_on_the_fly():
    quantized = QuantizationMixin.from_module(Nested())
    assert type(quantized).__name__ == "QuantizedNested"
    assert type(quantized) is QuantizationMixin.wrap(Nested)
    assert isinstance(quantized, Nested)
    assert quantized.inputs_per_call == 2
    assert list(quantized.param_quantizers) == ["gain"]


def test_made_classes_pickle_and_copy():
    module = QuantizationMixin.from_module(Nested())
    module.param_quantizers["gain"] = quantizer(-1.0, 1.0, bits=2, symmetric=True)
    x = torch.randn(3, 2)
    others = {"a": x, "b": [x]}
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(again) is type(module)
        assert torch.equal(again(x, others)[0]["sum"], module(x, others)[0]["sum"])


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, 0.7]))

    def forward(self, x):
        return x * self.weight


def test_class_of_ones_own_as_in_aimet():
    class Doubled(Scaled):
        pass

    @QuantizationMixin.implements(Doubled)
    class QuantizedDoubled(QuantizationMixin, Doubled):
        def __quant_init__(self):
            super().__quant_init__()
            self.input_quantizers = nn.ModuleList([None])
            self.output_quantizers = nn.ModuleList([None])

        def forward(self, x):
            if self.input_quantizers[0]:
                x = self.input_quantizers[0](x)
            with self._patch_quantized_parameters():
                result = super().forward(x)
            if self.output_quantizers[0]:
                result = self.output_quantizers[0](result)
            return result

    module = QuantizationMixin.from_module(Doubled())
    assert type(module) is QuantizedDoubled
    assert not module.accepts_call_site
    module.param_quantizers["weight"] = quantizer(-0.8, 0.7, bits=4, symmetric=True)
    module.input_quantizers[0] = quantizer(0.0, 2.0, bits=2)
    module.output_quantizers[0] = quantizer(0.0, 15.0, bits=4)
    output = module(torch.tensor([0.9, 5.0]))
    assert isinstance(output, DequantizedTensor)
    # inputs 0.667 and 2.0, weights 0.3 and 0.7, outputs rounded to integers
    assert output.tolist() == [0.0, 1.0]
    assert module.weight.tolist() == pytest.approx([0.3, 0.7])


def test_class_of_ones_own_without_a_forward():
    class Tripled(Scaled):
        pass

    @QuantizationMixin.implements(Tripled)
    class QuantizedTripled(QuantizationMixin, Tripled):
        pass

    module = QuantizationMixin.from_module(Tripled())
    assert type(module) is QuantizedTripled
    assert module.accepts_call_site
    module.output_quantizers[0] = quantizer(0.0, 15.0, bits=4)
    assert module(torch.tensor([3.0, 3.0])).tolist() == [1.0, 2.0]


def test_ignored_classes_stay_as_they_are():
    class Ignored(nn.Module):
        pass

    assert QuantizationMixin.ignore(Ignored) is Ignored
    module = Ignored()
    assert QuantizationMixin.is_ignored(Ignored)
    assert QuantizationMixin.from_module(module) is module
    QuantizationMixin.implements(Ignored)(QuantizationMixin.wrap(Ignored))
    assert QuantizationMixin.from_module(module) is not module


def test_unknown_classes_can_be_ignored():
    known, unknown, operator = nn.ReLU(), Scaled(), custom.Add()
    try:
        QuantizationMixin.ignore_unknown_modules()
        assert QuantizationMixin.from_module(known) is not known
        assert QuantizationMixin.from_module(operator) is not operator
        assert QuantizationMixin.from_module(unknown) is unknown
    finally:
        QuantizationMixin.ignore_unknown_modules(False)
    assert QuantizationMixin.from_module(unknown) is not unknown


def test_wrapping_a_quantized_class_gives_the_same_class():
    quantized = QuantizationMixin.wrap(nn.Linear)
    assert QuantizationMixin.wrap(quantized) is quantized


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: QuantizationMixin.from_module(nn.Linear), "expected an nn.Module, got type"),
        (lambda: QuantizationMixin.wrap(int), "expected a class of modules"),
        (lambda: QuantizationMixin.ignore(nn.Linear(1, 1)), "expected a class of modules"),
    ],
)
def test_wrong_types(call, message):
    with pytest.raises(TypeError, match=message):
        call()


# -- forward ---------------------------------------------------------------------------------------


def test_inputs_parameters_and_outputs_are_quantized():
    module = QuantizationMixin.from_module(nn.Linear(4, 3))
    module.input_quantizers[0] = quantizer(-1.0, 1.0, bits=4)
    module.param_quantizers["weight"] = quantizer(bits=4, symmetric=True, shape=(3, 1))
    module.param_quantizers["bias"] = quantizer(bits=8, symmetric=True)
    module.output_quantizers[0] = quantizer(-2.0, 2.0)
    x = torch.randn(5, 4)
    module.compute_param_encodings()
    parts = (module.input_quantizers[0](x), *(
        module.param_quantizers[name](getattr(module, name)) for name in ("weight", "bias")
    ))  # fmt: skip
    expected = module.output_quantizers[0](F.linear(*parts))
    assert torch.equal(module(x), expected)
    assert type(module(x)) is torch.Tensor


def test_nested_inputs_and_outputs():
    module = QuantizationMixin.from_module(Nested())
    module.reserve_quantizers(inputs=4, outputs=5)
    for index in (0, 2, 3):
        module.input_quantizers[index] = quantizer(0.0, 3.0 * (index + 1), bits=2)
    for index in (1, 4):
        module.output_quantizers[index] = quantizer(0.0, 6.0, bits=2)
    x = torch.tensor([0.6, 2.2])
    result, extra = module(x, {"a": x, "b": (x,)}, extra=x)
    assert result["sum"].tolist() == pytest.approx([0.3, 2.0])  # x on the grid 0, 1, 2, 3
    assert isinstance(result["pair"], Pair)
    assert result["pair"].first.tolist() == [2.0, 4.0]  # x + 1 on the grid 0, 2, 4, 6
    assert result["pair"].second.tolist() == [0.0, 3.0]  # the third input on 0, 3, 6, 9
    assert result["list"][0].dtype == torch.int64  # counted, but never quantized
    assert result["list"][1] is None
    assert extra.tolist() == [0.0, 4.0]  # the keyword, on 0, 4, 8, 12; then on 0, 2, 4, 6
    assert module.calls == 1  # a module may change itself


def test_call_sites_have_quantizers_of_their_own():
    module = QuantizationMixin.from_module(nn.ReLU())
    module.reserve_quantizers(1, 1, call_sites=2)
    module.output_quantizers[0] = quantizer(0.0, 3.0, bits=2)
    module.output_quantizers[1] = quantizer(0.0, 6.0, bits=2)
    x = torch.tensor([0.9, 2.9, 9.0])
    assert module(x).tolist() == [1.0, 3.0, 3.0]
    assert module(x, call_site=1).tolist() == [0.0, 2.0, 6.0]
    assert module(x, call_site=2).tolist() == x.tolist()  # beyond the list: not quantized


def test_raw_parameters_stay_visible_and_get_the_gradient():
    for module in (nn.Linear(4, 3), nn.BatchNorm1d(4), Scaled()):
        quantized = QuantizationMixin.from_module(module)
        quantized.param_quantizers["weight"] = quantizer(-1.0, 1.0, bits=4, symmetric=True)
        x = torch.randn(8, 2 if isinstance(module, Scaled) else 4)
        quantized(x).square().sum().backward()
        assert quantized.weight is module.weight
        assert module.weight.grad.abs().sum() > 0
        assert "weight" not in quantized.__dict__


def test_parameters_are_raw_again_after_an_exception():
    module = QuantizationMixin.from_module(nn.InstanceNorm2d(3, affine=True))
    module.param_quantizers["weight"] = quantizer(-1.0, 1.0, symmetric=True)
    with pytest.raises(ValueError, match="expected 3D or 4D input"):
        module(torch.randn(3))
    assert isinstance(module.weight, nn.Parameter)


def test_a_subclass_with_another_forward_does_not_get_the_kernel_of_its_base():
    class Negated(nn.Linear):
        def forward(self, input):
            return -super().forward(input)

    module = QuantizationMixin.from_module(Negated(4, 3))
    module.param_quantizers["weight"] = quantizer(-1.0, 1.0, bits=16, symmetric=True)
    x = torch.randn(2, 4)
    torch.testing.assert_close(
        module(x), -F.linear(x, module.weight, module.bias), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("momentum", [None, 0.1])
@pytest.mark.parametrize("tracks", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_updates_its_statistics(training, tracks, momentum):
    module = nn.BatchNorm1d(4, momentum=momentum, track_running_stats=tracks).train(training)
    quantized = QuantizationMixin.from_module(copy.deepcopy(module))
    quantized.param_quantizers["weight"] = quantizer(-1.0, 1.0, bits=16, symmetric=True)
    for _ in range(3):
        x = torch.randn(8, 4) * 3
        torch.testing.assert_close(quantized(x), module(x), rtol=1e-3, atol=1e-3)
    for name, buffer in module.named_buffers():
        assert torch.equal(quantized.get_buffer(name), buffer)
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        quantized(torch.randn(3))


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(4, 4),
        nn.BatchNorm1d(4),
        nn.Conv1d(4, 4, 1),
        nn.LayerNorm(4),
        nn.GroupNorm(2, 4),
        nn.PReLU(),
    ],
    ids=lambda module: type(module).__name__,
)
def test_modules_with_a_kernel_run_in_several_threads(module):
    assert kernel_of(type(module).forward) is not None
    quantized = QuantizationMixin.from_module(module)
    quantized.param_quantizers["weight"] = quantizer(-1.0, 1.0, bits=2, symmetric=True)
    x = torch.randn(1, 4, 4)
    expected, wrong = quantized(x), []

    def run():
        for _ in range(100):
            if not torch.equal(quantized(x), expected):
                wrong.append(1)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    "module",
    [
        nn.Linear(4, 4, bias=False),
        nn.Conv1d(4, 4, 1, bias=False),
        nn.ConvTranspose1d(4, 4, 1, bias=False),
        nn.LayerNorm(4, bias=False),
    ],
    ids=lambda module: type(module).__name__,
)
def test_modules_without_a_bias(module):
    quantized = QuantizationMixin.from_module(module)
    assert list(quantized.param_quantizers) == ["weight"]
    quantized.param_quantizers["weight"] = quantizer(bits=16, symmetric=True)
    x = torch.randn(1, 4, 4)
    torch.testing.assert_close(quantized(x), module(x), rtol=1e-3, atol=1e-3)


def test_parametrized_weights_run_unquantized():
    module = nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    quantized = QuantizationMixin.from_module(module)
    quantized.param_quantizers["bias"] = quantizer(bits=16, symmetric=True)
    x = torch.randn(2, 4)
    torch.testing.assert_close(quantized(x), module(x), rtol=1e-3, atol=1e-3)


def test_transposed_convolution_with_an_output_size():
    module = nn.ConvTranspose2d(4, 2, 3, stride=2)
    quantized = QuantizationMixin.from_module(module)
    quantized.param_quantizers["weight"] = quantizer(bits=16, symmetric=True, shape=(1, 2, 1, 1))
    x = torch.randn(1, 4, 5, 5)
    ours, theirs = (m(x, output_size=[12, 12]) for m in (quantized, module))
    assert ours.shape == (1, 2, 12, 12)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_hooks_on_quantizers_are_called():
    module = QuantizationMixin.from_module(nn.ReLU())
    module.output_quantizers[0] = quantizer(0.0, 3.0, bits=2)
    seen = []
    module.output_quantizers[0].register_forward_hook(lambda q, args, out: seen.append(out))
    output = module(torch.tensor([0.9]))
    assert [out.tolist() for out in seen] == [[1.0]]
    assert type(output) is torch.Tensor


def test_autocast():
    module = QuantizationMixin.from_module(nn.Linear(4, 3))
    module.param_quantizers["weight"] = quantizer(bits=8, symmetric=True, shape=(3, 1))
    module.output_quantizers[0] = quantizer(-2.0, 2.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = module(torch.randn(2, 4))
    assert output.dtype == torch.bfloat16
