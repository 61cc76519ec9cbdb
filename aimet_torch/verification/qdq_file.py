"""A QDQ file as a verification sees it: which tensor is on which grid, by whose quantizer."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from aimet_torch.export.lowering import QUANTIZER_KEY

_SUFFIX = "_dequantized"
#: Types of integers that ONNX Runtime takes from and gives to NumPy.
_ARRAYS = frozenset(
    {ir.DataType.UINT8, ir.DataType.INT8, ir.DataType.UINT16, ir.DataType.INT16}
)  # fmt: skip
_FLOAT8 = frozenset(
    {
        *(ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E4M3FNUZ),
        *(ir.DataType.FLOAT8E5M2, ir.DataType.FLOAT8E5M2FNUZ),
    }
)


@dataclass(frozen=True, eq=False)
class Pair:
    """A QuantizeLinear on an activation and the DequantizeLinear behind it.

    Attributes:
        tensor: name of the activation, for people.
        quantized: name of the integers between the two.
        dequantized: name of the real numbers behind them.
        scale: float32, a scalar or one value for each channel.
        zero_point: int64, in the shape of `scale`.
        axis: channel axis of the scale.
        dtype: ONNX type of the integers.
        quantizer: dotted name of the simulation's quantizer; None when the file does not tell.
    """

    tensor: str
    quantized: str
    dequantized: str
    scale: np.ndarray
    zero_point: np.ndarray
    axis: int
    dtype: ir.DataType
    quantizer: str | None

    @property
    def is_array(self) -> bool:
        """Whether NumPy has the type of the integers (4-bit ones and float8 it has not)."""
        return self.dtype in _ARRAYS

    @property
    def returned(self) -> str:
        """Name of the tensor that a runtime can return to NumPy: integers, or real numbers."""
        return self.quantized if self.is_array else self.dequantized

    @property
    def step(self) -> float:
        """Smallest distance of two numbers of the grid."""
        return float(self.scale.min())

    def returned_codes(self, array: np.ndarray) -> np.ndarray:
        """The integers of what a runtime gave for `returned`."""
        return array if self.is_array else self.codes(array)[0]

    def codes(self, values: np.ndarray) -> tuple[np.ndarray, float]:
        """Real numbers on the grid as its integers.

        Args:
            values: of the activation, any floating-point type.

        Returns:
            The integers, and the largest distance from the grid in steps: 0 but for the rounding of
            float32 when the values are on it.
        """
        scale, zero_point = self._along(values.ndim)
        position = values.astype(np.float32) / scale
        levels = np.rint(position)
        position -= levels
        distance = float(np.abs(position, out=position).max(initial=0.0))
        levels += zero_point.astype(np.float32)
        bits = self.dtype.bitwidth
        low = -(2 ** (bits - 1)) if self.dtype.is_signed() else 0
        high = low + 2**bits - 1
        beyond = max(low - levels.min(initial=low), levels.max(initial=high) - high)
        with np.errstate(invalid="ignore"):
            codes = np.clip(levels, low, high, out=levels).astype(_storage(self.dtype))
        # float32 has 24 bits: what is left of a product of code and scale.
        tolerance = 2.0**-22 * 2**bits
        if not math.isfinite(distance):  # NaN has no integer
            return codes, math.inf
        return codes, max(distance if distance > tolerance else 0.0, float(beyond))

    def values(self, codes: np.ndarray) -> np.ndarray:
        """The real numbers that integers of this grid stand for, float32."""
        scale, zero_point = self._along(codes.ndim)
        return ((codes.astype(np.int64) - zero_point) * scale).astype(np.float32)

    def _along(self, rank: int) -> tuple[np.ndarray, np.ndarray]:
        if self.scale.ndim == 0:
            return self.scale, self.zero_point
        shape = [1] * rank
        shape[self.axis] = -1
        return self.scale.reshape(shape), self.zero_point.reshape(shape)


class Float8Pair(Pair):
    """The same with float8 between the two nodes.

    A code tells the how-many-eth number of the format it is, counted from zero: codes of neighbors
    differ by one, and a step is the distance of two neighbors, wherever they are.
    """

    @property
    def step(self) -> float:
        """Smallest distance of two numbers: that of the smallest from zero."""
        numbers = _float8_numbers(self.dtype)
        return float(self.scale.min() * numbers[numbers > 0].min())

    def codes(self, values: np.ndarray) -> tuple[np.ndarray, float]:
        """Real numbers as places among the numbers of the format, and how far they are off."""
        scale, _ = self._along(values.ndim)
        numbers = _float8_numbers(self.dtype)
        position = (values.astype(np.float32) / scale).astype(np.float64)
        places = np.searchsorted((numbers[1:] + numbers[:-1]) / 2, position)
        gaps = np.diff(numbers)
        gap = np.minimum(gaps[np.maximum(places - 1, 0)], gaps[np.minimum(places, len(gaps) - 1)])
        distance = float((np.abs(position - numbers[places]) / gap).max(initial=0.0))
        codes = (places - len(numbers) // 2).astype(np.int16)
        if not math.isfinite(distance):
            return codes, math.inf
        # float32 has 24 bits, a number of the format at most 16 steps to the next power of two.
        return codes, distance if distance > 2.0**-18 else 0.0

    def values(self, codes: np.ndarray) -> np.ndarray:
        """The real numbers at these places, float32."""
        scale, _ = self._along(codes.ndim)
        numbers = _float8_numbers(self.dtype)
        values: np.ndarray = numbers[codes.astype(np.int64) + len(numbers) // 2].astype(np.float32)
        return values * scale


@functools.cache
def _float8_numbers(dtype: ir.DataType) -> np.ndarray:
    """All finite numbers of a float8 type in order, float64; the middle one is zero."""
    patterns = np.arange(256, dtype=np.uint8).view(dtype.numpy()).astype(np.float64)
    return np.unique(patterns[np.isfinite(patterns)])


def _storage(dtype: ir.DataType) -> Any:
    if dtype in _ARRAYS:
        return dtype.numpy()
    return np.int8 if dtype.is_signed() else np.uint8


@dataclass
class QdqFile:
    """An ONNX file with QuantizeLinear and DequantizeLinear nodes.

    Attributes:
        path: of the file.
        model: its content.
        pairs: those on activations, in the order of the graph.
        on_constants: quantizers of activations whose input is a constant of the file.
    """

    path: Path
    model: ir.Model
    pairs: list[Pair]
    on_constants: frozenset[str] = frozenset()

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> QdqFile:
        """Read a file.

        Raises:
            FileNotFoundError: there is none, or none of its weights.
            ValueError: it is no ONNX file, or has no quantized activation.
        """
        return cls.of(Path(path), load_model(Path(path)))

    @classmethod
    def of(cls, path: Path, model: ir.Model) -> QdqFile:
        """The content of a file.

        Raises:
            ValueError: it has no quantized activation.
        """
        pairs = list(_activation_pairs(model.graph))
        if not pairs:
            raise ValueError(
                f"verify: no activation in `onnx_path` {path} goes through QuantizeLinear and "
                "DequantizeLinear; write the file with aimet_torch.onnx.export"
            )
        return cls(path, model, pairs, frozenset(_on_constants(model.graph)))

    @property
    def inputs(self) -> list[ir.Value]:
        """The model's inputs."""
        return [v for v in self.model.graph.inputs if v.const_value is None]


