"""Which numbers of a quantizer training learns: limits, a scale, an offset, a threshold, a clip.

One strategy for each; a quantizer holds one (`AffineQuantizerBase.parametrization`) and its
tensors. All give scale and offset of the same grid, so calibration, export and everything else
need not know which one it is.

A scale is positive and finite by construction: what is learned passes `bounded` on its way to it,
which maps every float, NaN included, into an interval, and lets no gradient back that is not
finite.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch import ops
from aimet_torch.quantization.base import is_tracing

__all__ = [
    "METHODS",
    "MIN_MAX",
    "PARAMETRIZATIONS",
    "LsqPlusRange",
    "LsqRange",
    "MinMaxRange",
    "PactRange",
    "RangeParametrization",
    "TqtRange",
    "bounded",
]

_LARGEST = torch.finfo(torch.float32).max / 4  # limits of a range, see docs/numerics.md


class _Bounded(torch.autograd.Function):
    """See `bounded`."""

    @staticmethod
    def forward(
        ctx: Any, raw: Tensor, lower: float, upper: float, rounding: str, factor: float
    ) -> Tensor:
        ctx.save_for_backward(raw)
        ctx.constants = lower, upper, factor
        return _into_interval(raw, lower, upper, rounding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (raw,) = ctx.saved_tensors
        lower, upper, factor = ctx.constants
        outward = ((raw <= lower) & (grad > 0)) | ((raw >= upper) & (grad < 0))
        grad = torch.where(grad.isfinite() & ~outward, grad * factor, 0.0)
        return grad, None, None, None, None


def _into_interval(raw: Tensor, lower: float, upper: float, rounding: str) -> Tensor:
    value = raw.nan_to_num(nan=min(max(0.0, lower), upper)).clamp(lower, upper)
    if rounding == "nearest":
        return value.round()
    return value.ceil() if rounding == "up" else value


def bounded(
    raw: Tensor, lower: float, upper: float, rounding: str = "none", factor: float = 1.0
) -> Tensor:
    """Map any float into an interval, with a gradient that cannot spoil what is learned.

    Args:
        raw: what is learned, any shape.
        lower: least result.
        upper: greatest result.
        rounding: "none"; "nearest" or "up" (``ceil``), with the gradient of the identity.
        factor: what the gradient is multiplied with.

    Returns:
        ``clamp(raw, lower, upper)``, NaN as the number nearest to zero. Its gradient is
        ``factor * g``; 0 where ``g`` is not finite, and at a bound where a step of gradient
        descent would go beyond it. Steps back into the interval pass, so nothing gets stuck.
    """
    if torch.is_grad_enabled() and raw.requires_grad and not is_tracing():
        result: Tensor = _Bounded.apply(raw, lower, upper, rounding, factor)
        return result
    return _into_interval(raw, lower, upper, rounding)


def _scale_limits(quantizer: Any) -> tuple[float, float]:
    """Least scale of a grid, and the greatest one whose limits stay finite."""
    zero = torch.zeros((), device="cpu")
    grid = quantizer.qmin, quantizer.qmax
    least = ops.encoding_from_range(zero, zero, *grid, True)[0]
    return float(least), _LARGEST / (quantizer.qmax - quantizer.qmin)


def _exponent(quantizer: Any) -> int:
    """Binary logarithm of the number of steps on one side of zero, as TQT counts them."""
    bits: int = quantizer.bitwidth
    return bits - 1 if quantizer.signed else bits


class RangeParametrization:
    """How a quantizer's tensors give scale and offset. Subclasses hold options, no tensors.

    Attributes:
        method: name, as in `aimet_torch.qat.learn_ranges`.
        learned: names of the parameters that a quantizer has with it.
        constant: names of the buffers.
        clips: whether `clipped` does anything.
    """

    method: str
    learned: tuple[str, ...]
    constant: tuple[str, ...] = ()
    clips = False

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.items()))

    def __deepcopy__(self, memo: dict[int, Any]) -> RangeParametrization:
        return self  # nobody changes one

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({options})"

    def obstacle(self, quantizer: Any) -> str | None:
        """Why ``quantizer`` cannot have it, None if it can."""
        return None

    def adopt(self, quantizer: Any) -> None:
        """Give ``quantizer`` this parametrization; its range and grid stay."""
        limits = quantizer.min.detach().clone(), quantizer.max.detach().clone()
        previous = quantizer.parametrization
        needs_gradient = any(quantizer._parameters[n].requires_grad for n in previous.learned)
        for name in previous.learned:
            del quantizer._parameters[name]
        for name in previous.constant:
            del quantizer._buffers[name]
        quantizer.parametrization = self
        for name in self.learned:  # not by setattr: `min` and `max` exist as derived numbers
            empty = torch.full_like(limits[0], torch.nan)
            quantizer._parameters[name] = nn.Parameter(empty, requires_grad=needs_gradient)
        for name in self.constant:
            quantizer.register_buffer(name, torch.full_like(limits[0], torch.nan))
        self.assign(quantizer, *limits)

    def tensors(self, quantizer: Any) -> list[Tensor]:
        """What ``quantizer`` holds: learned and constant tensors."""
        return [
            *(getattr(quantizer, name) for name in self.learned),
            *(getattr(quantizer, name) for name in self.constant),
        ]

    def assign(self, quantizer: Any, minimum: Tensor, maximum: Tensor) -> None:
        """Set the tensors of ``quantizer`` to what gives this range. NaN: no range yet."""
        raise NotImplementedError(f"{type(self).__name__}.assign is not defined")

    def grid(self, quantizer: Any, input: Tensor | None) -> tuple[Tensor, Tensor]:
        """Scale and offset, differentiable.

        Args:
            quantizer: whose grid.
            input: what it is for, where known: gradient scales depend on its size.
        """
        raise NotImplementedError(f"{type(self).__name__}.grid is not defined")

    def limits(self, quantizer: Any) -> tuple[Tensor, Tensor]:
        """The range, differentiable."""
        scale, offset = self.grid(quantizer, None)
        low, high = (offset + quantizer.qmin) * scale, (offset + quantizer.qmax) * scale
        learned = getattr(quantizer, self.learned[0])
        return low.where(~learned.isnan(), torch.nan), high.where(~learned.isnan(), torch.nan)

    def clipped(
        self, quantizer: Any, input: Tensor, scale: Tensor, offset: Tensor
    ) -> tuple[Tensor, Tensor]:
        """What to quantize with which scale: a place for gradients of one's own."""
        return input, scale


