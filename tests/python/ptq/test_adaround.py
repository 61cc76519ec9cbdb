"""AdaRound of whole networks: promises of every layer, files, interruption, awkward models."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from aimet_torch.adaround.adaround_weight import Adaround, AdaroundParameters
from aimet_torch.common.defs import QuantScheme
from aimet_torch.quantsim import QuantizationSimModel


class Residual(nn.Module):
    """Every supported kind of layer, a residual connection, a functional activation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.act = nn.ReLU6()
        self.expand = nn.Conv2d(8, 24, 1)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.project = nn.Conv2d(24, 8, 1, bias=False)
        self.grouped = nn.Conv2d(8, 12, 3, groups=2)
        self.up = nn.ConvTranspose2d(12, 6, 3, stride=2, groups=3)
        self.sequence = nn.Conv1d(6, 5, 3, padding=1)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        x = self.act(self.stem(x))
        y = self.act(self.expand(x))
        x = x + self.project(torch.relu(self.depthwise(y)))
        x = self.up(torch.relu(self.grouped(x)))
        x = self.sequence(x.flatten(2))
        return self.head(x.mean(2))


LAYERS = {
    "stem", "expand", "depthwise", "project", "grouped", "up", "sequence", "head",
}  # fmt: skip


def network(seed=0):
    torch.manual_seed(seed)
    return Residual().eval()


