"""Ending the calibration of many quantizers at once.

A network has hundreds of quantizers with one number each; a handful of operations for each of them
costs more than running a small network.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from aimet_torch import ops
from aimet_torch.quantization.affine.quantizer import AffineQuantizerBase
from aimet_torch.quantization.affine.ranges import MinMaxRange
from aimet_torch.quantization.base import QuantizerBase
from aimet_torch.quantization.encoding_analyzer import MinMaxEncodingAnalyzer
from aimet_torch.quantization.grid import limits_of_steps

__all__ = ["end_calibration_of", "is_ended_with_others", "set_ranges"]


@torch.no_grad()
def end_calibration_of(quantizers: Iterable[QuantizerBase]) -> dict[int, str]:
    """End the calibration of several quantizers; the ranges are those of `end_calibration`.

    Args:
        quantizers: observing; each once.

    Returns:
        Why there is no range, by the ``id`` of the quantizer, for those without.
    """
    issues: dict[int, str] = {}
    groups: dict[Any, list[Any]] = {}
    for quantizer in quantizers:
        groups.setdefault(_group_of(quantizer), []).append(quantizer)
    for key, members in groups.items():
        if key is None or not _end_together(members):
            for quantizer in members:
                issue = quantizer.end_calibration()
                if issue:
                    issues[id(quantizer)] = issue
    return issues


def is_ended_with_others(quantizer: QuantizerBase) -> bool:
    """Whether `end_calibration_of` gains from having the quantizer together with others."""
    return _group_of(quantizer) is not None


def _group_of(quantizer: Any) -> Any:
    """What quantizers must have in common to be computed together; None for those alone."""
    analyzer = quantizer.encoding_analyzer
    is_simple = (
        isinstance(quantizer, AffineQuantizerBase)
        and type(quantizer)._set_from_statistics is AffineQuantizerBase._set_from_statistics
        and type(quantizer).set_range is AffineQuantizerBase.set_range
        and type(analyzer) is MinMaxEncodingAnalyzer
        and analyzer.min is not None
        and all(quantizer._overwrite_allowed.values())
    )
    if not is_simple:
        return None
    return (
        quantizer.qmax - quantizer.qmin,
        quantizer.symmetric,
        analyzer.min.dtype,
        analyzer.min.device,
        quantizer.min.device,
    )


def _end_together(quantizers: Sequence[Any]) -> bool:
    """False, and nothing happens, where one of them saw no finite value in some channel."""
    minimum = torch.cat([q.encoding_analyzer.min.reshape(-1) for q in quantizers])
    maximum = torch.cat([q.encoding_analyzer.max.reshape(-1) for q in quantizers])
    if not bool((minimum <= maximum).all()):
        return False
    first = quantizers[0]
    grid = limits_of_steps(first.qmax - first.qmin, first.symmetric)
    set_ranges(quantizers, *ops.range_from_min_max(minimum, maximum, *grid, first.symmetric))
    for quantizer in quantizers:
        quantizer.calibration_issue = None
        quantizer.cancel_calibration()
    return True


@torch.no_grad()
def set_ranges(quantizers: Sequence[Any], minimum: Tensor, maximum: Tensor) -> None:
    """`set_range` of several quantizers.

    Args:
        quantizers: affine.
        minimum: lower ends of all of them, flat, one after the other.
        maximum: upper ends, not below them.
    """
    sizes = [math.prod(quantizer.shape) for quantizer in quantizers]
    if not all(isinstance(quantizer.parametrization, MinMaxRange) for quantizer in quantizers):
        limits = minimum.split(sizes), maximum.split(sizes)
        for quantizer, low, high in zip(quantizers, *limits, strict=True):
            quantizer.set_range(low.view(quantizer.shape), high.view(quantizer.shape))
        return
    for name, values in (("min", minimum), ("max", maximum)):
        targets = [getattr(quantizer, name) for quantizer in quantizers]
        parts = values.to(targets[0].dtype).split(sizes)
        sources = [part.view(t.shape) for part, t in zip(parts, targets, strict=True)]
        torch._foreach_copy_(targets, sources)
    is_finite = bool((minimum.isfinite() & maximum.isfinite()).all())
    for quantizer in quantizers:
        quantizer._initialized = is_finite