class MinMaxRange(RangeParametrization):
    """Both limits, as in AIMET 2: `min` and `max`.

    Args:
        guarded: pass them through `bounded`.
    """

    method = "min_max"
    learned = ("min", "max")

    def __init__(self, guarded: bool = True) -> None:
        self.guarded = guarded

    def assign(self, quantizer: Any, minimum: Tensor, maximum: Tensor) -> None:
        """See `RangeParametrization.assign`."""
        quantizer.min.copy_(minimum)
        quantizer.max.copy_(maximum)

    def grid(self, quantizer: Any, input: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `RangeParametrization.grid`."""
        minimum, maximum = quantizer.min, quantizer.max
        if self.guarded:
            minimum = bounded(minimum, -_LARGEST, _LARGEST)
            maximum = bounded(maximum, -_LARGEST, _LARGEST)
        return quantizer._grid_of(minimum, maximum)


class _ScaleRange(RangeParametrization):
    """What learns a scale, in whatever form."""

    def obstacle(self, quantizer: Any) -> str | None:
        """See `RangeParametrization.obstacle`."""
        if quantizer._changes_grid():
            return f"{type(quantizer).__name__} computes its scale from `min` and `max`"
        return None

    def _grid_of(self, quantizer: Any, limits: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Scale and offset of a range; NaN where it is unknown."""
        quantizer.scale_limits = _scale_limits(quantizer)  # here, since no graph can hold it
        scale, offset = quantizer._grid_of(*limits)
        is_known = ~(limits[0].isnan() | limits[1].isnan())
        return scale.where(is_known, torch.nan), offset.where(is_known, torch.nan)

    def _assign_offset(self, quantizer: Any, minimum: Tensor, maximum: Tensor) -> Tensor:
        """Set the constant offset; return the scale."""
        scale, offset = self._grid_of(quantizer, (minimum, maximum))
        quantizer.offset.copy_(offset)
        return scale


class LsqRange(_ScaleRange):
    """The scale; the offset stays (0 on signed symmetric grids). Esser et al., arXiv 1902.08153.

    Args:
        gradient_scale: multiply the scale's gradient with ``1 / sqrt(N Qp)``, eq. 5 and section
            2.2: Qp the largest integer, N the elements of the tensor that share the scale, of one
            sample where the tensor is an activation.
        has_batch: whether the first dimension counts samples.
    """

    method = "lsq"
    learned: tuple[str, ...] = ("scale",)
    constant: tuple[str, ...] = ("offset",)

    def __init__(self, gradient_scale: bool = True, has_batch: bool = True) -> None:
        self.gradient_scale = gradient_scale
        self.has_batch = has_batch

    def assign(self, quantizer: Any, minimum: Tensor, maximum: Tensor) -> None:
        """See `RangeParametrization.assign`."""
        quantizer.scale.copy_(self._assign_offset(quantizer, minimum, maximum))

    def _factor(self, quantizer: Any, input: Tensor | None) -> float:
        if input is None or not self.gradient_scale:
            return 1.0
        sizes = input.shape[1:] if self.has_batch else input.shape
        elements = max(1, math.prod(sizes) // max(1, math.prod(quantizer.shape)))
        return float((elements * max(1, quantizer.qmax)) ** -0.5)

    def _scale(self, quantizer: Any, factor: float) -> Tensor:
        least, greatest = quantizer.scale_limits
        return bounded(quantizer.scale, least, greatest, factor=factor)

    def grid(self, quantizer: Any, input: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `RangeParametrization.grid`."""
        return self._scale(quantizer, self._factor(quantizer, input)), quantizer.offset


class LsqPlusRange(LsqRange):
    """Scale and real offset beta. Bhalgat et al., arXiv 2004.09576, eq. 3 to 5.

    ``x^ = (q + o) s`` with ``o = rne(beta / s)``: beta is rounded to the grid, with the gradient
    of the identity, so that zero keeps a code. Arguments as `LsqRange`; the gradient of beta is
    scaled like that of the scale. On symmetric grids `LsqRange` is what is left of it.
    """

    method = "lsq+"
    learned = ("scale", "beta")
    constant = ()

    def obstacle(self, quantizer: Any) -> str | None:
        """See `RangeParametrization.obstacle`."""
        if quantizer.symmetric:
            return "a symmetric grid has no offset to learn"
        return super().obstacle(quantizer)

    def assign(self, quantizer: Any, minimum: Tensor, maximum: Tensor) -> None:
        """See `RangeParametrization.assign`."""
        scale, offset = self._grid_of(quantizer, (minimum, maximum))
        quantizer.scale.copy_(scale)
        quantizer.beta.copy_(offset * scale)

    def grid(self, quantizer: Any, input: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `RangeParametrization.grid`."""
        factor = self._factor(quantizer, input)
        scale = self._scale(quantizer, factor)
        beta = bounded(quantizer.beta, -_LARGEST, _LARGEST, factor=factor)
        return scale, bounded(beta / scale, -quantizer.qmax, -quantizer.qmin, "nearest")


class TqtRange(_ScaleRange):
    """Binary logarithm of the clipping threshold t. Jain et al., arXiv 1903.08066, eq. 4 to 8.

    ``s = 2^ceil(log2 t) / 2^(b-1)`` (``/ 2^b`` on unsigned grids), the rounding with the gradient
    of the identity, so ``dx^/dlog2 t = s ln 2 dx^/ds``. The offset stays.

    Args:
        power_of_two: round up to a power of two, as the paper does; otherwise ``s`` is any number.
    """

    method = "tqt"
    learned = ("log2_threshold",)
    constant = ("offset",)

    def __init__(self, power_of_two: bool = True) -> None:
        self.power_of_two = power_of_two

    def assign(self, quantizer: Any, minimum: Tensor, maximum: Tensor) -> None:
        """See `RangeParametrization.assign`."""
        scale = self._assign_offset(quantizer, minimum, maximum)
        quantizer.log2_threshold.copy_(scale.log2() + _exponent(quantizer))

    def grid(self, quantizer: Any, input: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `RangeParametrization.grid`."""
        exponent = _exponent(quantizer)
        least, greatest = quantizer.scale_limits
        logarithm = bounded(
            quantizer.log2_threshold,
            math.ceil(math.log2(least)) + exponent,
            math.floor(math.log2(greatest)) + exponent,
            "up" if self.power_of_two else "none",
        )
        return torch.exp2(logarithm - exponent), quantizer.offset


class PactRange(_ScaleRange):
    """The clipping level alpha. Choi et al., arXiv 1805.06085, eq. 1 to 4.

    ``y = clip(x, 0, alpha)``, then rounding to ``s = alpha / (2^b - 1)`` without a gradient of its
    own: ``dy/dalpha`` is 1 above alpha, else 0. With a lower limit other than 0 (signed grids, a
    constant offset) alpha is the magnitude of the limit farther from zero, and an element below
    the grid adds ``low / alpha`` likewise.
    """

    method = "pact"
    learned = ("alpha",)
    constant = ("offset",)
    clips = True

    def obstacle(self, quantizer: Any) -> str | None:
        """See `RangeParametrization.obstacle`."""
        if quantizer.block_size is not None:
            return "blocks have no clipping level to compare their elements with"
        if quantizer.zero_point_shift:
            return "a shifted grid has no code at its clipping level"
        return super().obstacle(quantizer)

    def _levels(self, quantizer: Any) -> Tensor:
        """Steps from zero to alpha, at least half of those of the grid."""
        offset = quantizer.offset
        return torch.maximum(offset + quantizer.qmax, -(offset + quantizer.qmin))

    def assign(self, quantizer: Any, minimum: Tensor, maximum: Tensor) -> None:
        """See `RangeParametrization.assign`."""
        scale = self._assign_offset(quantizer, minimum, maximum)
        quantizer.alpha.copy_(scale * self._levels(quantizer))

    def grid(self, quantizer: Any, input: Tensor | None) -> tuple[Tensor, Tensor]:
        """See `RangeParametrization.grid`."""
        least, greatest = quantizer.scale_limits
        steps = quantizer.qmax - quantizer.qmin
        alpha = bounded(quantizer.alpha, least * steps, greatest * steps / 2)
        return alpha / self._levels(quantizer), quantizer.offset

    def clipped(
        self, quantizer: Any, input: Tensor, scale: Tensor, offset: Tensor
    ) -> tuple[Tensor, Tensor]:
        """See `RangeParametrization.clipped`."""
        low, high = (offset + quantizer.qmin) * scale, (offset + quantizer.qmax) * scale
        return input.clamp(low.to(input.dtype), high.to(input.dtype)), scale.detach()


#: What every quantizer begins with.
MIN_MAX = MinMaxRange(guarded=False)

#: Class by method.
PARAMETRIZATIONS: dict[str, type[RangeParametrization]] = {
    cls.method: cls for cls in (MinMaxRange, LsqRange, LsqPlusRange, TqtRange, PactRange)
}

#: Methods by the number that state dicts have for them: only ever add to the end.
METHODS = ["min_max", "lsq", "lsq+", "tqt", "pact"]
