"""Low-rank factors in a model: geometry of layers, refusals, data, files without the library."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aimet_torch.common.defs import CostMetric
from aimet_torch.compression import factorize
from aimet_torch.compression.layers import SCHEMES, factor_modules
from aimet_torch.ops.low_rank import (
    FACTORIZATIONS,
    low_rank_cost,
    low_rank_product,
    low_rank_split,
)


def images(count=8, channels=3, size=12, seed=0):
    """Smooth images: neighbors are alike, as in photographs."""
    noise = torch.randn(count, channels, size, size, generator=torch.Generator().manual_seed(seed))
    return F.avg_pool2d(noise, 3, 1, 1) * 3


def network(seed=0):
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),  # depthwise
        nn.ReLU(),
        nn.Conv2d(16, 24, 1),
        nn.ReLU(),
        nn.Conv2d(24, 24, 3, stride=2, padding=1, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24 * 36, 10),
    )
    model.train()
    for _ in range(20):
        model(images(16, seed=1))
    return model.eval()


LAYERS = {
    "plain": nn.Conv2d(6, 8, 3, padding=1),
    "strided": nn.Conv2d(6, 8, (3, 5), stride=(2, 3), padding=(1, 2)),
    "dilated": nn.Conv2d(6, 8, 3, dilation=(2, 3), bias=False),
    "grouped": nn.Conv2d(6, 8, 3, groups=2, padding=1),
    "same": nn.Conv2d(6, 8, (3, 4), padding="same", dilation=2),
    "valid": nn.Conv2d(6, 8, 3, padding="valid"),
    "reflected": nn.Conv2d(6, 8, 3, padding=(1, 2), padding_mode="reflect"),
    "circular": nn.Conv2d(6, 8, (5, 3), padding=(2, 1), padding_mode="circular", stride=2),
    "transposed": nn.ConvTranspose2d(6, 8, (3, 4), stride=(2, 3), padding=(1, 2)),
    "transposed_more": nn.ConvTranspose2d(
        6, 8, 3, stride=2, padding=1, output_padding=1, dilation=2, groups=2
    ),
    "one": nn.Conv1d(6, 8, 5, stride=2, padding=2),
    "one_transposed": nn.ConvTranspose1d(6, 8, 4, stride=2, padding=1),
    "three": nn.Conv3d(6, 4, 2),
    "linear": nn.Linear(6, 8),
    "half": nn.Conv2d(6, 8, 3).double(),
}


def pairs(dimensions):
    """Factorizations and layers that they are for: spatial ones need a kernel of two dimensions."""
    return [
        (factorization, name)
        for factorization in FACTORIZATIONS
        for name, count in dimensions.items()
        if count == 2 or not factorization.startswith("spatial")
    ]


@pytest.mark.parametrize(
    ("factorization", "name"),
    pairs({name: len(getattr(layer, "kernel_size", ())) for name, layer in LAYERS.items()}),
)
def test_factors_of_full_rank_compute_what_the_layer_computed(name, factorization):
    layer: nn.Module = LAYERS[name]
    kernel = getattr(layer, "kernel_size", ())
    is_linear = isinstance(layer, nn.Linear)
    options = {
        "groups": 1 if is_linear else layer.groups,
        "transposed": "Transpose" in type(layer).__name__,
    }
    stride = () if is_linear else layer.stride
    cost = low_rank_cost(tuple(layer.weight.shape), factorization, stride=stride, **options)
    first, second, _ = low_rank_split(
        layer.weight.detach(), factorization, cost.max_rank, **options
    )
    made = factor_modules(layer, factorization, first, second, layer.bias)
    x = torch.randn(2, 6, *[11] * len(kernel), dtype=layer.weight.dtype)
    torch.testing.assert_close(made(x), layer(x), rtol=1e-4, atol=1e-5)
    assert {type(module) for module in made} <= {
        nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d,
    }  # fmt: skip


@pytest.mark.parametrize("scheme", ["spatial", "weight", "auto"])
def test_truncation_reaches_what_was_asked_and_leaves_the_model_alone(scheme):
    model, x = network(), images(1)
    before = copy.deepcopy(model.state_dict())
    result = factorize(model, x, 0.5, scheme=scheme)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert list(model.state_dict()) == list(before)
    changed = [row for row in result.layers if row.factorization is not None]
    assert changed
    assert all(row.reached <= 0.5 for row in changed)
    for row in changed:  # counted once more on the copy itself
        own = sum(c.macs for c in result.after.layers if c.name.startswith(f"{row.name}."))
        assert own / result.before.layer(row.name).macs == pytest.approx(row.reached, rel=1e-9)
    assert 0.4 < result.mac_ratio < 0.7
    assert result.model(x).shape == model(x).shape


def test_auto_loses_less_than_either_scheme_of_aimet():
    model, x = network(), images(1)
    rows = {
        scheme: {r.name: r for r in factorize(model, x, 0.4, scheme=scheme).layers}
        for scheme in ("spatial", "weight", "auto")
    }
    for scheme in ("spatial", "weight"):
        for name, row in rows[scheme].items():
            if row.weight_error is not None:
                assert rows["auto"][name].weight_error <= row.weight_error + 1e-12


def test_data_lowers_the_error_of_every_layer_and_of_the_model():
    model, data = network(), [images(32, seed=seed) for seed in (2, 3, 4, 5)]
    plain = factorize(model, data[0], 0.4)
    fitted = factorize(model, data[0], 0.4, data=data)
    for row in fitted.layers:
        if row.output_error is not None:
            assert row.output_error < row.plain_error, row
    test = images(64, seed=9)
    with torch.no_grad():
        wanted = model(test)
        errors = [float((r.model(test) - wanted).square().mean()) for r in (plain, fitted)]
    assert errors[1] < 0.7 * errors[0]
    refitted = [row for row in fitted.layers if "fitted to its new inputs" in row.note]
    assert [row.name for row in refitted] == ["3"]  # the depthwise layer, which keeps its shape
    assert max(fitted.mac_ratio, plain.mac_ratio) < 0.45


def test_without_refit_other_layers_keep_their_weights():
    model, data = network(), [images(16)]
    result = factorize(model, data[0], {"0": 0.5}, data=data, refit=False)
    assert torch.equal(result.model[7].weight, model[7].weight)
    assert [row.name for row in result.layers] == ["0"]
    again = factorize(model, data[0], {"0": 0.5}, data=data)
    assert not torch.equal(again.model[7].weight, model[7].weight)


def test_shapes_memory_metric_and_multiplicity():
    model = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2))
    x = torch.randn(1, 16, 9, 9)
    by_macs = factorize(model, x, 0.5, scheme="spatial").layers[0]
    by_weights = factorize(model, x, 0.5, scheme="spatial", metric=CostMetric.memory)
    assert (by_macs.rank, by_weights.layers[0].rank) == (12, 16)
    assert by_weights.memory_ratio < by_macs.reached + 0.1
    rounded = factorize(model, x, 0.5, scheme="spatial", multiplicity=8).layers[0]
    assert rounded.rank == 16


class Shared(nn.Module):
    """Layers that cannot be replaced, and some that only look it."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(16, 16)
        self.tied = nn.Linear(16, 16)
        self.other = nn.Linear(16, 16)
        self.other.weight = self.tied.weight
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(16, 16))
        self.hooked = nn.Linear(16, 16)
        self.hooked.register_forward_hook(lambda *args: None)
        self.read = nn.Linear(16, 16)
        self.attention = nn.TransformerEncoderLayer(16, 2, 16, batch_first=True)
        self.kept = nn.Linear(16, 16)

    def forward(self, x):
        x = self.twice(torch.relu(self.twice(x)))
        x = self.other(torch.relu(self.tied(x)))
        x = self.hooked(self.normed(x)) + self.read(x) * self.read.weight.sum()
        return self.kept(self.attention(x))


