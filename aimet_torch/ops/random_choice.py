"""Choosing between two tensors element by element at random."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["choose_randomly"]


def choose_randomly(first: Tensor, second: Tensor, probability: float, seed: int) -> Tensor:
    """An element of ``first`` with ``probability``, else that of ``second``.

    What is chosen follows from ``seed`` and the position in row-major order alone: the same on
    every device and with any number of threads. With an activation and what its quantizer makes of
    it, this is QDrop's dropping of quantization (Wei et al. 2022, arXiv 2203.05740, eq. 8).

    Args:
        first: float16, bfloat16, float32 or float64.
        second: Shape and dtype of ``first``.
        probability: Of an element of ``first``, 0 to 1.
        seed: Any integer of 64 bits; another one for each draw.

    Returns:
        Shape and dtype of ``first``. The gradient of an element goes to where it came from;
        nothing is kept for it.

    Raises:
        TypeError: Not floating-point, or two dtypes.
        ValueError: Two shapes, or a probability outside 0 to 1.

    >>> import torch
    >>> choose_randomly(torch.zeros(2, 8), torch.ones(2, 8), 0.5, seed=3).mean() < 1
    tensor(True)
    """
    return torch.ops.aimet.choose_randomly(first, second, probability, seed)
