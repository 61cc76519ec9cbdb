"""Ranges of a classifier's outputs, chosen for the probabilities that follow from them.

The squared error of logits is dominated by classes that have no probability; what matters is what
softmax makes of them. Source: Nagel et al. 2021 (arXiv 2106.08295), section 3.1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from aimet_torch import ops
from aimet_torch.graph import Value
from aimet_torch.graph.structure import leaves
from aimet_torch.ptq.norm_ranges import output_place, output_quantizer
from aimet_torch.ptq.replay import record_inputs
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.quantsim.calibration import evaluation_mode

__all__ = ["set_logit_ranges"]


def set_logit_ranges(
    sim: QuantizationSimModel,
    data_loader: Iterable[Any],
    *,
    class_axis: int = -1,
    num_batches: int | None = None,
    forward_fn: Callable[[torch.nn.Module, Any], Any] | None = None,
) -> dict[str, tuple[float, float]]:
    """Set the ranges of the quantizers of a classifier's outputs by cross entropy, in place.

    Each gets the range that makes the cross entropy of the quantized network's probabilities
    against those of the network in floating point least, everything before it being quantized as
    it is (:func:`aimet_torch.ops.range_from_cross_entropy`).

    Args:
        sim: Calibrated simulation of a network whose outputs are logits. Outputs without a
            quantizer, or whose quantizer's range is frozen, are left alone.
        data_loader: Batches of inputs, or of inputs followed by labels, which are not read.
        class_axis: Dimension of the outputs that holds the classes.
        num_batches: How many batches are used; None: all.
        forward_fn: ``forward_fn(model, batch)`` runs one; None: a batch is an input, or a tuple
            that begins with the inputs.

    Returns:
        Name of each output -> its range (min, max).

    Raises:
        ValueError: No output of the model has a quantizer that can be set, or there is no batch.
    """
    found = {}
    for value in dict.fromkeys(sim.graph.outputs):
        quantizer = output_quantizer(value)
        if quantizer is not None:
            found[value.name] = (value, quantizer)
    if not found:
        raise ValueError(
            "set_logit_ranges: no output of the model has an affine quantizer with one scale that "
            "may be overwritten; quantize outputs in the configuration, or leave this step out"
        )
    calls = record_inputs(sim.model, data_loader, forward_fn, num_batches, sim._positional_count())
    positions = [sim.graph.outputs.index(value) for value, _ in found.values()]
    original = QuantizationSimModel.get_original_model(sim.model)
    with evaluation_mode(original):
        references = _outputs(original, calls, positions)
    with evaluation_mode(sim.model), _without_quantizers([value for value, _ in found.values()]):
        logits = _outputs(sim.model, calls, positions)
    ranges = {}
    for (name, (_, quantizer)), seen, reference in zip(
        found.items(), logits, references, strict=True
    ):
        low, high = ops.range_from_cross_entropy(
            seen, quantizer.qmin, quantizer.qmax, quantizer.symmetric, reference, class_axis
        )
        quantizer.set_range(low, high)
        ranges[name] = (float(low), float(high))
    return ranges


@contextlib.contextmanager
def _without_quantizers(values: list[Value]) -> Iterator[None]:
    places = [place for value in values if (place := output_place(value)) is not None]
    kept = [quantizers[index] for quantizers, index in places]
    try:
        for quantizers, index in places:
            quantizers[index] = None
        yield
    finally:
        for (quantizers, index), quantizer in zip(places, kept, strict=True):
            quantizers[index] = quantizer


def _outputs(model: torch.nn.Module, calls: list[Any], positions: list[int]) -> list[Tensor]:
    """The outputs of a model at some positions, over all batches."""
    seen: list[list[Tensor]] = [[] for _ in positions]
    for args, kwargs in calls:
        tensors = list(leaves(model(*args, **kwargs), Tensor))
        for batches, position in zip(seen, positions, strict=True):
            batches.append(tensors[position])
    return [torch.cat(batches) for batches in seen]