class OwnLinear(nn.Linear):
    def forward(self, x):
        return super().forward(x).abs()


def test_what_cannot_be_replaced_says_why():
    model, x = Shared().eval(), torch.randn(2, 3, 16)
    result = factorize(model, x, 0.5, data=[x, x])
    assert result.left["tied"] == "another module shares its weight"
    assert "parametrization" in result.left["normed"]
    assert result.left["hooked"] == "it has hooks"
    assert result.left["read"] == "other code of the model reads its weight"
    assert "TransformerEncoderLayer around it" in result.left["attention.linear1"]
    rows = {row.name: row for row in result.layers}
    assert rows["twice"].note == "truncated without data: it is called 2 times"
    assert rows["twice"].rank == 4
    assert result.model(x).shape == (2, 3, 16)

    own = factorize(nn.Sequential(OwnLinear(16, 16)), x, 0.5)
    assert own.left["0"] == "a OwnLinear may compute something else than its base class"
    assert type(own.model[0]) is OwnLinear
    narrow = factorize(nn.Sequential(nn.Conv2d(8, 8, 3, groups=8)), torch.randn(1, 8, 5, 5), 0.3)
    assert narrow.left["0"] == "rank 1 already costs 67% of it"
    one = factorize(nn.Sequential(nn.Linear(16, 16)), x, 1.0)
    assert one.left["0"] == "nothing to save at a ratio of 1"
    ignored = factorize(model, x, 0.5, modules_to_ignore=[model.twice, model.attention])
    assert "twice" not in {row.name for row in ignored.layers}


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)

    def forward(self, x):
        return self.inner(x) if x.sum() > -1e9 else x


