"""Quantizers of MX and NVFP4: blocks of small numbers whose scales follow from their values.

Formulas: docs/number_formats.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aimet_torch import ops
from aimet_torch.common.defs import Float
from aimet_torch.quantization.base import EncodingBase, is_captured, plain_tensor
from aimet_torch.quantization.encoding_analyzer import EncodingAnalyzer, MinMaxEncodingAnalyzer
from aimet_torch.quantization.float.base import FloatQuantizerBase
from aimet_torch.quantization.float.format import largest, round_to_format
from aimet_torch.quantization.tensor import DequantizedTensor

__all__ = ["MXQuantizeDequantize", "MicroscalingEncoding", "NVFP4QuantizeDequantize"]

_ELEMENTS: dict[str, Float] = {
    "float8e4m3fn": Float(4, 3, finite=True),
    "float8e5m2": Float(5, 2),
    "float6e3m2": Float(3, 2, finite=True),
    "float6e2m3": Float(2, 3, finite=True),
    "float4e2m1": Float(2, 1, finite=True),
}
_NVFP4 = "float4e2m1"
#: Element formats by the number that state dicts have for them: only ever add to the end.
_NUMBERED = ["int8", *_ELEMENTS]


class MicroscalingEncoding(EncodingBase):
    """Real number = number of the element format * scale of its block.

    Args:
        element: element format, as in `aimet_torch.ops.quantize_dequantize_mx`.
        axis: dimension along which blocks lie.
        block_length: neighbors that share a scale; the last block may be shorter.
        tensor_scale: of NVFP4, one number; None for MX.
        scale: scale of each block, ``ceil(size / block_length)`` of them along ``axis``; None when
            the scales shall follow from each tensor.
    """

    scale: Tensor | None  # type: ignore[assignment]
    _tensors = ("scale", "tensor_scale")

    def __init__(
        self,
        element: str,
        axis: int = -1,
        block_length: int = 32,
        tensor_scale: Tensor | None = None,
        scale: Tensor | None = None,
    ) -> None:
        if element != "int8" and element not in _ELEMENTS:
            raise ValueError(
                f"MicroscalingEncoding: `element` must be {', '.join(_ELEMENTS)} or int8, got "
                f"{element!r}"
            )
        self.element = element
        self.axis = axis
        self.block_length = block_length
        self.tensor_scale = tensor_scale
        self.scale = scale

    def __repr__(self) -> str:
        name = "MX" if self.tensor_scale is None else "NVFP4"
        return f"MicroscalingEncoding({name} {self.element}, {self.block_length} on {self.axis})"

    @property
    def mapping(self) -> str:
        """``"float"``."""
        return "float"

    @property
    def bitwidth(self) -> int:
        """Bits of one element."""
        return 8 if self.element == "int8" else _ELEMENTS[self.element].bits

    @property
    def granularity(self) -> str:
        """``"blockwise"``."""
        return "blockwise"

    def to(self, *args: Any, **kwargs: Any) -> MicroscalingEncoding:
        """Return the encoding on another device or in another floating-point dtype."""
        return self.map_tensors(lambda tensor: tensor.to(*args, **kwargs))

    def apply(self, input: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``input``, rounded, and the scales that follow from its values."""
        input = plain_tensor(input)
        if self.tensor_scale is None:
            return ops.quantize_dequantize_mx(input, self.element, self.axis, self.block_length)
        return ops.quantize_dequantize_nvfp4(input, self.tensor_scale, self.axis, self.block_length)

    def with_scale(self, scale: Tensor) -> MicroscalingEncoding:
        """Return the same encoding with the scales of one tensor."""
        return MicroscalingEncoding(
            self.element, self.axis, self.block_length, self.tensor_scale, scale
        )

    def _scale_of(self, input: Tensor) -> Tensor:
        if self.scale is None:
            raise RuntimeError(
                "MicroscalingEncoding: `scale` is None, since the scales follow from each tensor; "
                "use the encoding of the tensor that the quantizer returned"
            )
        whole = self.scale.repeat_interleave(self.block_length, self.axis)
        return whole.narrow(self.axis, 0, input.shape[self.axis])

    def quantize(self, input: Tensor) -> Tensor:
        """Divide by the scales and round to the element format; same dtype as ``input``."""
        input = plain_tensor(input)
        scale = self.apply(input.detach())[1] if self.scale is None else self.scale
        ratio = input / self.with_scale(scale)._scale_of(input)
        if self.element == "int8":
            return (ratio * 64).round().clamp(-127, 127).div(64).to(input.dtype)
        return round_to_format(ratio, _ELEMENTS[self.element]).to(input.dtype)

    def dequantize(self, input: Tensor) -> Tensor:
        """Multiply by the scales; same dtype as ``input``.

        Raises:
            RuntimeError: the scales follow from each tensor and are not known.
        """
        input = plain_tensor(input)
        return (input * self._scale_of(input)).to(input.dtype)

    def quantize_dequantize(self, input: Tensor) -> Tensor:
        """Round to what elements and block scales can represent; scales follow from ``input``."""
        return self.apply(input)[0]

    def rescale(self, factor: float) -> MicroscalingEncoding:
        """Return the encoding of values that are ``factor`` (positive) times as large.

        Raises:
            NotImplementedError: always; scales are powers of two or 8-bit numbers.
        """
        raise NotImplementedError(
            f"MicroscalingEncoding.rescale: block scales cannot take a factor of {factor}; "
            "quantize the product instead"
        )

    def to_qnn_encoding_dict(self, encoding_version: str | None = None) -> Any:
        """Return the entry of an encodings file.

        Raises:
            NotImplementedError: always; versions up to 1.0.0 hold no such formats.
        """
        raise NotImplementedError(
            "MicroscalingEncoding.to_qnn_encoding_dict: versions 0.6.1 and 1.0.0 hold no block "
            f"scales of {self}, asked for version {encoding_version!r}; remove the quantizer, or "
            "fold the weights with fold_param_quantizers()"
        )


