"""Quantizers of affine integer grids; their real range (min, max) is calibrated or learned."""

from __future__ import annotations

from typing import Any

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

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        parts = ("simulate", "_map", "_ready", "_grid_of", "_scale_and_offset", "is_initialized")
        cls._is_plain = all(getattr(cls, p) is getattr(QuantizeDequantize, p) for p in parts)

    def simulate(self, input: Tensor) -> Tensor:
        """Quantize-dequantize a plain tensor; see `QuantizerBase.simulate`."""
        return self._map(input, *self._scale_and_offset(input)) if self._ready(input) else input

    def simulate_(
        self, input: Tensor, clamp_min: float | None = None, clamp_max: float | None = None
    ) -> Tensor | None:
        """Quantize-dequantize in place; see `QuantizerBase.simulate_`."""
        if not self._is_one_pass(input) or self.block_size is not None:
            return None
        parameters: Any = self._parameters
        ops.quantize_dequantize_by_range_(
            input,
            parameters["min"],
            parameters["max"],
            self.qmin,
            self.qmax,
            self.symmetric,
            clamp_min,
            clamp_max,
        )
        return input

    def simulate_clamped(
        self, input: Tensor, clamp_min: float | None, clamp_max: float | None
    ) -> Tensor | None:
        """Clamp and quantize-dequantize; see `QuantizerBase.simulate_clamped`."""
        if not self._is_one_pass(input):
            return None
        scale, offset = self._scale_and_offset()
        return ops.clamp_quantize_dequantize(
            input, clamp_min, clamp_max, scale, offset, self.qmin, self.qmax, self.block_size
        )

    def _is_one_pass(self, input: Tensor) -> bool:
        """Whether this quantizer is one of the operators that do more than quantize."""
        return (
            self._is_plain
            and self._initialized
            and not self._calibrating
            and not self.zero_point_shift
            and self.parametrization is MIN_MAX
            and input.is_cpu  # elsewhere they are several kernels
        )

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
