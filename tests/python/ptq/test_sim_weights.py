"""GPTQ and SeqMSE on a simulation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aimet_torch import QuantizationSimModel
from aimet_torch.gptq import apply_gptq
from aimet_torch.ops import reconstruction as ops
from aimet_torch.quantsim.config_utils import set_blockwise_quantization_for_weights
from aimet_torch.seq_mse import SeqMseParams, apply_seq_mse


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU6(),
        nn.Conv2d(8, 6, 1), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 3),
    ).eval()  # fmt: skip


def data(seed=1, count=3):
    generator = torch.Generator().manual_seed(seed)
    smooth = torch.randn((count, 8, 4, 5, 5), generator=generator)
    return [nn.functional.interpolate(x, scale_factor=3, mode="bilinear") for x in smooth]


def simulation(bits=3):
    model = network()
    sim = QuantizationSimModel(model, data()[0], default_param_bw=bits)
    sim.compute_encodings(data())
    for module in sim.qmodules():
        module._remove_activation_quantizers()
    return model, sim


def error(model, sim):
    with torch.no_grad():
        return sum((sim.model(x) - model(x)).square().mean().item() for x in data(7))


def test_gptq_beats_nearest_and_freezes_encodings():
    model, sim = simulation()
    scales = {n: q.get_scale().clone() for n, q in sim.named_quantizers()}
    before = error(model, sim)
    report = apply_gptq(sim, data())
    assert error(model, sim) < 0.7 * before
    assert list(report.results) == ["0", "2", "4", "7"]
    for name, quantizer in sim.named_quantizers():
        torch.testing.assert_close(quantizer.get_scale(), scales[name], rtol=1e-6, atol=0)
        assert not quantizer.is_overwrite_allowed()
    for name, weight in report.weights.items():
        module = sim.model.get_submodule(name)
        assert module.weight.equal(weight)
        quantized = module.param_quantizers["weight"](module.weight)
        torch.testing.assert_close(quantized, weight, rtol=1e-6, atol=1e-7)


def test_excluded_modules_stay():
    model, sim = simulation()
    apply_gptq(sim, data(), modules_to_exclude=[model[0], "7"])
    assert sim.model[0].weight.equal(model[0].weight)
    assert sim.model[7].weight.equal(model[7].weight)
    assert not sim.model[2].weight.equal(model[2].weight)
    with pytest.raises(ValueError, match="apply_gptq: `modules_to_exclude` has 8, which is"):
        apply_gptq(sim, data(), modules_to_exclude=["8"])
    with pytest.raises(TypeError, match="`sim` must be a QuantizationSimModel, got Sequential"):
        apply_gptq(model, data())


@pytest.mark.parametrize("blocks", [1, 3])
def test_seq_mse_by_gram_is_the_direct_loss(blocks):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 12, generator=generator)
    weight = torch.randn(5, 12, generator=generator)
    split = weight.reshape(1, 5, blocks, -1)
    low, high = split.amin(3), split.amax(3)
    gram = (x.double().T @ x.double()).unsqueeze(0)
    minimum, maximum, loss = ops.seq_mse_range(
        weight.unsqueeze(0), gram, low, high, blocks, -4, 3, True
    )
    best = torch.full((1, 5, blocks), torch.inf, dtype=torch.float64)
    for k in range(1, 21):
        top = torch.maximum(high / 3, -low / 4) * k / 20  # the scale of a signed 3-bit grid
        scale = top.reshape(5, blocks, 1).double()
        parts = weight.reshape(5, blocks, -1).double()
        error = (parts / scale).round().clamp(-4, 3) * scale - parts
        inputs = x.reshape(500, blocks, -1).double()
        direct = torch.einsum("obi,nbi->nob", error, inputs).square().sum(0).unsqueeze(0)
        best = torch.minimum(best, direct)
    torch.testing.assert_close(loss, best, rtol=1e-4, atol=0)
    assert (minimum <= 0).all()
    assert (maximum >= 0).all()


def losses(model, sim, bits):
    """Sum over the data of each channel's squared error on the inputs of the simulation."""
    seen = {}
    hooks = [
        sim.model[i].register_forward_hook(lambda m, a, o, i=i: seen.setdefault(i, []).append(a[0]))
        for i in (0, 2, 4, 7)
    ]
    with torch.no_grad():
        for x in data():
            sim.model(x)
    for hook in hooks:
        hook.remove()
    return {
        i: sum((model[i](x) - sim.model[i](x)).detach().square().sum() for x in inputs)
        for i, inputs in seen.items()
    }


def test_apply_seq_mse_lowers_the_loss_and_keeps_weights():
    model, sim = simulation()
    before = error(model, sim)
    report = apply_seq_mse(sim, data(), 20, lambda m, batch: m(batch))
    assert error(model, sim) < before
    for index in (0, 2, 4, 7):
        assert sim.model[index].weight.equal(model[index].weight)
        quantizer = sim.model[index].param_quantizers["weight"]
        assert not quantizer.is_overwrite_allowed()
        result = report.results[str(index)]
        assert result.error <= result.nearest_error
    direct = losses(model, sim, 3)
    positions = {0: 3 * 8 * 225, 2: 3 * 8 * 169, 4: 3 * 8 * 169, 7: 3 * 8}
    for index, loss in direct.items():
        expected = report.results[str(index)].error * positions[index]
        assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_the_form_of_aimet_2_0_and_wider_weights():
    model, sim = simulation()
    params = SeqMseParams(num_batches=2, num_candidates=10, forward_fn=lambda m, x: m(x))
    report = apply_seq_mse(model, sim, data(), params)
    assert set(report.results) == {"0", "2", "4", "7"}
    model, sim = simulation(bits=8)
    assert apply_seq_mse(sim, data()).results == {}
    with pytest.raises(NotImplementedError, match="`loss_fn` must be 'mse', got 'l1'"):
        SeqMseParams(1, loss_fn="l1")


def test_blocks():
    model = nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    batches = [torch.randn(64, 32) for _ in range(2)]
    results = {}
    for technique in (None, apply_seq_mse, apply_gptq):
        sim = QuantizationSimModel(model, batches[0], default_param_bw=3)
        set_blockwise_quantization_for_weights(sim, [sim.model[0]], 3, True, 8)
        sim.compute_encodings(batches)
        for module in sim.qmodules():
            module._remove_activation_quantizers()
        if technique is not None:
            technique(sim, batches)
        assert sim.model[0].param_quantizers["weight"].get_scale().shape == (8, 4)
        with torch.no_grad():
            results[technique] = sum((sim.model(x) - model(x)).square().sum() for x in batches)
    assert results[apply_seq_mse] < results[None]
    assert results[apply_gptq] < results[None]
