"""FSDP2: two processes with shards train like one process, and what they save fits."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.experimental import implicit_replication

from aimet_torch.qat import fully_shard, learn_ranges, parameter_groups
from aimet_torch.quantsim import QuantizationSimModel

pytestmark = pytest.mark.usefixtures("one_thread")

FULL = StateDictOptions(full_state_dict=True)
PER_TENSOR = {
    "defaults": {
        "ops": {"is_output_quantized": "True"},
        "params": {"is_quantized": "True", "is_symmetric": "True"},
    },
    "params": {"bias": {"is_quantized": "False"}},
    "op_type": {},
    "supergroups": [],
    "model_input": {"is_input_quantized": "True"},
    "model_output": {},
}


def data():
    generator = torch.Generator().manual_seed(5)
    return torch.randn(8, 1, 6, 6, generator=generator), torch.arange(8) % 3


def simulation(method="min_max", seed=0, config=None, is_frozen=True):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU()),
        nn.Sequential(nn.ConvTranspose2d(5, 3, 2), nn.ReLU(), nn.Flatten()),
        nn.Linear(75, 3),
    )
    x, _ = data()
    sim = QuantizationSimModel(model, x[:1], default_param_bw=4, config_file=config)
    sim.compute_encodings([x])
    if method is not None:
        learn_ranges(sim, method)
    if is_frozen:
        sim.model[2].output_quantizers[0].freeze()
    sim.model.train()
    return sim


def optimizer_of(sim, kind=torch.optim.SGD):
    # A large eps, since Adam makes a step of full length out of any gradient above it.
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {"foreach": True, "eps": 1e-3}
    return kind(parameter_groups(sim, 0.02, activation_range_lr=1e-3), **options)


def step(model, optimizer, x, target, parts=1, norm=None):
    optimizer.zero_grad()
    for images, labels in zip(x.chunk(parts), target.chunk(parts), strict=True):
        (F.cross_entropy(model(images), labels) / parts).backward()
    if norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), norm)
    optimizer.step()


def plain(state):
    full = {k: v.full_tensor() if isinstance(v, DTensor) else v for k, v in state.items()}
    return {k: v.detach().clone() for k, v in full.items()}


def assert_close(first, second, **tolerance):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.shape == second[name].shape, name
        torch.testing.assert_close(
            tensor, second[name], **tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def mine(tensor):
    return tensor.chunk(2)[dist.get_rank()]


def shard(sim, whole=False, **options):
    if not whole:
        for part in sim.model.children():
            fully_shard(part, **options)
    return fully_shard(sim.model, **options)


# -- training ------------------------------------------------------------------------------------

CASES = {
    "min_max": ("min_max", {}),
    "lsq": ("lsq+", {}),
    "one group": ("tqt", {"whole": True}),
    "adam, accumulation, clipping": (
        "lsq", {"kind": torch.optim.AdamW, "parts": 2, "norm": 0.05},
    ),
    "per tensor": ("lsq", {"config": PER_TENSOR}),
    "two dimensions": ("min_max", {"mesh": (2, 1)}),
}  # fmt: skip


def run(case, is_sharded):
    """State dict and outputs after some steps, evaluated in between."""
    method, options = CASES[case]
    options = dict(options)
    sim = simulation(method, config=options.pop("config", None))
    x, target = data()
    kind = options.pop("kind", torch.optim.SGD)
    shape, whole = options.pop("mesh", None), options.pop("whole", False)
    if is_sharded:
        mesh = shape and init_device_mesh("cpu", shape, mesh_dim_names=("copies", "shards"))
        shard(sim, whole, mesh=mesh)
        assert isinstance(sim.model[2].weight, DTensor)
        x, target = mine(x), mine(target)
    optimizer = optimizer_of(sim, kind)
    outputs = []
    for _ in range(3):
        step(sim.model, optimizer, x, target, **options)
        sim.model.eval()
        with torch.no_grad():
            outputs.append(sim.model(data()[0]))
        sim.model.train()
    state = get_model_state_dict(sim.model, options=FULL) if is_sharded else sim.model.state_dict()
    return plain(state), torch.stack(outputs)


def _run_all():
    return {case: run(case, True) for case in CASES}


def test_two_processes_train_like_one(two_ranks):
    first, second = two_ranks(_run_all)
    for case in CASES:
        want = run(case, False)
        start = simulation(CASES[case][0], config=CASES[case][1].get("config")).model.state_dict()
        learned = [k for k in start if k.endswith((".min", ".scale", ".log2_threshold"))]
        assert sum(not torch.equal(start[k], want[0][k]) for k in learned) > 3, case
        for state, outputs in (first[case], second[case]):
            if state:  # full state dicts come to the first rank
                assert_close(state, want[0], rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(outputs, want[1], rtol=1e-5, atol=1e-5)
        assert torch.equal(first[case][1], second[case][1])


# -- checkpoints ---------------------------------------------------------------------------------


def _checkpoints(folder):
    rank = dist.get_rank()
    x, target = (mine(tensor) for tensor in data())
    sim = simulation("lsq+")
    shard(sim)
    optimizer = optimizer_of(sim)
    for _ in range(2):
        step(sim.model, optimizer, x, target)
    model_state, optimizer_state = get_state_dict(sim.model, optimizer)
    dcp.save({"model": model_state, "optimizer": optimizer_state}, checkpoint_id=folder)
    full = get_model_state_dict(sim.model, options=FULL)
    if rank == 0:
        torch.save(full, f"{folder}/full.pt")
    step(sim.model, optimizer, x, target)
    want = plain(sim.model.state_dict())

    # Resumed by sharded files, from other weights, ranges and flags.
    other = simulation("lsq+", seed=1)
    shard(other)
    optimizer = optimizer_of(other)
    model_state, optimizer_state = get_state_dict(other.model, optimizer)
    state = {"model": model_state, "optimizer": optimizer_state}
    dcp.load(state, checkpoint_id=folder)
    set_state_dict(
        other.model, optimizer,
        model_state_dict=state["model"], optim_state_dict=state["optimizer"],
    )  # fmt: skip
    step(other.model, optimizer, x, target)
    assert_close(plain(other.model.state_dict()), want, rtol=0, atol=0)

    # A whole state dict of the first rank, into shards; it freezes what was frozen.
    third = simulation("lsq+", seed=2, is_frozen=False)
    shard(third)
    whole = torch.load(f"{folder}/full.pt", weights_only=True) if rank == 0 else {}
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_model_state_dict(third.model, dict(whole), options=options)
    found = get_model_state_dict(third.model, options=FULL)
    if rank == 0:
        assert_close(found, whole, rtol=0, atol=0)
    assert not third.model[2].output_quantizers[0].is_overwrite_allowed()

    # What does not fit is refused by name, with shards too.
    misfit = simulation("lsq")
    shard(misfit)
    with pytest.raises(RuntimeError, match="has the method lsq\\+, the model lsq"):
        misfit.model.load_state_dict(third.model.state_dict())
    return want


def test_checkpoints(two_ranks, tmp_path):
    first, second = two_ranks(_checkpoints, str(tmp_path))
    assert_close(first, second, rtol=0, atol=0)
    # The whole state dict is that of one process: shapes, names, everything.
    state = torch.load(tmp_path / "full.pt", weights_only=True)
    sim = simulation("lsq+")
    optimizer = optimizer_of(sim)
    for _ in range(2):
        step(sim.model, optimizer, *data())
    assert_close(state, sim.model.state_dict(), rtol=1e-4, atol=1e-5)
    sim.model.load_state_dict(state)


# -- what stays whole, what is refused ---------------------------------------------------------


def _raise(_):
    raise ZeroDivisionError


def _details():
    rank = dist.get_rank()
    x, target = (mine(tensor) for tensor in data())

    # Ranges stay in float32 where weights are halved.
    sim = simulation("lsq")
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16)
    shard(sim, mp_policy=policy)
    seen = []
    weight = sim.model[0][0].param_quantizers["weight"]
    sim.model[0][0].register_forward_pre_hook(
        lambda m, _: seen.append((m.weight.dtype, weight.scale))
    )
    F.cross_entropy(sim.model(x).float(), target).backward()
    assert seen[0][0] == torch.bfloat16
    assert type(seen[0][1]) is nn.Parameter
    assert seen[0][1].dtype == torch.float32
    assert seen[0][1].grad.abs().sum() > 0
    grads = plain({name: p.grad for name, p in sim.model.named_parameters() if p.grad is not None})
    want = torch.stack([grad.norm() for grad in grads.values()]).norm()
    with implicit_replication():
        norm = nn.utils.clip_grad_norm_(sim.model.parameters(), 0.05)
    torch.testing.assert_close(norm.full_tensor(), want)
    grads = plain({name: p.grad for name, p in sim.model.named_parameters() if p.grad is not None})
    clipped = torch.stack([grad.norm() for grad in grads.values()]).norm()
    torch.testing.assert_close(clipped, torch.tensor(0.05), rtol=1e-4, atol=0)

    # Whole parameters start alike, and have one gradient even where a rank has no use for one.
    sim = simulation("min_max", seed=rank)
    shard(sim)
    whole = {name: p for name, p in sim.model.named_parameters() if not isinstance(p, DTensor)}
    assert {p.dim() for p in whole.values()} == {0}
    for value in plain(whole).values():
        parts = [torch.empty_like(value) for _ in range(2)]
        dist.all_gather(parts, value)
        assert torch.equal(*parts)
    copied = [p.detach().clone() for p in whole.values()]
    sim.model(x).sum().backward()
    assert all(torch.equal(a, b) for a, b in zip(copied, whole.values(), strict=True))
    used = [p for p in whole.values() if p.grad is not None]
    assert len(used) > 4
    for parameter in used:
        parts = [torch.empty_like(parameter) for _ in range(2)]
        dist.all_gather(parts, parameter.grad)
        assert torch.equal(*parts)

    # A backward pass that fails leaves the next one as it should be.
    number, other = (nn.Parameter(torch.tensor(1.0)) for _ in range(2))
    fully_shard(nn.ParameterList([number]), mesh=init_device_mesh("cpu", (2,)))
    for is_failing in (True, False):
        number.grad = None
        hook = other.register_hook(_raise if is_failing else torch.neg)
        first = other * 2.0  # its gradient comes behind that of the later product
        loss = first + number * (rank + 1.0)
        if is_failing:
            with pytest.raises(ZeroDivisionError):
                loss.backward()
        else:
            loss.backward()
            assert number.grad == 1.5
        hook.remove()

    with pytest.raises(ValueError, match=r"quantizer '0\.\S+' without a range; call"):
        fully_shard(QuantizationSimModel(nn.Sequential(nn.Linear(2, 2)), torch.ones(1, 2)).model)
    with pytest.raises(TypeError, match="fully_shard: `model` must be a QuantizationSimModel or"):
        fully_shard("model")
    for function in (lambda s: s.compute_encodings([data()[0]]), learn_ranges):
        with pytest.raises(NotImplementedError, match="`model` is sharded; call"):
            function(sim)
    with pytest.raises(NotImplementedError, match="`dp_mesh_dims` is not supported"):
        fully_shard(simulation().model, dp_mesh_dims=object())
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
    sim = QuantizationSimModel(model.eval(), data()[0])
    sim.compute_encodings([data()[0]])
    other = copy.deepcopy(sim)
    fully_shard(sim.model[0])
    with pytest.raises(
        ValueError, match="has the batch norm 'QuantizedBatchNorm2d' without the layer before it"
    ):
        fully_shard(sim.model[1])
    want = other.model(data()[0])
    fully_shard([other.model[0], other.model[1]])
    fully_shard(other.model)
    assert torch.equal(other.model(data()[0]), want)


def test_what_stays_whole_and_what_is_refused(two_ranks):
    two_ranks(_details)
