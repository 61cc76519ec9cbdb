"""Validator, architecture rules, model preparer."""

from __future__ import annotations

import copy
import json
import logging
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

from aimet_torch.analysis import model_validator
from aimet_torch.arch_checker.arch_checker import ArchChecker
from aimet_torch.batch_norm_fold import fold_all_batch_norms
from aimet_torch.graph import trace
from aimet_torch.model_preparer import prepare_model
from aimet_torch.model_validator.model_validator import ModelValidator
from aimet_torch.quantsim import QuantizationSimModel


class Functional(nn.Module):
    """Functions, a module that runs twice, sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(8 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm(self.conv(x)))
        y = torch.cat([y[:, :4], self.relu(y[:, 4:] * 0.5)], dim=1) + y.mean(1, keepdim=True)
        y = nn.functional.hardswish(nn.functional.max_pool2d(y, 2))
        return self.fc(y.reshape(x.size(0), 8 * y.shape[2] * 2)).softmax(-1)


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.fc(x)) if x.sum() > 0 else self.fc(x) * 2


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test adds goes away again."""
    monkeypatch.setattr(ModelValidator, "_validation_checks", [*ModelValidator._validation_checks])
    monkeypatch.setattr(ArchChecker, "_node_checks", [])
    monkeypatch.setattr(ArchChecker, "_pattern_checks", [])


# ------------------------------------------------------------------------------------- validator


def test_functions_and_reused_modules_are_all_right(checks, caplog) -> None:
    model, x = Functional().eval(), torch.randn(2, 3, 4, 4)
    assert ModelValidator.validate_model(model, x)
    with caplog.at_level(logging.WARNING):
        assert not model_validator.validate_for_reused_modules(model, x)
        assert not model_validator.validate_for_missing_modules(model, x)
    assert "these modules run several times: relu" in caplog.text
    assert "functions instead of modules: mul, cat, mean, add, hardswish, softmax" in caplog.text
    assert model_validator.validate_for_reused_modules(model, x, layers_to_exclude=[model.relu])
    ModelValidator.add_check(model_validator.validate_for_reused_modules)
    assert not ModelValidator.validate_model(model, x)
    assert ModelValidator.validate_model(model, x, layers_to_exclude=[model])


def test_code_that_cannot_be_traced_is_not(caplog) -> None:
    model, x = nn.Sequential(nn.Linear(4, 4), Branching()).eval(), torch.randn(2, 4)
    assert not ModelValidator.validate_model(model, x)
    assert "1 cannot be traced" in caplog.text
    assert "stay in floating point: " in caplog.text
    assert ModelValidator.validate_model(model, x, layers_to_exclude=[model[1]])


# ----------------------------------------------------------------------------------------- rules


class Poor(nn.Module):
    """Breaks each rule once."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.narrow = nn.Conv2d(32, 40, 3, padding=1)
        self.wide = nn.Conv2d(40, 64, 1)
        self.prelu = nn.PReLU()
        self.left, self.right = nn.Conv2d(64, 32, 1), nn.Conv2d(64, 32, 1)
        self.norm = nn.BatchNorm2d(64)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = self.prelu(self.wide(self.narrow(x)))
        x = x * torch.sigmoid(x)
        return self.norm(torch.cat([self.left(x), self.right(x)], 1)).relu()


def test_each_rule(checks, tmp_path: Path) -> None:
    found = ArchChecker.check_model_arch(Poor().eval(), torch.randn(1, 3, 8, 8), str(tmp_path))
    broken = {(finding.rule, finding.layer) for finding in found}
    assert broken == {
        ("conv_channel_32_base", "narrow"),
        ("conv_channel_32_base", "wide"),
        ("activation_checks", "prelu"),
        ("activation_checks", "mul"),
        ("intermediate_padding", "narrow"),
        ("batch_norm_fold", "norm"),
        ("foldable_bn_with_split", "norm"),
    }
    assert [f.layer for f in found] == sorted(
        [f.layer for f in found], key=["narrow", "wide", "prelu", "mul", "norm"].index
    )
    page = (tmp_path / "arch_checker_report.html").read_text()
    assert "Architecture of Poor" in page
    assert page.count("<code>norm</code>") == 2
    rows = json.loads((tmp_path / "arch_checker_report.json").read_text())["findings"]
    assert [row["layer"] for row in rows] == [finding.layer for finding in found]
    assert all(finding.issue and finding.recommendation for finding in found)


def test_a_good_architecture_and_checks_of_ones_own(checks, tmp_path: Path) -> None:
    good = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3)
    ).eval()
    x = torch.randn(1, 3, 8, 8)
    assert ArchChecker.check_model_arch(good, x, tmp_path) == []
    assert "No rule is broken." in (tmp_path / "arch_checker_report.html").read_text()

    def no_relu(module: nn.Module) -> bool:
        """ReLU is not allowed here."""
        return False

    def last(graph: object) -> list[object]:
        return graph.ops[-1:]

    ArchChecker.add_node_check(nn.ReLU, no_relu)
    ArchChecker.add_pattern_check(last)
    found = ArchChecker.check_model_arch(good, x)
    assert [(f.layer, f.rule, f.issue) for f in found] == [
        ("2", "no_relu", "ReLU is not allowed here."),
        ("3", "last", "The check last fails."),
    ]


# -------------------------------------------------------------------------------------- preparer


def test_a_prepared_model_is_quantized_like_the_original() -> None:
    torch.manual_seed(0)
    model, x = Functional().eval(), torch.randn(2, 3, 4, 4)
    prepared = prepare_model(model)
    assert isinstance(prepared, fx.GraphModule)
    assert torch.equal(prepared(x), model(x))
    assert prepared.relu_1 is not prepared.relu
    functions = {n.name for n in prepared.graph.nodes if n.op == "call_function"}
    assert not functions & {"cat", "add", "mul", "hardswish"}
    assert {type(m).__name__ for m in prepared.children()} >= {"Concat", "Add", "Multiply", "ReLU"}
    assert model_validator.validate_for_missing_modules(prepared, x)
    assert model_validator.validate_for_reused_modules(prepared, x)
    types = [Counter(op.op_type for op in trace(m, x).ops) for m in (model, prepared)]
    assert types[0] == types[1]

    results = []
    for source in (model, prepared):
        folded = copy.deepcopy(source)
        fold_all_batch_norms(folded, None, x)
        sim = QuantizationSimModel(folded, x)
        sim.compute_encodings([x])
        results.append(sim.model(x))
        # A copy of the simulation of a GraphModule runs the simulation.
        assert torch.equal(copy.deepcopy(sim.model)(x), results[-1])
    assert torch.equal(*results)


def test_what_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Branching()).eval()
    x = torch.randn(2, 4).abs()
    with pytest.raises(NotImplementedError, match="QuantizationSimModel needs no preparation"):
        prepare_model(model)
    for exclusion in (
        {"modules_to_exclude": [model[1]]},
        {"module_classes_to_exclude": [Branching]},
    ):
        prepared = prepare_model(model, **exclusion)
        assert torch.equal(prepared(x), model(x))
        assert isinstance(prepared.get_submodule("1"), Branching)
    with pytest.raises(ValueError, match="a Linear that is not in `model`"):
        prepare_model(model, modules_to_exclude=[nn.Linear(1, 1)])
    with pytest.raises(TypeError, match=r"`model` must be an nn.Module, got int"):
        prepare_model(3)
