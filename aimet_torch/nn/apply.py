"""Applying quantizers to what a module takes and returns, and taking quantizers out of a module."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from aimet_torch.quantization.base import QuantizerBase, plain_tensor

__all__ = [
    "RemovedQuantizers",
    "apply_quantizer",
    "apply_quantizer_",
    "quantize_tensors",
    "remove_quantizers",
]

Apply = Callable[[QuantizerBase | None, Tensor], Tensor]


def apply_quantizer(quantizer: QuantizerBase | None, tensor: Tensor) -> Tensor:
    """Quantize-dequantize one tensor of a quantized module; other than floats pass unchanged."""
    if quantizer is None or not tensor.is_floating_point():
        return tensor
    if quantizer.calibration_issue is not None and not quantizer.is_initialized():
        return tensor  # calibration saw no usable value here, and said so
    if quantizer._forward_hooks or quantizer._forward_pre_hooks:
        return plain_tensor(quantizer(tensor))
    return quantizer.simulate(tensor)


def apply_quantizer_(quantizer: QuantizerBase | None, tensor: Tensor) -> Tensor:
    """As `apply_quantizer`, where nobody else holds ``tensor`` and it needs no gradient."""
    if quantizer is None or not tensor.is_floating_point():
        return tensor
    if not (quantizer._forward_hooks or quantizer._forward_pre_hooks):
        output = quantizer.simulate_(tensor)
        if output is not None:
            return output
    return apply_quantizer(quantizer, tensor)


def quantize_tensors(
    value: Any, quantizers: dict[str, Any], index: int, apply: Apply = apply_quantizer
) -> tuple[Any, int]:
    """Quantize the tensors in nested tuples, lists and dicts, in order.

    Args:
        value: what a module takes or returns; anything but tensors and containers passes through.
        quantizers: quantizer or None by position, as ``str``; positions beyond them are not
            quantized.
        index: position of the first tensor.
        apply: quantizes one tensor.

    Returns:
        The same structure with quantized tensors, and the position after the last tensor.
    """
    if isinstance(value, Tensor):
        return apply(quantizers.get(str(index)), value), index + 1
    if isinstance(value, dict):
        items = {}
        for key, item in value.items():
            items[key], index = quantize_tensors(item, quantizers, index, apply)
        if type(value) is dict:
            return items, index
        return type(value)(**items) if hasattr(value, "to_tuple") else type(value)(items), index
    if isinstance(value, (tuple, list)):
        entries = []
        for item in value:
            quantized, index = quantize_tensors(item, quantizers, index, apply)
            entries.append(quantized)
        # Named tuples take their fields one by one, all other sequences take an iterable.
        return type(value)(*entries) if hasattr(value, "_fields") else type(value)(entries), index
    return value, index


class RemovedQuantizers:
    """Quantizers taken out of their module; as a context manager, puts them back at the end."""

    def __init__(self, taken: list[tuple[Any, Any, QuantizerBase | None]]) -> None:
        self._taken = taken
        for container, key, _ in taken:
            container[key] = None

    def restore(self) -> None:
        """Put the quantizers back."""
        for container, key, quantizer in self._taken:
            container[key] = quantizer

    def __enter__(self) -> RemovedQuantizers:
        return self

    def __exit__(self, *_: Any) -> None:
        self.restore()


def remove_quantizers(container: Any, keys: Any, all_keys: Iterable[Any]) -> RemovedQuantizers:
    """Set entries of a module's container of quantizers to None.

    Args:
        container: a list or dictionary of quantizers.
        keys: one key, several, or None for ``all_keys``.
        all_keys: those that there are.
    """
    if isinstance(keys, (int, str)):
        keys = [keys]
    return RemovedQuantizers(
        [(container, k, container[k]) for k in (all_keys if keys is None else keys)]
    )
