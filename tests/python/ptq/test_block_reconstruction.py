"""Block reconstruction and QDrop: what they promise, files, interruption, refused arguments."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aimet_torch.ptq import BlockReconstructionParameters, apply_block_reconstruction, block_walk
from aimet_torch.quantsim import QuantizationSimModel
from tests.python.ptq.test_adaround import Branching, data, network


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x):
        return torch.relu(x + self.conv2(torch.relu(self.conv1(x))))


def residual_network():
    """Wide enough that layers can make up for each other's errors."""
    torch.manual_seed(0)
    width = 12
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1), nn.ReLU(), Block(width), Block(width), nn.Conv2d(width, 6, 1)
    ).eval()


def simulation(model, bits=3, activations=False):
    sim = QuantizationSimModel(model, data()[0], default_param_bw=bits)
    if not activations:
        for module in sim.qmodules():
            module._remove_activation_quantizers()
    sim.compute_encodings(data())
    return sim


def apply(sim, path, batches=None, **options):
    batches = data() if batches is None else batches
    options = {"num_iterations": 60, **options}
    parameters = BlockReconstructionParameters(batches, len(batches), **options)
    return apply_block_reconstruction(sim, parameters, path, "model")


def state_of(sim):
    return {key: value.clone() for key, value in sim.model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(v.equal(b[k]) for k, v in a.items())


def error(model, reference, seed=9):
    with torch.no_grad():
        return sum((model(x) - reference(x)).square().mean().item() for x in data(8, seed))


def test_new_data_are_better_served_than_by_single_layers(tmp_path):
    model = residual_network()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    single, joint = simulation(model, 2), simulation(model, 2)
    batches = data(8)
    # One iteration changes next to nothing: the layers as they were solved one by one.
    apply(single, tmp_path, batches, num_iterations=1, warm_start=1.0)
    report = apply(joint, tmp_path, batches)
    assert same(before, dict(model.state_dict()))
    assert error(joint.model, model) < 0.95 * error(single.model, model)
    assert all(block.error <= block.start_error for block in report.blocks.values())
    assert sum(block.error < 0.98 * block.start_error for block in report.blocks.values()) >= 2
    assert sorted(n for block in report.blocks.values() for n in block.layers) == sorted(
        report.results
    )
    for name in report.results:
        quantizer = joint.model.get_submodule(name).param_quantizers["weight"]
        codes = joint.model.get_submodule(name).weight / quantizer.get_scale()
        torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-3)
        assert not quantizer.is_overwrite_allowed()
    assert not (tmp_path / "model.blocks").exists()


def test_the_encodings_reproduce_the_simulation(tmp_path):
    sim = simulation(network())
    apply(sim, tmp_path)
    rounded = QuantizationSimModel.get_original_model(sim.model)
    other = QuantizationSimModel(rounded, data()[0], default_param_bw=3)
    for module in other.qmodules():
        module._remove_activation_quantizers()
    other.set_and_freeze_param_encodings(tmp_path / "model.encodings")
    for x in data(seed=9):
        assert sim.model(x).equal(other.model(x))
        assert sim.model(x).equal(rounded(x))


