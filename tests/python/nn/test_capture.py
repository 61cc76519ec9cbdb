"""Quantized modules under torch.compile, torch.export, torch.jit.trace, DataParallel and DDP."""

from __future__ import annotations

import copy
import io
import warnings

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import aimet_torch.nn as qnn
from aimet_torch.nn import QuantizationMixin
from aimet_torch.quantization.affine import GroupedBlockQuantizeDequantize, QuantizeDequantize
from aimet_torch.quantization.float import FloatQuantizeDequantize


class Custom(nn.Module):
    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.rand(4, 1, 1))

    def forward(self, x):
        return x * self.gain


def activation(bits=8):
    return QuantizeDequantize((), bits, False)


def make_model():
    """A small network with every way a parameter is quantized, calibrated."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        Custom(),
        nn.ConvTranspose2d(4, 4, 2, stride=2),
        nn.PReLU(),
        nn.Flatten(),
        nn.LayerNorm(4 * 8 * 8),
        nn.Linear(4 * 8 * 8, 8),
        nn.Linear(8, 8),
    ]
    layers = [QuantizationMixin.from_module(layer) for layer in layers]
    layers[0].input_quantizers[0] = activation()
    layers[0].param_quantizers["weight"] = QuantizeDequantize((4, 1, 1, 1), 8, True)
    layers[1].param_quantizers["weight"] = QuantizeDequantize((), 8, True)
    layers[3].param_quantizers["gain"] = QuantizeDequantize((), 8, True)
    layers[4].param_quantizers["weight"] = QuantizeDequantize((1, 4, 1, 1), 8, True)
    layers[5].param_quantizers["weight"] = FloatQuantizeDequantize(4, 3, finite=True)
    layers[7].param_quantizers["weight"] = FloatQuantizeDequantize(dtype=torch.float16)
    layers[8].param_quantizers["weight"] = QuantizeDequantize((8, 4), 4, True, block_size=(1, 64))
    layers[9].param_quantizers["weight"] = GroupedBlockQuantizeDequantize(
        (8, 2), 4, True, 8, block_size=(1, 4), block_grouping=(1, -1)
    )
    for layer in layers[2:]:
        layer.output_quantizers[0] = activation()
    model = nn.Sequential(*layers).eval()
    with qnn.compute_encodings(model):
        model(torch.randn(4, 3, 4, 4))
    return model


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.randn(2, 3, 4, 4)


def test_compile_without_graph_breaks(model, x):
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), model(x))


def test_compiled_gradients(x):
    torch._dynamo.reset()
    model, reference = make_model(), make_model()
    torch.compile(model, fullgraph=True, backend="aot_eager")(x).square().sum().backward()
    reference(x).square().sum().backward()
    for (name, ours), theirs in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


@pytest.mark.parametrize("strict", [False, True])
def test_export(model, x, strict):
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},), strict=strict)
    assert torch.equal(program.module()(x[:1]), model(x[:1]))
    targets = [str(node.target) for node in program.graph.nodes]
    assert targets.count("aimet.quantize_dequantize.default") == 15
    assert targets.count("aimet.grouped_scale.default") == 1


def test_trace(model, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, (x,))
        buffer = io.BytesIO()
        torch.jit.save(traced, buffer)
        buffer.seek(0)
        loaded = torch.jit.load(buffer)
    other = torch.randn(3, 3, 4, 4)
    assert torch.equal(loaded(other), model(other))


class CallsQuantizers(nn.Module):
    """Applies quantizers by itself, as custom quantized modules in AIMET's style do."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.of_input, self.of_weight = activation(), QuantizeDequantize((4, 1), 8, True)
        self.to_half = FloatQuantizeDequantize(dtype=torch.float16)
        self.of_input.set_range(-1.0, 1.0)
        self.of_weight.set_range(-1.0, 1.0)

    def forward(self, x):
        weight = self.to_half(self.of_weight(self.linear.weight))
        return nn.functional.linear(self.of_input(x), weight).relu().reshape(-1)


CAPTURES = {
    "compile": lambda m, x: torch.compile(m, fullgraph=True, backend="aot_eager"),
    "export": lambda m, x: torch.export.export(m, (x,)).module(),
    "strict export": lambda m, x: torch.export.export(m, (x,), strict=True).module(),
    "make_fx": lambda m, x: make_fx(m)(x),
}


@pytest.mark.parametrize("capture", CAPTURES.values(), ids=CAPTURES)
def test_modules_that_call_their_quantizers(capture):
    torch._dynamo.reset()
    model, x = CallsQuantizers(), torch.randn(3, 4)
    assert torch.equal(capture(model, x)(x), model(x))


def test_fake_tensors():
    model = CallsQuantizers()
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert model(torch.randn(3, 4)).shape == (12,)


def test_recurrent_module_exports_and_traces():
    lstm = qnn.QuantizedLSTM(4, 3)
    lstm.param_quantizers["weight_ih_l0"] = QuantizeDequantize((), 4, True)
    lstm.output_quantizers[0] = activation()
    x = torch.randn(5, 2, 4)
    with lstm.compute_encodings():
        lstm(x)
    expected = lstm(x)[0]
    assert torch.equal(torch.export.export(lstm, (x,)).module()(x)[0], expected)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(torch.jit.trace(lstm, (x,))(x)[0], expected)
    copy.deepcopy(lstm)  # nothing of the captured graph is left in the module


def test_state_dict_keys_and_strict_round_trip(model, x):
    keys = set(model.state_dict())
    plain = {
        f"{index}.{key}"
        for index, layer in enumerate(model)
        for key in layer.get_original_module().state_dict()
    }
    assert plain <= keys
    assert "0.param_quantizers.weight.min" in keys
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    fresh = make_model()
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.add_(0.5)
    fresh.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    assert torch.equal(fresh(x), model(x))


def test_deepcopy(model, x):
    assert torch.equal(copy.deepcopy(model)(x), model(x))


def test_replicas_of_data_parallel_run(model, x):
    # What nn.DataParallel does to each replica: plain tensors take the place of the parameters.
    replica = copy.deepcopy(model)
    for module in replica.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                del module._parameters[name]
                setattr(module, name, parameter * 1.0)
    assert torch.equal(replica(x), model(x))
    assert torch.equal(replica(x), model(x))


def test_distributed_data_parallel(x, tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    try:
        model, reference = make_model(), make_model()
        parallel = nn.parallel.DistributedDataParallel(model)
        parallel(x).square().sum().backward()
        reference(x).square().sum().backward()
        for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad)
    finally:
        torch.distributed.destroy_process_group()
