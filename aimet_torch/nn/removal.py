"""Switching quantizers of a whole model off, for good or for the time of a ``with`` block."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from aimet_torch.nn.apply import RemovedQuantizers
from aimet_torch.nn.base import BaseQuantizationMixin

__all__ = [
    "remove_activation_quantizers",
    "remove_all_quantizers",
    "remove_input_quantizers",
    "remove_output_quantizers",
    "remove_param_quantizers",
]


def _remove(modules: nn.Module | Iterable[nn.Module], method: str) -> RemovedQuantizers:
    roots = [modules] if isinstance(modules, nn.Module) else list(modules)
    found = {id(m): m for root in roots for m in root.modules()}
    taken = []
    for module in found.values():
        if isinstance(module, BaseQuantizationMixin):
            taken += getattr(module, method)()._taken
    return RemovedQuantizers(taken)


def remove_input_quantizers(modules: nn.Module | Iterable[nn.Module]) -> RemovedQuantizers:
    """Set the input quantizers of all modules in ``modules`` to None; a ``with`` block restores."""
    return _remove(modules, "_remove_input_quantizers")


def remove_output_quantizers(modules: nn.Module | Iterable[nn.Module]) -> RemovedQuantizers:
    """Set the output quantizers of all modules in ``modules`` to None, likewise."""
    return _remove(modules, "_remove_output_quantizers")


def remove_param_quantizers(modules: nn.Module | Iterable[nn.Module]) -> RemovedQuantizers:
    """Set the parameter quantizers of all modules in ``modules`` to None, likewise."""
    return _remove(modules, "_remove_param_quantizers")


def remove_activation_quantizers(modules: nn.Module | Iterable[nn.Module]) -> RemovedQuantizers:
    """Set the input and output quantizers of all modules in ``modules`` to None, likewise."""
    return _remove(modules, "_remove_activation_quantizers")


def remove_all_quantizers(modules: nn.Module | Iterable[nn.Module]) -> RemovedQuantizers:
    """Set every quantizer of all modules in ``modules`` to None, likewise.

    >>> from aimet_torch.nn import QuantizedReLU
    >>> from aimet_torch.quantization.affine import QuantizeDequantize
    >>> model = nn.Sequential(QuantizedReLU())
    >>> model[0].output_quantizers[0] = QuantizeDequantize((), 8, False)
    >>> with remove_all_quantizers(model):
    ...     print(model[0].output_quantizers[0])
    None
    >>> model[0].output_quantizers[0]
    QuantizeDequantize(shape=(), qmin=0, qmax=255, symmetric=False)
    """
    return _remove(modules, "_remove_all_quantizers")
