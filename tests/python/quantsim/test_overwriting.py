"""Activation functions that overwrite what the layer before them has made, and when they do not."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aimet_torch import ops
from aimet_torch.batch_norm_fold import fold_all_batch_norms
from aimet_torch.nn import QuantizationMixin
from aimet_torch.quantization.affine import QuantizeDequantize
from aimet_torch.quantsim import QuantizationSimModel
from tests.python.models import FIXTURES, call_model


@pytest.fixture
def fused_calls(monkeypatch) -> list[tuple]:
    """Arguments of every call that quantizes in place, but for the tensor."""
    calls: list[tuple] = []
    original = ops.quantize_dequantize_by_range_

    def counted(input: Tensor, *args: object) -> None:
        calls.append(args)
        original(input, *args)

    monkeypatch.setattr(ops, "quantize_dequantize_by_range_", counted)
    return calls


class Block(nn.Module):
    """ReLU6 and ReLU behind layers; one of them reads a tensor that is used again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.relu6 = nn.ReLU6(inplace=True)
        self.second = nn.Conv2d(4, 4, 1)
        self.relu = nn.ReLU()
        self.act = nn.Hardtanh(-0.5, 0.25)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu6(self.conv(x))
        z = self.second(y)
        return self.relu(z) + self.act(self.conv(x)) + z


@pytest.fixture
def sim(data) -> QuantizationSimModel:
    torch.manual_seed(0)
    sim = QuantizationSimModel(Block().eval(), data)
    sim.compute_encodings([data])
    return sim


@torch.no_grad()
def run(model: nn.Module, x: Tensor) -> Tensor:
    return model(x)


def test_clamps_and_quantizes_in_one_pass_with_the_same_bits(sim, data, fused_calls):
    want = sim.model(data).detach()  # with gradients: every step by itself
    assert not fused_calls
    assert torch.equal(run(sim.model, data), want)
    clamps = [args[-2:] for args in fused_calls if args[-2:] not in ((), (None, None))]
    # ReLU reads a tensor that is added later, so it may not overwrite it.
    assert sorted(clamps) == [(-0.5, 0.25), (0.0, 6.0)]


def test_a_called_layer_leaves_its_input_alone(sim, data):
    with torch.no_grad():
        made = sim.model.conv(data)
        before = made.clone()
        sim.model.relu6(made)
        sim.model.act(made)
    assert torch.equal(made, before)


@pytest.mark.parametrize("kind", ["forward", "pre", "global"])
def test_what_hooks_see_stays(sim, data, kind, fused_calls):
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(_: nn.Module, *values: object) -> None:
        for value in values:
            for tensor in value if isinstance(value, tuple) else (value,):
                seen.append((tensor, tensor.clone()))

    want = run(sim.model, data)
    fused_calls.clear()
    if kind == "forward":
        handle = sim.model.conv.register_forward_hook(keep)
    elif kind == "pre":
        handle = sim.model.relu6.register_forward_pre_hook(keep)
    else:
        handle = nn.modules.module.register_module_forward_hook(keep)
    try:
        assert torch.equal(run(sim.model, data), want)
    finally:
        handle.remove()
    assert seen
    assert all(torch.equal(tensor, copied) for tensor, copied in seen)
    assert (0.0, 6.0) not in [args[-2:] for args in fused_calls]


def test_a_replaced_layer_does_not_lose_its_input(sim, data):
    sim.model.conv = QuantizationMixin.from_module(nn.Identity())
    sim.model.second = QuantizationMixin.from_module(nn.Identity())
    x = data.clone()
    run(sim.model, x)
    assert torch.equal(x, data)