def data(count=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.randn((count, 6, 3, 6, 6), generator=generator)
    return [nn.functional.interpolate(x, scale_factor=3, mode="bilinear") for x in smooth]


def apply(model, path, batches=None, **options):
    batches = data() if batches is None else batches
    keywords = {key: options.pop(key) for key in list(options) if key in FIELDS}
    parameters = AdaroundParameters(batches, len(batches), **keywords)
    return Adaround.apply_adaround(
        model, batches[0], parameters, str(path), "model", **{"default_param_bw": 3, **options}
    )


FIELDS = AdaroundParameters.__dataclass_fields__


def simulated(model, bits, path=None, ignored=()):
    sim = QuantizationSimModel(model, data()[0], default_param_bw=bits)
    for module in sim.qmodules():
        module._remove_activation_quantizers()
    if path is not None:
        sim.set_and_freeze_param_encodings(str(path / "model.encodings"))
    sim.compute_encodings(lambda m: m(data()[0]))
    sim.exclude_layers_from_quantization(list(ignored))
    return sim.model


def error(model, reference, batches=None):
    batches = data(seed=9) if batches is None else batches
    with torch.no_grad():
        return sum((model(x) - reference(x)).square().mean().item() for x in batches)


def test_better_than_nearest_on_new_data_and_reproduced_by_the_simulation(tmp_path):
    model = network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    rounded = apply(model, tmp_path)
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    assert error(rounded, model) < 0.5 * error(simulated(model, 3), model)
    sim = simulated(rounded, 3, tmp_path)
    for x in data(seed=9):
        assert sim(x).equal(rounded(x))
    assert not (tmp_path / "model.adaround").exists()


def layer_io(model, batches):
    """Input and output of every layer, batch by batch."""
    seen: dict[str, list] = {name: [] for name in LAYERS}
    hooks = [
        model.get_submodule(name).register_forward_hook(
            lambda _, args, output, name=name: seen[name].append((args[0], output))
        )
        for name in LAYERS
    ]
    with torch.no_grad():
        for x in batches:
            model(x)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_every_layer_is_at_least_as_good_as_nearest(tmp_path, bits):
    """On the inputs that the layer really gets, with the output of the original network."""
    model = network()
    rounded = apply(model, tmp_path, default_param_bw=bits)
    nearest = simulated(model, bits)
    original, changed = layer_io(model, data()), layer_io(rounded, data())
    for name in LAYERS - {"project"}:  # which makes up for the error of what is added to it
        layer, ours = nearest.get_submodule(name), 0.0
        theirs = 0.0
        for (_, wanted), (x, output) in zip(original[name], changed[name], strict=True):
            ours += (output - wanted).square().mean().item()
            with torch.no_grad():
                theirs += (layer(x) - wanted).square().mean().item()
        assert ours <= theirs, name


def test_residual_branches_make_up_for_the_error_of_what_they_are_added_to(tmp_path):
    model = network()
    rounded = apply(model, tmp_path)
    original, changed = layer_io(model, data()), layer_io(rounded, data())
    pairs = list(zip(original["grouped"], changed["grouped"], strict=True))
    total = sum((a[0] - b[0]).square().mean().item() for a, b in pairs)
    stem = sum(
        (model.act(a[1]) - model.act(b[1])).square().mean().item()
        for a, b in zip(original["stem"], changed["stem"], strict=True)
    )
    assert total < 2 * stem


def test_arguments_reach_the_grids(tmp_path):
    model = network()
    rounded = apply(
        model,
        tmp_path,
        param_bw_override_list=[(model.stem, 8)],
        ignore_quant_ops_list=[model.head],
        forward_fn=lambda m, batch: m(batch),
    )
    assert rounded.head.weight.equal(model.head.weight)
    content = (tmp_path / "model.encodings").read_text()
    entries = json.loads(content)["param_encodings"]
    bits = {name: entry[0]["bitwidth"] for name, entry in entries.items()}
    assert bits.pop("stem.weight") == 8
    assert set(bits) == {f"{name}.weight" for name in LAYERS - {"stem", "head"}}
    assert set(bits.values()) == {3}
    assert len(rounded.grouped.weight[0].unique()) <= 8


def test_per_tensor_grids(tmp_path):
    config = {
        "defaults": {
            "ops": {"is_output_quantized": "True"},
            "params": {"is_quantized": "True", "is_symmetric": "False"},
        },
        "params": {"bias": {"is_quantized": "False"}},
        "op_type": {}, "supergroups": [], "model_input": {}, "model_output": {},
    }  # fmt: skip
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    model = network()
    rounded = apply(model, tmp_path, default_param_bw=4, default_config_file=str(path))
    for name in LAYERS:
        weight = rounded.get_submodule(name).weight
        assert len(weight.unique()) <= 16, name
        assert not weight.equal(model.get_submodule(name).weight)


def test_other_schemes_keep_their_ranges(tmp_path):
    model = network()
    rounded = apply(model, tmp_path, default_quant_scheme=QuantScheme.min_max)
    sim = simulated(model, 3)  # min-max too
    for name in LAYERS:
        scale = sim.get_submodule(name).param_quantizers["weight"].get_scale()
        ratio = rounded.get_submodule(name).weight / scale
        torch.testing.assert_close(ratio, ratio.round(), rtol=0, atol=1e-4)


def test_the_budget_of_the_cache_changes_no_bit(tmp_path):
    model = network()
    results = [
        apply(model, tmp_path / str(budget), cache_budget=budget).state_dict()
        for budget in (0, 100_000, None)
    ]
    for other in results[1:]:
        assert all(value.equal(other[key]) for key, value in results[0].items())


@pytest.mark.parametrize("method", ["relaxation", "sampled"])
def test_the_papers_methods(tmp_path, method):
    model = network()
    options = {"method": method, "default_num_iterations": 300, "learning_rate": 1e-2}
    rounded = apply(model, tmp_path, **options)
    assert error(rounded, model) < 0.7 * error(simulated(model, 3), model)
    again = apply(model, tmp_path, **options)
    assert all(v.equal(again.state_dict()[k]) for k, v in rounded.state_dict().items())
    sim = simulated(rounded, 3, tmp_path)
    for x in data(seed=9):
        assert sim(x).equal(rounded(x))


class Branching(nn.Module):
    """Control flow that depends on data, so that it runs as Python."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        x = self.first(x)
        return self.second(x) if x.sum() > -1e9 else x


@pytest.mark.parametrize("is_whole", [True, False])
def test_layers_in_parts_that_cannot_be_traced(tmp_path, is_whole):
    torch.manual_seed(0)
    model = Branching() if is_whole else nn.Sequential(nn.Linear(6, 6), Branching(), nn.ReLU())
    batches = [torch.randn(50, 6) @ torch.randn(6, 6) for _ in range(3)]
    parameters = AdaroundParameters(batches, 3)
    rounded = Adaround.apply_adaround(model, batches[0], parameters, tmp_path, "model", 3)
    for layer in rounded.modules():
        if isinstance(layer, nn.Linear):
            assert all(len(row.unique()) <= 8 for row in layer.weight)
    nearest = QuantizationSimModel(model, batches[0], default_param_bw=3)
    for module in nearest.qmodules():
        module._remove_activation_quantizers()
    nearest.compute_encodings(batches)
    assert error(rounded, model, batches) < error(nearest.model, model, batches)


def test_shared_layers_are_left_out_by_name(tmp_path):
    torch.manual_seed(0)
    shared = nn.Linear(6, 6)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(6, 2))
    batches = [torch.randn(20, 6)]
    with pytest.warns(UserWarning, match="0: it is called 2 times"):
        rounded = Adaround.apply_adaround(
            model, batches[0], AdaroundParameters(batches, 1), tmp_path, "model"
        )
    assert rounded[0].weight.equal(shared.weight)
    assert not rounded[3].weight.equal(model[3].weight)


JOB = """
import sys, time, torch
sys.path.insert(0, {root!r})
from pathlib import Path
from tests.python.ptq.test_adaround import apply, network
from aimet_torch.ptq import checkpoint
if {slow}:
    save = checkpoint.Checkpoint.save
    def slow(self, name, result):
        save(self, name, result)
        time.sleep(0.5)
    checkpoint.Checkpoint.save = slow
torch.save(apply(network(), Path({path!r})).state_dict(), {path!r} + "/result.pt")
"""


def test_a_killed_job_goes_on_where_it_was(tmp_path, monkeypatch):
    root = str(Path(__file__).parents[3])
    job = subprocess.Popen(
        [sys.executable, "-c", JOB.format(root=root, slow=True, path=str(tmp_path))]
    )
    folder = tmp_path / "model.adaround"
    deadline = time.monotonic() + 120
    while len(list(folder.glob("*.pt"))) < 3 and time.monotonic() < deadline:
        assert job.poll() is None, "the job ended before it could be killed"
        time.sleep(0.05)
    job.send_signal(signal.SIGKILL)
    job.wait()
    finished = len(list(folder.glob("*.pt")))
    assert 3 <= finished < len(LAYERS)
    assert not (tmp_path / "model.encodings").exists()

    from aimet_torch.ptq import adaround

    solved = []
    round_layer = adaround.round_layer
    monkeypatch.setattr(
        adaround,
        "round_layer",
        lambda view, *a, **k: solved.append(1) or round_layer(view, *a, **k),
    )
    resumed = apply(network(), tmp_path)
    assert len(solved) == len(LAYERS) - finished
    fresh = apply(network(), tmp_path / "fresh")
    assert len(solved) == 2 * len(LAYERS) - finished
    assert all(v.equal(fresh.state_dict()[k]) for k, v in resumed.state_dict().items())
    assert (tmp_path / "model.encodings").read_text() == (
        tmp_path / "fresh" / "model.encodings"
    ).read_text()


def test_another_job_does_not_take_over_finished_layers(tmp_path):
    model = network()
    from aimet_torch.ptq import adaround

    class InterruptedJobError(Exception):
        pass

    def stops(task):
        raise InterruptedJobError

    solver = adaround._solver
    try:
        count = iter(range(100))
        adaround._solver = lambda *a: (
            lambda task: stops(task) if next(count) >= 2 else solver(*a)(task)
        )
        with pytest.raises(InterruptedJobError):
            apply(model, tmp_path)
    finally:
        adaround._solver = solver
    assert len(list((tmp_path / "model.adaround").glob("*.pt"))) == 2
    other = apply(network(seed=5), tmp_path)
    fresh = apply(network(seed=5), tmp_path / "fresh")
    assert all(v.equal(fresh.state_dict()[k]) for k, v in other.state_dict().items())


def test_error_messages(tmp_path):
    model = network()
    with pytest.raises(ValueError, match="has 2 batches, fewer than `num_batches` 5"):
        AdaroundParameters([1, 2], 5)
    with pytest.raises(ValueError, match="`method` must be one of"):
        AdaroundParameters([1, 2], 2, method="best")
    with pytest.raises(ValueError, match="`param_bw_override_list` has a ReLU that is no module"):
        apply(model, tmp_path, param_bw_override_list=[(nn.ReLU(), 8)])
    with pytest.raises(ValueError, match="`act`, whose weight has no quantizer"):
        apply(model, tmp_path, param_bw_override_list=[(model.act, 8)])
    with pytest.raises(ValueError, match="`forward_fn` must call the model"):
        apply(model, tmp_path, forward_fn=lambda m, batch: None)
