"""Biases as integer targets hold them: int32 in the accumulator of input times weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from aimet_torch import ops
from aimet_torch.quantization.affine import AffineQuantizerBase

__all__ = ["BiasGrid", "accumulator_scale"]

_INT32 = (-(2**31), 2**31 - 1)


def accumulator_scale(
    input_scale: Tensor, weight_scale: Tensor, channel_axis: int, groups: int = 1
) -> Tensor:
    """The step of a layer's accumulator: step of the input times step of the weight.

    Args:
        input_scale: one scale.
        weight_scale: one scale, one for each output channel, or one for each block (then the
            largest of a channel counts, so that the bias fits).
        channel_axis: axis of `weight_scale` that runs along the output channels.
        groups: how often the channels of the weight repeat (transposed convolutions).

    Returns:
        Shape () or (output channels,).

    >>> accumulator_scale(torch.tensor(0.5), torch.tensor([[1.0], [2.0]]), 0)
    tensor([0.5000, 1.0000])
    """
    if weight_scale.numel() > 1:
        axis = channel_axis % weight_scale.dim()
        others = [i for i in range(weight_scale.dim()) if i != axis]
        weight_scale = (weight_scale.amax(others) if others else weight_scale).repeat(groups)
    else:
        weight_scale = weight_scale.reshape(())
    return weight_scale * input_scale.reshape(())


class BiasGrid:
    """Where a layer's bias is rounded to in a simulation.

    An integer target adds the bias to the accumulator, in steps of (input step * weight step).
    Rounding it there is far below one step of the output, but without it a simulation and its
    target part ways near each rounding boundary.

    Args:
        source: quantized module that has the quantizer of the layer's input.
        quantizers: name of its list: "input_quantizers" or "output_quantizers".
        index: position in that list.
        channel_axis: axis of the weight that runs along the output channels.
        groups: as for `accumulator_scale`.
    """

    def __init__(
        self, source: Any, quantizers: str, index: int, channel_axis: int, groups: int = 1
    ) -> None:
        self.source = source
        self.quantizers = quantizers
        self.index = index
        self.channel_axis = channel_axis
        self.groups = groups

    @property
    def input_quantizer(self) -> Any:
        """The quantizer of the layer's input, or None."""
        quantizers = getattr(self.source, self.quantizers)
        return quantizers[self.index] if self.index < len(quantizers) else None

    def scale(self, weight_quantizer: Any) -> Tensor | None:
        """Step of the accumulator; None without an integer quantizer with a range on both sides."""
        scales = []
        for quantizer in (self.input_quantizer, weight_quantizer):
            if not isinstance(quantizer, AffineQuantizerBase) or not quantizer.is_initialized():
                return None
            scales.append(quantizer.get_scale().detach())
        if scales[0].numel() != 1:
            return None
        return accumulator_scale(scales[0], scales[1], self.channel_axis, self.groups)

    def round(self, bias: Tensor, weight_quantizer: Any) -> Tensor:
        """The bias on the accumulator's grid; its gradient is that of the identity."""
        scale = self.scale(weight_quantizer)
        if scale is None:
            return bias
        offset = torch.zeros_like(scale)
        return ops.quantize_dequantize(bias, scale, offset, *_INT32)
