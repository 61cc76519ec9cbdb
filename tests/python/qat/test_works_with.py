"""Training with what PyTorch has for it: compiling, mixed precision, processes, averages."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from aimet_torch.qat import learn_ranges, parameter_groups
from aimet_torch.quantsim import QuantizationSimModel


def data():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(8, 1, 6, 6, generator=generator), torch.arange(8) % 3


def simulation(method="lsq+"):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)
    )
    x, _ = data()
    sim = QuantizationSimModel(model, x[:1], default_param_bw=4)
    sim.compute_encodings([x])
    learn_ranges(sim, method)
    sim.model.train()
    return sim


def optimizer_of(sim):
    return torch.optim.SGD(parameter_groups(sim, 0.05, activation_range_lr=1e-3), momentum=0.9)


def train(model, optimizer, steps=4, parts=1):
    x, target = data()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        for images, labels in zip(x.chunk(parts), target.chunk(parts), strict=True):
            loss = F.cross_entropy(model(images), labels) / parts
            loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def tensors(model):
    return {k: v.detach() for k, v in model.named_parameters()}


def assert_close(first, second, **tolerance):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], **tolerance)


@pytest.mark.parametrize("method", ["min_max", "lsq", "pact"])
def test_compiled_training(method):
    sim = simulation(method)
    other = copy.deepcopy(sim)
    want = train(sim.model, optimizer_of(sim))
    compiled = torch.compile(other.model, backend="aot_eager", fullgraph=True)
    assert train(compiled, optimizer_of(other)) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_with_a_gradient_scaler(dtype):
    sim = simulation("lsq")
    optimizer = torch.optim.SGD(parameter_groups(sim, 0.05, activation_range_lr=1e-3))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=dtype == torch.float16)
    x, target = data()
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=dtype):
            loss = F.cross_entropy(sim.model(x), target)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert {p.dtype for p in sim.model.parameters()} == {torch.float32}
    exact = copy.deepcopy(sim.model)(x)
    with torch.autocast("cpu", dtype=dtype):
        assert (sim.model(x) - exact).abs().max() < 0.1 * exact.abs().max()


def test_activation_checkpointing():
    sim = simulation()
    x, target = data()
    F.cross_entropy(sim.model(x), target).backward()
    want = {k: p.grad.clone() for k, p in sim.model.named_parameters()}
    sim.model.zero_grad()
    F.cross_entropy(checkpoint(sim.model, x, use_reentrant=False), target).backward()
    assert_close({k: p.grad for k, p in sim.model.named_parameters()}, want, rtol=0, atol=0)


def test_gradient_accumulation():
    sim = simulation()
    other = copy.deepcopy(sim)
    train(sim.model, optimizer_of(sim))
    train(other.model, optimizer_of(other), parts=4)
    assert_close(tensors(sim.model), tensors(other.model), rtol=1e-3, atol=1e-5)


def test_exponential_moving_average():
    sim = simulation()
    average = AveragedModel(sim.model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    optimizer = optimizer_of(sim)
    average.update_parameters(sim.model)
    start = {k: v.clone() for k, v in tensors(sim.model).items()}
    train(sim.model, optimizer, steps=1)
    average.update_parameters(sim.model)
    want = {k: (start[k] + v) / 2 for k, v in tensors(sim.model).items()}
    assert_close(tensors(average.module), want)
    assert average(data()[0]).isfinite().all()
    sim.model.load_state_dict(average.module.state_dict())
    assert_close(tensors(sim.model), want)


# -- several processes -------------------------------------------------------------------------


def _train() -> dict[str, torch.Tensor]:
    sim = simulation()
    x, target = (part.chunk(2)[dist.get_rank()] for part in data())
    optimizer = optimizer_of(sim)
    model = nn.parallel.DistributedDataParallel(sim.model)
    for _ in range(4):
        optimizer.zero_grad()
        F.cross_entropy(model(x), target).backward()
        optimizer.step()
    return tensors(sim.model)


def test_two_processes_train_like_one(two_ranks):
    sim = simulation()
    train(sim.model, optimizer_of(sim))
    states = two_ranks(_train)
    assert_close(states[0], states[1], rtol=0, atol=0)
    assert_close(states[0], tensors(sim.model), rtol=1e-4, atol=1e-5)
