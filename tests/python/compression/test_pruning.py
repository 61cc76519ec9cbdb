"""Channel pruning: what is coupled, what stays and why, and that nothing else changes."""

from __future__ import annotations

import copy
import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aimet_torch.common.defs import CostMetric
from aimet_torch.compression import PruningPlan, prune
from tests.python.compression.masks import smaller_and_masked
from tests.python.compression.random_networks import RandomNetwork
from tests.python.vision import architecture

torch.manual_seed(0)


def batches(*shape, count=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def check_exact(model, x, seed=0, tolerance=1e-5):
    """The smaller network gives what the masked one gives; returns the plan and the smaller."""
    plan, small, reference = smaller_and_masked(model.eval(), x, seed)
    with torch.no_grad():
        wanted, given = reference(x), small(x)
    assert (wanted - given).abs().max() <= tolerance * wanted.abs().max()
    return plan, small


# ---------------------------------------------------------------------------- networks


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = (
            nn.Conv2d(inputs, outputs, 1, stride) if inputs != outputs else nn.Identity()
        )

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class Shuffling(nn.Module):
    """Functional chunk, concatenation, shuffle and layers with parameters of its own."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3)
        self.left = nn.Conv2d(12, 20, 1)
        self.weight = nn.Parameter(torch.randn(20, 12, 3, 3))
        self.bias = nn.Parameter(torch.randn(20))
        self.gain = nn.Parameter(torch.rand(40, 1, 1) + 0.5)
        self.shuffle = nn.ChannelShuffle(2)
        self.head = nn.Conv2d(40, 16, 1)
        self.up = nn.ConvTranspose2d(16, 12, 2, 2, groups=4)
        self.norm = nn.GroupNorm(12, 12)
        self.slope = nn.PReLU(12)
        self.last = nn.Linear(12 * 4 * 4, 7)

    def forward(self, x):
        a, b = self.stem(x).chunk(2, 1)
        b = F.conv2d(b, self.weight, self.bias, padding=1)
        y = self.shuffle(torch.cat([self.left(a), b], 1)) * self.gain
        y = self.slope(self.norm(self.up(self.head(F.silu(y)))))
        return self.last(F.adaptive_avg_pool2d(y, 4).flatten(1))


def residual():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.ReLU(), Block(16, 16, 1), Block(16, 24, 2),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 20), nn.ReLU(), nn.Linear(20, 5),
    )  # fmt: skip


# ---------------------------------------------------------------------------- exactness


@pytest.mark.parametrize("seed", range(3))
def test_residual_streams_lose_the_same_channels(seed):
    plan, small = check_exact(residual(), torch.randn(2, 3, 16, 16), seed)
    assert [layer.name for layer in plan.groups["0"].makers] == ["0", "2.conv2"]
    assert small[0].out_channels == small[2].conv2.out_channels == small[3].shortcut.in_channels
    assert small[6].in_features == 4 * small[3].conv2.out_channels  # flattened 2 x 2


@pytest.mark.parametrize("seed", range(3))
def test_chunks_shuffles_and_functional_layers(seed):
    model = Shuffling()
    plan, small = check_exact(model, torch.randn(2, 3, 10, 10), seed)
    assert set(plan.groups) == {"stem", "conv2d", "head"}
    assert small.weight.shape[0] == small.left.out_channels  # shuffled groups have one size
    assert small.gain.shape == (2 * small.left.out_channels, 1, 1)
    assert small.up.groups == small.head.out_channels // 4


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 64), ("mobilenet_v2", 64), ("shufflenet_v2_x0_5", 64), ("googlenet", 64),
        ("squeezenet1_1", 64), ("densenet121", 64), ("mnasnet0_5", 64), ("regnet_y_400mf", 64),
        ("mobilenet_v3_small", 64),
    ],
)  # fmt: skip
def test_architectures_equal_their_masked_selves(name, size):
    model = architecture(name)
    plan, small = check_exact(model, torch.randn(1, 3, size, size))
    assert type(small) is type(model)
    assert sum(p.numel() for p in small.parameters()) < 0.75 * sum(
        p.numel() for p in model.parameters()
    )
    assert set(plan.structure.obstacles.values()) <= {
        "it is an input of the model",
        "one unit: splits, shuffles or groups tie all its channels",
    }


@pytest.mark.parametrize("seed", range(12))
def test_random_networks(seed):
    model = RandomNetwork(seed, norms=seed % 2 == 1).eval()
    _, small, reference = smaller_and_masked(model, torch.randn(2, 3, 6, 6), seed)
    x = torch.randn(3, 3, 7, 7)
    with torch.no_grad():
        for wanted, given in zip(reference(x), small(x), strict=True):
            assert (wanted - given).abs().max() <= 1e-5 * wanted.abs().max()


def test_layer_norms_lose_what_leaves_them():
    model = architecture("convnext_tiny")
    plan, small = check_exact(model, torch.randn(1, 3, 64, 64))
    stream = small.features[0][0].out_channels
    assert small.features[0][1].normalized_shape == (stream,)
    assert small.features[1][0].layer_scale.shape == (stream, 1, 1)
    assert "features.1.0.block.3" in plan.groups


# ---------------------------------------------------------------------------- the function


@pytest.mark.parametrize("metric", list(CostMetric))
@pytest.mark.parametrize("ratio", [0.75, 0.5, 0.3])
def test_one_ratio_is_that_of_the_whole_model(ratio, metric):
    model = architecture("resnet18")
    result = prune(model, torch.randn(1, 3, 64, 64), ratio, metric=metric)
    reached = result.mac_ratio if metric is CostMetric.mac else result.memory_ratio
    assert 0.99 * ratio <= reached <= ratio


def test_a_ratio_is_met_where_single_steps_are_large():
    model = nn.Sequential(
        nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Conv2d(10, 14, 3), nn.ReLU(), nn.Conv2d(14, 18, 3),
        nn.ReLU(), nn.Conv2d(18, 4, 1),
    )  # fmt: skip
    plan = PruningPlan(model, torch.randn(1, 3, 12, 12))
    for ratio in (0.3, 0.5, 0.66, 0.75):
        for allocation in ("uniform", "errors"):
            reached = plan.costs.ratio(plan.counts(ratio, allocation=allocation), CostMetric.mac)
            assert 0.98 * ratio <= reached <= ratio


def test_costs_of_a_plan_are_those_of_the_model():
    model = architecture("mobilenet_v2")
    plan = PruningPlan(model, torch.randn(1, 3, 64, 64))
    kept = {name: max(group.least, group.size // 3) for name, group in plan.groups.items()}
    after = plan.apply(kept).after
    assert plan.costs.cost(kept, CostMetric.mac) == pytest.approx(after.macs, rel=1e-9)
    assert plan.costs.cost(kept, CostMetric.memory) == pytest.approx(after.parameters, rel=1e-9)


def test_dict_keeps_shares_of_input_channels_as_aimet_does():
    model = residual()
    weight = model[3].conv2.weight.detach()
    result = prune(model, torch.randn(1, 3, 16, 16), {"3.conv2": 0.5})
    best = weight.square().sum((0, 2, 3)).topk(12).indices.sort().values
    assert torch.equal(result.model[3].conv2.weight, weight[:, best])
    assert torch.equal(result.model[3].conv1.weight, model[3].conv1.weight[best])
    row = next(row for row in result.layers if row.name == "3.conv2")
    assert (row.asked, row.inputs, row.kept_inputs) == (0.5, 24, 12)


def test_multiplicity():
    result = prune(residual(), torch.randn(1, 3, 16, 16), 0.6, multiplicity=8)
    for row in result.layers[:-1]:
        assert row.kept_outputs % 8 == 0 or row.kept_outputs == row.outputs


def test_model_is_left_alone_and_the_copy_is_ordinary(tmp_path):
    model = residual().train()
    before = copy.deepcopy(model.state_dict())
    result = prune(model, torch.randn(2, 3, 16, 16), 0.5, data=batches(8, 3, 16, 16))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert result.model.training
    classes = {type(module).__module__ for module in result.model.modules()}
    assert not any(name.startswith("aimet_torch") for name in classes)
    result.model(torch.randn(2, 3, 16, 16)).sum().backward()
    saved = json.loads(result.write_json(tmp_path / "pruned.json").read_text())
    assert saved["mac_ratio"] == pytest.approx(result.mac_ratio)
    assert "of 16" in str(result)


# ---------------------------------------------------------------------------- data


def test_data_aware_selection_loses_less():
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 3)
    ).eval()
    data = batches(16, 3, 12, 12, count=8)
    held_out = batches(16, 3, 12, 12, count=2, seed=1)

    def lost(**options):
        small = prune(model, data[0], 0.4, allocation="uniform", **options).model
        with torch.no_grad():
            return sum(float((small(x) - model(x)).square().mean()) for x in held_out)

    plain = lost()
    refitted = lost(data=data, selection="magnitude")
    lasso, gram = lost(data=data, selection="lasso"), lost(data=data, selection="gram")
    assert refitted < 0.5 * plain
    assert gram < refitted
    assert lasso < plain


def test_duplicated_channels_cost_nothing():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    with torch.no_grad():
        model[0].weight[4:] = model[0].weight[:4]
        model[0].bias[4:] = model[0].bias[:4]
    data = batches(16, 3, 12, 12)
    result = prune(model, data[0], {"2": 0.5}, data=data)
    assert sorted(map(tuple, result.model[0].weight.flatten(1)[:, :3].tolist())) == sorted(
        map(tuple, model[0].weight[:4].flatten(1)[:, :3].tolist())
    )
    with torch.no_grad():
        wanted, given = model(data[0]), result.model(data[0])
    assert (wanted - given).abs().max() < 1e-2 * wanted.abs().max()


# ---------------------------------------------------------------------------- what stays


class Numbers(nn.Module):
    """Its code holds a number of channels."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8 * 16, 4)

    def forward(self, x):
        return self.c(self.b(F.relu(self.a(x))).view(-1, 128))


def test_numbers_in_the_code_keep_channels():
    result = prune(Numbers(), torch.randn(1, 3, 4, 4), {"b": 0.5, "c": 0.5})
    assert result.left.keys() == {"c"}
    assert "`view` does not work" in result.left["c"]
    assert result.model.b.in_channels == 4
    assert result.model(torch.randn(1, 3, 4, 4)).shape == (1, 4)


def test_ignored_layers_keep_their_shape():
    model = residual()
    result = prune(model, torch.randn(1, 3, 16, 16), 0.6, modules_to_ignore=[model[3].conv1])
    assert result.model[3].conv1.weight.shape == model[3].conv1.weight.shape
    row = next(row for row in result.layers if row.name == "3.conv1")
    assert "it is to be ignored" in row.note


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratios": 0.0}, r"`ratios` must be in \(0, 1\], got 0.0"),
        ({"ratios": 0.001}, r"`ratios` of 0.001 cannot be reached"),
        ({"ratios": {"nowhere": 0.5}}, "`ratios` names 'nowhere'"),
        ({"ratios": {"0": 2.0}}, r"`ratios` must be in \(0, 1\], got 2.0 for '0'"),
        ({"ratios": 0.5, "selection": "best"}, "`selection` must be auto, magnitude"),
        ({"ratios": 0.5, "selection": "gram"}, "`selection` 'gram' needs `data`"),
        ({"ratios": 0.5, "multiplicity": 0}, "`multiplicity` must be positive"),
        ({"ratios": 0.5, "allocation": "fair"}, "`allocation` must be one of"),
        ({"ratios": 0.5, "data": [torch.full((1, 3, 16, 16), torch.nan)]}, "NaN or infinities"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        prune(residual(), torch.randn(1, 3, 16, 16), options.pop("ratios"), **options)


def test_a_pruned_model_can_be_pruned_again_saved_and_loaded(tmp_path):
    x = torch.randn(2, 3, 16, 16)
    once = prune(residual(), x, 0.6, data=[x]).model
    twice = prune(once, x, 0.6, data=[x])
    assert twice.mac_ratio <= 0.6
    torch.save(twice.model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(x), twice.model.eval()(x))


def test_nothing_to_prune():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    result = prune(model, torch.randn(2, 12), 1.0)
    assert result.notes == ["no channels can be pruned"]
    assert result.layers[0].note == "it is an input of the model"
    with pytest.raises(ValueError, match=r"still has 100\.0% of its multiply-accumulates"):
        prune(model, torch.randn(2, 12), 0.5)


def test_weights_with_nan_keep_their_channels():
    model = residual()
    with torch.no_grad():
        model[3].conv2.weight[0, 0, 0, 0] = torch.nan
    result = prune(model, torch.randn(2, 3, 16, 16), {"3.conv2": 0.5})
    assert "holds NaN" in result.left["3.conv2"]


class Dead(nn.Module):
    """Its code computes something that nothing uses, which no graph holds."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x):
        y = self.a(x)
        y + torch.ones(1, 8, 1, 1)
        return self.b(y)


def test_code_that_nothing_uses_is_named():
    with pytest.raises(RuntimeError, match="code of the model whose result nothing uses"):
        prune(Dead(), torch.randn(1, 3, 4, 4), 0.5)
