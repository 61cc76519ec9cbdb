"""Find the grid that a tensor lies on already, so that quantizing it again changes nothing.

Weights that were quantized before (by AdaRound, by another tool, by folding) use few of the
integers; the minimum-maximum range of such a tensor is in general another grid, which would round
every value a second time.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from aimet_torch import ops

__all__ = ["find_grid"]

_MAX_LEVELS = 128  # 8 bits; the steps of finer grids are too close to rounding noise
_PROBED_CHANNELS = 4
_PROBED_VALUES = 16
_CHANNELS_AT_ONCE = 256


@torch.no_grad()
def find_grid(
    tensor: Tensor,
    shape: tuple[int, ...],
    block_size: tuple[int, ...] | None,
    qmin: int,
    qmax: int,
) -> tuple[Tensor, Tensor] | None:
    """Return the range (min, max) of a signed symmetric grid that represents ``tensor`` exactly.

    Every channel or block is tried with its largest magnitude at integer 1, 2, ... of the grid;
    the first integer that puts all its other values on integers too is taken, times the power of
    two that still fits. Exact up to the rounding of the tensor's own dtype.

    Args:
        tensor: floating-point values.
        shape: shape of the scale.
        block_size: as in `quantize_dequantize`.
        qmin: smallest integer.
        qmax: largest integer.

    Returns:
        Two tensors of ``shape``, or None when some channel is on no grid.
    """
    levels = max(-qmin, qmax)
    tolerance = 4 * torch.finfo(tensor.dtype).eps  # two roundings, of the value and of the largest
    if levels > _MAX_LEVELS or tolerance * levels > 0.1 or tensor.numel() == 0:
        return None
    rows = _rows(tensor, shape, block_size)  # (channels or blocks, values of each)
    if _is_on_no_grid(rows[0], levels, tolerance):
        return None
    if _steps(rows[:_PROBED_CHANNELS], qmin, qmax, levels, tolerance) is None:
        return None  # the usual case, at the cost of a few small operations
    steps = []
    for chunk in rows.split(_CHANNELS_AT_ONCE):
        found = _steps(chunk, qmin, qmax, levels, tolerance)
        if found is None:
            return None
        steps.append(found)
    return _exact_range(tensor, torch.cat(steps).reshape(shape), block_size, qmin, qmax)


def _rows(tensor: Tensor, shape: tuple[int, ...], block_size: tuple[int, ...] | None) -> Tensor:
    """Reorder to (entries of ``shape``, values of each)."""
    lead = tensor.dim() - len(shape)
    sizes: list[int] = list(tensor.shape[:lead])
    kept, reduced = [], list(range(lead))
    for dim, count in enumerate(shape):
        # A broadcast axis is one block that spans it; an axis of channels has blocks of one.
        kept.append(len(sizes))
        reduced.append(len(sizes) + 1)
        sizes += [count, tensor.shape[lead + dim] // count]
    return tensor.reshape(sizes).permute(*kept, *reduced).reshape(max(1, _product(shape)), -1)


def _product(sizes: tuple[int, ...]) -> int:
    product = 1
    for size in sizes:
        product *= size
    return product


def _is_on_no_grid(row: Tensor, levels: int, tolerance: float) -> bool:
    """Whether `_steps` would find none for this row: the usual case, in NumPy for its small cost.

    Its largest values decide, each taken times 1 .. ``levels`` as `_steps` does.
    """
    if not row.is_cpu or row.dtype not in (torch.float32, torch.float64):
        return False
    magnitudes = np.abs(row.numpy())
    few = min(_PROBED_VALUES, magnitudes.size)
    probe = np.partition(magnitudes, magnitudes.size - few)[-few:].astype(np.float64)
    largest = probe.max()
    if not 0 < largest < np.inf:
        return False
    codes = (probe / largest)[:, None] * np.arange(1, levels + 1, dtype=np.float64)
    fits = np.abs(codes - np.rint(codes)) <= tolerance * codes
    return not bool(fits.all(0).any())


def _steps(rows: Tensor, qmin: int, qmax: int, levels: int, tolerance: float) -> Tensor | None:
    """Return the step of the grid of each row, None if one has none."""
    magnitudes = rows.abs()
    # The largest magnitudes and a few from anywhere decide; all are looked at only if these fit.
    stride = -(-rows.shape[1] // _PROBED_VALUES)
    largest_few = magnitudes.topk(min(_PROBED_VALUES, rows.shape[1]), dim=1).values
    probe = torch.cat([largest_few, magnitudes[:, ::stride]], dim=1).double()
    largest = probe[:, :1]
    relative = probe / largest.where(largest > 0, 1.0)
    integers = torch.arange(1, levels + 1, device=rows.device, dtype=torch.float64)
    codes = relative[:, :, None] * integers  # (rows, values, candidates for the largest)
    fits = ((codes - codes.round()).abs() <= tolerance * codes).all(1)
    if not bool((fits.any(1, keepdim=True) & largest.isfinite()).all()):
        return None
    of_largest = integers[fits.to(torch.uint8).argmax(1)]
    # Halving the step as often as the grid allows keeps every value to the bit, and leaves finer
    # steps to training: weights that are all 1.0 would otherwise get a step of 1.0.
    of_largest = of_largest * torch.exp2(torch.log2(qmax / of_largest).floor().clamp(min=0))
    steps = largest[:, 0] / of_largest
    steps = torch.where(steps > 0, steps, torch.finfo(torch.float32).tiny)[:, None]
    codes = torch.round(rows.double() / steps)
    is_on = (codes * steps - rows).abs() <= tolerance * magnitudes
    return steps[:, 0] if bool((is_on & (codes >= qmin) & (codes <= qmax)).all()) else None


def _exact_range(
    tensor: Tensor, scale: Tensor, block_size: tuple[int, ...] | None, qmin: int, qmax: int
) -> tuple[Tensor, Tensor]:
    """Choose, among neighboring floats, the scale that keeps most values to the bit."""
    scale = scale.float()
    best_range, fewest = None, None
    for ulps in (0, 1, -1, 2, -2):
        near = scale * (1 + ulps * torch.finfo(torch.float32).eps)
        limits = near * qmin, near * qmax
        exact_scale, offset = ops.encoding_from_range(*limits, qmin, qmax, True)
        again = ops.quantize_dequantize(tensor, exact_scale, offset, qmin, qmax, block_size)
        changed = (_rows(again, tuple(scale.shape), block_size)).ne(
            _rows(tensor, tuple(scale.shape), block_size)
        )
        count = changed.sum(1).reshape(scale.shape)
        if best_range is None or fewest is None:
            best_range, fewest = limits, count
        else:
            is_better = count < fewest
            best_range = (
                torch.where(is_better, limits[0], best_range[0]),
                torch.where(is_better, limits[1], best_range[1]),
            )
            fewest = torch.minimum(fewest, count)
    assert best_range is not None
    return best_range
