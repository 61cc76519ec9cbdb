"""Quantize, dequantize, and both in one, on the affine grid ``x = (q + offset) * scale``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aimet_torch import _native  # noqa: F401 - registers the operators

__all__ = [
    "clamp_quantize_dequantize",
    "dequantize",
    "quantize",
    "quantize_dequantize",
    "quantize_dequantize_min_max",
]

# Called most often of all: looking the operator up each time costs as much as computing 2,000
# elements.
_quantize_dequantize = torch.ops.aimet.quantize_dequantize.default


def quantize(
    input: Tensor,
    scale: Tensor,
    offset: Tensor,
    qmin: int,
    qmax: int,
    block_size: Sequence[int] | None = None,
) -> Tensor:
    """Rounds ``input`` to integer codes: ``clamp(round(input / scale) - offset, qmin, qmax)``.

    Ties round to the even code. NaN stays NaN, infinities become ``qmin`` or ``qmax``.

    Args:
        input: float16, bfloat16, float32 or float64, any shape and strides. All but float64 are
            computed in float32.
        scale: positive; broadcasts against ``input``: ``()`` per tensor, ``(C, 1, 1)`` per channel.
        offset: in codes, usually an integer; of the shape of ``scale`` or one element.
        qmin: lowest code.
        qmax: highest code.
        block_size: one entry per dimension of ``scale``, aligned to the right of ``input``:
            dimension ``d`` of ``input`` has ``scale.size(d) * block_size[d]`` elements; ``-1``
            stands for ``input.size(d) / scale.size(d)``.

    Returns:
        The codes, in the shape, dtype and memory format of ``input``. Differentiable with respect
        to ``input``, ``scale`` and ``offset``; rounding counts as the identity.

    Raises:
        TypeError: ``input`` or ``scale`` is not floating.
        ValueError: shapes do not fit, ``qmin >= qmax``, or a scale is not positive and finite (read
            on the CPU only, and for up to 1024 scales).

    Source: Jacob et al. 2018 (arXiv 1712.05877), eq. 1.

    >>> quantize(torch.tensor([-1.0, 0.25, 9.0]), torch.tensor(0.5), torch.tensor(0.0), -8, 7)
    tensor([-2.,  0.,  7.])
    """
    return torch.ops.aimet.quantize(input, scale, offset, qmin, qmax, block_size)


def dequantize(
    input: Tensor, scale: Tensor, offset: Tensor, block_size: Sequence[int] | None = None
) -> Tensor:
    """Maps codes back to real numbers: ``(input + offset) * scale``.

    Args:
        input: codes in a floating dtype, any shape and strides.
        scale: as in :func:`quantize`.
        offset: as in :func:`quantize`.
        block_size: as in :func:`quantize`.

    Returns:
        Real numbers, in the shape, dtype and memory format of ``input``. Differentiable with
        respect to all three tensors.

    Raises:
        TypeError: ``input`` or ``scale`` is not floating.
        ValueError: shapes do not fit, or a scale is not positive and finite.

    >>> dequantize(torch.tensor([-2.0, 7.0]), torch.tensor(0.5), torch.tensor(1.0))
    tensor([-0.5000,  4.0000])
    """
    return torch.ops.aimet.dequantize(input, scale, offset, block_size)


def quantize_dequantize(
    input: Tensor,
    scale: Tensor,
    offset: Tensor,
    qmin: int,
    qmax: int,
    block_size: Sequence[int] | None = None,
) -> Tensor:
    """Rounds ``input`` to the grid and maps it back: ``dequantize(quantize(input))`` in one pass.

    Gradients (straight-through): with ``m = 1`` where the code lies in ``[qmin, qmax]`` before
    clamping, ``d input = g * m``, ``d scale = sum(g * (round(x / s) - x / s if m else q +
    offset))``, ``d offset = sum(g * s * (1 - m))``. If only ``input`` needs a gradient, one bit per
    element is kept for backward, else ``input`` itself.

    Args:
        input: float16, bfloat16, float32 or float64, any shape and strides.
        scale: as in :func:`quantize`.
        offset: as in :func:`quantize`.
        qmin: lowest code.
        qmax: highest code.
        block_size: as in :func:`quantize`.

    Returns:
        Values on the grid, in the shape, dtype and memory format of ``input``.

    Raises:
        TypeError: ``input`` or ``scale`` is not floating.
        ValueError: shapes do not fit, ``qmin >= qmax``, or a scale is not positive and finite.

    Source: Jacob et al. 2018 (arXiv 1712.05877); gradients: Esser et al. 2020 (arXiv 1902.08153),
    Bhalgat et al. 2020 (arXiv 2004.09576).

    >>> quantize_dequantize(torch.tensor([0.26, 9.0]), torch.tensor(0.5), torch.tensor(0.0), -8, 7)
    tensor([0.5000, 3.5000])
    """
    return _quantize_dequantize(input, scale, offset, qmin, qmax, block_size)


def clamp_quantize_dequantize(
    input: Tensor,
    clamp_min: float | None,
    clamp_max: float | None,
    scale: Tensor,
    offset: Tensor,
    qmin: int,
    qmax: int,
    block_size: Sequence[int] | None = None,
) -> Tensor:
    """An activation function that clamps, and :func:`quantize_dequantize`, in one pass.

    The same bits as the two one after the other, forward and backward, where the gradient of the
    clamp is that of ReLU, ReLU6 and Hardtanh: it passes strictly between the bounds. Backward needs
    less: one bit per element if only ``input`` needs a gradient, else ``input`` itself; the clamped
    values are never kept. On CUDA these are several kernels.

    Args:
        input: float16, bfloat16, float32 or float64, any shape and strides.
        clamp_min: lower bound, such as 0 for ReLU; None for none.
        clamp_max: upper bound, such as 6 for ReLU6; None for none.
        scale: as in :func:`quantize`.
        offset: as in :func:`quantize`.
        qmin: lowest code.
        qmax: highest code.
        block_size: as in :func:`quantize`.

    Returns:
        Values on the grid, in the shape, dtype and memory format of ``input``.

    Raises:
        TypeError: ``input`` or ``scale`` is not floating.
        ValueError: there is no bound, ``clamp_min > clamp_max``, shapes do not fit, ``qmin >=
            qmax``, or a scale is not positive and finite.

    >>> x = torch.tensor([-1.0, 0.26, 9.0])
    >>> clamp_quantize_dequantize(x, 0.0, 3.0, torch.tensor(0.5), torch.tensor(0.0), -8, 7)
    tensor([0.0000, 0.5000, 3.0000])
    """
    return torch.ops.aimet.clamp_quantize_dequantize(
        input, clamp_min, clamp_max, scale, offset, qmin, qmax, block_size
    )


def quantize_dequantize_min_max(
    input: Tensor,
    scale: Tensor,
    offset: Tensor,
    qmin: int,
    qmax: int,
    block_size: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """:func:`quantize_dequantize` and :func:`min_max` of the same input, in one pass.

    For observing what passes a quantizer that is at work.

    Args:
        input: as in :func:`quantize_dequantize`.
        scale: as in :func:`quantize`; its shape is that of the limits.
        offset: as in :func:`quantize`.
        qmin: lowest code.
        qmax: highest code.
        block_size: as in :func:`quantize`.

    Returns:
        ``(output, min, max)``: the values on the grid, differentiable as in
        :func:`quantize_dequantize`, and the limits of the finite inputs that share a scale, in the
        shape of ``scale``, float32 (float64 for float64 input), not differentiable.

    Raises:
        TypeError: ``input`` or ``scale`` is not floating.
        ValueError: shapes do not fit, ``qmin >= qmax``, or a scale is not positive and finite.

    >>> x = torch.tensor([0.26, 9.0])
    >>> quantize_dequantize_min_max(x, torch.tensor(0.5), torch.tensor(0.0), -8, 7)
    (tensor([0.5000, 3.5000]), tensor(0.2600), tensor(9.))
    """
    return torch.ops.aimet.quantize_dequantize_min_max(input, scale, offset, qmin, qmax, block_size)
