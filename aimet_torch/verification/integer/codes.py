"""Tensors as an integer target holds them: codes, a step and a zero point."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from aimet_torch import ops


@dataclass(frozen=True)
class IntegerGrid:
    """What a QuantizeLinear or DequantizeLinear node says about its integers.

    Attributes:
        scale: float64, () or one for each position of `axis`.
        zero_point: int64, shape of `scale`.
        axis: axis of the channels, or None.
        qmin: least code of the integer type.
        qmax: largest one.
        block_size: positions of `axis` that share a scale; 0 without blocks.
    """

    scale: Tensor
    zero_point: Tensor
    axis: int | None
    qmin: int
    qmax: int
    block_size: int = 0

    @classmethod
    def of_node(cls, node: ir.Node, dtype: ir.DataType) -> IntegerGrid:
        """Read the grid off a node whose scale and zero point are constants.

        Raises:
            NotImplementedError: they are computed at run time.
        """
        scale = _constant(node, 1)
        assert scale is not None  # ONNX demands it
        zero_point = _constant(node, 2)
        if zero_point is None:
            zero_point = torch.zeros_like(scale)
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
        block = node.attributes["block_size"].as_int() if "block_size" in node.attributes else 0
        bits = dtype.bitwidth
        low = -(2 ** (bits - 1)) if dtype.is_signed() else 0
        return cls(
            scale,
            zero_point.long(),
            None if scale.numel() == 1 and not block else axis,
            low,
            low + 2**bits - 1,
            block,
        )

    @property
    def is_per_tensor(self) -> bool:
        """One scale for all."""
        return self.axis is None

    @property
    def step(self) -> float:
        """The only scale."""
        return float(self.scale.reshape(-1)[0])

    @property
    def zero(self) -> int:
        """The only zero point."""
        return int(self.zero_point.reshape(-1)[0])

    @property
    def limits(self) -> tuple[int, int]:
        """Least and largest code, less the zero points."""
        return self.qmin - int(self.zero_point.max()), self.qmax - int(self.zero_point.min())

    def equals(self, other: IntegerGrid) -> bool:
        """Whether both map every code to the same number."""
        return (
            self.axis == other.axis
            and self.block_size == other.block_size
            and (self.qmin, self.qmax) == (other.qmin, other.qmax)
            and torch.equal(self.scale.reshape(-1), other.scale.reshape(-1))
            and torch.equal(self.zero_point.reshape(-1), other.zero_point.reshape(-1))
        )

    def along(self, values: Tensor, rank: int) -> Tensor:
        """Scales or zero points in a shape that broadcasts against a tensor of `rank` axes."""
        if self.axis is None:
            return values.reshape(())
        shape = [1] * rank
        shape[self.axis % rank] = -1
        return values.reshape(shape)

    def quantize(self, values: Tensor) -> Codes:
        """Round real numbers to codes, as QuantizeLinear does.

        Args:
            values: float32, any shape.
        """
        scale, zero_point = self._expanded(values.dim(), values)
        codes = ops.quantize(
            values.float(), scale.float(), -zero_point.float(), self.qmin, self.qmax
        )
        return Codes(codes.long(), self)

    def _expanded(self, rank: int, like: Tensor) -> tuple[Tensor, Tensor]:
        if not self.block_size:
            return self.along(self.scale, rank), self.along(self.zero_point, rank)
        assert self.axis is not None
        size = like.shape[self.axis]
        return (
            self.scale.repeat_interleave(self.block_size, self.axis).narrow(self.axis, 0, size),
            self.zero_point.repeat_interleave(self.block_size, self.axis).narrow(
                self.axis, 0, size
            ),
        )


@dataclass(frozen=True)
class Codes:
    """A tensor of integers: `x = (codes - zero_point) * scale`.

    Attributes:
        codes: int64.
        grid: scale and zero point.
        is_constant: known before any input is.
    """

    codes: Tensor
    grid: IntegerGrid
    is_constant: bool = False

    def centered(self) -> Tensor:
        """The codes less their zero points, int64."""
        return self.codes - self.grid._expanded(self.codes.dim(), self.codes)[1]

    def dequantized(self) -> Tensor:
        """The real numbers, float32, as DequantizeLinear computes them."""
        scale, _ = self.grid._expanded(self.codes.dim(), self.codes)
        return self.centered().float() * scale.float()

    def as_constant(self) -> Codes:
        """The same, marked as known beforehand."""
        return replace(self, is_constant=True)


def integer_tensor(tensor: ir.TensorProtocol) -> Tensor:
    """The integers of a stored tensor, int64, 4-bit ones too."""
    return torch.from_numpy(tensor.numpy().astype(np.int64))


def _constant(node: ir.Node, position: int) -> Tensor | None:
    value = node.inputs[position] if len(node.inputs) > position else None
    if value is None:
        return None
    if value.const_value is None:
        raise NotImplementedError(
            f"verify: `{value.name}` of {node.op_type} `{node.name}` is computed at run time; an "
            "integer target needs scales and zero points as constants"
        )
    return torch.from_numpy(value.const_value.numpy().astype(np.float64))
