"""Algorithms on weights: typed functions over the operators of ``csrc/aimet/algorithms``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "absorb_high_bias",
    "add_channel_sums_",
    "clipped_normal_moments",
    "correct_bias_analytically",
    "equalize_cross_layers_",
    "fold_batch_norm",
    "merge_batch_norm_statistics",
    "smoothing_scale",
    "tie_free_multiplier",
]


def merge_batch_norm_statistics(
    running_mean: Tensor,
    running_var: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """What batch normalization does in evaluation mode: ``x * scale + shift`` for each channel.

    Args:
        running_mean: (C,).
        running_var: (C,).
        bn_weight: gamma, (C,); None: 1.
        bn_bias: beta, (C,); None: 0.
        eps: Not negative.

    Returns:
        ``scale = gamma / sqrt(running_var + eps)`` and ``shift = beta - running_mean * scale``,
        computed in float64, in the dtype of ``running_var``. Differentiable.

    Raises:
        TypeError: An argument is not floating-point.
        ValueError: Shapes differ, or ``eps`` is negative.
    """
    return torch.ops.aimet.merge_batch_norm_statistics(
        running_mean, running_var, bn_weight, bn_bias, eps
    )


def fold_batch_norm(
    weight: Tensor,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    bn_weight: Tensor | None,
    bn_bias: Tensor | None,
    eps: float,
    *,
    groups: int = 1,
    transposed: bool = False,
    fold_into_next: bool = False,
) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer that also does the work of the batch normalization beside it.

    Args:
        weight: Of a Conv1d/2d/3d, ConvTranspose1d/2d/3d or Linear, as torch.nn stores it.
        bias: (out,); None: 0.
        running_mean: (C,): outputs of the layer, or inputs with ``fold_into_next``.
        running_var: (C,).
        bn_weight: gamma, (C,); None: 1.
        bn_bias: beta, (C,); None: 0.
        eps: Not negative.
        groups: Of the convolution.
        transposed: ``weight`` belongs to a transposed convolution.
        fold_into_next: The batch normalization comes before the layer, not behind it. Exact only
            where every kernel element reads a real input, so not with zero padding.

    Returns:
        ``(weight, bias)``, computed in float64, in the dtype of ``weight``. Differentiable.

    Raises:
        TypeError: An argument is not floating-point.
        ValueError: Shapes or ``groups`` do not fit, or ``eps`` is negative.
        NotImplementedError: ``fold_into_next`` with ``transposed``, which has no exact form.

    Source: Jacob et al. 2018 (arXiv 1712.05877), section 3.2.
    """
    return torch.ops.aimet.fold_batch_norm(
        weight, bias, running_mean, running_var, bn_weight, bn_bias, eps, groups, transposed,
        fold_into_next,
    )  # fmt: skip


def equalize_cross_layers_(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    groups: Sequence[int],
    transposed: Sequence[bool],
    chains: Sequence[Sequence[int]],
    *,
    max_sweeps: int = 50,
    tolerance: float = 1e-3,
    max_scale: float = 1024.0,
) -> tuple[list[list[Tensor]], int]:
    """Equalize the channel ranges of the weights of a whole network, in place.

    A chain is a run of layers with nothing between them but activations ``f`` with
    ``f(x / s) = f(x) / s``; all but its first and last layer are depthwise. The outputs of each
    layer of a chain are divided, and the inputs of the next multiplied, by a scale per channel,
    such that the largest weights of a channel become equal in all layers of the chain.

    Args:
        weights: One a layer, as torch.nn stores it, any floating-point dtype.
        biases: One a layer, or None.
        groups: One a layer.
        transposed: Whether the layer is a transposed convolution.
        chains: Indices into ``weights``, two or more a chain. A Linear may be fed a flattened
            tensor with several positions per channel.
        max_sweeps: Stop after this many sweeps over all chains; one is what AIMET does.
        tolerance: Stop after a sweep that changed no scale by more than this factor minus one.
        max_scale: Scales stay within ``[1 / max_scale, max_scale]``.

    Returns:
        For each chain the scales (float64, (C,)) behind all of its layers but the last, and the
        number of sweeps. Channels with a range of zero, NaN or infinity keep the scale 1.

    Raises:
        TypeError: A weight is not floating-point.
        ValueError: A chain is impossible (message says which and why); nothing was changed.

    Source: Nagel et al. 2019 (arXiv 1906.04721), section 4.1.
    """
    scales, sweep_count = torch.ops.aimet.equalize_cross_layers_(
        list(weights),
        [weights[i].new_empty(0) if bias is None else bias for i, bias in enumerate(biases)],
        list(groups),
        list(transposed),
        [layer for chain in chains for layer in chain],
        [len(chain) for chain in chains],
        max_sweeps,
        tolerance,
        max_scale,
    )
    remaining = iter(scales)
    return [[next(remaining) for _ in chain[1:]] for chain in chains], sweep_count