@pytest.mark.parametrize("drop", [None, 0.5])
def test_the_seed_decides_and_the_budget_does_not(tmp_path, drop):
    results = []
    for seed, budget in ((0, None), (0, 0), (1, None)):
        sim = simulation(residual_network(), 2, activations=drop is not None)
        options = {"seed": seed, "cache_budget": budget, "activation_drop": drop}
        apply(sim, tmp_path, data(8), num_iterations=40, **options)
        results.append(state_of(sim))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_qdrop_learns_the_ranges_of_activations(tmp_path):
    model = network()
    sim = simulation(model, 3, activations=True)
    plain = simulation(model, 3, activations=True)
    for module in (sim.model, plain.model):
        for name, quantizer in module.named_modules():
            if name.endswith("_quantizers.0"):
                quantizer.bitwidth = 4
    before = {
        name: quantizer.max.detach().clone()
        for name, quantizer in sim.named_quantizers()
        if "output_quantizers" in name
    }
    apply(sim, tmp_path, data(16), activation_drop=0.5, num_iterations=100)
    assert error(sim.model, model) < 0.5 * error(plain.model, model)
    after = dict(sim.named_quantizers())
    assert any(not after[name].max.equal(value) for name, value in before.items())
    ranges = {name: after[name].max.detach().clone() for name in before}
    sim.compute_encodings(data(seed=4))  # learned ranges stay
    assert all(after[name].max.equal(value) for name, value in ranges.items())

    rounded = QuantizationSimModel.get_original_model(sim.model)
    other = QuantizationSimModel(rounded, data()[0], default_param_bw=3)
    other.load_encodings(tmp_path / "model.json")
    for x in data(seed=9):
        torch.testing.assert_close(sim.model(x), other.model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("drop", [None, 0.5])
def test_an_interrupted_job_goes_on_where_it_was(tmp_path, monkeypatch, drop):
    class InterruptedJobError(Exception):
        pass

    options = {"activation_drop": drop, "num_iterations": 20}
    fresh = simulation(network(), activations=drop is not None)
    report = apply(fresh, tmp_path / "fresh", **options)
    optimize, calls = block_walk.optimize_block, []

    def stops(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise InterruptedJobError
        return optimize(*arguments)

    monkeypatch.setattr(block_walk, "optimize_block", stops)
    sim = simulation(network(), activations=drop is not None)
    before = state_of(sim)
    with pytest.raises(InterruptedJobError):
        apply(sim, tmp_path, **options)
    assert same(before, state_of(sim))  # the simulation is as it was
    assert (tmp_path / "model.blocks").exists()
    resumed = apply(sim, tmp_path, **options)
    assert len(calls) == 3 + len(report.blocks) - 2
    assert same(state_of(sim), state_of(fresh))
    assert resumed.blocks == report.blocks
    assert (tmp_path / "model.encodings").read_text() == (
        tmp_path / "fresh" / "model.encodings"
    ).read_text()


def test_settings_reach_the_solver(tmp_path):
    model = network()
    weighted, kept = simulation(model), simulation(model)
    apply(weighted, tmp_path, data(16), weighting="squared_gradient", num_iterations=100)
    plain = simulation(model)
    plain_error = error(plain.model, model)
    assert error(weighted.model, model) < 0.5 * plain_error
    scales = {
        name: quantizer.get_scale().clone()
        for name, quantizer in kept.named_quantizers()
        if "param_quantizers" in name
    }
    apply(kept, tmp_path, learns_scales=False)
    for name, quantizer in kept.named_quantizers():
        if name in scales:
            torch.testing.assert_close(quantizer.get_scale(), scales[name], rtol=1e-6, atol=0)
    untouched = simulation(model)
    apply_block_reconstruction(
        untouched,
        BlockReconstructionParameters(data(), 4, num_iterations=5),
        tmp_path,
        "model",
        modules_to_exclude=[model.stem, "head"],
    )
    assert untouched.model.stem.weight.equal(model.stem.weight)
    assert untouched.model.head.weight.equal(model.head.weight)
    assert not untouched.model.project.weight.equal(model.project.weight)


def test_scales_and_biases_of_the_whole_network(tmp_path):
    model = network()
    blocks, whole = simulation(model, 2), simulation(model, 2)
    apply(blocks, tmp_path, data(16))
    report = apply(whole, tmp_path, data(16), network_iterations=100)
    assert report.network is not None
    assert report.network.error < report.network.start_error
    assert error(whole.model, model) < error(blocks.model, model)
    for name in report.results:
        ours, theirs = (
            (layer.weight / layer.param_quantizers["weight"].get_scale()).round()
            for layer in (sim.model.get_submodule(name) for sim in (whole, blocks))
        )
        assert ours.equal(theirs), name  # codes stay
    sim = QuantizationSimModel(Branching(), torch.randn(2, 6))
    with pytest.warns(UserWarning, match="`network_iterations` has no effect here: `` could not"):
        apply(sim, tmp_path, [torch.randn(9, 6)], network_iterations=2)


def test_layers_in_parts_that_cannot_be_traced_are_solved_by_themselves(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 6), Branching(), nn.ReLU(), nn.Linear(6, 3))
    batches = [torch.randn(50, 6) @ torch.randn(6, 6) for _ in range(3)]
    sim = QuantizationSimModel(model, batches[0], default_param_bw=3)
    for module in sim.qmodules():
        module._remove_activation_quantizers()
    report = apply(sim, tmp_path, batches, num_iterations=20)
    assert set(report.results) == {"0", "1.first", "1.second", "3"}
    assert [block.layers for block in report.blocks.values()] == [["0"], ["3"]]


def test_refused_arguments(tmp_path):
    parameters = BlockReconstructionParameters
    for field, value in (("num_batches", 0), ("num_iterations", 0), ("max_block_layers", 0)):
        with pytest.raises(ValueError, match=f"`{field}` must be positive, got 0"):
            parameters(**{"data_loader": data(), "num_batches": 4, field: value})
    for field in ("activation_drop", "warm_start"):
        with pytest.raises(ValueError, match=f"`{field}` must be between 0 and 1, got 1.5"):
            parameters(data(), 4, **{field: 1.5})
    with pytest.raises(ValueError, match="`learning_rate` must be positive, got 0"):
        parameters(data(), 4, learning_rate=0)
    with pytest.raises(ValueError, match="`weighting` must be one of"):
        parameters(data(), 4, weighting="labels")
    with pytest.raises(ValueError, match="has 4 batches, fewer than `num_batches` 5"):
        parameters(data(), 5)
    with pytest.raises(TypeError, match="`sim` must be a QuantizationSimModel, got Residual"):
        apply(network(), tmp_path)
