"""Batch norms that stop following the batches while the rest trains on."""

from __future__ import annotations

import functools
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from aimet_torch.qat.learning import model_of
from aimet_torch.quantsim import QuantizationSimModel

__all__ = ["FrozenBatchNorms", "freeze_batch_norms"]


def _stay_in_evaluation(module: nn.Module, mode: bool = True) -> nn.Module:
    """In place of ``module.train``: its own mode stays, and so do momentum and eps."""
    module.training = False
    return module


class FrozenBatchNorms:
    """Handle of `freeze_batch_norms`; as a context manager, it restores at the end.

    Attributes:
        names: names of the batch norms that were frozen by this call.
    """

    def __init__(self, frozen: dict[str, _BatchNorm], parameters: bool) -> None:
        self.names = list(frozen)
        self._modes = [(module, module.training) for module in frozen.values()]
        self._parameters = [
            (parameter, parameter.requires_grad)
            for module in frozen.values()
            for parameter in (module.weight, module.bias)
            if parameters and parameter is not None
        ]
        for module, _ in self._modes:
            # A partial, not a method: copies and pickles then point to the copy.
            module.__dict__["train"] = functools.partial(_stay_in_evaluation, module)
            module.training = False
        for parameter, _ in self._parameters:
            parameter.requires_grad_(False)

    def restore(self) -> None:
        """Let the batch norms follow the batches again, in the mode that they had."""
        for module, mode in self._modes:
            module.__dict__.pop("train", None)
            module.training = mode
        for parameter, needs_gradient in self._parameters:
            parameter.requires_grad_(needs_gradient)
        self._modes, self._parameters = [], []

    def __enter__(self) -> FrozenBatchNorms:
        return self

    def __exit__(self, *_: Any) -> None:
        self.restore()


def freeze_batch_norms(
    model: nn.Module | QuantizationSimModel, parameters: bool = False
) -> FrozenBatchNorms:
    """Let batch norms compute with their running statistics from now on, in training too.

    To be called where the statistics have settled, such as after some hundred steps:
    ``if step == 500: freeze_batch_norms(sim)``. `model.train()` leaves them frozen; momentum, eps
    and the statistics stay as they are.

    Args:
        model: a simulation or any module.
        parameters: also stop training their weights and biases.

    Returns:
        A handle whose ``restore()`` undoes it.

    Raises:
        TypeError: ``model`` is neither.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    >>> handle = freeze_batch_norms(model)
    >>> model.train()[1].training
    False
    >>> handle.restore()
    >>> model[1].training
    True
    """
    module = model_of("freeze_batch_norms", model)
    found = {
        name: norm
        for name, norm in module.named_modules()
        if isinstance(norm, _BatchNorm) and norm.running_mean is not None
    }
    return FrozenBatchNorms(
        {name: norm for name, norm in found.items() if "train" not in norm.__dict__}, parameters
    )
