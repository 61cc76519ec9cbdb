"""Scores for people who have no labels: how far the outputs are from those in floating point."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.nn.removal import remove_all_quantizers
from aimet_torch.quantsim.calibration import evaluation_mode

__all__ = ["EvalCallbackFactory"]

_DEFAULT_SAMPLES = 128


class EvalCallbackFactory:
    """Makes callbacks that score a simulation without labels.

    Args:
        data_loader: batches of inputs: a tensor, or a tuple or list of positional inputs.
        forward_fn: `forward_fn(model, batch)` returns the output as one tensor; None calls the
            model.

    >>> from aimet_torch.quantsim import QuantizationSimModel
    >>> data = [torch.randn(4, 3)]
    >>> sim = QuantizationSimModel(nn.Linear(3, 2), data[0])
    >>> sim.compute_encodings(data)
    >>> EvalCallbackFactory(data).sqnr()(sim.model) > 30
    True
    """

    def __init__(
        self,
        data_loader: Iterable[Any],
        forward_fn: Callable[[nn.Module, Any], Tensor] | None = None,
    ) -> None:
        self._data_loader = data_loader
        self._forward = forward_fn or _call
        self._expected: list[Tensor] = []

    def sqnr(self, num_samples: int = _DEFAULT_SAMPLES) -> Callable[..., float]:
        """A callback that returns the signal-to-quantization-noise ratio of the output in dB.

        10 log10(sum of the squared FP32 outputs / sum of the squared differences), over all
        elements of `num_samples` samples. (AIMET averages the ratios of batches, each with 1e-4
        added to its noise, so that its value depends on the size of the batches.) Outputs in FP32
        are computed once.

        Args:
            num_samples: of the first batches; the batch that reaches it is used whole.

        Raises:
            ValueError: `num_samples` is less than 1.
        """
        if num_samples < 1:
            raise ValueError(
                f"EvalCallbackFactory.sqnr: `num_samples` must be at least 1, got {num_samples}"
            )

        def evaluate(model: nn.Module, _: Any = None) -> float:
            signal = noise = 0.0
            with evaluation_mode(model):
                for i, batch in enumerate(self._batches(model, num_samples)):
                    if i == len(self._expected):
                        with remove_all_quantizers(model):
                            self._expected.append(self._output(model, batch).detach().clone())
                    expected = self._expected[i].double()
                    signal += float(expected.square().sum())
                    noise += float((self._output(model, batch) - expected).square().sum())
            if noise == 0:
                return math.inf
            return 10 * math.log10(signal / noise) if signal else -math.inf

        return evaluate

    def _batches(self, model: nn.Module, num_samples: int) -> Iterable[Any]:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        seen = 0
        for batch in self._data_loader:
            if seen >= num_samples:
                return
            leaves = [x for x in torch.utils._pytree.tree_leaves(batch) if isinstance(x, Tensor)]
            seen += len(leaves[0]) if leaves and leaves[0].dim() else 1
            yield torch.utils._pytree.tree_map(
                lambda x: x.to(device) if isinstance(x, Tensor) else x, batch
            )

    def _output(self, model: nn.Module, batch: Any) -> Tensor:
        output = self._forward(model, batch)
        if not isinstance(output, Tensor):
            raise TypeError(
                "EvalCallbackFactory: the model returns a "
                f"{type(output).__name__}, not one tensor; pass a `forward_fn` that picks one"
            )
        return output


def _call(model: nn.Module, batch: Any) -> Any:
    return model(*batch) if isinstance(batch, (tuple, list)) else model(batch)
