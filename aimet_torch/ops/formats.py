"""Quantize-dequantize to floating-point formats, MX and NVFP4 blocks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["quantize_dequantize_float", "quantize_dequantize_mx", "quantize_dequantize_nvfp4"]


def quantize_dequantize_float(
    input: Tensor,
    scale: Tensor,
    exponent_bits: int,
    mantissa_bits: int,
    finite: bool = False,
    unsigned_zero: bool = False,
    saturate: bool = True,
    block_size: Sequence[int] | None = None,
) -> Tensor:
    """Rounds ``input / scale`` to the nearest number of a format and multiplies by ``scale``.

    Ties go to the number whose last mantissa bit is 0; subnormal numbers of the format are exact.
    NaN stays NaN. Gradients (straight-through): with ``m = 1`` where ``|x / s|`` is not beyond the
    largest number, ``d input = g * m``, ``d scale = sum(g * (round(x / s) - m * x / s))``. If only
    ``input`` needs a gradient, one bit per element is kept for backward, else ``input`` itself.

    Args:
        input: float16, bfloat16, float32 or float64, any shape and strides. All but float64 are
            computed in float32 and rounded once more, to the dtype, at the end.
        scale: positive; broadcasts against ``input``: ``()`` per tensor, ``(C, 1, 1)`` per channel.
        exponent_bits: 2 to 8.
        mantissa_bits: 1 to 23.
        finite: no infinities; one NaN in formats of 8 bits and more, none below (float8e4m3fn,
            float4e2m1).
        unsigned_zero: no negative zero, whose pattern is NaN, and a bias larger by one
            (float8e4m3fnuz).
        saturate: what is rounded beyond the largest number becomes the largest number; if False,
            an infinity, or NaN where ``finite`` or ``unsigned_zero``. Formats that have neither
            always saturate.
        block_size: one entry per dimension of ``scale``, as in :func:`quantize_dequantize`.

    Returns:
        Multiples of ``scale``, in the shape, dtype and memory format of ``input``.

    Raises:
        TypeError: ``input`` or ``scale`` is not floating.
        ValueError: shapes do not fit, the format is none, or a scale is not positive and finite.

    Source: IEEE 754-2019; OCP 8-bit Floating Point Specification 1.0 (2023).

    >>> x = torch.tensor([0.3, 5.1, 1000.0])
    >>> quantize_dequantize_float(x, torch.tensor(1.0), 4, 3, finite=True).tolist()
    [0.3125, 5.0, 448.0]
    """
    return torch.ops.aimet.quantize_dequantize_float(
        input, scale, exponent_bits, mantissa_bits, finite, unsigned_zero, saturate, block_size
    )


def quantize_dequantize_mx(
    input: Tensor, element: str, axis: int = -1, block_size: int = 32
) -> tuple[Tensor, Tensor]:
    """Rounds ``input`` to an OCP Microscaling (MX) format, block by block.

    The scale of a block is the largest power of two not above its largest magnitude, divided by
    that of the element format; elements beyond the largest number saturate. One pass finds the
    scale and rounds. NaN stays NaN and infinities saturate; neither counts for the scale.

    Args:
        input: float16, bfloat16, float32 or float64 of at least one dimension, any strides.
        element: ``float8e4m3fn``, ``float8e5m2``, ``float6e3m2``, ``float6e2m3``, ``float4e2m1`` or
            ``int8``.
        axis: dimension along which blocks lie.
        block_size: neighbors that share a scale, 1 to 1024; the last block may be shorter.

    Returns:
        The rounded values, in the shape, dtype and memory format of ``input``, differentiable with
        respect to it (straight-through; 0 where values saturate); and the scales, float32 (float64
        for float64), with ``ceil(size / block_size)`` entries along ``axis``.

    Raises:
        TypeError: ``input`` is not floating.
        ValueError: an argument is outside of what is said above.

    Source: OCP Microscaling Formats (MX) Specification 1.0 (2023), section 6.3.

    >>> values, scale = quantize_dequantize_mx(torch.tensor([0.1, -3.0, 20.0]), "float4e2m1")
    >>> values.tolist(), scale.tolist()
    ([0.0, -4.0, 16.0], [4.0])
    """
    return torch.ops.aimet.quantize_dequantize_microscaling(input, element, axis, block_size)


def quantize_dequantize_nvfp4(
    input: Tensor, tensor_scale: Tensor, axis: int = -1, block_size: int = 16
) -> tuple[Tensor, Tensor]:
    """Rounds ``input`` to NVFP4: float4e2m1 with float8e4m3fn block scales and a tensor scale.

    A block's scale is ``max|x| / 6 / tensor_scale``, rounded to float8e4m3fn (at least its smallest
    number), times ``tensor_scale``. One pass finds the scale and rounds.

    Args:
        input: as in :func:`quantize_dequantize_mx`.
        tensor_scale: one positive number, usually ``max|input| / (6 * 448)``.
        axis: as in :func:`quantize_dequantize_mx`.
        block_size: as in :func:`quantize_dequantize_mx`.

    Returns:
        As :func:`quantize_dequantize_mx`; the scales include ``tensor_scale``.

    Raises:
        TypeError: ``input`` or ``tensor_scale`` is not floating.
        ValueError: an argument is outside of what is said above, or ``tensor_scale`` is not
            positive and finite (read on the CPU only).

    Source: NVIDIA, Pretraining Large Language Models with NVFP4 (arXiv 2509.25149), appendix C.

    >>> x = torch.tensor([0.1, -3.0, 20.0])
    >>> values, scale = quantize_dequantize_nvfp4(x, x.abs().max() / (6 * 448))
    >>> values, scale
    (tensor([ 0.0000, -3.3333, 20.0000]), tensor([3.3333]))
    """
    return torch.ops.aimet.quantize_dequantize_microscaling(
        input, "float4e2m1", axis, block_size, tensor_scale
    )