class MXQuantizeDequantize(FloatQuantizerBase):
    """Round to an OCP Microscaling (MX) format and back; scales follow from each tensor.

    Nothing is calibrated. Gradients are straight-through, 0 where values saturate.

    Args:
        element: ``float8e4m3fn``, ``float8e5m2``, ``float6e3m2``, ``float6e2m3``, ``float4e2m1``
            or ``int8``.
        axis: dimension along which blocks lie: usually the one that a layer sums over.
        block_size: neighbors that share a scale, 1 to 1024; the standard says 32.

    Raises:
        ValueError: no such element format.

    >>> MXQuantizeDequantize("float4e2m1")(torch.tensor([0.1, -3.0, 20.0]))
    DequantizedTensor([ 0., -4., 16.])
    """

    def __init__(self, element: str = "float8e4m3fn", axis: int = -1, block_size: int = 32) -> None:
        super().__init__()
        self.shape = ()
        self.block_size = None
        self.element = element
        self.axis = axis
        self.block_length = block_size
        MicroscalingEncoding(self.element)  # checks the name

    @property
    def bitwidth(self) -> int:
        """Bits of one element."""
        return self.get_encodings().bitwidth

    def get_encodings(self) -> MicroscalingEncoding:
        """Return the encoding; its scales follow from each tensor."""
        return MicroscalingEncoding(self.element, self.axis, self.block_length)

    def simulate(self, input: Tensor) -> Tensor:
        """Round a plain tensor; see `QuantizerBase.simulate`."""
        if self._passes(input):
            return input
        return self.get_encodings().quantize_dequantize(input)

    def map_of(
        self, input: Tensor, clamp_min: float | None = None, clamp_max: float | None = None
    ) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]] | None:
        """Rounding as it is now; see `QuantizerBase.map_of`."""
        is_own = type(self).simulate is MXQuantizeDequantize.simulate
        if not is_own or self._calibrating or (clamp_min, clamp_max) != (None, None):
            return None
        return self.get_encodings().quantize_dequantize, ()

    def _passes(self, input: Tensor) -> bool:
        """Observe ``input`` while calibrating; whether it shall pass unchanged."""
        if not input.is_floating_point():
            return True
        if self._calibrating:
            self.observe(input)
        return self._calibrating

    def forward(self, input: Tensor) -> Tensor:
        """Round ``input`` to the format.

        Args:
            input: floating-point tensor of at least one dimension; integers pass unchanged.

        Returns:
            A `DequantizedTensor` of the same shape and dtype, whose encoding has the block scales;
            a plain tensor while a graph is captured.
        """
        input = plain_tensor(input)
        if self._calibrating and not self._passes_through and input.is_floating_point():
            encoding = self._observed_encoding(input)
            if not isinstance(encoding, MicroscalingEncoding):
                return input
        elif self._passes(input):
            return input
        else:
            encoding = self.get_encodings()
        output, scale = encoding.apply(input)
        return (
            output
            if is_captured()
            else DequantizedTensor.attach(output, encoding.with_scale(scale))
        )

    def _format_numbers(self) -> dict[str, int]:
        element = _NUMBERED.index(self.element)
        return {"element format": element, "axis": self.axis, "block size": self.block_length}

    def _set_format_numbers(self, numbers: list[int]) -> None:
        element, self.axis, self.block_length = numbers
        self.element = _NUMBERED[element]

    def extra_repr(self) -> str:
        """Show the format."""
        return f"element={self.element}, axis={self.axis}, block_size={self.block_length}"


