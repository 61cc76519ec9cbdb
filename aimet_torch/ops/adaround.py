"""Soft rounding of AdaRound for a training loop of one's own.

>>> import torch
>>> weight, scale, zero = torch.tensor([[0.26, -0.9]]), torch.tensor(0.1), torch.tensor(0.0)
>>> alpha = adaround_alpha(weight, scale).requires_grad_()
>>> soft = adaround_quantize_dequantize(weight, alpha, scale, zero, -8, 7)
>>> (soft - 0.25).square().sum().backward()  # the reconstruction loss of a layer, really

Formulas: ``docs/rounding.md``. Source: Nagel et al. 2020 (AdaRound, arXiv 2004.10568), eq. 22-24.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "adaround_alpha",
    "adaround_beta",
    "adaround_quantize_dequantize",
    "adaround_regularizer",
    "adaround_step_",
]


def adaround_alpha(weight: Tensor, scale: Tensor) -> Tensor:
    """The alpha with which soft weights are the weights themselves.

    Args:
        weight: float32 or float64.
        scale: Positive; broadcasts against ``weight``.

    Returns:
        ``-log(1.2 / (frac(weight / scale) + 0.1) - 1)``, shape and dtype of ``weight``.

    Raises:
        TypeError: ``weight`` has another dtype.
        ValueError: ``scale`` does not fit or is not positive.
    """
    return torch.ops.aimet.adaround_alpha(weight, scale)


def adaround_quantize_dequantize(
    weight: Tensor,
    alpha: Tensor,
    scale: Tensor,
    offset: Tensor,
    qmin: int,
    qmax: int,
    hard: bool = False,
) -> Tensor:
    """Weights between the two neighbors on their grid, as alpha says.

    Args:
        weight: float32 or float64; a constant.
        alpha: Shape and dtype of ``weight``; gets the gradient.
        scale: Positive; broadcasts against ``weight``.
        offset: Likewise.
        qmin: Lowest code.
        qmax: Highest code.
        hard: Decide: up where ``alpha >= 0``, down elsewhere; no gradient.

    Returns:
        ``(clamp(floor(weight / scale) + h - offset, qmin, qmax) + offset) * scale`` with
        ``h = clamp(1.2 sigmoid(alpha) - 0.1, 0, 1)``.

    Raises:
        TypeError: Another dtype.
        ValueError: Shapes do not fit, or ``qmin >= qmax``.
    """
    return torch.ops.aimet.adaround_quantize_dequantize(
        weight, alpha, scale, offset, qmin, qmax, hard
    )


def adaround_regularizer(alpha: Tensor, beta: float) -> Tensor:
    """What pulls h to 0 or 1: the sum of ``1 - |2 h - 1|^beta``.

    Args:
        alpha: float32 or float64; gets the gradient.
        beta: Exponent; see :func:`adaround_beta`.

    Returns:
        A scalar. Multiply it by the regularization parameter (0.01) and add it to a loss that is a
        sum over output channels and a mean over samples and positions.
    """
    return torch.ops.aimet.adaround_regularizer(alpha, beta)


def adaround_beta(
    iteration: int,
    iterations: int,
    first: float = 20.0,
    last: float = 2.0,
    warm_start: float = 0.2,
) -> float:
    """The exponent of an iteration.

    Args:
        iteration: From 0 to ``iterations``.
        iterations: Of the whole optimization.
        first: Exponent behind the warm start.
        last: Exponent at the end; half a cosine lies between them.
        warm_start: Share of the iterations without the regularizer.

    Returns:
        The exponent; 0 during the warm start: leave the regularizer out.

    Raises:
        ValueError: A number is out of its range.

    >>> [adaround_beta(i, 10) for i in (0, 2, 6, 10)]
    [0.0, 20.0, 11.0, 2.0]
    """
    return torch.ops.aimet.adaround_beta(iteration, iterations, first, last, warm_start)


def adaround_step_(
    alpha: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    grad: Tensor,
    weight: Tensor,
    scale: Tensor,
    offset: Tensor,
    qmin: int,
    qmax: int,
    beta: float,
    reg_param: float = 0.01,
    learning_rate: float = 1e-3,
    step: int = 1,
) -> None:
    """One step of Adam on alpha, in place: soft weight, regularizer and optimizer in one pass.

    Args:
        alpha: Updated; float32 or float64, contiguous.
        exp_avg: Updated; first moment, like ``alpha``, zeros at first.
        exp_avg_sq: Updated; second moment, likewise.
        grad: Of the reconstruction loss with respect to the soft weights, like ``alpha``.
        weight: As for :func:`adaround_quantize_dequantize`, like the next four.
        scale: See there.
        offset: See there.
        qmin: See there.
        qmax: See there.
        beta: From :func:`adaround_beta`; 0: without the regularizer.
        reg_param: Weight of the regularizer.
        learning_rate: Of Adam; its other settings are PyTorch's defaults.
        step: Counts from 1.

    Raises:
        TypeError: Another dtype.
        ValueError: Shapes do not fit.
    """
    torch.ops.aimet.adaround_step_(
        alpha, exp_avg, exp_avg_sq, grad, weight, scale, offset, qmin, qmax, beta, reg_param,
        learning_rate, step,
    )  # fmt: skip
