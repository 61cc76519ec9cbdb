"""What every encoding and every quantizer has in common, whatever number format it maps to."""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from aimet_torch.quantization.encoding_analyzer import EncodingAnalyzer, StatisticsNotFoundError

__all__ = [
    "EncodingBase",
    "QuantizerBase",
    "is_captured",
    "is_tracing",
    "plain_tensor",
    "unknown_state",
]

Self = TypeVar("Self", bound="EncodingBase")


def is_tracing() -> bool:
    """Whether torch.jit.trace records what happens."""
    return bool(torch.jit._trace.is_tracing())


def is_captured() -> bool:
    """Whether a graph is being captured or operations are intercepted: then tensors stay plain."""
    return (
        torch.compiler.is_compiling()
        or is_tracing()
        or bool(torch._C._len_torch_dispatch_stack())  # make_fx, FakeTensorMode, FlopCounterMode
    )


def unknown_state(state: Any, version: int) -> list[str]:
    """Why a state dict's ``_extra_state`` cannot be read, one line; none where there is none."""
    if not isinstance(state, Tensor) or not state.numel():
        return []
    found = int(state.flatten()[0])
    if found == version:
        return ["belongs to a quantizer of another kind"]
    return [f"is of version {found}, which is not known"]


def plain_tensor(tensor: Tensor) -> Tensor:
    """Return ``tensor`` without a subclass of this package, keeping its gradient."""
    # Only a subclass with an encoding loses its type; FakeTensor and the like pass through.
    return tensor.as_subclass(Tensor) if hasattr(tensor, "encoding") else tensor


class EncodingBase:
    """How real numbers map to a smaller number format, and back.

    Attributes:
        scale: real size of one step, of shape ``()``, per channel or per block.
        block_size: elements that share one scale for each dimension of ``scale``; None without
            blocks.
    """

    scale: Tensor
    block_size: tuple[int, ...] | None = None
    _tensors: tuple[str, ...] = ("scale",)

    @property
    def mapping(self) -> str:
        """Kind of map: ``"affine"`` or ``"float"``."""
        raise NotImplementedError(f"{type(self).__name__}.mapping is not defined")

    @property
    def bitwidth(self) -> int:
        """Bits of one number."""
        raise NotImplementedError(f"{type(self).__name__}.bitwidth is not defined")

    @property
    def granularity(self) -> str:
        """``"pertensor"``, ``"perchannel"``, ``"blockwise"``, or ``"unknown"`` for several axes."""
        if self.scale.dim() == 0:
            return "pertensor"
        if self.block_size is not None:
            return "blockwise"
        return "perchannel" if sum(size > 1 for size in self.scale.shape) <= 1 else "unknown"

    def map_tensors(self: Self, function: Any) -> Self:
        """Return a copy whose tensors went through ``function``."""
        result = copy.copy(self)
        for name in self._tensors:
            value = getattr(self, name)
            if value is not None:
                setattr(result, name, function(value))
        return result

    def to(self: Self, *args: Any, **kwargs: Any) -> Self:
        """Return the encoding on another device or in another floating-point dtype.

        Raises:
            TypeError: the dtype is not a floating-point one.
        """
        result = self.map_tensors(lambda tensor: tensor.to(*args, **kwargs))
        if not result.scale.is_floating_point():
            raise TypeError(
                f"{type(self).__name__}.to: `dtype` must be floating-point, "
                f"got {result.scale.dtype}"
            )
        return result

    def rescale(self: Self, factor: float) -> Self:
        """Return the encoding of values that are ``factor`` (positive) times as large."""
        raise NotImplementedError(f"{type(self).__name__}.rescale is not defined")

    def quantize(self, input: Tensor) -> Tensor:
        """Map real numbers to the format."""
        raise NotImplementedError(f"{type(self).__name__}.quantize is not defined")

    def dequantize(self, input: Tensor) -> Tensor:
        """Map numbers of the format to real numbers."""
        raise NotImplementedError(f"{type(self).__name__}.dequantize is not defined")

    def quantize_dequantize(self, input: Tensor) -> Tensor:
        """Round real numbers to those the format can represent."""
        return self.dequantize(self.quantize(input))

    def to_qnn_encoding_dict(self, encoding_version: str | None = None) -> Any:
        """Return the entry of an encodings file, without its name."""
        raise NotImplementedError(f"{type(self).__name__}.to_qnn_encoding_dict is not defined")


