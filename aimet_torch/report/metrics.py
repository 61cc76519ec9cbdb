"""Measures of how well one set of outputs agrees with another. No labels are needed."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sqnr_db(reference: Tensor, actual: Tensor) -> float:
    """Return the signal-to-quantization-noise ratio ``10 log10(sum r^2 / sum (r - a)^2)`` in dB.

    Args:
        reference: floating-point tensor of any shape, the signal.
        actual: tensor of the same shape; the noise is what it differs by.

    Returns:
        dB, summed in float64: ``inf`` for equal tensors, ``-inf`` for an all-zero reference with
        noise, ``nan`` where a value is NaN.

    Raises:
        ValueError: the shapes differ or the tensors are empty.

    >>> round(sqnr_db(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])), 6)
    20.0
    """
    _check_shapes("sqnr_db", reference, actual)
    dtype = torch.promote_types(torch.promote_types(reference.dtype, actual.dtype), torch.float32)
    signal = reference.detach().to(dtype)
    noise = _sum_of_squares(signal - actual.detach().to(dtype))
    power = _sum_of_squares(signal)
    if math.isnan(noise) or math.isnan(power):
        return math.nan
    if noise == 0:
        return math.inf
    return 10 * math.log10(power / noise) if power > 0 else -math.inf


def top1_agreement(reference: Tensor, actual: Tensor) -> float:
    """Return the share of rows whose largest entry is at the same place in both, 0 to 1.

    Args:
        reference: scores of shape (N, classes).
        actual: scores of the same shape.

    Raises:
        ValueError: the shapes differ, are not (N, classes), or the tensors are empty.

    >>> top1_agreement(torch.eye(2), torch.tensor([[0.9, 0.1], [0.8, 0.2]]))
    0.5
    """
    _check_shapes("top1_agreement", reference, actual)
    if reference.dim() != 2:
        raise ValueError(
            f"top1_agreement: `reference` must have shape (N, classes),"
            f" got {tuple(reference.shape)}; flatten it first"
        )
    return (reference.argmax(1) == actual.argmax(1)).double().mean().item()


def _sum_of_squares(values: Tensor) -> float:
    # Accumulated in float64 without a copy of the tensor in float64.
    return torch.linalg.vector_norm(values, dtype=torch.float64).square().item()


def _check_shapes(function: str, reference: Tensor, actual: Tensor) -> None:
    if reference.shape != actual.shape:
        raise ValueError(
            f"{function}: `actual` must have the shape of `reference`, {tuple(reference.shape)},"
            f" got {tuple(actual.shape)}"
        )
    if reference.numel() == 0:
        raise ValueError(
            f"{function}: `reference` must not be empty, got shape {tuple(reference.shape)}"
        )
