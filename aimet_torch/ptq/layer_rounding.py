"""Chooses the integers of one layer's weight from the second moments of its inputs."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from aimet_torch.ops import reconstruction as ops
from aimet_torch.ops.reconstruction import LayerSums
from aimet_torch.ptq.layer_view import LayerView, WeightGrid

__all__ = ["LayerResult", "round_layer"]


@dataclasses.dataclass
class LayerResult:
    """What became of a layer.

    Attributes:
        codes: Integers, (groups, o, d).
        min: Lower end of the weight's range, in the quantizer's shape.
        max: Upper end.
        bias: New bias, None where the layer has none.
        error: Mean squared error beyond the least possible one, of all outputs together.
        nearest_error: The same of rounding to nearest with the scales that are best for it.
    """

    codes: Tensor
    min: Tensor
    max: Tensor
    bias: Tensor | None
    error: float
    nearest_error: float


_STARTS = (1.0, 0.9, 0.8)


def round_layer(
    view: LayerView,
    grid: WeightGrid,
    sums: LayerSums,
    *,
    damping: float = 0.01,
    search_scales: bool = True,
    moves: bool = True,
    least_squares: bool = True,
) -> LayerResult:
    """Solve one layer.

    Args:
        view: The layer.
        grid: Of its weight.
        sums: Of what reaches it and what it should give.
        damping: See :func:`aimet_torch.ops.reconstruction.rounding_problem`.
        search_scales: Choose the scales along with the codes; False: take those of the quantizer.
        moves: Descend from the first rounding; False: GPTQ alone.
        least_squares: Round the weights with the least error, False: those that the layer has.
    """
    weight = view.matrices(view.layer.weight.detach())
    has_bias = view.layer.bias is not None
    target, gram = ops.rounding_problem(sums, weight, has_bias, damping)
    if not least_squares:
        target = weight.double().cpu()
    q = grid.quantizer
    limits = (q.qmin, q.qmax)
    nearest = _search(view, grid, weight, None)
    nearest_error = ops.quadratic_form(
        target - _nearest(weight.double().cpu(), *nearest, *limits), gram
    )
    if search_scales:
        scale, offset = _search(view, grid, target, gram.diagonal(dim1=1, dim2=2))
    else:
        found, zero = q.get_scale(), q.get_offset()
        assert found is not None and zero is not None
        scale, offset = (view.rows_of(grid, t.detach().double()) for t in (found, zero))
    refines = search_scales and not grid.is_shared and moves
    sweeps = 100 if moves else 0
    tries = [
        ops.optimize_rounding(
            target, gram, scale * factor, offset, *limits,
            feedback=True, refine_scale=refines, max_sweeps=sweeps,
        )
        for factor in (_STARTS if refines else (1.0,))
    ]  # fmt: skip
    codes, used, objective = tries[0]
    for other_codes, other_scale, other_objective in tries[1:]:
        better = (other_objective < objective).unsqueeze(2)
        codes = torch.where(better, other_codes, codes)
        used = torch.where(better, other_scale, used)
        objective = torch.minimum(other_objective, objective)
    low, high = ((limit + offset) * used for limit in limits)
    minimum, maximum = (view.parameter_of(grid, end) for end in (low, high))
    bias = None
    if has_bias:
        bias = ops.bias_of_means(sums, (codes + _expand(offset, codes)) * _expand(used, codes))
    return LayerResult(
        codes, minimum, maximum, bias, float(objective.sum()), float(nearest_error.sum())
    )


def _expand(rows: Tensor, like: Tensor) -> Tensor:
    return rows.repeat_interleave(like.shape[-1] // rows.shape[-1], dim=-1)


def _nearest(weight: Tensor, scale: Tensor, offset: Tensor, qmin: int, qmax: int) -> Tensor:
    scale, offset = _expand(scale, weight), _expand(offset, weight)
    return ((weight / scale).round() - offset).clamp(qmin, qmax).add(offset) * scale


def _search(
    view: LayerView, grid: WeightGrid, weight: Tensor, importance: Tensor | None
) -> tuple[Tensor, Tensor]:
    q = grid.quantizer
    groups, outputs, inputs = weight.shape
    limits = (q.qmin, q.qmax, q.symmetric)
    if not grid.is_shared:
        return ops.search_weight_scales(weight, importance, grid.blocks, *limits)
    count = torch.Size(q.shape).numel()
    # Rows with a grid in common are one long row: all of them, or those of a transposed
    # convolution's output channel in each group.
    axes = weight if count == 1 else weight.transpose(0, 1)
    joined = axes.reshape(1, count, -1)
    if importance is not None and count == 1:
        importance = importance.unsqueeze(1).expand_as(weight).reshape(1, -1)
    else:
        importance = None
    scale, offset = ops.search_weight_scales(joined, importance, 1, *limits)
    shape = (groups, outputs, 1)
    return tuple(t.reshape(1, count, 1).expand(shape).contiguous() for t in (scale, offset))  # type: ignore[return-value]