def test_parts_that_cannot_be_traced_are_truncated_and_followed():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), Branching(), nn.Linear(16, 16))
    data = [torch.randn(64, 16) for _ in range(4)]
    result = factorize(model, data[0], 0.5, data=data)
    rows = {row.name: row for row in result.layers}
    assert "cannot be traced" in rows["1.inner"].note
    assert type(result.model[1]) is Branching
    assert isinstance(result.model[1].inner, nn.Sequential)
    assert rows["2"].output_error < rows["2"].plain_error
    whole = factorize(Branching(), data[0], 0.5, data=data)
    assert isinstance(whole.model.inner, nn.Sequential)


def test_a_model_that_is_one_layer_stays():
    result = factorize(nn.Conv2d(8, 8, 3, padding=1), torch.randn(1, 8, 6, 6), 0.5)
    assert result.left == {"": "it is the whole model; put it into an nn.Sequential"}
    assert isinstance(result.model, nn.Conv2d)


def test_files_need_nothing_of_this_library(tmp_path):
    model, x = network(), images(4)
    result = factorize(model, x, 0.5, data=[x])
    with (tmp_path / "model.pkl").open("wb") as file:
        pickle.dump(result.model, file)
    torch.save((x, result.model(x).detach()), tmp_path / "case.pt")
    program = (
        "import sys, pickle, torch; sys.modules['aimet_torch'] = None\n"
        f"model = pickle.load(open(r'{tmp_path / 'model.pkl'}', 'rb'))\n"
        f"x, y = torch.load(r'{tmp_path / 'case.pt'}')\n"
        "assert torch.allclose(model(x), y, atol=1e-5)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    document = json.loads(result.write_json(tmp_path / "result.json").read_text())
    assert document["mac_ratio"] == result.mac_ratio
    assert {row["name"] for row in document["layers"]} >= {"0", "7"}
    assert "MACs" in str(result)
    assert "weight_output" in str(result)


def test_training_mode_and_gradients_are_kept():
    model = network().train()
    model[0].weight.requires_grad_(False)
    compressed = factorize(model, images(2), 0.5).model
    assert compressed.training
    assert compressed[7][0].training
    assert not compressed[0][0].weight.requires_grad
    compressed(images(2)).sum().backward()
    assert compressed[7][1].weight.grad is not None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"ratios": 0.0}, ValueError, r"factorize: `ratios` must be in \(0, 1\], got 0.0"),
        ({"ratios": {"0": 1.2}}, ValueError, "got 1.2 for '0'"),
        ({"ratios": {"no": 0.5}}, ValueError, "factorize: `ratios` names 'no', which is no module"),
        (
            {"scheme": "svd"},
            ValueError,
            "`scheme` must be one of spatial, weight, spatial_horizontal, weight_output, auto, "
            "tucker, cp, got 'svd'",
        ),
        ({"multiplicity": 0}, ValueError, "`multiplicity` must be positive, got 0"),
        ({"data": []}, ValueError, "gave no batch"),
        ({"model": 3}, TypeError, "`model` must be an nn.Module, got int"),
    ],
)
def test_errors(options, error, message):
    arguments = {"model": network(), "dummy_input": images(1), "ratios": 0.5, **options}
    with pytest.raises(error, match=message):
        factorize(**arguments)


