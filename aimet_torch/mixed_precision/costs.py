"""What a choice of precisions costs: bit-operations and bytes."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass

from aimet_torch.analysis.switching import Setting, Switchboard
from aimet_torch.graph import OpNode, multiply_accumulates
from aimet_torch.mixed_precision.precision import Precision, effective_bits, precision_of
from aimet_torch.mixed_precision.sites import SiteMap

__all__ = ["Costs", "Product", "Storage"]

_FLOAT32 = Precision(32)  # of a factor without a quantizer


@dataclass(frozen=True)
class Product:
    """Multiply-accumulates of one operator and the quantizers of the two factors.

    Attributes:
        op: name of the operator.
        macs: multiply-accumulates for the example input.
        left: quantizer of the first factor; None: in floating point.
        right: of the second one, mostly the weight.
    """

    op: str
    macs: int
    left: str | None
    right: str | None


@dataclass(frozen=True)
class Storage:
    """Numbers that are kept in the format of a quantizer.

    Attributes:
        quantizer: its name.
        elements: of the tensor; of activations, for the example input.
        is_param: a weight, which is stored, rather than an activation, which is moved.
    """

    quantizer: str
    elements: int
    is_param: bool


class Costs:
    """Costs of a simulation by the precisions of its quantizers.

    Bit-operations: multiply-accumulates times the bits of both factors (of floating point sqrt(1.5)
    times as many, as AIMET counts), summed over convolutions, linear layers, matrix products and
    recurrent layers, for the example input of the simulation. A factor without a quantizer counts
    32 bits. (van Baalen et al. 2023, arXiv 2302.05397, section 3, count the same.)

    Args:
        board: of the simulation.
        sites: its quantizers by the tensors that they govern.

    Attributes:
        products: where multiplications happen.
        storage: what takes memory.
        unknown: names of operators whose multiplications are not counted.
    """

    def __init__(self, board: Switchboard, sites: SiteMap) -> None:
        self._own = {name: precision_of(q) for name, q in board.quantizers.items()}
        self.products: list[Product] = []
        self.unknown: list[str] = []
        elements: dict[str, int] = {}
        params = set()
        for op in board.sim.graph.ops:
            self._add_product(op, sites)
            for name, site in sites.params(op).items():
                params.add(site.name)
                tensor = getattr(op.module, name, None)
                count = math.prod(site.tensor_shape) if tensor is None else tensor.numel()
                elements[site.name] = max(elements.get(site.name, 0), count)
            for value, made in zip(op.outputs, sites.outputs(op), strict=True):
                if made is not None:
                    _count(elements, made.name, value.shape)
            for position, read in sites.activations(op):
                if "input_quantizers" in read.name:
                    _count(elements, read.name, op.inputs[position].shape)
        self.storage = [Storage(name, n, name in params) for name, n in elements.items()]

    def _add_product(self, op: OpNode, sites: SiteMap) -> None:
        macs = multiply_accumulates(op)
        if macs is None:
            self.unknown.append(op.name)
        if not macs:
            return
        operands = [site.name for _, site in sites.activations(op)]
        weights = [site.name for key, site in sites.params(op).items() if "bias" not in key]
        left = operands[0] if operands else None
        right = weights[0] if weights else operands[1] if len(operands) > 1 else None
        self.products.append(Product(op.name, macs, left, right))

    def part(self, quantizers: Iterable[str]) -> Costs:
        """The costs that depend on these quantizers, alone or with others."""
        names = set(quantizers)
        found = copy.copy(self)
        found.products = [p for p in self.products if names & {p.left, p.right}]
        found.storage = [s for s in self.storage if s.quantizer in names]
        return found

    def _bits(self, name: str | None, setting: Setting) -> float:
        precision = _FLOAT32 if name is None else setting.get(name, self._own[name])
        return effective_bits(precision or _FLOAT32)

    def bit_ops(self, setting: Setting) -> float:
        """Bit-operations of one run on the example input; quantizers not named are as they are."""
        return sum(self._bit_ops(product, setting) for product in self.products)

    def _bit_ops(self, product: Product, setting: Setting) -> float:
        bits = self._bits(product.left, setting) * self._bits(product.right, setting)
        return product.macs * bits

    def bytes(self, setting: Setting, *, params: bool = True, activations: bool = True) -> float:
        """Bytes of quantized weights, and of activations for the example input."""
        return sum(
            stored.elements * self._size(stored.quantizer, setting) / 8
            for stored in self.storage
            if (params if stored.is_param else activations)
        )

    def _size(self, name: str, setting: Setting) -> int:
        return (setting.get(name, self._own[name]) or _FLOAT32).bits

    def measures(self, setting: Setting) -> dict[str, float]:
        """All costs by name: ``bit_ops``, ``weight_bytes``, ``activation_bytes``, ``bytes``."""
        weights = self.bytes(setting, activations=False)
        activations = self.bytes(setting, params=False)
        return {
            "bit_ops": self.bit_ops(setting),
            "weight_bytes": weights,
            "activation_bytes": activations,
            "bytes": weights + activations,
        }


def _count(elements: dict[str, int], name: str, shape: tuple[int, ...]) -> None:
    elements[name] = max(elements.get(name, 0), math.prod(shape))
