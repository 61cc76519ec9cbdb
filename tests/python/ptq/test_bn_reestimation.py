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


def two_norms():
    torch.manual_seed(0)
    shared = nn.BatchNorm2d(4)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), shared, nn.ReLU(), nn.Conv2d(4, 4, 1), shared, nn.BatchNorm2d(4)
    )


def test_in_sequence_each_norm_gets_what_evaluation_will_give_it():
    model = network()
    model.append(nn.BatchNorm2d(3))
    model.append(nn.Conv2d(3, 2, 1))
    data = batches()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    handle = reestimate_bn_stats(model, data, sequential=True)
    assert all(module.training for module in model)
    assert model[1].num_batches_tracked == before["1.num_batches_tracked"]
    model.eval()
    together = torch.cat(data)
    for index in (1, 5):
        inputs = model[:index](together)
        torch.testing.assert_close(model[index].running_mean, inputs.mean((0, 2, 3)))
        torch.testing.assert_close(model[index].running_var, inputs.var((0, 2, 3)))
    handle.remove()
    assert all(model.state_dict()[name].equal(tensor) for name, tensor in before.items())


def test_in_sequence_is_one_batch_of_all_images():
    """With the images of all batches in one, both ways give the same."""
    data = batches()
    together = torch.cat(data)
    sims = []
    for _ in range(2):
        model = network().eval()
        sim = QuantizationSimModel(model, data[0], default_param_bw=2, default_output_bw=4)
        sim.compute_encodings([together])
        sims.append(sim.model)
    reestimate_bn_stats(sims[0], data, sequential=True)
    reestimate_bn_stats(sims[1], [together])
    for name, expected in sims[1].state_dict().items():
        torch.testing.assert_close(sims[0].state_dict()[name], expected)


def test_in_sequence_a_norm_that_is_called_twice_counts_both_calls():
    model = two_norms().eval()
    data = batches()
    together = torch.cat(data)
    firsts = [model[0](x) for x in data]
    # The second call follows a first one that has the statistics of its batch.
    normalized = [nn.functional.batch_norm(x, None, None, training=True) for x in firsts]
    inputs = torch.cat([*firsts, *(model[3](x.relu()) for x in normalized)])
    reestimate_bn_stats(model, data, sequential=True)
    torch.testing.assert_close(model[1].running_mean, inputs.mean((0, 2, 3)))
    torch.testing.assert_close(model[1].running_var, inputs.var((0, 2, 3)))
    last = model[:5](together)
    torch.testing.assert_close(model[5].running_mean, last.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)


def test_in_sequence_stops_where_the_norm_is_and_passes_faults_on():
    model, calls = network(), []
    model[4].register_forward_hook(lambda *_: calls.append(1))
    reestimate_bn_stats(model, batches(), sequential=True)
    assert len(calls) == 1  # the pass that finds the norms
    before = model[1].running_mean.clone()

    def fails(model, batch):
        if batch is data[2]:
            raise RuntimeError("no more data")
        model(batch)

    data = batches()
    with pytest.raises(RuntimeError, match="no more data"):
        reestimate_bn_stats(model, data, forward_fn=fails, sequential=True)
    assert model[1].running_mean.equal(before)
    assert (model[1].momentum, model[1].training) == (0.1, True)
    with pytest.raises(ValueError, match="`dataloader` gave no batch"):
        reestimate_bn_stats(model, iter(()), sequential=True)
