"""Activation functions and their quantizers as one operation in training, and when they are two."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from aimet_torch import ops
from aimet_torch.quantsim import QuantizationSimModel
from tests.python.quantsim.test_overwriting import saved_bytes


class Residual(nn.Module):
    """ReLU behind batch norm, behind a sum, used twice; ReLU6 and Hardtanh behind convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(8)
        self.conv3 = nn.Conv2d(8, 8, 1)
        self.relu6 = nn.ReLU6()
        self.conv4 = nn.Conv2d(8, 8, 1)
        self.hardtanh = nn.Hardtanh(-0.5, 0.75)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        z = self.relu(self.bn2(self.conv2(y)) + y)
        return self.hardtanh(self.conv4(self.relu6(self.conv3(z))))


@pytest.fixture
def data() -> Tensor:
    return torch.randn(4, 4, 32, 32, generator=torch.Generator().manual_seed(7))


def simulation(data: Tensor, learned: bool) -> QuantizationSimModel:
    torch.manual_seed(8)
    sim = QuantizationSimModel(Residual().eval(), data)
    sim.compute_encodings([data])
    for parameter in sim.quantizer_parameters():
        parameter.requires_grad_(learned)
    sim.model.train()
    return sim


def step(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Output and gradients of one step."""
    x = x.clone().requires_grad_()
    model.zero_grad()
    output = model(x)
    output.square().sum().backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {"output": output.detach(), "input": x.grad, **grads}


def unfuse(model: nn.Module) -> list:
    """A hook on a quantizer shows it its own input, so the two stay apart."""
    return [
        quantizer.register_forward_pre_hook(lambda *_: None)
        for module in model.modules()
        for quantizer in getattr(module, "output_quantizers", ())
        if quantizer is not None
    ]


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """Bounds of every fused call."""
    calls: list[tuple] = []
    original = ops.clamp_quantize_dequantize

    def counted(input: Tensor, *args: object) -> Tensor:
        calls.append(args[:2])
        return original(input, *args)

    monkeypatch.setattr(ops, "clamp_quantize_dequantize", counted)
    return calls


@pytest.mark.parametrize("learned", [False, True], ids=["static", "learned"])
def test_the_same_bits_as_one_after_the_other(data, learned, fused):
    sim = simulation(data, learned)
    apart = copy.deepcopy(sim.model)
    unfuse(apart)
    want = step(apart, data)
    assert not fused
    got = step(sim.model, data)
    forward = fused[:4]  # backward computes learned ones once more, for the layers behind them
    assert sorted(forward, key=str) == [(-0.5, 0.75), (0.0, 6.0), (0.0, None), (0.0, None)]
    assert len(fused) == (7 if learned else 4)
    assert want.keys() == got.keys()
    assert any("quantizers" in name for name in got) == learned
    for name, tensor in want.items():
        assert torch.equal(got[name], tensor), name


def test_static_ranges_keep_one_bit_an_element_beside_what_fp32_keeps(data):
    plain = saved_bytes(Residual().train(), data)
    simulated = saved_bytes(simulation(data, False).model, data)
    activation = 4 * 8 * 32 * 32 * 4  # bytes
    masks = 8 * activation // 32  # of at most eight quantizers
    assert simulated - plain <= data.nbytes + masks + 16 * 1024


def test_hooks_of_modules_see_what_they_always_see(data, fused):
    sim = simulation(data, False)
    apart = copy.deepcopy(sim.model)
    unfuse(apart)
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name, model in (("fused", sim.model), ("apart", apart)):
        pairs = seen[name] = []
        for layer in (model.relu, model.relu6, model.hardtanh):
            layer.register_forward_hook(
                lambda _, args, output, pairs=pairs: pairs.append(
                    (args[0].detach().clone(), output.detach().clone())
                )
            )
        step(model, data)
    assert len(fused) == 4
    assert len(seen["fused"]) == len(seen["apart"]) == 4
    for ours, theirs in zip(seen["fused"], seen["apart"], strict=True):
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])


def test_a_hook_of_the_quantizer_sees_clamped_values(data, fused):
    sim = simulation(data, False)
    seen: list[Tensor] = []
    quantizer = sim.model.relu6.output_quantizers[0]
    quantizer.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    step(sim.model, data)
    assert (0.0, 6.0) not in fused
    assert seen[0].min() >= 0


def test_without_a_quantizer_and_while_calibrating_there_is_nothing_to_fuse(data, fused):
    sim = simulation(data, False)
    sim.model.relu6.output_quantizers[0] = None
    step(sim.model, data)
    assert (0.0, 6.0) not in fused
    fused.clear()
    with sim.model.hardtanh.compute_encodings():
        sim.model(data)
    assert (-0.5, 0.75) not in fused


def test_captured_graphs_stay_as_they_were(data, fused):
    sim = simulation(data, False)
    sim.model.eval()
    want = sim.model(data).detach()
    fused.clear()
    torch._dynamo.reset()
    compiled = torch.compile(sim.model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(data), want)
    with torch.no_grad():
        assert torch.equal(torch.export.export(sim.model, (data,)).module()(data), want)
        traced = torch.jit.trace(sim.model, data, check_trace=False)
        assert torch.equal(traced(data), want)
    assert not fused


@pytest.mark.parametrize("learned", [False, True], ids=["static", "learned"])
def test_compiled_training_gives_the_same_gradients(data, learned):
    sim = simulation(data, learned)
    twin = copy.deepcopy(sim.model)
    torch._dynamo.reset()
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    want = step(sim.model, data)
    got = {n.removeprefix("_orig_mod."): t for n, t in step(compiled, data).items()}
    for name, tensor in want.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("gradients", [False, True])
def test_quantized_modules_can_be_replaced_by_plain_ones(data, gradients):
    """Also those that the graph calls with keywords: used twice, or free to overwrite."""
    sim = simulation(data, False)
    sim.model.eval()
    sim.model.relu = nn.ReLU()
    sim.model.relu6 = nn.GELU()
    with torch.set_grad_enabled(gradients):
        got = sim.model(data)
        copied = copy.deepcopy(sim.model)(data)
    assert torch.isfinite(got).all()
    assert torch.equal(got, copied)


def test_a_result_that_its_own_gradient_needs_is_not_overwritten(data):
    """That of a sigmoid, by a clamp whose output is not quantized."""
    torch.manual_seed(9)
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sigmoid(), nn.Hardtanh(0.25, 0.75))
    sim = QuantizationSimModel(model.eval(), data)
    sim.compute_encodings([data])
    sim.model[1].output_quantizers[0] = sim.model[2].output_quantizers[0] = None
    apart = copy.deepcopy(sim.model)
    apart[1].register_forward_hook(lambda *_: None)  # nobody writes to what a hook has seen
    want, got = step(apart, data), step(sim.model, data)
    for name, tensor in want.items():
        assert torch.equal(got[name], tensor), name
