"""Batch-norm re-estimation: what is estimated, and that it can be undone."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aimet_torch import QuantizationSimModel
from aimet_torch.bn_reestimation import reestimate_bn_stats


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Conv2d(4, 3, 1)
    )


def batches(count=3):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(5, 2, 6, 6, generator=generator) * (i + 1) for i in range(count)]


def test_statistics_are_the_averages_of_the_batches():
    model = network().eval()
    data = batches()
    reestimate_bn_stats(model, data)
    inputs = [model[0](x) for x in data]
    means = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
    variances = torch.stack([x.var((0, 2, 3)) for x in inputs]).mean(0)
    torch.testing.assert_close(model[1].running_mean, means)
    torch.testing.assert_close(model[1].running_var, variances)


def test_as_many_batches_as_asked_for_are_read():
    model, other = network(), network()
    reestimate_bn_stats(model, batches(5), num_batches=2)
    reestimate_bn_stats(other, batches(2))
    assert model[1].running_mean.equal(other[1].running_mean)


def test_modes_momentum_and_counters_stay_and_the_handle_restores():
    model = network()
    model[3].eval()
    model[1].momentum = 0.3
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    handle = reestimate_bn_stats(model, [(x, "label") for x in batches()])
    assert [module.training for module in model] == [True, True, True, False, True]
    assert model[1].momentum == 0.3
    assert model[1].num_batches_tracked == before["1.num_batches_tracked"]
    assert not model[1].running_mean.equal(before["1.running_mean"])
    handle.remove()
    assert all(model.state_dict()[name].equal(tensor) for name, tensor in before.items())
    model[1].running_mean.fill_(7)
    handle.remove()  # once is enough
    assert (model[1].running_mean == 7).all()


def test_the_quantized_network_is_the_one_that_is_measured():
    model = network().eval()
    sim = QuantizationSimModel(model, batches()[0], default_param_bw=2)
    sim.compute_encodings(batches())
    reestimate_bn_stats(sim.model, batches())
    reestimate_bn_stats(model, batches())
    quantized = sim.model.get_submodule("1").running_var
    assert not torch.allclose(quantized, model[1].running_var, rtol=1e-2)


def test_an_error_leaves_everything_as_it_was():
    model = network()
    before = model[1].running_mean.clone()

    def fails(model, batch):
        model(batch)
        raise RuntimeError("no more data")

    with pytest.raises(RuntimeError, match="no more data"):
        reestimate_bn_stats(model, batches(), forward_fn=fails)
    assert model[1].running_mean.equal(before)
    assert model[1].momentum == 0.1
    with pytest.raises(ValueError, match="`dataloader` gave no batch"):
        reestimate_bn_stats(model, [])
    with pytest.raises(ValueError, match="`num_batches` must be positive, got 0"):
        reestimate_bn_stats(model, batches(), num_batches=0)
    with pytest.raises(TypeError, match=r"`model` must be an nn\.Module, got int"):
        reestimate_bn_stats(3, batches())
