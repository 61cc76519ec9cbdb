"""Chooses the integers of one layer's weight from the second moments of its inputs."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from aimet_torch.ops import reconstruction as ops
from aimet_torch.ops.reconstruction import LayerSums
from aimet_torch.ptq.layer_view import LayerView, WeightGrid

__all__ = ["Damping", "LayerResult", "Relaxation", "relax_layer", "round_layer"]


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
        target: The real weights with the least error, (groups, o, d), where they were asked for.
    """

    codes: Tensor
    min: Tensor
    max: Tensor
    bias: Tensor | None
    error: float
    nearest_error: float
    target: Tensor | None = None


@dataclasses.dataclass
class Damping:
    """What is added to the diagonal of a Gram matrix, as a share of its mean.

    With fewer positions the matrix says less of other data, so its ridge grows with inputs over
    positions. Measured on MobileNetV2 with 64 photographs and on networks for Fashion-MNIST with
    1,024 images (``docs/rounding.md``).
    """

    least: float = 0.1
    by_ratio: float = 3.0

    def __call__(self, sums: LayerSums) -> float:
        """The share for a layer's sums."""
        positions = max(float(sums.total.mean()), 1.0)
        return self.least + self.by_ratio * sums.gram.shape[1] / positions


@dataclasses.dataclass
class Relaxation:
    """Settings of AdaRound's relaxation; see :class:`aimet_torch.ptq.adaround.AdaroundParameters`.

    Attributes:
        samples: None, or inputs, wanted outputs and what the activation behind clamps to.
    """

    iterations: int
    learning_rate: float
    reg_param: float
    beta_range: tuple[float, float]
    warm_start: float
    seed: int
    batch_size: int = 32
    samples: tuple[Tensor, Tensor, tuple[float, float]] | None = None


_STARTS = (1.0, 0.9, 0.8)
# Products of a start; beyond, one start has to do. The largest layers of ResNet-18 have 1.1e10.
_CHEAP = 4e9


def round_layer(
    view: LayerView,
    grid: WeightGrid,
    sums: LayerSums,
    *,
    damping: Damping | float | None = None,
    search_scales: bool = True,
    moves: bool = True,
    least_squares: bool = True,
    keeps_target: bool = False,
) -> LayerResult:
    """Solve one layer.

    Args:
        view: The layer.
        grid: Of its weight.
        sums: Of what reaches it and what it should give.
        damping: See :func:`aimet_torch.ops.reconstruction.rounding_problem`; None:
            :class:`Damping`.
        search_scales: Choose the scales along with the codes; False: take those of the quantizer.
        moves: Descend from the first rounding; False: GPTQ alone.
        least_squares: Round the weights with the least error, False: those that the layer has.
        keeps_target: The result has the real weights that were rounded.
    """
    problem = _Problem(view, grid, sums, damping, search_scales, least_squares)
    target, gram, scale, offset = problem.target, problem.gram, problem.scale, problem.offset
    limits = (grid.quantizer.qmin, grid.quantizer.qmax)
    refines = search_scales and not grid.is_shared and moves
    sweeps = 100 if moves else 0
    is_cheap = view.cost <= _CHEAP
    codes, used, objective = ops.optimize_rounding(
        target, gram, scale, offset, *limits,
        refine_scale=refines, max_sweeps=sweeps,
        scale_factors=_STARTS if refines and is_cheap else (1.0,),
        from_nearest_too=moves and is_cheap,
    )  # fmt: skip
    result = _result(view, grid, sums, codes, used, offset, objective, problem.nearest_error)
    if keeps_target:
        result.target = target.float()
    return result


def relax_layer(
    view: LayerView,
    grid: WeightGrid,
    sums: LayerSums,
    relaxation: Relaxation,
    *,
    damping: Damping | float | None = None,
    search_scales: bool = True,
) -> LayerResult:
    """Solve one layer by AdaRound's relaxation, around the weights with the least error.

    Args:
        view: The layer.
        grid: Of its weight.
        sums: Of what reaches it and what it should give.
        relaxation: Settings, and samples if the loss is to be that of samples.
        damping: As for :func:`round_layer`.
        search_scales: Likewise; scales are those with the least error of rounding to nearest.
    """
    problem = _Problem(view, grid, sums, damping, search_scales)
    target, gram, scale, offset = problem.target, problem.gram, problem.scale, problem.offset
    options: dict[str, Any] = {
        "iterations": relaxation.iterations,
        "learning_rate": relaxation.learning_rate,
        "reg_param": relaxation.reg_param,
        "beta_range": relaxation.beta_range,
        "warm_start": relaxation.warm_start,
    }
    limits = (grid.quantizer.qmin, grid.quantizer.qmax)
    if relaxation.samples is None:
        codes = ops.relax_rounding(target, gram, scale, offset, *limits, **options)
    else:
        inputs, outputs, activation_range = relaxation.samples
        bias = ops.bias_of_means(sums, target).float() if problem.has_bias else None
        step, zero = (view.weight_of(_expand(t, target)).float() for t in (scale, offset))
        codes = ops.relax_rounding_on_samples(
            view.pad(inputs), outputs, activation_range, view.weight_of(target).float(), bias,
            step, zero, limits[0], limits[1], **view.geometry(),
            output_padding=view.output_padding(), batch_size=relaxation.batch_size,
            seed=relaxation.seed, **options,
        )  # fmt: skip
        codes = view.matrices(codes)
    values = (codes + _expand(offset, codes)) * _expand(scale, codes)
    objective = ops.quadratic_form(target - values, gram)
    return _result(view, grid, sums, codes, scale, offset, objective, problem.nearest_error)


class _Problem:
    """What both solvers start from."""

    def __init__(
        self,
        view: LayerView,
        grid: WeightGrid,
        sums: LayerSums,
        damping: Damping | float | None,
        search_scales: bool,
        least_squares: bool = True,
    ) -> None:
        weight = view.matrices(view.layer.weight.detach())
        self.has_bias = view.layer.bias is not None
        share = damping if isinstance(damping, float) else (damping or Damping())(sums)
        self.target, self.gram = ops.rounding_problem(sums, weight, self.has_bias, share)
        if not least_squares:
            self.target = weight.double().cpu()
        q = grid.quantizer
        nearest = _nearest(
            weight.double().cpu(), *_search(view, grid, weight, None), q.qmin, q.qmax
        )
        self.nearest_error = ops.quadratic_form(self.target - nearest, self.gram)
        if search_scales:
            importance = self.gram.diagonal(dim1=1, dim2=2)
            self.scale, self.offset = _search(view, grid, self.target, importance)
        else:
            found, zero = q.get_scale(), q.get_offset()
            assert found is not None
            assert zero is not None
            self.scale, self.offset = (
                view.rows_of(grid, t.detach().double()).contiguous() for t in (found, zero)
            )


def _result(
    view: LayerView,
    grid: WeightGrid,
    sums: LayerSums,
    codes: Tensor,
    scale: Tensor,
    offset: Tensor,
    objective: Tensor,
    nearest_error: Tensor,
) -> LayerResult:
    limits = (grid.quantizer.qmin, grid.quantizer.qmax)
    minimum, maximum = (view.parameter_of(grid, (limit + offset) * scale) for limit in limits)
    bias = None
    if view.layer.bias is not None:
        bias = ops.bias_of_means(sums, (codes + _expand(offset, codes)) * _expand(scale, codes))
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
    groups, outputs, _ = weight.shape
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
