"""Ranges of what LayerNorm and RMSNorm read, chosen for what they make of it.

Transformers add up values of which a few, always in the same channels and tokens, are a hundred
times larger than the others (Bondarenko et al. 2021, arXiv 2109.12948). A range that covers them
has no steps for the others, and the squared error of the sum itself is that of the few. Behind the
normalization they count no more than others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch import ops
from aimet_torch.graph import OpNode, Value
from aimet_torch.nn import QuantizationMixin
from aimet_torch.ptq.replay import record_inputs
from aimet_torch.quantization.affine import QuantizeDequantize
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.quantsim.calibration import evaluation_mode

__all__ = ["output_place", "output_quantizer", "set_ranges_before_norms"]

_NORMS = (nn.LayerNorm, nn.RMSNorm)
_MOST_ROWS = 4096


def set_ranges_before_norms(
    sim: QuantizationSimModel,
    data_loader: Iterable[Any],
    *,
    num_batches: int | None = None,
    forward_fn: Callable[[nn.Module, Any], Any] | None = None,
) -> dict[str, tuple[float, float]]:
    """Set the ranges of the quantizers in front of LayerNorms and RMSNorms, in place.

    Each gets the range with which the normalization gives the least squared error
    (:func:`aimet_torch.ops.range_before_norm`) on its inputs in floating point. Where it reads a
    sum, the ranges of the summands' quantizers are cut to that of the sum.

    Args:
        sim: Calibrated simulation. Normalizations over the last dimension only, called once each,
            behind an affine quantizer with one scale that is not frozen; others are left alone.
        data_loader: Batches of inputs, or of inputs followed by labels.
        num_batches: How many batches are used; None: all.
        forward_fn: ``forward_fn(model, batch)`` runs one; None: a batch is an input, or a tuple
            that begins with the inputs.

    Returns:
        Name of each normalization -> the range (min, max) in front of it.

    Raises:
        ValueError: There is no batch.
    """
    found: dict[str, OpNode] = {}
    for op in sim.graph.ops:
        module = op.module
        is_norm = isinstance(module, _NORMS) and len(module.normalized_shape) == 1
        if is_norm and op.call_index == 0 and output_quantizer(op.inputs[0]) is not None:
            found[str(op.module_name)] = op
    for op in sim.graph.ops:
        if op.call_index > 0:
            found.pop(str(op.module_name), None)
    calls = record_inputs(sim.model, data_loader, forward_fn, num_batches, sim._positional_count())
    original = QuantizationSimModel.get_original_model(sim.model)
    seen = _inputs(original, list(found), calls)
    ranges = {}
    for name, op in found.items():
        quantizer = output_quantizer(op.inputs[0])
        if quantizer is None or name not in seen:
            continue
        norm: Any = original.get_submodule(name)
        low, high = ops.range_before_norm(
            seen[name],
            norm.weight,
            torch.finfo(seen[name].dtype).eps if norm.eps is None else norm.eps,
            quantizer.qmin,
            quantizer.qmax,
            quantizer.symmetric,
            isinstance(norm, nn.RMSNorm),
        )
        quantizer.set_range(low, high)
        ranges[name] = (float(low), float(high))
        _cut_summands(op.inputs[0], low, high)
    return ranges


def output_place(value: Value) -> tuple[Any, int] | None:
    """The list of quantizers that holds the one of an operation's result, and where."""
    op = value.producer
    if op is None or not isinstance(op.module, QuantizationMixin):
        return None
    module: Any = op.module
    index = op.call_index * module.outputs_per_call + op.outputs.index(value)
    return (module.output_quantizers, index) if index < len(module.output_quantizers) else None


def output_quantizer(value: Value) -> QuantizeDequantize | None:
    """The quantizer of a value, if it is affine with one scale and may be overwritten."""
    place = output_place(value)
    quantizer = None if place is None else place[0][place[1]]
    is_usable = (
        isinstance(quantizer, QuantizeDequantize)
        and tuple(quantizer.shape) == ()
        and quantizer.is_overwrite_allowed()
    )
    return quantizer if is_usable else None


def _inputs(model: nn.Module, names: list[str], calls: list[Any]) -> dict[str, Tensor]:
    """Rows that the named modules read, evenly chosen where there are many."""
    rows: dict[str, list[Tensor]] = {}
    hooks = []
    share = max(_MOST_ROWS // len(calls), 1)

    def keep(name: str, given: Tensor) -> None:
        flat = given.detach().reshape(-1, given.shape[-1])
        rows.setdefault(name, []).append(flat[:: -(-len(flat) // share) or 1].clone())

    for name in names:
        hooks.append(
            model.get_submodule(name).register_forward_pre_hook(
                lambda _, args, name=name: keep(name, args[0])
            )
        )
    try:
        with evaluation_mode(model):
            for args, kwargs in calls:
                model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(parts) for name, parts in rows.items()}


def _cut_summands(value: Value, low: Tensor, high: Tensor) -> None:
    """What is cut off from a sum needs no steps in its summands, if nobody else reads them."""
    op = value.producer
    if op is None or op.op_type != "Add":
        return
    for summand in op.inputs:
        quantizer = output_quantizer(summand)
        if quantizer is None or len(summand.consumers) != 1 or not quantizer.is_initialized():
            continue
        least = torch.maximum(quantizer.min.detach(), low)
        largest = torch.minimum(quantizer.max.detach(), high)
        grid = (quantizer.qmin, quantizer.qmax, quantizer.symmetric)
        quantizer.set_range(*ops.range_from_min_max(least, largest, *grid))
