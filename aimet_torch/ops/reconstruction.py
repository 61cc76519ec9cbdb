"""Weights on a grid with the least error of a layer's output: typed functions over the operators.

A layer is seen as ``groups`` matrices of shape ``(o, d)``: o outputs a group, d inputs that each of
them reads (input channels of the group times kernel elements). Formulas: ``docs/rounding.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    "LayerSums",
    "accumulate_layer_moments_",
    "bias_of_means",
    "optimize_rounding",
    "quadratic_form",
    "relax_rounding",
    "relax_rounding_on_samples",
    "rounding_problem",
    "search_weight_scales",
    "seq_mse_range",
]


class LayerSums(NamedTuple):
    """Sums over the output positions of a layer; float64 on the CPU.

    x is what a position reads, y what it should give, w its importance.
    """

    gram: Tensor
    """(groups, d, d): sum of w x x^T."""
    cross: Tensor
    """(groups, o, d): sum of w y x^T."""
    input_sum: Tensor
    """(groups, d): sum of w x."""
    output_sum: Tensor
    """(groups, o): sum of w y."""
    total: Tensor
    """(groups,): sum of w."""

    @classmethod
    def zeros(cls, groups: int, outputs: int, inputs: int) -> LayerSums:
        """Empty sums for ``groups`` groups of ``outputs`` (o) by ``inputs`` (d)."""
        shapes = (
            (groups, inputs, inputs),
            (groups, outputs, inputs),
            (groups, inputs),
            (groups, outputs),
            (groups,),
        )
        return cls(*(torch.zeros(shape, dtype=torch.float64) for shape in shapes))


def accumulate_layer_moments_(
    sums: LayerSums,
    input: Tensor,
    output: Tensor,
    *,
    kernel_size: Sequence[int] = (),
    stride: Sequence[int] = (),
    padding: Sequence[int] = (),
    dilation: Sequence[int] = (),
    groups: int = 1,
    transposed: bool = False,
    importance: Tensor | None = None,
) -> None:
    """Add a batch to the second moments of a layer, in place.

    Products are formed in float32 over at most 1,024 positions and added up in float64, in an order
    that the shapes decide: the same bits with any number of threads. Memory does not grow with the
    number of batches.

    Args:
        sums: From :meth:`LayerSums.zeros`.
        input: What the layer gets: (N, C, *size), or (*, C) for Linear; floating-point.
        output: What it should give: (N, out, *size), or (*, out).
        kernel_size: Of the convolution, one entry a dimension; empty for Linear, like the next
            three.
        stride: Of the convolution.
        padding: Zeros in front of each dimension; those behind follow from the output's size.
        dilation: Of the convolution.
        groups: Of the convolution.
        transposed: It is a transposed convolution.
        importance: Weight of each position, shape of ``output``; only where each group has one
            output (depthwise).

    Raises:
        TypeError: Not floating-point, or sums that are not float64 on the CPU.
        ValueError: Shapes do not fit.
    """
    torch.ops.aimet.accumulate_layer_moments_(
        *sums, input, output, kernel_size, stride, padding, dilation, groups, transposed, importance
    )


def rounding_problem(
    sums: LayerSums, weight: Tensor, has_bias: bool, damping: float = 0.01
) -> tuple[Tensor, Tensor]:
    """The least-squares problem that the sums stand for.

    Args:
        sums: Of at least one batch.
        weight: The layer's weights, (groups, o, d).
        has_bias: The layer has a bias, which then takes up the means.
        damping: Positive; times the mean of the Gram matrix's diagonal it draws the solution
            towards ``weight``, so that few samples do not lead it astray.

    Returns:
        ``(target, gram)``, float64: the real weights with the least error, (groups, o, d), and the
        damped Gram matrix, (groups, d, d). The error of weights w beyond the least possible one is
        ``(target - w) gram (target - w)^T``.

    Raises:
        ValueError: No data, shapes do not fit, or ``damping`` is not positive.
    """
    return torch.ops.aimet.rounding_problem(*sums, weight, has_bias, damping)


def bias_of_means(sums: LayerSums, weight: Tensor) -> Tensor:
    """The bias with which weights give the mean outputs that are wanted.

    Args:
        sums: Of at least one batch.
        weight: (groups, o, d).

    Returns:
        E[y] - weight E[x], float64, (groups * o,).
    """
    return torch.ops.aimet.bias_of_means(*sums[2:], weight)


def search_weight_scales(
    weight: Tensor,
    importance: Tensor | None,
    blocks: int,
    qmin: int,
    qmax: int,
    symmetric: bool,
) -> tuple[Tensor, Tensor]:
    """Scales and offsets with the least squared error of rounding weights to nearest.

    The values themselves are tried, not a histogram of them: ranges of 1 to 100 hundredths of each
    block's own, then the best scale for the codes in turn.

    Args:
        weight: (groups, o, d).
        importance: What an error at each input counts, (groups, d); None: 1.
        blocks: Grids a row; divides d.
        qmin: Lowest code.
        qmax: Highest code.
        symmetric: Zero lies in the middle of the grid.

    Returns:
        ``(scale, offset)``, float64, (groups, o, blocks).

    Raises:
        ValueError: Shapes do not fit, or ``qmin >= qmax``.

    >>> search_weight_scales(torch.tensor([[[0.5, -1.0, 0.25]]]), None, 1, -4, 3, True)[0]
    tensor([[[0.2500]]], dtype=torch.float64)
    """
    empty = weight.new_empty(0) if importance is None else importance
    return torch.ops.aimet.search_weight_scales(weight, empty, blocks, qmin, qmax, symmetric)


def optimize_rounding(
    target: Tensor,
    gram: Tensor,
    scale: Tensor,
    offset: Tensor,
    qmin: int,
    qmax: int,
    *,
    feedback: bool = True,
    refine_scale: bool = False,
    max_sweeps: int = 100,
    order: bool = True,
    scale_factors: Sequence[float] = (1.0,),
    from_nearest_too: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes q with a small ``(target - x) gram (target - x)^T``, x = (q + offset) * scale.

    Rounding with error feedback (GPTQ), then moves of single codes by whole steps until none lowers
    the error. Deterministic; the same bits with any number of threads.

    Args:
        target: (groups, o, d).
        gram: (groups, d, d), symmetric, positive definite; the identity gives rounding to nearest.
        scale: (groups, o, blocks), positive.
        offset: Same shape.
        qmin: Lowest code.
        qmax: Highest code.
        feedback: False: start from rounding to nearest.
        refine_scale: Let each scale follow its codes, in turn with the moves.
        max_sweeps: Of the moves; 0: GPTQ alone.
        order: Round the inputs with the largest diagonal of ``gram`` first.
        scale_factors: Start with these multiples of the scales; keep the best for each row.
        from_nearest_too: One more start, from rounding to nearest: never worse than that.

    Returns:
        ``(codes, scale, objective)``, float64: (groups, o, d), (groups, o, blocks), (groups, o).

    Raises:
        TypeError: Not floating-point.
        ValueError: Shapes do not fit, or a scale is not positive.

    Source: Frantar et al. 2023 (arXiv 2210.17323).
    """
    return torch.ops.aimet.optimize_rounding(
        target, gram, scale, offset, qmin, qmax, feedback, refine_scale, max_sweeps, order,
        scale_factors, from_nearest_too,
    )  # fmt: skip


