"""Programs and TorchScript as models: the same numbers, layers that are layers again."""

from __future__ import annotations

import copy
import pickle
from collections import Counter

import pytest
import torch
from torch import Tensor, nn

from aimet_torch.graph import module_of_program, module_of_torchscript, trace
from aimet_torch.quantsim import QuantizationSimModel


class Layers(nn.Module):
    """One of each layer with parameters, a layer that runs twice, slices, a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.twice = nn.Conv2d(8, 8, 1, bias=False)
        self.up = nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1)
        self.same = nn.Conv2d(4, 4, 3, padding="same", dilation=2)
        self.prelu = nn.PReLU(4)
        self.group = nn.GroupNorm(2, 4)
        self.layer = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 6, bias=False)
        self.embedding = nn.Embedding(5, 6)
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x: Tensor, words: Tensor) -> dict[str, Tensor]:
        x = torch.relu(self.norm(self.conv(x)))
        x = self.twice(self.twice(x)) + x[:, :1]
        x = self.group(self.prelu(self.same(self.up(x))))
        rows = self.linear(self.layer(x.mean((2, 3)) * self.scale))
        return {"rows": rows + self.embedding(words) * torch.tensor(2.0), "map": x}


def example() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 4, 8, 8), torch.tensor([1, 4])


def types(model: nn.Module, inputs: object) -> Counter[str]:
    return Counter(op.op_type for op in trace(model, inputs).ops)


def test_every_layer_comes_back() -> None:
    torch.manual_seed(0)
    model, inputs = Layers().eval(), example()
    program = torch.export.export(model, inputs)
    module = module_of_program(program)
    expected, actual = model(*inputs), module(*inputs)
    assert {key: torch.equal(value, actual[key]) for key, value in expected.items()} == {
        "rows": True,
        "map": True,
    }
    kinds = {name: type(layer) for name, layer in model.named_children()}
    back = {name: type(layer) for name, layer in module.named_children()}
    for name, kind in kinds.items():
        assert issubclass(back[name], kind), name
    assert dict(module.named_parameters()).keys() == dict(model.named_parameters()).keys()
    assert not module.training
    # Keywords, copies, pickles.
    other = pickle.loads(pickle.dumps(copy.deepcopy(module)))
    assert torch.equal(other(x=inputs[0], words=inputs[1])["map"], expected["map"])


def test_parameters_that_no_layer_can_own_stay_where_they_are() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(6, 4))
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            # Its weight is computed with, and the model's own parameter is a weight.
            return torch.nn.functional.linear(self.linear(x) @ self.linear.weight, self.table)

    model, x = Tied().eval(), torch.randn(3, 4)
    module = module_of_program(torch.export.export(model, (x,)))
    assert torch.equal(module(x), model(x))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.nn.functional.hardswish(x + self.norm(self.depthwise(x)))
        x = torch.nn.functional.max_pool2d(x, 2)
        return self.head(self.pool(self.up(x)).flatten(1)).softmax(1)


@pytest.mark.parametrize("source", ["program", "torchscript"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_network_is_quantized_like_the_original(source: str) -> None:
    torch.manual_seed(0)
    model, x = Residual().eval(), torch.randn(2, 3, 18, 18)
    with torch.no_grad():
        if source == "program":
            module = module_of_program(torch.export.export(model, (x,)))
        else:
            module = module_of_torchscript(torch.jit.trace(model, x), x)
    assert torch.equal(module(x), model(x))
    assert types(module, x) == types(model, x)
    sims = [QuantizationSimModel(m, x) for m in (model, module)]
    for sim in sims:
        sim.compute_encodings([x])
    ranges = [
        [(q.bitwidth, q.get_min().tolist(), q.get_max().tolist()) for q in sim.quantizers()]
        for sim in sims
    ]
    assert sorted(ranges[0], key=str) == sorted(ranges[1], key=str)
    assert torch.equal(sims[0].model(x), sims[1].model(x))


def test_what_cannot_be_a_model_is_refused() -> None:
    class Nested(nn.Module):
        def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
            return pair[0] + pair[1]

    pair = (torch.ones(2), torch.ones(2))
    with pytest.raises(NotImplementedError, match="takes nested arguments; export a model"):
        module_of_program(torch.export.export(Nested(), (pair,)))
