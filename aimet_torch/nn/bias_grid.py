"""Biases as integer targets hold them: int32 in the accumulator of input times weight."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aimet_torch import ops
from aimet_torch.ops.algorithms import merge_batch_norm_statistics
from aimet_torch.quantization.affine import AffineEncoding, AffineQuantizerBase

__all__ = ["BiasGrid", "accumulator_scale", "folded_batch_norm", "folded_scale"]

_INT32 = (-(2**31), 2**31 - 1)
_DEAD_CHANNEL_STEP = 2.0**-20


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
    if weight_scale.dim() > 0:
        axis = channel_axis % weight_scale.dim()
        others = [i for i in range(weight_scale.dim()) if i != axis]
        weight_scale = (weight_scale.amax(others) if others else weight_scale).repeat(groups)
    return weight_scale * input_scale.reshape(())


def folded_batch_norm(norm: Any, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """What a batch norm makes of the layer before it: factor and bias of each channel.

    Args:
        norm: anything with `running_mean`, `running_var`, `weight`, `bias` and `eps`.
        bias: bias of the layer before, or None.

    Returns:
        `(factor, bias)`, float64: the batch norm's result is factor * (the layer's result without
        its bias) + bias.
    """
    gamma, beta = (None if t is None else t.double() for t in (norm.weight, norm.bias))
    factor, shift = merge_batch_norm_statistics(
        norm.running_mean.double(),
        norm.running_var.double(),
        gamma,
        beta,
        float(np.float32(norm.eps)),  # as ONNX stores it
    )
    if bias is not None:
        shift = shift + bias.double() * factor
    return factor, shift


def folded_scale(weight_scale: Tensor, factor: Tensor) -> Tensor:
    """Steps of a weight whose channels are multiplied by factors of either sign.

    Args:
        weight_scale: of the weight.
        factor: float64, in a shape that broadcasts against `weight_scale`.

    Returns:
        In the dtype of `weight_scale`. A channel multiplied by zero has no step of its own: it
        gets one that is small against any bias.
    """
    scale = (weight_scale * factor.abs()).to(weight_scale.dtype)
    return torch.where(scale > 0, scale, torch.full_like(scale, _DEAD_CHANNEL_STEP))


class BiasGrid:
    """Where a layer's bias is rounded to in a simulation.

    An integer target adds the bias to the accumulator, in steps of (input step * weight step).
    Rounding it there is far below one step of the output, but without it a simulation and its
    target part ways near each rounding boundary.

    Args:
        layer: quantized convolution or linear layer.
        source: quantized module that has the quantizer of the layer's input.
        quantizers: name of its list: "input_quantizers" or "output_quantizers".
        index: position in that list.
        channel_axis: axis of the weight that runs along the output channels.
        groups: as for `accumulator_scale`.
        norm: batch norm that a target folds into the layer: its bias is the one to be rounded.
    """

    def __init__(
        self,
        layer: Any,
        source: Any,
        quantizers: str,
        index: int,
        channel_axis: int,
        groups: int = 1,
        norm: Any = None,
    ) -> None:
        self.layer = layer
        self.source = source
        self.quantizers = quantizers
        self.index = index
        self.channel_axis = channel_axis
        self.groups = groups
        self.norm = norm

    @property
    def input_quantizer(self) -> Any:
        """The quantizer of the layer's input, or None."""
        quantizers = getattr(self.source, self.quantizers)
        return quantizers[self.index] if self.index < len(quantizers) else None

    def _weight_scale(self) -> Tensor | None:
        """Steps of the weight; of one that holds its rounded values, those it was rounded with."""
        quantizer = self.layer.param_quantizers["weight"]
        if quantizer is None:
            encoding = self.layer.folded_param_encodings.get("weight")
            return encoding.scale if isinstance(encoding, AffineEncoding) else None
        if not isinstance(quantizer, AffineQuantizerBase) or not quantizer.is_initialized():
            return None
        scale: Any = quantizer.get_scale()
        # Of the quantizer, not of the tensor: sizes are tensors while torch.jit.trace runs.
        return scale.reshape(()) if math.prod(quantizer.shape) == 1 else scale

    def facts(self) -> tuple[list[Tensor], tuple[Any, ...]] | None:
        """What `round` depends on, beside the layer's own parameters and their quantizers.

        Returns:
            As `aimet_torch.quantization.base.QuantizerBase.facts`.
        """
        quantizer = self.input_quantizer
        if quantizer is None:
            return [], (None,)
        known = quantizer.facts()
        if known is None:
            return None
        is_known = quantizer.is_initialized() and not quantizer.is_calibrating
        tensors, facts = known[0], (is_known, known[1])
        norm = self.norm
        if norm is None:
            return tensors, facts
        of_weight = self.layer.param_quantizers["weight"]
        known = of_weight.facts() if of_weight is not None else ([], None)
        if known is None:
            return None
        optional = (self.layer.bias, norm.weight, norm.bias)
        tensors = [*tensors, *known[0], norm.running_mean, norm.running_var]
        tensors += [tensor for tensor in optional if tensor is not None]
        is_there = tuple(tensor is not None for tensor in optional)
        has_steps = of_weight is not None and of_weight.is_initialized()
        return tensors, (facts, known[1], has_steps, is_there, norm.training, norm.eps)

    def has_scale(self) -> bool:
        """Whether `scale` is not None."""
        quantizer = self.input_quantizer
        if not isinstance(quantizer, AffineQuantizerBase) or not quantizer.is_initialized():
            return False
        return math.prod(quantizer.shape) == 1 and self._weight_scale() is not None

    def scale(self) -> Tensor | None:
        """Step of the accumulator; None without an integer quantizer with a range on both sides."""
        if not self.has_scale():
            return None
        input_scale = self.input_quantizer.get_scale().detach().reshape(())
        weight_scale: Any = self._weight_scale()
        weight_scale = weight_scale.detach().to(input_scale.device)
        if self.norm is not None:
            factor, _ = folded_batch_norm(self.norm, None)
            shape = [1] * self.layer.weight.dim()
            shape[self.channel_axis] = -1
            weight_scale = folded_scale(weight_scale, factor.detach().reshape(shape))
        return accumulator_scale(input_scale, weight_scale, self.channel_axis, self.groups)

    def round(self, bias: Tensor) -> Tensor:
        """The layer's or the batch norm's bias on the accumulator's grid.

        Its gradient is that of the identity. A batch norm in training has other statistics: there
        its bias stays as it is. So does every bias while the range of the input is being found:
        a second calibration must not depend on the ranges of the first.
        """
        if self.norm is not None and self.norm.training:
            return bias
        if self.input_quantizer is not None and self.input_quantizer.is_calibrating:
            return bias
        scale = self.scale()
        if scale is None:
            return bias
        offset = torch.zeros_like(scale)
        if self.norm is None:
            return ops.quantize_dequantize(bias, scale, offset, *_INT32)
        start = folded_batch_norm(self.norm, self.layer.bias)[1].detach()
        rounded = ops.quantize_dequantize(start.to(bias.dtype), scale, offset, *_INT32)
        return bias + (rounded.double() - start).to(bias.dtype)
