"""Quantizers of affine integer grids; their real range (min, max) is calibrated or learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from aimet_torch import ops
from aimet_torch.quantization.affine.base import AffineQuantizerBase
from aimet_torch.quantization.affine.functional import shifted_quantize_dequantize
from aimet_torch.quantization.affine.ranges import MIN_MAX
from aimet_torch.quantization.base import is_captured, plain_tensor
from aimet_torch.quantization.tensor import DequantizedTensor, QuantizedTensor

__all__ = ["AffineQuantizerBase", "Dequantize", "MinMaxQuantizer", "Quantize", "QuantizeDequantize"]

MinMaxQuantizer = AffineQuantizerBase


class QuantizeDequantize(AffineQuantizerBase):
    """Round to the grid and back: simulates what a quantized tensor holds.

    Arguments as `AffineQuantizerBase`.

    >>> import torch
    >>> quantizer = QuantizeDequantize((), bitwidth=4, symmetric=True)
    >>> with quantizer.compute_encodings():
    ...     _ = quantizer(torch.tensor([-1.6, 1.4]))
    >>> quantizer(torch.tensor([0.25, 9.0]))
    DequantizedTensor([0.2000, 1.4000], grad_fn=<AliasBackward0>)
    """

    _is_plain = True
    _has_plain_map: ClassVar[bool] = True

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        of_map = ("simulate", "_map", "_ready")
        of_grid = ("_grid_of", "_scale_and_offset", "is_initialized")
        cls._has_plain_map = _inherits(cls, of_map)
        cls._is_plain = _inherits(cls, of_map + of_grid)

    def simulate(self, input: Tensor) -> Tensor:
        """Quantize-dequantize a plain tensor; see `QuantizerBase.simulate`."""
        return self._map(input, *self._scale_and_offset(input)) if self._ready(input) else input

    def simulate_(
        self, input: Tensor, clamp_min: float | None = None, clamp_max: float | None = None
    ) -> Tensor | None:
        """Quantize-dequantize in place; see `QuantizerBase.simulate_`."""
        is_possible = self._is_plain and self._initialized and input.is_cpu
        if not is_possible or self._calibrating or self.zero_point_shift or self.block_size:
            return None
        if self.parametrization is MIN_MAX:
            parameters: Any = self._parameters
            low, high, symmetric = parameters["min"], parameters["max"], self.symmetric
            ops.quantize_dequantize_by_range_(
                input, low, high, self.qmin, self.qmax, symmetric, clamp_min, clamp_max
            )
            return input
        scale, offset = self._scale_and_offset(input)
        if self.parametrization.clips:
            if (clamp_min, clamp_max) != (None, None):
                input.clamp_(clamp_min, clamp_max)
            clamp_min = clamp_max = None
            input, scale = self.parametrization.clipped(self, input, scale, offset)
        ops.quantize_dequantize_(input, scale, offset, self.qmin, self.qmax, clamp_min, clamp_max)
        return input

    def map_of(
        self, input: Tensor, clamp_min: float | None = None, clamp_max: float | None = None
    ) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]] | None:
        """Quantize-dequantize with the scale of now; see `QuantizerBase.map_of`."""
        if not self._has_plain_map or self.zero_point_shift or self.parametrization.clips:
            return None
        is_clamped = (clamp_min, clamp_max) != (None, None)
        if self._calibrating or (
            is_clamped and not input.is_cpu
        ):  # elsewhere it is several kernels
            return None
        grid = self.qmin, self.qmax, self.block_size
        scale, offset = self._scale_and_offset(input)
        if not is_clamped:
            return lambda x, s, o: ops.quantize_dequantize(x, s, o, *grid), (scale, offset)

        def function(x: Tensor, s: Tensor, o: Tensor) -> Tensor:
            return ops.clamp_quantize_dequantize(x, clamp_min, clamp_max, s, o, *grid)

        return function, (scale, offset)

    def _map(self, input: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        grid = self.qmin, self.qmax, self.block_size
        input, scale = self.parametrization.clipped(self, input, scale, offset)
        if self.zero_point_shift:
            return shifted_quantize_dequantize(input, scale, offset, *grid, self.zero_point_shift)
        return ops.quantize_dequantize(input, scale, offset, *grid)

    def forward(self, input: Tensor) -> Tensor:
        """Quantize-dequantize ``input``.

        Args:
            input: any shape that ``shape`` broadcasts against; integers pass unchanged.

        Returns:
            A `DequantizedTensor` of the same shape and dtype; a plain tensor while a graph is
            captured (torch.compile, torch.export, torch.jit.trace).

        Raises:
            RuntimeError: there is no range.
        """
        input = plain_tensor(input)
        encoding = self._encoding_for(input)
        if encoding is None:
            return input
        if self._calibrating:
            output = encoding.quantize_dequantize(input)
        else:
            output = self._map(input, encoding.scale, encoding.offset)
        return output if is_captured() else DequantizedTensor.attach(output, encoding)


def _inherits(cls: type, names: tuple[str, ...]) -> bool:
    """Whether ``cls`` has these of `QuantizeDequantize`, with nothing changed."""
    return all(getattr(cls, name) is getattr(QuantizeDequantize, name) for name in names)


class Quantize(AffineQuantizerBase):
    """Map to the integers of the grid. Arguments as `AffineQuantizerBase`."""

    def forward(self, input: Tensor) -> Tensor:
        """Quantize ``input``.

        Args:
            input: any shape that ``shape`` broadcasts against; integers pass unchanged.

        Returns:
            A `QuantizedTensor` of the same shape and dtype; a plain tensor while a graph is
            captured.

        Raises:
            RuntimeError: there is no range.
        """
        input = plain_tensor(input)
        encoding = self._encoding_for(input)
        if encoding is None:
            return input
        output = encoding.quantize(input)
        return output if is_captured() else QuantizedTensor.attach(output, encoding)


class Dequantize(AffineQuantizerBase):
    """Map integers of the grid to real numbers. Arguments as `AffineQuantizerBase`."""

    def forward(self, input: Tensor) -> Tensor:
        """Dequantize ``input``; a `QuantizedTensor` by its own encoding.

        Raises:
            RuntimeError: there is no range.
        """
        if isinstance(input, QuantizedTensor) and input.encoding is not None:
            return input.dequantize()
        input = plain_tensor(input)
        if not self._ready(input):
            return input
        encoding = self._encoding(*self._scale_and_offset())
        output = encoding.dequantize(input)
        return output if is_captured() else DequantizedTensor.attach(output, encoding)
