"""What calibration collects: limits and histograms of tensors, per tensor, channel or block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["min_max"]


def min_max(
    input: Tensor, shape: Sequence[int], block_size: Sequence[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Smallest and largest finite value of ``input``, reduced to ``shape``.

    Args:
        input: float16, bfloat16, float32 or float64, any shape and strides.
        shape: broadcasts against ``input``: ``()`` per tensor, ``(C, 1, 1)`` per channel.
        block_size: one entry per dimension of ``shape``, as in :func:`aimet_torch.ops.quantize`.

    Returns:
        ``(min, max)`` of ``shape``, float32 (float64 for float64 input). NaN and infinities do not count; where nothing
        counts, the results are ``+inf`` and ``-inf``. Not differentiable.

    Raises:
        TypeError: ``input`` is not floating.
        ValueError: ``shape`` does not fit.

    >>> min_max(torch.tensor([[1.0, -2.0], [0.5, float("inf")]]), (2, 1))
    (tensor([[-2.0000],
            [ 0.5000]]), tensor([[1.0000],
            [0.5000]]))
    """
    return torch.ops.aimet.min_max(input, shape, block_size)
