"""One view of convolutions and linear layers for the solvers: ``groups`` matrices ``(o, d)``."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aimet_torch.ops.reconstruction import LayerSums, accumulate_layer_moments_
from aimet_torch.ptq.layers import LayerType, is_transposed
from aimet_torch.quantization.affine import GroupedBlockQuantizeDequantize, QuantizeDequantize

__all__ = ["LayerView", "WeightGrid", "run_layer"]


@dataclasses.dataclass
class WeightGrid:
    """The quantizer of a layer's weight, as grids of the rows of its matrices.

    Attributes:
        quantizer: Holds range and bit width.
        blocks: Grids a row.
        is_shared: Rows have a grid in common, so that no row can choose its own.
    """

    quantizer: QuantizeDequantize
    blocks: int
    is_shared: bool


class LayerView:
    """A Conv1d/2d/3d, ConvTranspose1d/2d/3d or Linear, grouped or not.

    Args:
        layer: The layer; its weight is read, never written.

    Attributes:
        groups, outputs, inputs: shape of ``matrices()``.
        cost: products of a pass over the codes; of a part of a layer, that of the whole layer.
    """

    def __init__(self, layer: LayerType) -> None:
        self.layer = layer
        self.transposed = is_transposed(layer)
        weight = layer.weight
        self.groups = 1 if isinstance(layer, nn.Linear) else layer.groups
        out = weight.shape[1] * self.groups if self.transposed else weight.shape[0]
        self.outputs = out // self.groups
        self.inputs = weight.numel() // max(out, 1)
        self.cost = self.groups * self.outputs * self.inputs**2

    def matrices(self, weight: Tensor) -> Tensor:
        """A tensor of the weight's shape as (groups, outputs, inputs)."""
        if self.transposed:
            split = weight.reshape(self.groups, -1, *weight.shape[1:])
            return split.transpose(1, 2).reshape(self.groups, self.outputs, self.inputs)
        return weight.reshape(self.groups, self.outputs, self.inputs)

    def weight_of(self, matrices: Tensor) -> Tensor:
        """The inverse of :meth:`matrices`."""
        shape = self.layer.weight.shape
        if self.transposed:
            split = matrices.reshape(self.groups, self.outputs, shape[0] // self.groups, *shape[2:])
            return split.transpose(1, 2).reshape(shape)
        return matrices.reshape(shape)

    def new_sums(self) -> LayerSums:
        """Empty second moments."""
        return LayerSums.zeros(self.groups, self.outputs, self.inputs)

    def add_batch(
        self, sums: LayerSums, input: Tensor, output: Tensor, importance: Tensor | None = None
    ) -> None:
        """Add what enters the layer and what should leave it to ``sums``."""
        dims = self.layer.weight.dim() - 2
        input = self.pad(input)
        if dims and input.dim() == dims + 1:  # without a batch
            input, output = input.unsqueeze(0), output.unsqueeze(0)
            importance = None if importance is None else importance.unsqueeze(0)
        accumulate_layer_moments_(sums, input, output, **self.geometry(), importance=importance)

    def pad(self, input: Tensor) -> Tensor:
        """``input`` with the padding that :meth:`geometry` does not tell of."""
        layer: Any = self.layer
        if isinstance(layer, nn.Linear) or not self._pads_itself:
            return input
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        return F.pad(input, layer._reversed_padding_repeated_twice, mode=mode)

    @property
    def _pads_itself(self) -> bool:
        layer: Any = self.layer
        return isinstance(layer.padding, str) or layer.padding_mode != "zeros"

    def geometry(self) -> dict[str, Any]:
        """Keyword arguments of the operators that read the layer's input."""
        layer: Any = self.layer
        if isinstance(layer, nn.Linear):
            return {}
        none = [0] * len(layer.kernel_size)
        return {
            "kernel_size": list(layer.kernel_size),
            "stride": list(layer.stride),
            "padding": none if self._pads_itself else list(layer.padding),
            "dilation": list(layer.dilation),
            "groups": self.groups,
            "transposed": self.transposed,
        }

    def output_padding(self) -> list[int]:
        """Of a transposed convolution; zeros for others."""
        layer: Any = self.layer
        return [] if isinstance(layer, nn.Linear) else list(layer.output_padding)

    def grid_of(self, quantizer: Any) -> WeightGrid | str:
        """How a quantizer of the weight divides the rows, or in words why it is not supported."""
        if not isinstance(quantizer, QuantizeDequantize):
            return f"its quantizer is a {type(quantizer).__name__}"
        if isinstance(quantizer, GroupedBlockQuantizeDequantize):
            return "its scales have two levels"
        if quantizer.zero_point_shift:
            return "its grid is shifted by half a step"
        weight = self.layer.weight
        shape = (1,) * (weight.dim() - len(quantizer.shape)) + tuple(quantizer.shape)
        out_axis, in_axis = (1, 0) if self.transposed else (0, 1)
        if any(size != 1 for axis, size in enumerate(shape) if axis not in (out_axis, in_axis)):
            return f"its scales have the shape {tuple(quantizer.shape)}"
        blocks = shape[in_axis]
        if blocks > 1 and (quantizer.block_size is None or (self.transposed and self.groups > 1)):
            return f"its scales vary along the inputs: shape {tuple(quantizer.shape)}"
        if shape[out_axis] not in (1, weight.shape[out_axis]):
            return f"its scales are blocks of output channels: shape {tuple(quantizer.shape)}"
        rows = self.groups * self.outputs
        return WeightGrid(quantizer, blocks, is_shared=shape[out_axis] < rows)

    def rows_of(self, grid: WeightGrid, parameter: Tensor) -> Tensor:
        """A parameter of the quantizer's shape as (groups, outputs, blocks)."""
        if self.transposed:
            parameter = parameter.reshape(-1, parameter.shape[1] if parameter.dim() > 1 else 1)
            full = parameter.t().reshape(1, -1, grid.blocks)
        else:
            full = parameter.reshape(-1, grid.blocks)
            if full.shape[0] > 1:
                full = full.reshape(self.groups, self.outputs, grid.blocks)
        full = full.reshape(-1, full.shape[-2], grid.blocks)
        return full.expand(self.groups, self.outputs, grid.blocks)

    def spread(self, grid: WeightGrid, parameter: Tensor) -> Tensor:
        """A parameter of the quantizer's shape, once for each weight: (groups, outputs, inputs)."""
        return self.rows_of(grid, parameter).repeat_interleave(self.inputs // grid.blocks, dim=2)

    def parameter_of(self, grid: WeightGrid, rows: Tensor) -> Tensor:
        """The inverse of :meth:`rows_of`; of rows that share a grid the first counts."""
        shape = grid.quantizer.shape
        if torch.Size(shape).numel() == 1:
            return rows.flatten()[0].reshape(shape)
        if self.transposed:
            return rows[0].t().reshape(shape)
        return rows.reshape(shape)


def run_layer(layer: LayerType, weight: Tensor, bias: Tensor | None, args: tuple[Any, ...]) -> Any:
    """What ``layer`` gives with another weight and bias."""
    parameters = {"weight": weight} | ({} if bias is None else {"bias": bias})
    return torch.func.functional_call(layer, parameters, args)
