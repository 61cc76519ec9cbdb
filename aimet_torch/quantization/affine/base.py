"""What quantizers of affine integer grids share: grid, range, encodings, state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from aimet_torch import ops
from aimet_torch.quantization.affine.encoding import AffineEncoding
from aimet_torch.quantization.affine.ranges import METHODS, MIN_MAX, RangeParametrization
from aimet_torch.quantization.base import QuantizerBase, plain_tensor, unknown_state
from aimet_torch.quantization.encoding_analyzer import EncodingAnalyzer, MinMaxEncodingAnalyzer
from aimet_torch.quantization.grid import (
    bind_grid_arguments,
    bitwidth_of,
    grid_limits,
    limits_of_steps,
)

__all__ = ["AffineQuantizerBase"]

_STATE_VERSION = 1
_STATE_LENGTH = 8


class AffineQuantizerBase(QuantizerBase):
    """Base of `Quantize`, `QuantizeDequantize` and `Dequantize`.

    Args:
        shape: shape of scale and offset: ``()`` for one grid, ``(C, 1, 1, 1)`` for one a channel.
        *args: ``bitwidth, symmetric, encoding_analyzer=None, block_size=None,
            zero_point_shift=None`` or ``qmin, qmax, symmetric, encoding_analyzer=None, ...``.
            With a bitwidth, symmetric grids are signed and asymmetric ones unsigned.
        **kwargs: the same by name.

    Attributes:
        parametrization: which numbers training learns; the limits unless
            `aimet_torch.qat.learn_ranges` chose others.
        min: parameter of ``shape``, lower end of the range; NaN until there is one. With another
            parametrization, a tensor that follows from what is learned.
        max: upper end, likewise.
        qmin: smallest integer of the grid.
        qmax: largest integer of the grid.
        symmetric: whether zero is the center of the grid.
        holds_rounded_weight: an algorithm has rounded the parameter onto this grid; calibration may
            move both together, by one part in ten thousand, although the range is frozen.

    Raises:
        TypeError: the grid is given in none or both of the forms, or ``symmetric`` is missing.
        ValueError: grid, shape, block size or shift make no sense.
    """

    min: nn.Parameter
    max: nn.Parameter
    parametrization: RangeParametrization = MIN_MAX
    holds_rounded_weight: bool = False
    _range_names = ("min", "max")
    #: Whether the map is that of `QuantizeDequantize`, with nothing changed by a subclass.
    _is_plain: ClassVar[bool] = False

    def __init__(self, shape: tuple[int, ...], *args: Any, **kwargs: Any) -> None:
        super().__init__()
        name = type(self).__name__
        after = ("symmetric", "encoding_analyzer", "block_size", "zero_point_shift")
        bound = bind_grid_arguments(name, args, kwargs, after, after)
        if "symmetric" not in bound:
            raise TypeError(f"{name}: `symmetric` is missing")
        self.symmetric = bool(bound["symmetric"])
        self.qmin, self.qmax = grid_limits(name, bound, signed=self.symmetric)
        self.shape = (shape,) if isinstance(shape, int) else tuple(shape)
        block_size = bound.get("block_size")
        self.block_size = None if block_size is None else tuple(block_size)
        if self.block_size is not None and len(self.block_size) != len(self.shape):
            raise ValueError(
                f"{name}: `block_size` must have one entry for each dimension of `shape` "
                f"{self.shape}, got {self.block_size}"
            )
        self.zero_point_shift = float(bound.get("zero_point_shift") or 0.0)
        if self.zero_point_shift not in (0.0, 0.5):
            raise ValueError(
                f"{name}: `zero_point_shift` must be 0 or 0.5, got {self.zero_point_shift}"
            )
        analyzer = bound.get("encoding_analyzer")
        if analyzer is None:
            analyzer = MinMaxEncodingAnalyzer(self.shape, self.block_size)
        elif not isinstance(analyzer, EncodingAnalyzer):
            raise TypeError(
                f"{name}: `encoding_analyzer` must be an EncodingAnalyzer, got "
                f"{type(analyzer).__name__}"
            )
        elif analyzer.shape != self.shape:
            raise ValueError(
                f"{name}: `encoding_analyzer` must have the shape {self.shape} of the quantizer, "
                f"got {analyzer.shape}"
            )
        self.encoding_analyzer = analyzer
        # NaN says "no range yet" in a state dict too, without an entry of its own.
        for name in self._range_names:
            self._parameters[name] = nn.Parameter(torch.full(self.shape, torch.nan))
        self._initialized = False

    # -- grid -----------------------------------------------------------------------------------

    @property
    def bitwidth(self) -> int:
        """Bits of the grid; setting it keeps signedness and real range."""
        return bitwidth_of(self.qmin, self.qmax)

    @bitwidth.setter
    def bitwidth(self, bitwidth: int) -> None:
        self._set_grid(*grid_limits(type(self).__name__, {"bitwidth": bitwidth}, self.signed))

    @torch.no_grad()
    def _set_grid(self, qmin: int, qmax: int) -> None:
        limits = (self.min, self.max) if self.parametrization is not MIN_MAX else None
        self.qmin, self.qmax = qmin, qmax
        if limits is not None:  # a learned scale belongs to the grid: the range is what stays
            self.parametrization.assign(self, *limits)

    @property
    def signed(self) -> bool:
        """Whether the grid has negative integers; setting it keeps the number of steps."""
        return self.qmin < 0

    @signed.setter
    def signed(self, signed: bool) -> None:
        if signed != self.signed:
            self._set_grid(*limits_of_steps(self.qmax - self.qmin, signed))

    # -- range ----------------------------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        # Reached for `min` and `max` only where they are no parameters.
        if name in ("min", "max") and name not in self.__dict__.get("_parameters", (name,)):
            return self.parametrization.limits(self)[name == "max"]
        return super().__getattr__(name)

    @torch.no_grad()
    def set_parametrization(self, parametrization: RangeParametrization) -> None:
        """Learn other numbers from now on; grid and range stay.

        Optimizers that hold the parameters learned before must be made anew.

        Args:
            parametrization: see `aimet_torch.quantization.affine.ranges`.

        Raises:
            NotImplementedError: this quantizer cannot have it.
        """
        obstacle = parametrization.obstacle(self)
        if obstacle is not None:
            raise NotImplementedError(
                f"{type(self).__name__}.set_parametrization: `parametrization` cannot be "
                f"{parametrization.method!r} here: {obstacle}"
            )
        parametrization.adopt(self)

    def _changes_grid(self) -> bool:
        """Whether a subclass computes scale and offset from the limits in its own way."""
        return type(self)._grid_of is not AffineQuantizerBase._grid_of

    def is_initialized(self) -> bool:
        """Whether there is a range: set, calibrated or loaded."""
        if not self._initialized:
            # Somebody may have written to the parameters directly.
            with torch.no_grad():
                tensors = self.parametrization.tensors(self)
                if not tensors[0].is_meta:
                    self._initialized = not any(bool(t.isnan().any()) for t in tensors)
        return self._initialized

    @torch.no_grad()
    def set_range(self, min: Tensor | float | None, max: Tensor | float | None) -> None:
        """Set the real range.

        Args:
            min: lower end, broadcast to ``shape``; None keeps it.
            max: upper end, likewise.

        Raises:
            ValueError: an end is NaN or infinite, or above the other one.
        """
        name = type(self).__name__
        ends = []
        for label, value, parameter in (("min", min, self.min), ("max", max, self.max)):
            if value is None:
                ends.append(parameter.detach())
                continue
            end = torch.as_tensor(value, dtype=parameter.dtype, device=parameter.device)
            end = plain_tensor(end).detach().expand(self.shape)
            # Values on an accelerator are not looked at: that would wait for it.
            if end.device.type == "cpu" and not bool(end.isfinite().all()):
                raise ValueError(
                    f"{name}.set_range: `{label}` must be finite, got {end.flatten().tolist()}"
                )
            ends.append(end)
        lower, upper = ends
        if lower.device.type == "cpu" and bool((lower > upper).any()):
            index = int((lower > upper).flatten().nonzero()[0])
            raise ValueError(
                f"{name}.set_range: `min` must not exceed `max`, got "
                f"{lower.flatten()[index].item()} and {upper.flatten()[index].item()} at {index}"
            )
        self.parametrization.assign(self, lower, upper)
        self._initialized = False
        self.is_initialized()

    def _set_from_statistics(self, analyzer: EncodingAnalyzer) -> None:
        minimum, maximum = analyzer.compute_encodings(self.qmax - self.qmin, self.symmetric)
        self.set_range(
            minimum if self.is_overwrite_allowed("min") else None,
            maximum if self.is_overwrite_allowed("max") else None,
        )

    def _scale_and_offset(self, input: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.parametrization.grid(self, input)

    def facts(self) -> tuple[list[Tensor], tuple[Any, ...]] | None:
        """Range and grid; see `QuantizerBase.facts`."""
        if not self._is_plain:
            return None
        grid = (self.qmin, self.qmax, self.symmetric, self.zero_point_shift, self.block_size)
        return self.parametrization.tensors(self), (*grid, self.parametrization)

    def _grid_of(self, minimum: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor]:
        return ops.encoding_from_range(minimum, maximum, self.qmin, self.qmax, self.symmetric)

    def _encoding_of(self, input: Tensor) -> AffineEncoding:
        assert self.encoding_analyzer is not None
        steps = self.qmax - self.qmin
        limits = self.encoding_analyzer.compute_dynamic_encodings(input, steps, self.symmetric)
        return self._encoding(*self._grid_of(*limits))

    def get_scale(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """Return the real size of one step, None while there is no range."""
        return _cast(self._scale_and_offset()[0], dtype) if self.is_initialized() else None

    def get_offset(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """Return the offset (0 on signed symmetric grids), None while there is no range."""
        return _cast(self._scale_and_offset()[1], dtype) if self.is_initialized() else None

    def get_min(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """Return the smallest real number of the grid, None while there is no range."""
        encoding = self.get_encodings()
        return None if encoding is None else _cast(encoding.min, dtype)

    def get_max(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """Return the largest real number of the grid, None while there is no range."""
        encoding = self.get_encodings()
        return None if encoding is None else _cast(encoding.max, dtype)

    def get_encodings(self) -> AffineEncoding | None:
        """Return the encoding, None while there is no range. Its tensors carry gradients."""
        return self._encoding(*self._scale_and_offset()) if self.is_initialized() else None

    def _encoding(self, scale: Tensor, offset: Tensor) -> AffineEncoding:
        return AffineEncoding(
            scale,
            offset,
            qmin=self.qmin,
            qmax=self.qmax,
            symmetry=self.symmetric,
            block_size=self.block_size,
            zero_point_shift=self.zero_point_shift,
        )

    @classmethod
    def from_encodings(cls, encodings: AffineEncoding) -> AffineQuantizerBase:
        """Return a quantizer with the grid and the range of ``encodings``.

        Raises:
            TypeError: not an affine encoding.
        """
        if not isinstance(encodings, AffineEncoding):
            raise TypeError(
                f"{cls.__name__}.from_encodings: expected an AffineEncoding, got "
                f"{type(encodings).__name__}"
            )
        quantizer = cls(
            tuple(encodings.scale.shape),
            encodings.qmin,
            encodings.qmax,
            encodings.symmetry,
            block_size=encodings.block_size,
            zero_point_shift=encodings.zero_point_shift,
        )
        quantizer.set_encodings(encodings)
        return quantizer

    def set_encodings(self, encodings: AffineEncoding) -> None:
        """Take over the range of ``encodings``."""
        shift = encodings.scale * encodings.zero_point_shift  # the range is that of integer steps
        self.set_range(encodings.min - shift, encodings.max - shift)

    def get_legacy_encodings(self) -> list[dict[str, Any]] | None:
        """Return the entries of a 0.6.1 encodings file, None while there is no range."""
        encoding = self.get_encodings()
        return None if encoding is None else encoding.to_qnn_encoding_dict("0.6.1")

    @torch.no_grad()
    def set_legacy_encodings(self, encodings: list[dict[str, Any]]) -> None:
        """Take over bitwidth, symmetry and range of entries of version 0.6.1, one a channel."""
        first = encodings[0]
        self.symmetric = str(first["is_symmetric"]).lower() == "true"
        self.bitwidth = first["bitwidth"]
        self.signed = self.symmetric
        ends = (torch.tensor([entry[name] for entry in encodings]) for name in ("min", "max"))
        self.set_range(*(end.reshape(self.shape) for end in ends))

    # -- map ------------------------------------------------------------------------------------

    def _encoding_for(self, input: Tensor) -> AffineEncoding | None:
        """The encoding to quantize ``input`` with, None where it shall pass unchanged."""
        if self._calibrating and input.is_floating_point():
            return self._observed_encoding(input)  # type: ignore[return-value]
        return self._encoding(*self._scale_and_offset(input)) if self._ready(input) else None

    def _ready(self, input: Tensor) -> bool:
        """Whether ``input`` is to be mapped; False if it only was to be observed.

        Raises:
            RuntimeError: there is no range.
        """
        if self._calibrating:
            self.observe(input)
            return False
        if not self._initialized and not self.is_initialized():
            issue = f" (last time: {self.calibration_issue})" if self.calibration_issue else ""
            raise RuntimeError(
                f"{type(self).__name__}: there is no range to quantize with; pass data through the "
                f"quantizer within `compute_encodings()`, or call set_range(){issue}"
            )
        return input.is_floating_point()

    # -- torch.nn.Module ------------------------------------------------------------------------

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        # A range in half precision moves by up to a step of the grid, so it stays in float32.
        def keep_precision(tensor: Tensor) -> Tensor:
            result = fn(tensor)
            if result.dtype in (torch.float16, torch.bfloat16):
                return tensor.to(device=result.device, dtype=torch.float32)
            return result

        return super()._apply(keep_precision, recurse)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        state_dict = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
        key = prefix + "_extra_state"
        if self.is_overwrite_allowed() and _is_extra_state(state_dict.get(key)):
            self._set_grid_of_extra_state(state_dict[key])
        else:  # AIMET's, or of a version without one; NaN says "no range" in the others
            state_dict[key] = self.get_extra_state()
        for name in self._own_names():
            is_limit = name in self._range_names
            is_kept = not self.is_overwrite_allowed(name if is_limit else None)
            if is_kept and prefix + name in state_dict:
                state_dict[prefix + name] = getattr(self, name).detach()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._initialized = False
        self.is_initialized()

    def get_extra_state(self) -> Tensor:
        """Grid, symmetry, method, and what is frozen, as integers: part of the state dict."""
        flags = [self.symmetric, *self._overwrite_allowed.values(), self._learns()]
        method = METHODS.index(self.parametrization.method)
        return torch.tensor([_STATE_VERSION, self.qmin, self.qmax, method, *map(int, flags)])

    def set_extra_state(self, state: Tensor) -> None:
        """Take over what is frozen; the grid was taken over before the range was loaded."""
        *_, may_set_min, may_set_max, learns = state.tolist()
        self.allow_overwrite(min=bool(may_set_min), max=bool(may_set_max))
        self.requires_grad_(bool(learns))

    def _learns(self) -> bool:
        return any(parameter.requires_grad for parameter in self.parameters(recurse=False))

    def _set_grid_of_extra_state(self, state: Tensor) -> None:
        _, self.qmin, self.qmax, _, symmetric = state.tolist()[:5]
        self.symmetric = bool(symmetric)

    def misfits(self, state: Any) -> list[str]:
        """How the grid of a state dict's entry differs from this one, one line each."""
        if not _is_extra_state(state):
            return unknown_state(state, _STATE_VERSION)
        _, qmin, qmax, method, symmetric = state.tolist()[:5]
        pairs = [
            ("bits", bitwidth_of(qmin, qmax), self.bitwidth),
            ("integers", (qmin, qmax), (self.qmin, self.qmax)),
            ("symmetric =", bool(symmetric), self.symmetric),
            ("the method", METHODS[method], self.parametrization.method),
        ]
        return [
            f"has {label} {theirs}, the model {own}"
            for label, theirs, own in pairs
            if theirs != own
        ]

    def _own_names(self) -> tuple[str, ...]:
        """Names of the tensors that the state dict has."""
        return (*self.parametrization.learned, *self.parametrization.constant)

    def extra_repr(self) -> str:
        """Show shape, grid and symmetry."""
        parts = [f"shape={self.shape}"]
        if self.block_size is not None:
            parts.append(f"block_size={self.block_size}")
        parts += [f"qmin={self.qmin}", f"qmax={self.qmax}", f"symmetric={self.symmetric}"]
        if self.zero_point_shift:
            parts.append(f"zero_point_shift={self.zero_point_shift}")
        if self.parametrization is not MIN_MAX:
            parts.append(f"parametrization={self.parametrization}")
        if not self.is_overwrite_allowed():
            parts.append("frozen=True")
        return ", ".join(parts)


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor if dtype is None else tensor.to(dtype)


def _is_extra_state(state: Any) -> bool:
    """Whether it is what `AffineQuantizerBase.get_extra_state` returns."""
    is_tensor = isinstance(state, Tensor) and state.dtype == torch.int64
    return is_tensor and state.numel() == _STATE_LENGTH and int(state[0]) == _STATE_VERSION