NORMED = {
    "conv": (nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12)),
    "grouped": (nn.Conv2d(8, 12, 3, stride=2, groups=2), nn.BatchNorm2d(12)),
    "transposed": (nn.ConvTranspose2d(8, 12, 3, stride=2, groups=2), nn.BatchNorm2d(12)),
    "one": (nn.Conv1d(8, 12, 5), nn.BatchNorm1d(12)),
    "linear": (nn.Linear(8, 12), nn.BatchNorm1d(12)),
}


@pytest.mark.parametrize(
    ("factorization", "name"),
    pairs({name: layer.weight.dim() - 2 for name, (layer, _) in NORMED.items()}),
)
def test_a_weight_of_low_rank_is_found_again_through_the_norm_behind_it(
    name, factorization, monkeypatch
):
    layer, norm = (copy.deepcopy(module) for module in NORMED[name])
    dims = layer.weight.dim() - 2
    options = {
        "groups": getattr(layer, "groups", 1),
        "transposed": isinstance(layer, nn.ConvTranspose2d),
    }
    first, second, _ = low_rank_split(layer.weight.detach(), factorization, 1, **options)
    layer.weight.data = low_rank_product(first, second, factorization, **options)
    generator = torch.Generator().manual_seed(0)
    for tensor in (norm.running_mean, norm.weight.data, norm.bias.data):
        tensor.copy_(torch.randn(12, generator=generator))
    norm.running_var.copy_(torch.rand(12, generator=generator) + 0.1)
    norm.weight.data[3] = 0  # a channel that the norm shuts off
    model = nn.Sequential(layer, norm).eval()
    x = torch.randn(64, 8, *[9] * dims, generator=generator)
    monkeypatch.setitem(SCHEMES, "weight", (factorization,))
    result = factorize(model, x, {"0": 0.9}, scheme="weight", data=[x])
    (row,) = result.layers
    assert row.factorization == factorization
    assert row.weight_error < 1e-10
    # Plain truncation is exact here: its error is what float32 sums leave to be seen.
    assert row.output_error < row.plain_error + 1e-6
    assert row.plain_error < 1e-5
    torch.testing.assert_close(result.model(x), model(x), rtol=1e-3, atol=1e-3)


def test_a_sum_behind_a_layer_hears_of_what_the_other_operand_has_lost():
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(16, 16), nn.Linear(16, 16)

        def forward(self, x):
            return self.first(x) + self.second(x)

    torch.manual_seed(0)
    model, x = Skip(), torch.randn(500, 16)
    result = factorize(model, x, {"first": 0.5}, data=[x], refit=False)
    with torch.no_grad():
        # `second` reads the same input, keeps its weights here, and takes the error over below.
        alone = float((result.model(x) - model(x)).square().mean())
        both = factorize(model, x, {"first": 0.5, "second": 0.9}, data=[x])
        assert float((both.model(x) - model(x)).square().mean()) < 0.7 * alone
