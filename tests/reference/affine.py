"""The affine grid in NumPy, from the formulas of docs/numerics.md: no torch, nothing of ours.

Everything is computed in the dtype of ``x`` (float32 or float64); parameters are cast to it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]


def expand(parameter: Array, shape: tuple[int, ...], block_size: tuple[int, ...] | None) -> Array:
    """Writes a parameter out to the shape of the input: broadcasting, or blocks."""
    if block_size is not None and parameter.ndim > 0:
        skipped = len(shape) - parameter.ndim
        for axis in range(parameter.ndim):
            repeats = shape[skipped + axis] // max(parameter.shape[axis], 1)
            parameter = np.repeat(parameter, repeats, axis=axis)
    return np.broadcast_to(parameter, shape)


def parameters(
    x: Array, scale: Array, offset: Array, block_size: tuple[int, ...] | None
) -> tuple[Array, Array]:
    """Scale and offset for each element."""
    scale = np.asarray(scale, dtype=x.dtype)
    offset = np.asarray(offset, dtype=x.dtype)
    if offset.size == 1:
        offset = np.full_like(scale, offset.reshape(-1)[0])
    return expand(scale, x.shape, block_size), expand(offset, x.shape, block_size)


def clamp(x: Array, low: float, high: float) -> Array:
    """Keeps NaN and the sign of zero, as the two comparisons do."""
    x = np.where(x < low, x.dtype.type(low), x)
    return np.where(x > high, x.dtype.type(high), x)


def unclamped_code(x: Array, scale: Array, offset: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.rint(x / scale) - offset


def quantize(
    x: Array,
    scale: Array,
    offset: Array,
    qmin: int,
    qmax: int,
    block_size: tuple[int, ...] | None = None,
) -> Array:
    s, o = parameters(x, scale, offset, block_size)
    return clamp(unclamped_code(x, s, o), qmin, qmax)


def dequantize(
    q: Array, scale: Array, offset: Array, block_size: tuple[int, ...] | None = None
) -> Array:
    s, o = parameters(q, scale, offset, block_size)
    return (q + o) * s


def quantize_dequantize(
    x: Array,
    scale: Array,
    offset: Array,
    qmin: int,
    qmax: int,
    block_size: tuple[int, ...] | None = None,
) -> Array:
    return dequantize(quantize(x, scale, offset, qmin, qmax, block_size), scale, offset, block_size)


def sum_to(values: Array, shape: tuple[int, ...], block_size: tuple[int, ...] | None) -> Array:
    """Sums over the elements that share a parameter of ``shape``."""
    skipped = values.ndim - len(shape)
    split: list[int] = list(values.shape[:skipped])
    axes: list[int] = list(range(skipped))
    for axis, count in enumerate(shape):
        axes.append(len(split) + 1)
        split += [count, values.shape[skipped + axis] // max(count, 1)]
    return values.reshape(split).sum(axis=tuple(axes)).reshape(shape)


def quantize_dequantize_gradient(
    grad: Array,
    x: Array,
    scale: Array,
    offset: Array,
    qmin: int,
    qmax: int,
    block_size: tuple[int, ...] | None = None,
) -> tuple[Array, Array, Array]:
    """Straight-through gradients of input, scale and offset."""
    s, o = parameters(x, scale, offset, block_size)
    code = unclamped_code(x, s, o)
    inside = (code >= qmin) & (code <= qmax)
    ratio = x / s
    d_scale = grad * np.where(inside, np.rint(ratio) - ratio, clamp(code, qmin, qmax) + o)
    d_offset = np.where(inside, 0, grad * s)
    shape = np.shape(scale)
    total_offset = sum_to(d_offset, shape, block_size)
    if np.size(offset) == 1:
        total_offset = total_offset.sum().reshape(np.shape(offset))
    return np.where(inside, grad, 0), sum_to(d_scale, shape, block_size), total_offset