class NVFP4QuantizeDequantize(MXQuantizeDequantize):
    """Round to NVFP4 and back: float4e2m1, float8e4m3fn scales of 16, one scale for the tensor.

    `compute_encodings` finds the tensor's largest magnitude; block scales follow from each tensor.

    Args:
        axis: as in `MXQuantizeDequantize`.
        block_size: neighbors that share a scale; the format says 16.
        encoding_analyzer: how the largest magnitude is chosen; minimum and maximum if None.

    Attributes:
        maxval: buffer, largest magnitude of the tensor; NaN until calibrated.
    """

    maxval: Tensor
    _range_names = ("maxval",)

    def __init__(
        self,
        axis: int = -1,
        block_size: int = 16,
        encoding_analyzer: EncodingAnalyzer | None = None,
    ) -> None:
        super().__init__(_NVFP4, axis, block_size)
        self.encoding_analyzer = encoding_analyzer or MinMaxEncodingAnalyzer(())
        self.register_buffer("maxval", torch.full((), torch.nan))
        self._initialized = False

    def is_initialized(self) -> bool:
        """Whether the tensor's largest magnitude is known."""
        if not self._initialized:
            self._initialized = not bool(self.maxval.isnan())
        return self._initialized

    @torch.no_grad()
    def set_maxval(self, maxval: Tensor | float) -> None:
        """Set the largest magnitude."""
        self.maxval.copy_(torch.as_tensor(maxval))
        self._initialized = False
        self.is_initialized()

    def _largest(self, limits: tuple[Tensor, Tensor]) -> Tensor:
        return torch.maximum(*(limit.abs() for limit in limits))

    def _set_from_statistics(self, analyzer: EncodingAnalyzer) -> None:
        self.set_maxval(self._largest(analyzer.compute_encodings(15, is_symmetric=False)))

    def _encoding_of(self, input: Tensor) -> MicroscalingEncoding:
        assert self.encoding_analyzer is not None
        limits = self.encoding_analyzer.compute_dynamic_encodings(input, 15, False)
        return self._encoding(self._largest(limits))

    def _encoding(self, maxval: Tensor) -> MicroscalingEncoding:
        widest = largest(_ELEMENTS[_NVFP4]) * largest(_ELEMENTS["float8e4m3fn"])
        # All-zero data would give a scale of zero.
        tensor_scale = (maxval.detach() / widest).clamp(min=torch.finfo(torch.float32).tiny)
        return MicroscalingEncoding(self.element, self.axis, self.block_length, tensor_scale)

    def get_encodings(self) -> MicroscalingEncoding:
        """Return the encoding; the scales of blocks follow from each tensor.

        Raises:
            RuntimeError: the quantizer is not calibrated.
        """
        if not self.is_initialized():
            issue = f" (last time: {self.calibration_issue})" if self.calibration_issue else ""
            raise RuntimeError(
                f"{type(self).__name__}: there is no range to quantize with; pass data through the "
                f"quantizer within `compute_encodings()`, or call set_maxval(){issue}"
            )
        return self._encoding(self.maxval)

    @property
    def bitwidth(self) -> int:
        """Bits of one element."""
        return 4
