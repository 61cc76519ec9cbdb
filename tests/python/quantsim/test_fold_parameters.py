"""`fold_param_quantizers` changes no number, also where code reads a parameter past its layer."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aimet_torch.quantsim import QuantizationSimModel


class Reading(nn.Module):
    """A layer, and `use(x, layer)`, which reads its parameters past it."""

    def __init__(self, use, branches: bool = False) -> None:
        super().__init__()
        self.first = nn.Linear(6, 5)
        self.layer = nn.Linear(5, 5)
        self.use = use
        self.branches = branches

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if self.branches and x.sum() > 1e9:  # cannot be traced: runs as Python
            return x
        return self.layer(x) + self.use(x, self.layer)


def _transposed(x: Tensor, layer: nn.Linear) -> Tensor:
    return x @ layer.weight.t()


def _own_linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return F.linear(x, layer.weight)


def _biases(x: Tensor, layer: nn.Linear) -> Tensor:
    return F.relu(x) * layer.bias


def _norm(x: Tensor, layer: nn.Linear) -> Tensor:
    return x * (layer.weight * 3.7).sum().tanh()


class Decoder(nn.Module):
    """An embedding whose table also gives the logits, with a layer that shares it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 8)
        self.hidden = nn.Linear(8, 8)
        self.tied = nn.Linear(8, 11, bias=False)
        self.tied.weight = self.table.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.hidden(self.table(tokens))
        return self.tied(x) + F.linear(x.flip(-1), self.table.weight)


class Attending(nn.Module):
    """`nn.MultiheadAttention` reads the weight of its `out_proj` without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        if x.sum() > 1e9:
            return x
        return self.attention(x, x, x, need_weights=False)[0]


def _simulate(model: nn.Module, x: Tensor) -> QuantizationSimModel:
    sim = QuantizationSimModel(model.eval(), x, default_param_bw=4)
    sim.compute_encodings([x])
    return sim


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(7)


@pytest.mark.parametrize("branches", [False, True], ids=["traced", "boundary"])
@pytest.mark.parametrize("use", [_transposed, _own_linear, _biases, _norm])
def test_a_parameter_that_is_read_past_its_layer(use, branches) -> None:
    x = torch.randn(4, 6)
    sim = _simulate(Reading(use, branches), x)
    assert bool(sim.graph.boundaries) == branches
    raw = sim.model.layer.weight.clone()
    with torch.no_grad():
        before = sim.model(x)
        sim.fold_param_quantizers()
        after = sim.model(x)
    assert torch.equal(after, before)
    assert sim.model.first.param_quantizers["weight"] is None
    kept = use is not _biases
    assert (sim.model.layer.param_quantizers["weight"] is not None) == kept
    assert torch.equal(sim.model.layer.weight, raw) == kept


def test_shapes_and_dtypes_are_no_values() -> None:
    def shape(x: Tensor, layer: nn.Linear) -> Tensor:
        return x.to(layer.weight.dtype) / layer.weight.shape[0] / layer.weight.numel()

    for branches in (False, True):
        x = torch.randn(4, 6)
        sim = _simulate(Reading(shape, branches), x)
        before = sim.model(x)
        sim.fold_param_quantizers()
        assert torch.equal(sim.model(x), before)
        assert sim.model.layer.param_quantizers["weight"] is None


def test_a_tied_table_that_gives_the_logits() -> None:
    tokens = torch.randint(11, (2, 5))
    sim = _simulate(Decoder(), tokens)
    before = sim.model(tokens)
    sim.fold_param_quantizers()
    assert torch.equal(sim.model(tokens), before)
    assert sim.model.hidden.param_quantizers["weight"] is None


def test_a_module_that_reads_the_weight_of_another() -> None:
    x = torch.randn(2, 3, 8)
    sim = _simulate(Attending(), x)
    assert sim.graph.boundaries
    with torch.no_grad():
        before = sim.model(x)
        sim.fold_param_quantizers()
        assert torch.equal(sim.model(x), before)


class Twice(nn.Module):
    """A layer with a bias that is called twice, each time into another accumulator."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(40 * self.layer(x))


class Normalized(nn.Module):
    """A convolution whose batch norm a target folds; the batch norm's bias is rounded."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(6, 6, 3)
        self.norm = nn.BatchNorm1d(6)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


@pytest.mark.parametrize(("model", "shape"), [(Twice, (9, 6)), (Normalized, (9, 6, 20))])
def test_biases_stay_on_the_grid_of_the_accumulator(model, shape) -> None:
    x = torch.randn(shape)
    sim = QuantizationSimModel(model().eval(), x, default_output_bw=16, default_param_bw=4)
    sim.compute_encodings([x])
    with torch.no_grad():
        before = sim.model(x)
        sim.fold_param_quantizers()
        assert torch.equal(sim.model(x), before)


def test_the_original_model_with_rounded_weights_has_no_quantizer_left() -> None:
    x = torch.randn(4, 6)
    sim = _simulate(Reading(_transposed), x)
    weight = sim.model.layer.param_quantizers["weight"](sim.model.layer.weight)
    rounded = QuantizationSimModel.get_original_model(sim.model, qdq_weights=True)
    assert torch.equal(rounded.layer.weight, weight)
    assert not hasattr(rounded.layer, "params_read_elsewhere")