@pytest.fixture
def folded(data) -> QuantizationSimModel:
    """Convolution and ReLU6 with the Identity that a folded batch norm leaves between them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU6()).eval()
    fold_all_batch_norms(model, None, dummy_input=data)
    assert isinstance(model[1], nn.Identity)
    sim = QuantizationSimModel(model, data)
    sim.compute_encodings([data])
    return sim


def test_a_folded_batch_norm_is_seen_through(folded, data, fused_calls):
    want = folded.model(data).detach()
    assert torch.equal(run(folded.model, data), want)
    assert [args[-2:] for args in fused_calls if args[-2:] != ()] == [(0.0, 6.0)]


def test_what_hooks_of_a_folded_batch_norm_see_stays(folded, data, fused_calls):
    seen: list[tuple[Tensor, Tensor]] = []
    getattr(folded.model, "1").register_forward_hook(
        lambda _, inputs, output: seen.append((output, output.clone()))
    )
    run(folded.model, data)
    ((tensor, copied),) = seen
    assert torch.equal(tensor, copied)
    assert (0.0, 6.0) not in [args[-2:] for args in fused_calls]


@pytest.mark.parametrize("kind", ["inputs", "outputs"])
def test_a_quantizer_at_a_folded_batch_norm_comes_first(folded, data, kind):
    identity: Any = getattr(folded.model, "1")
    quantizer = QuantizeDequantize((), 4, True)
    quantizer.set_range(torch.tensor(-3.0), torch.tensor(3.0))
    containers = {"inputs": identity.input_quantizers, "outputs": identity.output_quantizers}
    containers[kind][0] = quantizer
    want = folded.model(data).detach()  # with gradients: every step by itself
    assert torch.equal(run(folded.model, data), want)


def test_calibration_observes_what_the_network_computes(sim, data):
    torch.manual_seed(0)
    hooked = QuantizationSimModel(Block().eval(), data)
    for module in hooked.model.modules():
        module.register_forward_hook(lambda *_: None)  # now nothing is overwritten
    hooked.compute_encodings([data])
    want = hooked.quantizer_state_dict()
    for name, tensor in sim.quantizer_state_dict().items():
        assert torch.equal(tensor, want[name]), name


def test_copies_and_files_of_a_model_that_has_run(sim, data):
    want = run(sim.model, data)
    assert torch.equal(run(copy.deepcopy(sim.model), data), want)
    file = io.BytesIO()
    torch.save(sim.model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(run(loaded, data), want)
    original = QuantizationSimModel.get_original_model(sim.model)
    assert torch.equal(run(original, data), original(data))


@pytest.mark.parametrize("name", sorted(FIXTURES))
def test_no_gradients_no_difference(name):
    fixture = FIXTURES[name]
    torch.manual_seed(1)
    inputs = fixture.inputs(3)
    sim = QuantizationSimModel(fixture.build().eval(), inputs)
    sim.compute_encodings(lambda model: call_model(model, inputs))
    first = copy.deepcopy(sim.model)  # some models count their calls
    want = torch.utils._pytree.tree_leaves(call_model(sim.model, inputs))
    for model in (copy.deepcopy(first), first):
        with torch.no_grad():
            got = torch.utils._pytree.tree_leaves(call_model(model, inputs))
        for a, b in zip(want, got, strict=True):
            if isinstance(a, Tensor):
                torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def saved_bytes(model: nn.Module, x: Tensor) -> int:
    """What a forward in training keeps for backward beside parameters, each storage once."""
    sizes: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers(), x)}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(x)
    return sum(sizes.values())


class Chain(nn.Module):
    """Convolution, batch norm and ReLU6, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6(inplace=True),
            nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6(inplace=True),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


@pytest.mark.parametrize("learned", [False, True])
def test_what_training_keeps_for_backward(learned):
    """Static ranges: one bit an element; learned ranges: one input an element."""
    x = torch.randn(4, 4, 32, 32, generator=torch.Generator().manual_seed(7))
    torch.manual_seed(8)
    model = Chain()
    sim = QuantizationSimModel(copy.deepcopy(model).eval(), x)
    sim.compute_encodings([x])
    for parameter in sim.quantizer_parameters():
        parameter.requires_grad_(learned)
    plain = saved_bytes(model.train(), x)
    simulated = saved_bytes(sim.model.train(), x)
    one = 4 * 8 * 32 * 32 * 4  # bytes of an activation
    inputs = 4 * 4 * 32 * 32 * 4  # the quantized input, which the first convolution keeps
    small = 16 * 1024  # quantized weights, scales, statistics
    masks = 2 * one // 32
    extra = (2 * one if learned else masks) + inputs
    assert simulated - plain <= extra + small
