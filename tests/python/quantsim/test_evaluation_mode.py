"""`evaluation_mode`: every module computes as in evaluation, and has its own mode afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aimet_torch.quantsim.calibration import evaluation_mode


class Frozen(nn.BatchNorm2d):
    """Counts how often its mode is set, and stays in evaluation."""

    calls = 0

    def train(self, mode: bool = True) -> Frozen:
        self.calls += 1
        return super().train(False)


def test_modes_are_given_back_one_by_one() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm2d(2), nn.ReLU()))
    model[1][0].eval()
    before = [module.training for module in model.modules()]
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        x = torch.randn(3, 2, 1, 1)
        assert torch.equal(model[0](x), x)
    assert [module.training for module in model.modules()] == before


def test_modes_are_given_back_after_an_error() -> None:
    model = nn.Sequential(nn.Dropout())
    with pytest.raises(RuntimeError, match="stop"), evaluation_mode(model):
        raise RuntimeError("stop")
    assert all(module.training for module in model.modules())


def test_overridden_train_is_called() -> None:
    model = nn.Sequential(Frozen(2), nn.Dropout())
    with evaluation_mode(model):
        assert model[0].calls == 1
        assert not model[1].training
    assert model.training
    assert model[1].training