def quadratic_form(error: Tensor, gram: Tensor) -> Tensor:
    """``e gram e^T`` for each row e: the mean squared error that it causes.

    Args:
        error: (groups, o, d).
        gram: (groups, d, d).

    Returns:
        float64, (groups, o).

    Raises:
        ValueError: Shapes do not fit.
    """
    return torch.ops.aimet.quadratic_form(error, gram)


def relax_rounding(
    target: Tensor,
    gram: Tensor,
    scale: Tensor,
    offset: Tensor,
    qmin: int,
    qmax: int,
    *,
    iterations: int,
    learning_rate: float = 1e-3,
    reg_param: float = 0.01,
    beta_range: tuple[float, float] = (20, 2),
    warm_start: float = 0.2,
) -> Tensor:
    """AdaRound's relaxation on the quadratic form: codes next to ``target``, up or down.

    Args:
        target: As for :func:`optimize_rounding`, like the next five.
        gram: See there.
        scale: See there.
        offset: See there.
        qmin: See there.
        qmax: See there.
        iterations: Steps of Adam.
        learning_rate: Of Adam.
        reg_param: Weight of the regularizer.
        beta_range: Its exponent behind the warm start and at the end.
        warm_start: Share of the iterations without it.

    Returns:
        Codes, float64, (groups, o, d). The same bits with any number of threads.

    Source: Nagel et al. 2020 (arXiv 2004.10568), eq. 21-24.
    """
    return torch.ops.aimet.relax_rounding(
        target, gram, scale, offset, qmin, qmax, iterations, learning_rate, reg_param,
        *beta_range, warm_start,
    )  # fmt: skip


