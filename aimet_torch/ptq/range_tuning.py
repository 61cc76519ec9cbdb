"""Ranges of activations, learned together against the outputs of the network in floating point.

Every other way of finding a range looks at one tensor. What an error of that tensor does to the
network's output, and that errors add up, only the output tells: with straight-through gradients
(Esser et al. 2020, arXiv 1902.08153) the limits of all activations go downhill on the error of the
output. Weights stay. No labels, a handful of batches, and no result that is worse on them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aimet_torch.common.progress import progress
from aimet_torch.graph.structure import leaves
from aimet_torch.ptq.replay import record_inputs
from aimet_torch.quantization.affine import QuantizeDequantize
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.quantsim.calibration import evaluation_mode, ranges_of, restore_ranges

__all__ = ["RangeLoss", "RangeTuning", "tune_activation_ranges"]

RangeLoss = Literal["squared_error", "cross_entropy"]
_Call = tuple[tuple[Any, ...], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class RangeTuning:
    """What learning the ranges has changed.

    Attributes:
        error_before: Over all batches: mean squared error of the outputs over their mean square, or
            with the loss "cross_entropy" the mean divergence of their probabilities, in nats.
        error_after: The same afterwards, at most ``error_before``.
        ranges: Number of activation quantizers whose ranges were learned.
    """

    error_before: float
    error_after: float
    ranges: int


def tune_activation_ranges(
    sim: QuantizationSimModel,
    model: nn.Module,
    data_loader: Iterable[Any],
    *,
    num_iterations: int = 128,
    learning_rate: float = 2e-3,
    loss: RangeLoss = "squared_error",
    num_batches: int | None = None,
    forward_fn: Callable[[nn.Module, Any], Any] | None = None,
    seed: int = 0,
) -> RangeTuning:
    """Learn the ranges of all activations against a network's outputs, in place, without labels.

    Adam on the limits of the quantizers, with a rate that falls linearly to zero, on the error
    of the outputs. Everything else in the simulation stays as it is. If the error
    over all batches has not become smaller, the ranges stay, too.

    Args:
        sim: Calibrated simulation. Quantizers that may not be overwritten keep their ranges.
        model: The network in floating point, as it was before weights were rounded or equalized;
            takes the same inputs and gives outputs of the same structure.
        data_loader: Batches of inputs, or of inputs followed by labels, which are not read. They
            are kept in memory, with the outputs.
        num_iterations: Steps; each takes one batch as it comes.
        learning_rate: Of the first step, as a share of each quantizer's range.
        loss: What an error is: "squared_error"; "cross_entropy" for a classifier, whose outputs are
            logits in the last dimension: of its probabilities against those in floating point,
            less the entropy of the latter (Kullback-Leibler divergence).
        num_batches: How many batches are used; None: all.
        forward_fn: ``forward_fn(model, batch)`` runs one; None: a batch is an input, or a tuple
            that begins with the inputs.
        seed: Of the order of batches.

    Returns:
        The errors before and after.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: A number is out of its range, there is no batch, no activation has a range that
            may be learned, or outputs do not fit together.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"tune_activation_ranges: `model` must be an nn.Module, got {type(model).__name__}"
        )
    if num_iterations < 1:
        raise ValueError(
            f"tune_activation_ranges: `num_iterations` must be positive, got {num_iterations}"
        )
    if not 0 < learning_rate < 1:
        raise ValueError(
            "tune_activation_ranges: `learning_rate` is a share of each range, between 0 and 1, "
            f"got {learning_rate}"
        )
    if loss not in get_args(RangeLoss):
        raise ValueError(
            f"tune_activation_ranges: `loss` must be one of {get_args(RangeLoss)}, got {loss!r}"
        )
    quantizers = _learnable(sim)
    if not quantizers:
        raise ValueError(
            "tune_activation_ranges: `sim` has no calibrated activation quantizer whose limits may "
            "be learned; call compute_encodings first, and leave the quantizers unfrozen"
        )
    calls = record_inputs(sim.model, data_loader, forward_fn, num_batches, sim._positional_count())
    with evaluation_mode(model), evaluation_mode(sim.model):
        tuning = _Tuning(sim.model, calls, _references(model, calls), loss)
        before, kept = tuning.error(), ranges_of(sim.model)
        try:
            with _only_these_learn(sim.model, quantizers):
                tuning.run(quantizers, num_iterations, learning_rate, seed)
            after = tuning.error()
        except BaseException:  # also Ctrl-C
            restore_ranges(kept)
            raise
        if not after < before:  # NaN, too
            restore_ranges(kept)
            after = before
    return RangeTuning(before, after, len(quantizers))