def absorb_high_bias(
    bias: Tensor,
    bn_weight: Tensor,
    bn_bias: Tensor,
    upper_limit: Tensor | None,
    next_weight: Tensor,
    next_bias: Tensor,
    *,
    groups: int = 1,
    transposed: bool = False,
    rectified: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Move what a channel nearly always carries into the bias of the next layer.

    Args:
        bias: (C,), of the first layer.
        bn_weight: gamma of the batch normalization folded into it, divided by its scale, (C,).
        bn_bias: beta of it, divided by the scale, (C,).
        upper_limit: Of the activation, (C,); None: it has none.
        next_weight: Of the layer behind the activation, as torch.nn stores it.
        next_bias: (out,).
        groups: Of the next layer.
        transposed: The next layer is a transposed convolution.
        rectified: The activation has a lower limit; otherwise there is none, and c = beta.

    Returns:
        ``(bias - c, next_bias + sum of next_weight * c, c)`` with
        ``c = clamp(beta - 3 |gamma|, 0, upper_limit)``.

    Raises:
        TypeError: An argument is not floating-point.
        ValueError: Shapes do not fit.
        NotImplementedError: A transposed convolution with a kernel of more than one element.

    Source: Nagel et al. 2019 (arXiv 1906.04721), section 4.1.3.
    """
    return torch.ops.aimet.absorb_high_bias(
        bias, bn_weight, bn_bias, upper_limit, next_weight, next_bias, groups, transposed, rectified
    )


def tie_free_multiplier(multiplier: Tensor, tolerance: float) -> Tensor:
    """The nearest numbers of which no integer multiple is next to a half.

    Args:
        multiplier: Floating-point, any shape: accumulator's step over output's step.
        tolerance: Largest relative change, between 0 and 1.

    Returns:
        float64, same shape: for each number the fraction p / q with the smallest odd q within the
        tolerance; the number itself where there is none with q up to 20,001, and where it is not
        positive and finite.

    Raises:
        TypeError: ``multiplier`` is not floating-point.
        ValueError: ``tolerance`` is not between 0 and 1.

    >>> tie_free_multiplier(torch.tensor([0.3333, 0.5]), 1e-3)
    tensor([0.3333, 0.4995], dtype=torch.float64)
    """
    return torch.ops.aimet.tie_free_multiplier(multiplier, tolerance)


def clipped_normal_moments(
    mean: Tensor, deviation: Tensor, lower: Tensor | None = None, upper: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a normal variable behind a clip.

    Args:
        mean: Of the variable, floating-point, any shape.
        deviation: Its standard deviation, broadcasts; the sign is ignored, 0 is a constant.
        lower: Lower limit, broadcasts; None: none. ReLU: 0.
        upper: Upper limit, broadcasts; None: none. ReLU6: 6.

    Returns:
        ``(mean, deviation)`` of the clipped variable, computed in float64, in the dtype of
        ``mean``. Not differentiable.

    Raises:
        TypeError: An argument is not floating-point.
        ValueError: A lower limit is above its upper one.

    Source: Nagel et al. 2019 (arXiv 1906.04721), appendix C.

    >>> clipped_normal_moments(torch.tensor(0.5), torch.tensor(1.0), torch.tensor(0.0))[0]
    tensor(0.6978)
    """
    return torch.ops.aimet.clipped_normal_moments(mean, deviation, lower, upper)


def correct_bias_analytically(
    bias: Tensor,
    weight: Tensor,
    quantized_weight: Tensor,
    expected_input: Tensor,
    *,
    groups: int = 1,
    transposed: bool = False,
) -> Tensor:
    """Take out of a bias what rounded weights add to the mean of each output.

    Args:
        bias: (out,).
        weight: Before quantization, as torch.nn stores it.
        quantized_weight: After, same shape.
        expected_input: (in,): mean of each input channel.
        groups: Of the convolution.
        transposed: ``weight`` belongs to a transposed convolution.

    Returns:
        ``bias - sum of (quantized_weight - weight) * expected_input``, computed in float64, in the
        dtype of ``bias``. Zero padding is not accounted for.

    Raises:
        TypeError: An argument is not floating-point.
        ValueError: Shapes do not fit.

    Source: Nagel et al. 2019 (arXiv 1906.04721), section 4.2.
    """
    return torch.ops.aimet.correct_bias_analytically(
        bias, weight, quantized_weight, expected_input, groups, transposed
    )


def add_channel_sums_(sums: Tensor, values: Tensor, channel_axis: int) -> int:
    """Add the sum of ``values`` over all dimensions but one to ``sums``, in place.

    Args:
        sums: float64, (channels,).
        values: Floating-point, any shape.
        channel_axis: The dimension that is kept.

    Returns:
        How many values were added to each channel.

    Raises:
        TypeError: Dtypes are not these.
        ValueError: ``sums`` does not have one number a channel.
    """
    return torch.ops.aimet.add_channel_sums_(sums, values, channel_axis)


def smoothing_scale(
    activation_range: Tensor,
    weights: Sequence[Tensor],
    alpha: float = 0.5,
    max_scale: float = 1024.0,
) -> Tensor:
    """Scales that move the spread of an activation's channels into the weights that read it.

    Args:
        activation_range: (channels,): largest absolute value of each channel.
        weights: Of the layers that read it, channels in dimension 1, of depthwise layers in
            dimension 0.
        alpha: 0: the activation keeps its spread, to 1: the weights take all of it.
        max_scale: Scales stay within ``[1 / max_scale, max_scale]``.

    Returns:
        float64, (channels,): ``range^alpha / weight^(1 - alpha)`` over its geometric mean. Divide
        the activation by it and multiply the weights. Channels without a usable range keep 1.

    Raises:
        TypeError: An argument is not floating-point.
        ValueError: Shapes do not fit, or an option is out of range.

    Source: Xiao et al. 2022, SmoothQuant (arXiv 2211.10438), equation 4.
    """
    return torch.ops.aimet.smoothing_scale(activation_range, list(weights), alpha, max_scale)