def relax_rounding_on_samples(
    input: Tensor,
    output: Tensor,
    activation_range: tuple[float, float],
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    offset: Tensor,
    qmin: int,
    qmax: int,
    *,
    kernel_size: Sequence[int] = (),
    stride: Sequence[int] = (),
    padding: Sequence[int] = (),
    dilation: Sequence[int] = (),
    groups: int = 1,
    transposed: bool = False,
    output_padding: Sequence[int] = (),
    batch_size: int = 32,
    seed: int = 0,
    iterations: int,
    learning_rate: float = 1e-3,
    reg_param: float = 0.01,
    beta_range: tuple[float, float] = (20, 2),
    warm_start: float = 0.2,
) -> Tensor:
    """AdaRound's relaxation on mini-batches, with the activation behind the layer in the loss.

    Args:
        input: Samples of what enters the layer, (N, C, *size), or (N, *, C) for Linear.
        output: What should leave it, before the activation.
        activation_range: The activation clamps to this; infinite where it does not.
        weight: Of the layer, in its shape.
        bias: (out,) or None.
        scale: Broadcasts against ``weight``.
        offset: Likewise.
        qmin: Lowest code.
        qmax: Highest code.
        kernel_size: Of the convolution; empty for Linear, like those that follow.
        stride: Of the convolution.
        padding: Of the convolution.
        dilation: Of the convolution.
        groups: Of the convolution.
        transposed: It is a transposed convolution.
        output_padding: Of a transposed convolution.
        batch_size: Samples of a step.
        seed: Of their choice.
        iterations: As for :func:`relax_rounding`, like those that follow.
        learning_rate: See there.
        reg_param: See there.
        beta_range: See there.
        warm_start: See there.

    Returns:
        Codes, float64, shape of ``weight``.
    """
    return torch.ops.aimet.relax_rounding_on_samples(
        input, output, *activation_range, weight, bias, scale, offset, qmin, qmax, kernel_size,
        stride, padding, dilation, groups, transposed, output_padding, batch_size, seed, iterations,
        learning_rate, reg_param, *beta_range, warm_start,
    )  # fmt: skip


def seq_mse_range(
    weight: Tensor,
    gram: Tensor,
    min: Tensor,
    max: Tensor,
    blocks: int,
    qmin: int,
    qmax: int,
    symmetric: bool,
    num_candidates: int = 20,
) -> tuple[Tensor, Tensor, Tensor]:
    """The fraction of each range with the least squared error of the layer's output.

    Args:
        weight: (groups, o, d), rounded to nearest.
        gram: Sum of x x^T, (groups, d, d), not centered: the loss is then exactly the sum over the
            data of the squared error, block by block of the inputs.
        min: Lower ends of the widest ranges, (groups, o, blocks).
        max: Upper ends.
        blocks: Ranges a row.
        qmin: Lowest code.
        qmax: Highest code.
        symmetric: Zero lies in the middle of the grid.
        num_candidates: ``k / num_candidates`` of the range are tried, k from 1.

    Returns:
        ``(min, max, loss)``, float64, (groups, o, blocks).

    Raises:
        ValueError: Shapes do not fit.
    """
    return torch.ops.aimet.seq_mse_range(
        weight, gram, min, max, blocks, qmin, qmax, symmetric, num_candidates
    )