def _learnable(sim: QuantizationSimModel) -> list[QuantizeDequantize]:
    found = {
        id(quantizer): quantizer
        for module in sim.qmodules()
        for quantizer in (*module.input_quantizers, *module.output_quantizers)
        if isinstance(quantizer, QuantizeDequantize)
        and quantizer.is_initialized()
        and quantizer.is_overwrite_allowed()
    }
    return list(found.values())


def _outputs(result: Any) -> list[Tensor]:
    return [tensor for tensor in leaves(result, Tensor) if tensor.is_floating_point()]


@torch.no_grad()
def _references(model: nn.Module, calls: list[_Call]) -> list[list[Tensor]]:
    return [_outputs(model(*args, **kwargs)) for args, kwargs in calls]


def _squared_error(given: Tensor, wanted: Tensor) -> Tensor:
    return (given - wanted).square().sum()


def _divergence(given: Tensor, wanted: Tensor) -> Tensor:
    return F.kl_div(
        F.log_softmax(given, -1), F.log_softmax(wanted, -1), reduction="sum", log_target=True
    )


# Loss -> (sum over a batch, what the sum of all batches is divided by).
_LOSSES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], float]]] = {
    "squared_error": (_squared_error, lambda t: float(t.double().square().sum())),
    "cross_entropy": (_divergence, lambda t: t.numel() / max(t.shape[-1], 1)),
}


class _Tuning:
    """The error of a simulated model on some batches, and steps down from it."""

    def __init__(
        self,
        simulated: nn.Module,
        calls: list[_Call],
        references: list[list[Tensor]],
        loss: RangeLoss,
    ) -> None:
        self._simulated = simulated
        self._calls = calls
        self._references = references
        self._distance, size = _LOSSES[loss]
        # Of each output, so that all of them count alike.
        self._sizes = [
            max(sum(size(t) for t in same), torch.finfo(torch.double).tiny)
            for same in zip(*references, strict=True)
        ]

    def _errors(self, batch: int) -> list[Tensor]:
        """Error of each output, summed over the batch."""
        args, kwargs = self._calls[batch]
        given, wanted = _outputs(self._simulated(*args, **kwargs)), self._references[batch]
        if [t.shape for t in given] != [t.shape for t in wanted]:
            raise ValueError(
                "tune_activation_ranges: `model` gives outputs of shapes "
                f"{[tuple(t.shape) for t in wanted]}, the simulation "
                f"{[tuple(t.shape) for t in given]}; pass the network that `sim` was made from"
            )
        return [self._distance(a, b) for a, b in zip(given, wanted, strict=True)]

    @torch.no_grad()
    def error(self) -> float:
        """The error over all batches, mean over the outputs."""
        sums = [0.0] * len(self._sizes)
        for batch in range(len(self._calls)):
            for index, error in enumerate(self._errors(batch)):
                sums[index] += float(error)
        ratios = [error / size for error, size in zip(sums, self._sizes, strict=True)]
        return sum(ratios) / len(ratios)

    def run(
        self,
        quantizers: list[QuantizeDequantize],
        iterations: int,
        learning_rate: float,
        seed: int,
    ) -> None:
        """Take the steps."""
        optimizer = torch.optim.Adam(
            [{"params": list(q.parameters()), "lr": learning_rate * _extent(q)} for q in quantizers]
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / iterations)
        generator = torch.Generator().manual_seed(seed)
        order: list[int] = []
        for _ in progress(range(iterations), "Learning ranges", iterations, "step"):
            if not order:
                order = torch.randperm(len(self._calls), generator=generator).tolist()
            errors = self._errors(order.pop())
            total = torch.stack([e / s for e, s in zip(errors, self._sizes, strict=True)]).sum()
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            schedule.step()


def _extent(quantizer: QuantizeDequantize) -> float:
    with torch.no_grad():
        return float((quantizer.max - quantizer.min).mean())


@contextmanager
def _only_these_learn(model: nn.Module, quantizers: list[QuantizeDequantize]) -> Iterator[None]:
    learned = {id(parameter) for q in quantizers for parameter in q.parameters()}
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(id(parameter) in learned)
        with torch.enable_grad():
            yield
    finally:
        for parameter, flag in before:
            parameter.requires_grad_(flag)
            if id(parameter) in learned:
                parameter.grad = None