class QuantizerBase(nn.Module):
    """A module that maps a tensor to a smaller number format, and learns the map from data.

    Subclasses implement `simulate` (the map, on plain tensors), `get_encodings`,
    `_set_from_statistics` and `_encoding_of`.

    Attributes:
        shape: shape of scale and offset.
        block_size: elements that share one scale for each dimension of ``shape``, or None.
        encoding_analyzer: collects statistics and chooses the range; None if nothing is to be
            learned.
        calibration_issue: why the last `compute_encodings` found no range, else None.
    """

    shape: tuple[int, ...]
    block_size: tuple[int, ...] | None
    encoding_analyzer: EncodingAnalyzer | None
    calibration_issue: str | None
    _range_names: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.encoding_analyzer = None
        self.calibration_issue = None
        self._calibrating = False
        self._passes_through = True
        self._overwrite_allowed = dict.fromkeys(self._range_names, True)

    # -- calibration ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def compute_encodings(self, passes_through: bool = False) -> Iterator[None]:
        """Observe inputs within this context, and set the range at its end.

        Within it, calling the quantizer quantizes each tensor with the range of that tensor alone,
        as in AIMET. (Calibrating a module or a model leaves activations unquantized.) Nothing
        happens when `allow_overwrite` forbids it. What data does to the range:
        non-finite values are ignored; zero is always part of the range and exact; all-zero data
        gives the smallest step (methods with a histogram: a fraction of one unit, which is how wide
        the histogram of a constant is); without any finite value the quantizer keeps the range it
        had (or stays uninitialized) and a warning says so.

        Args:
            passes_through: return inputs unchanged instead.
        """
        started = self.begin_calibration(passes_through)
        try:
            yield
        except BaseException:
            self.cancel_calibration()
            raise
        if started and (issue := self.end_calibration()):
            warnings.warn(f"{type(self).__name__}.compute_encodings: {issue}", stacklevel=3)

    def begin_calibration(self, passes_through: bool = True) -> bool:
        """Start observing; False if it is not allowed, or going on already.

        Args:
            passes_through: return inputs unchanged rather than quantized by their own range.
        """
        if self._calibrating or self.encoding_analyzer is None or not self.is_overwrite_allowed():
            return False
        self.encoding_analyzer.reset_stats()
        self._calibrating = True
        self._passes_through = passes_through
        return True

    @property
    def is_calibrating(self) -> bool:
        """Whether inputs are observed: between `begin_calibration` and its end."""
        return self._calibrating

    def cancel_calibration(self) -> None:
        """Stop observing and forget what was seen."""
        self._calibrating = False
        if self.encoding_analyzer is not None:
            self.encoding_analyzer.reset_stats()

    def end_calibration(self) -> str | None:
        """Stop observing and set the range; return why that was not possible, if so."""
        assert self.encoding_analyzer is not None
        try:
            self._set_from_statistics(self.encoding_analyzer)
            self.calibration_issue = None
        except StatisticsNotFoundError as error:
            outcome = "keeps its range" if self.is_initialized() else "stays uninitialized"
            self.calibration_issue = f"{error}, so the quantizer {outcome}"
        finally:
            self.cancel_calibration()
        return self.calibration_issue

    def observe(self, input: Tensor) -> None:
        """Add the values of ``input`` to the statistics; empty tensors are skipped."""
        if input.numel() and self.encoding_analyzer is not None:
            with torch.no_grad():
                self.encoding_analyzer.update_stats(plain_tensor(input))

    def _observed_encoding(self, input: Tensor) -> EncodingBase | None:
        """Observe ``input`` and return its own encoding, None where it shall pass unchanged."""
        self.observe(input)
        if self._passes_through or not input.numel():
            return None
        try:
            return self._encoding_of(input)
        except StatisticsNotFoundError:
            return None

    def _encoding_of(self, input: Tensor) -> EncodingBase:
        raise NotImplementedError(f"{type(self).__name__}._encoding_of is not defined")

    def _set_from_statistics(self, analyzer: EncodingAnalyzer) -> None:
        raise NotImplementedError(f"{type(self).__name__}._set_from_statistics is not defined")

    # -- state ----------------------------------------------------------------------------------

    def is_initialized(self) -> bool:
        """Whether there is a range to quantize with."""
        return True

    def allow_overwrite(self, *args: bool, **kwargs: bool) -> None:
        """Let `compute_encodings` and loading change the range, or not.

        Args:
            *args: one flag for the whole range.
            **kwargs: ``mode=`` the same by name, or one flag for each end (``min=``, ``max=``).

        Raises:
            TypeError: an unknown name, or not exactly one flag.
        """
        flags = dict(kwargs)
        if args or "mode" in flags:
            mode = flags.pop("mode") if "mode" in flags else args[0]
            if len(args) > 1 or flags:
                raise TypeError("allow_overwrite: give one flag, or one flag for each name")
            flags = dict.fromkeys(self._range_names, mode)
        unknown = sorted(flags.keys() - set(self._range_names))
        if unknown or not flags:
            raise TypeError(
                f"allow_overwrite: expected a flag or names among {', '.join(self._range_names)}, "
                f"got {', '.join(unknown) or 'nothing'}"
            )
        self._overwrite_allowed.update({name: bool(flag) for name, flag in flags.items()})

    def is_overwrite_allowed(self, name: str | None = None) -> bool:
        """Whether calibration and loading may change the range, or its end called ``name``."""
        if name is not None:
            return self._overwrite_allowed[name]
        return any(self._overwrite_allowed.values())

    def freeze(self) -> None:
        """Keep the range from now on: no calibration, no loading, no gradient."""
        self.allow_overwrite(False)
        self.requires_grad_(False)

    def misfits(self, state: Any) -> list[str]:
        """How the number format of a state dict's ``_extra_state`` differs, one line each."""
        return []

    # -- the map --------------------------------------------------------------------------------

    def get_encodings(self) -> EncodingBase | None:
        """Return the encoding, None while there is none."""
        raise NotImplementedError(f"{type(self).__name__}.get_encodings is not defined")

    def get_encoding(self) -> EncodingBase | None:
        """Same as `get_encodings`."""
        return self.get_encodings()

    def simulate(self, input: Tensor) -> Tensor:
        """Apply the map to a plain floating-point tensor and return a plain tensor.

        This is what quantized modules call: unlike calling the quantizer it attaches no encoding
        to the result, which costs more than small layers themselves.
        """
        return plain_tensor(self.forward(input))

    def simulate_(
        self, input: Tensor, clamp_min: float | None = None, clamp_max: float | None = None
    ) -> Tensor | None:
        """As `simulate`, but ``input`` may be overwritten: nobody else holds it.

        Args:
            input: a plain floating-point tensor; needs no gradient.
            clamp_min: lower bound of an activation function to apply first.
            clamp_max: upper bound.

        Returns:
            The result, often ``input`` itself; None, with ``input`` as it was, where the quantizer
            has no way to do it.
        """
        return None

    def map_of(
        self, input: Tensor, clamp_min: float | None = None, clamp_max: float | None = None
    ) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]] | None:
        """What `simulate` does with ``input``, as something that can be done once more.

        Args:
            input: a plain floating-point tensor; stays as it is.
            clamp_min: lower bound of an activation function to apply first.
            clamp_max: upper bound.

        Returns:
            A function and the tensors that it takes after ``input``, which carry the gradients of
            what is learned. It gives the same bits later, whatever has become of the quantizer.
            None where there is no such function.
        """
        return None

    def facts(self) -> tuple[list[Tensor], tuple[Any, ...]] | None:
        """What the map depends on: tensors and other values; None if that is not known.

        Results of `simulate` are kept as long as none of them changes.
        """
        return None
