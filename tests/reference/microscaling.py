"""MX and NVFP4 blocks in NumPy, from the specifications: no torch, nothing of ours."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tests.reference.float_format import Format, round_to

Array = NDArray[np.floating]

ELEMENTS = {
    "float8e4m3fn": Format(4, 3, finite=True),
    "float8e5m2": Format(5, 2),
    "float6e3m2": Format(3, 2, finite=True),
    "float6e2m3": Format(2, 3, finite=True),
    "float4e2m1": Format(2, 1, finite=True),
}
E4M3 = ELEMENTS["float8e4m3fn"]


def round_element(ratio: Array, element: str) -> Array:
    """An element's value, saturated; MX's int8 counts in units of 1/64."""
    if element != "int8":
        return round_to(ratio, ELEMENTS[element])
    integers = np.clip(np.rint(ratio * 64), -127, 127)
    return np.copysign(integers / 64, ratio).astype(ratio.dtype)


def largest_element(element: str) -> float:
    return 127 / 64 if element == "int8" else ELEMENTS[element].largest


def mx_scale(block: Array, element: str) -> float:
    """OCP MX 1.0, section 6.3: 2^(floor(log2(max|V|)) - emax of the element), as E8M0."""
    magnitudes = np.abs(block[np.isfinite(block)].astype(np.float64))
    largest = float(magnitudes.max()) if magnitudes.size else 0.0
    if largest == 0:
        return 2.0**-127
    exponent = math.frexp(largest)[1] - 1 - (math.frexp(largest_element(element))[1] - 1)
    return 2.0 ** min(max(exponent, -127), 127)


def nvfp4_scale(block: Array, tensor_scale: float) -> float:
    """float8e4m3fn number times the scale of the tensor, in the dtype of ``block``."""
    dtype = block.dtype.type
    magnitudes = np.abs(block[np.isfinite(block)])
    largest = magnitudes.max() if magnitudes.size else dtype(0)
    with np.errstate(over="ignore"):
        wanted = np.asarray(dtype(largest) / dtype(6) / dtype(tensor_scale))
    rounded = max(dtype(round_to(wanted, E4M3)), dtype(2.0**-9))
    return max(dtype(rounded) * dtype(tensor_scale), dtype(2.0**-126))


def quantize_dequantize(
    x: Array, element: str, axis: int, block_size: int, tensor_scale: float | None = None
) -> tuple[Array, Array, Array]:
    """Values, scales, and where no value saturates."""
    moved = np.moveaxis(x, axis, -1)
    length = moved.shape[-1]
    count = -(-length // block_size)
    values = np.empty_like(moved)
    inside = np.empty(moved.shape, dtype=bool)
    scales = np.empty((*moved.shape[:-1], count), dtype=x.dtype)
    for position in np.ndindex(*moved.shape[:-1]):
        for index in range(count):
            part = slice(index * block_size, min((index + 1) * block_size, length))
            block = moved[position][part]
            if tensor_scale is None:
                scale = mx_scale(block, element)
            else:
                scale = nvfp4_scale(block, tensor_scale)
            scale = x.dtype.type(scale)
            with np.errstate(invalid="ignore", over="ignore"):
                ratio = block / scale
                values[position][part] = round_element(ratio, element) * scale
                inside[position][part] = np.abs(ratio) <= largest_element(element)
            scales[position][index] = scale
    back = (np.moveaxis(a, -1, axis) for a in (values, scales, inside))
    return tuple(back)  # type: ignore[return-value]
