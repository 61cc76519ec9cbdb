"""Affine quantization as functions of tensors; the arithmetic is in ``torch.ops.aimet``.

Every function takes the grid in AIMET's three forms::

    quantize_dequantize(x, scale, offset, 8, signed=False)             # bitwidth
    quantize_dequantize(x, scale, offset, num_steps=254, signed=True)  # number of steps
    quantize_dequantize(x, scale, offset, qmin=-128, qmax=127)         # limits

``scale`` and ``offset`` have one shape that broadcasts against ``x``; with ``block_size`` (one
integer for each dimension of ``scale``, aligned at the last dimension of ``x``, -1 = whatever
remains) each entry covers a block. Formulas: docs/numerics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from aimet_torch import ops
from aimet_torch.quantization.grid import bind_grid_arguments, grid_limits

__all__ = ["dequantize", "quantize", "quantize_dequantize"]


def _parse(
    operator: str, args: tuple[Any, ...], kwargs: dict[str, Any], extra: tuple[str, ...] = ()
) -> tuple[int, int, dict[str, Any]]:
    after = ("block_size", *extra)
    bound = bind_grid_arguments(operator, args, kwargs, ("signed", *after), after)
    qmin, qmax = grid_limits(operator, bound, bool(bound.pop("signed", False)))
    return qmin, qmax, bound


def quantize(tensor: Tensor, scale: Tensor, offset: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Map ``tensor`` to its integer grid: ``clamp(round(tensor / scale) - offset, qmin, qmax)``.

    Args:
        tensor: float16, bfloat16, float32 or float64 of any shape.
        scale: real size of one step, positive.
        offset: ``x = (q + offset) * scale``; the negative of a zero point.
        *args: ``bitwidth, signed=False, block_size=None`` or ``qmin, qmax, block_size=None``.
        **kwargs: the same by name, or ``num_steps``.

    Returns:
        Integers in the dtype of ``tensor``; ties round to even.

    Raises:
        TypeError: the grid is given in none or several of the forms.
        ValueError: the grid is empty, or shapes do not fit.

    >>> import torch
    >>> x = torch.tensor([-9.0, 0.26, 9.0])
    >>> quantize(x, torch.tensor(0.5), torch.tensor(0.0), bitwidth=4, signed=True)
    tensor([-8.,  1.,  7.])
    """
    qmin, qmax, bound = _parse("quantize", args, kwargs)
    return ops.quantize(tensor, scale, offset, qmin, qmax, bound.get("block_size"))


def quantize_dequantize(
    tensor: Tensor, scale: Tensor, offset: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """Round ``tensor`` to its grid and back: ``(quantize(tensor) + offset) * scale``.

    Differentiable in ``tensor``, ``scale`` and ``offset`` (straight-through estimator).

    Args:
        tensor: as in `quantize`.
        scale: as in `quantize`.
        offset: as in `quantize`.
        *args: as in `quantize`, and last ``zero_point_shift=0.0``.
        **kwargs: the same by name. ``zero_point_shift``: 0, or 0.5 for the grid of 2-bit weights
            whose levels are (-1.5, -0.5, 0.5, 1.5) times scale.

    Returns:
        Same shape and dtype as ``tensor``.

    Raises:
        TypeError: the grid is given in none or several of the forms.
        ValueError: the grid is empty, or shapes do not fit.

    >>> import torch
    >>> x = torch.tensor([-9.0, 0.26, 9.0])
    >>> quantize_dequantize(x, torch.tensor(0.5), torch.tensor(0.0), qmin=-8, qmax=7)
    tensor([-4.0000,  0.5000,  3.5000])
    """
    qmin, qmax, bound = _parse("quantize_dequantize", args, kwargs, ("zero_point_shift",))
    block_size = bound.get("block_size")
    shift = bound.get("zero_point_shift") or 0.0
    if shift == 0.0:
        return ops.quantize_dequantize(tensor, scale, offset, qmin, qmax, block_size)
    return shifted_quantize_dequantize(tensor, scale, offset, qmin, qmax, block_size, shift)


def shifted_quantize_dequantize(
    tensor: Tensor,
    scale: Tensor,
    offset: Tensor,
    qmin: int,
    qmax: int,
    block_size: Sequence[int] | None,
    shift: float,
) -> Tensor:
    """Quantize-dequantize on a grid moved by ``shift`` steps: ``(q + offset + shift) * scale``."""
    moved = (expand_blocks(scale, tensor, block_size) * shift).to(tensor.dtype)
    return ops.quantize_dequantize(tensor - moved, scale, offset, qmin, qmax, block_size) + moved


def expand_blocks(values: Tensor, tensor: Tensor, block_size: Sequence[int] | None) -> Tensor:
    """Repeat each entry of ``values`` over its block; the result broadcasts to ``tensor``."""
    if block_size is None:
        return values
    first = tensor.dim() - values.dim()
    for dim, size in enumerate(block_size):
        whole = tensor.shape[first + dim] // values.shape[dim]
        values = values.repeat_interleave(whole if size == -1 else size, dim)
    return values


def dequantize(
    tensor: Tensor, scale: Tensor, offset: Tensor, block_size: Sequence[int] | None = None
) -> Tensor:
    """Map integers of the grid to real numbers: ``(tensor + offset) * scale``.

    Args:
        tensor: integers in a floating-point dtype, as `quantize` returns them.
        scale: as in `quantize`.
        offset: as in `quantize`.
        block_size: elements that share one entry of ``scale``, for each of its dimensions.

    Returns:
        Same shape and dtype as ``tensor``.
    """
    return ops.dequantize(tensor, scale, offset, block_size)