def load_model(path: Path) -> ir.Model:
    """Read an ONNX file with all its weights.

    Raises:
        FileNotFoundError: there is none, or none of its weights.
        ValueError: it is no ONNX file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"verify: there is no file `onnx_path` {path}")
    try:
        return ir.external_data.load_to_model(ir.load(path))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"verify: the weights of `onnx_path` {path} are in a file of their own, which is "
            f"missing: {error.filename}"
        ) from error
    except Exception as error:
        raise ValueError(f"verify: `onnx_path` {path} is no ONNX file: {error}") from error


def is_quantized(model: ir.Model) -> bool:
    """Whether any node quantizes."""
    return any(node.op_type == "QuantizeLinear" for node in model.graph)


def _activation_pairs(graph: ir.Graph) -> Iterable[Pair]:
    for node in graph:
        if node.op_type != "QuantizeLinear" or node.domain != "":
            continue
        source, output = node.inputs[0], node.outputs[0]
        if source.const_value is not None:
            continue  # a weight
        readers = [use.node for use in output.uses() if use.node.op_type == "DequantizeLinear"]
        if not readers:
            continue
        reader = readers[0]
        result = reader.outputs[0]
        scale = np.asarray(_constant(node, 1), np.float32)
        zero_point = (
            _constant(node, 2).astype(np.int64)
            if len(node.inputs) > 2 and node.inputs[2] is not None
            else np.zeros(scale.shape, np.int64)
        )
        dtype = _type(node)
        yield (Float8Pair if dtype in _FLOAT8 else Pair)(
            tensor=(result.name or "").removesuffix(_SUFFIX),
            quantized=output.name or "",
            dequantized=result.name or "",
            scale=scale.reshape(()) if scale.size == 1 else scale,
            zero_point=zero_point.reshape(()) if scale.size == 1 else zero_point,
            axis=node.attributes["axis"].as_int() if "axis" in node.attributes else 1,
            dtype=dtype,
            quantizer=reader.metadata_props.get(QUANTIZER_KEY),
        )


def _on_constants(graph: ir.Graph) -> Iterable[str]:
    """Parameters that an operator without a module reads have quantizers as activations have."""
    for node in graph:
        if node.op_type != "DequantizeLinear" or node.domain != "":
            continue
        source = node.inputs[0]
        before = None if source is None else source.producer()
        if before is not None and before.op_type == "QuantizeLinear":
            source = before.inputs[0]
        name = node.metadata_props.get(QUANTIZER_KEY)
        if name is not None and source is not None and source.const_value is not None:
            yield name


def _constant(node: ir.Node, index: int) -> np.ndarray:
    tensor = ir.convenience.get_const_tensor(node.inputs[index])
    if tensor is None:
        raise ValueError(f"the grid of `{node.outputs[0].name}` is not constant")
    return np.asarray(tensor.numpy())


def _type(node: ir.Node) -> ir.DataType:
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        tensor = ir.convenience.get_const_tensor(node.inputs[2])
        if tensor is not None:
            return tensor.dtype
    if "output_dtype" in node.attributes:
        return ir.DataType(node.attributes["output_dtype"].as_int())
    return ir.DataType.UINT8
