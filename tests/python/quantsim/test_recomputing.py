"""What backward computes anew instead of keeping it: the same bits, fewer bytes."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.checkpoint import checkpoint

import aimet_torch.nn.call
from aimet_torch.nn import QuantizationMixin, recompute
from aimet_torch.qat import freeze_batch_norms, learn_ranges
from aimet_torch.quantization.affine import GroupedBlockQuantizeDequantize
from aimet_torch.quantization.float import FloatQuantizeDequantize, MXQuantizeDequantize
from aimet_torch.quantsim import QuantizationSimModel


class Residual(nn.Module):
    """Wide layers on small images: weights are larger than activations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 64, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.up = nn.ConvTranspose2d(64, 16, 2, stride=2)
        self.fc = nn.Linear(16 * 8 * 8, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.pool(F.relu(self.bn1(self.conv1(x))))
        z = F.relu(self.bn2(self.conv2(y)) + y)
        return self.fc(F.relu6(self.up(z)).flatten(1))


class Attention(nn.Module):
    """Layers on three dimensions, products of activations, an embedding, a layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 12)
        self.norm = nn.LayerNorm(12)
        self.mix = nn.Linear(12, 12)
        self.head = nn.Linear(12, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedding(x)
        y = self.norm(x)
        q, k = self.mix(y), self.mix(y * 0.5)
        attention = torch.softmax(q @ k.transpose(1, 2), dim=-1)
        return self.head(F.gelu(attention @ y) + x)


def inputs(kind: type[nn.Module]) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    if kind is Attention:
        return torch.randint(0, 11, (3, 6), generator=generator)
    return torch.randn(4, 4, 8, 8, generator=generator)


def simulation(kind: type[nn.Module], method: str | None) -> QuantizationSimModel:
    """``method``: of `learn_ranges`; "limits" learns those of the beginning, None nothing."""
    torch.manual_seed(8)
    sim = QuantizationSimModel(kind().eval(), inputs(kind))
    sim.compute_encodings([inputs(kind)])
    if method in (None, "limits"):
        for parameter in sim.quantizer_parameters():
            parameter.requires_grad_(method is not None)
    else:
        learn_ranges(sim, method)
    sim.model.train()
    return sim


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    x = x.detach().clone().requires_grad_() if x.is_floating_point() else x
    model.zero_grad()
    loss = model(x).square().sum()
    loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return found | {"loss": loss.detach()} | ({} if x.grad is None else {"input": x.grad})


@pytest.fixture
def keeping(monkeypatch: pytest.MonkeyPatch):
    """A way to run with everything kept."""

    def run(function, *args):
        with monkeypatch.context() as patch:
            patch.setattr(aimet_torch.nn.call, "may_recompute", lambda: False)
            return function(*args)

    return run


def assert_same(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert torch.equal(got[name], tensor), name


@pytest.mark.parametrize("method", [None, "limits", "min_max", "lsq", "lsq+", "tqt", "pact"])
@pytest.mark.parametrize("kind", [Residual, Attention])
def test_gradients_have_the_same_bits(kind, method, keeping):
    sim = simulation(kind, method)
    twin = copy.deepcopy(sim.model)
    want = keeping(gradients, twin, inputs(kind))
    assert_same(gradients(sim.model, inputs(kind)), want)


def test_frozen_batch_norms(keeping):
    sim = simulation(Residual, "limits")
    freeze_batch_norms(sim.model)
    twin = copy.deepcopy(sim.model)
    want = keeping(gradients, twin, inputs(Residual))
    assert_same(gradients(sim.model, inputs(Residual)), want)


def quantizer_of(kind: str):
    if kind == "blocks":
        return GroupedBlockQuantizeDequantize((12, 4), 4, True, 8, None, (1, 8), (1, -1))
    if kind == "float8":
        return FloatQuantizeDequantize(4, 3, finite=True)
    return (
        FloatQuantizeDequantize(dtype=torch.bfloat16) if kind == "bf16" else MXQuantizeDequantize()
    )


@pytest.mark.parametrize("kind", ["blocks", "float8", "bf16", "mx"])
def test_weights_in_other_formats(kind, keeping):
    torch.manual_seed(0)
    layer = QuantizationMixin.from_module(nn.Linear(32, 12))
    layer.param_quantizers["weight"] = quantizer_of(kind)
    layer.compute_param_encodings()
    x = torch.randn(2, 3, 32, requires_grad=True)
    want = keeping(gradients, copy.deepcopy(layer), x)
    assert_same(gradients(layer, x), want)
    assert held(layer, x) < keeping(held, layer, x) - 12 * 32 * 4 + 1024  # the weight's bytes


def held(model: nn.Module, x: Tensor) -> int:
    """Bytes that are allocated by a forward and still there after it, the result included."""
    model(x)  # what the first call allocates for good
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        result = model(x)
    events = recorded.profiler.kineto_results.events()
    del result
    return sum(event.nbytes() for event in events if event.name() == "[memory]")


def test_no_quantized_weight_is_kept():
    x = inputs(Residual)
    torch.manual_seed(8)
    plain = held(Residual().train(), x)
    sim = simulation(Residual, None)
    weights = sum(p.nbytes for p in sim.model.parameters() if p.dim() > 1)
    activation = 4 * 64 * 8 * 8 * 4
    masks = (weights + 8 * activation) // 32
    small = 16 * 1024
    assert weights > 3 * small
    assert held(sim.model, x) <= plain + masks + small


def test_learned_ranges_keep_no_more_than_fp32():
    """Inputs of quantizers in place of their results, and not those that a batch norm makes."""
    x = inputs(Residual)
    torch.manual_seed(8)
    plain = held(Residual().train(), x)
    sim = simulation(Residual, "limits")
    up = 4 * 16 * 8 * 8 * 4  # of the transposed convolution: its quantizer keeps what clamps see
    small = 16 * 1024
    assert held(sim.model, x) <= plain + up + small


def test_a_weight_that_changed_before_backward_is_noticed():
    sim = simulation(Residual, None)
    loss = sim.model(inputs(Residual)).sum()
    with torch.no_grad():
        sim.model.conv2.weight.mul_(2)
    with pytest.raises(RuntimeError, match=r"shape \(64, 64, 3, 3\) .* before the\s+optimizer's"):
        loss.backward()


def test_ranges_may_change_before_backward(keeping):
    """What backward needs of static ranges is their scale, which the forward computed."""
    sim = simulation(Residual, None)
    twin = copy.deepcopy(sim.model)

    def run(model):
        loss = model(inputs(Residual)).square().sum()
        model.conv2.param_quantizers["weight"].set_range(-9.0, 9.0)
        model.fc.param_quantizers["weight"].bitwidth = 4
        loss.backward()
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    assert_same(run(sim.model), keeping(run, twin))


def test_a_second_backward_and_second_derivatives(keeping):
    sim = simulation(Residual, None)
    x = inputs(Residual).requires_grad_()

    def run(model):
        model.zero_grad()
        loss = model(x).square().sum()
        (first,) = torch.autograd.grad(loss, x, create_graph=True)
        first.square().sum().backward()
        again = torch.autograd.grad(model(x).sum(), x, retain_graph=True)
        return {n: p.grad for n, p in model.named_parameters()} | {"x": first, "y": again[0]}

    twin = copy.deepcopy(sim.model)
    want = {n: t for n, t in keeping(run, twin).items() if t is not None}
    assert_same({n: t for n, t in run(sim.model).items() if t is not None}, want)


def test_a_graph_that_is_used_twice():
    sim = simulation(Residual, "limits")
    loss = sim.model(inputs(Residual)).sum()
    wanted = [p for p in sim.model.parameters() if p.requires_grad]
    first = torch.autograd.grad(loss, wanted, retain_graph=True)
    second = torch.autograd.grad(loss, wanted)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_hooks_of_the_user_come_first(keeping):
    """Activation checkpointing, and offloading, see every tensor that is saved."""
    sim = simulation(Residual, "limits")
    x = inputs(Residual)
    seen = []

    def pack(tensor):
        seen.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        sim.model(x)
    count = len(seen)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        keeping(sim.model, x)
    assert len(seen) == 2 * count
    sim.model.eval()  # a second forward would change the batch norms' statistics again
    want = gradients(sim.model, x)

    class Checkpointed(nn.Module):
        def forward(self, x):
            return checkpoint(sim.model, x, use_reentrant=False)

    sim.model.zero_grad()
    got = gradients(Checkpointed(), x) | {
        n: p.grad for n, p in sim.model.named_parameters() if p.grad is not None
    }
    assert_same({n: got[n] for n in want}, want)


def test_what_is_written_to_a_result_counts(keeping):
    """A quantized activation that somebody changes is not what its quantizer made."""
    sim = simulation(Residual, "limits")
    twin = copy.deepcopy(sim.model)

    def double(module, args, output):
        output.mul_(2)
        return output

    for model in (sim.model, twin):
        model.pool.register_forward_hook(double)
        model.bn2.register_forward_hook(double)
    want = keeping(gradients, twin, inputs(Residual))
    assert_same(gradients(sim.model, inputs(Residual)), want)


def test_autocast(keeping):
    sim = simulation(Residual, "limits")
    twin = copy.deepcopy(sim.model)

    def run(model):
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(inputs(Residual)).float().square().sum()
        model.zero_grad()
        loss.backward()
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    assert_same(run(sim.model), keeping(run, twin))


def test_nothing_is_left_behind():
    """Results that a user holds are known; those that are gone are not."""
    sim = simulation(Residual, "limits")
    before = len(recompute._made)
    result = sim.model(inputs(Residual))
    assert len(recompute._made) == before + 1
    result.sum().backward()
    del result
    assert len(recompute._made) == before
