"""Copies of a simulation with fixed grids: each quantizer is one operator with constant scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch import ops
from aimet_torch.encodings.tensor_encoding import uncalibrated
from aimet_torch.export.copies import shared_copy
from aimet_torch.export.example_inputs import Example
from aimet_torch.nn.base import BaseQuantizationMixin
from aimet_torch.nn.bias_grid import BiasGrid
from aimet_torch.quantization.affine import QuantizeDequantize
from aimet_torch.quantization.base import QuantizerBase

INT32_LIMITS = (-(2**31), 2**31 - 1)


class FixedQuantizer(QuantizerBase):
    """Quantize-dequantize with the scale and offset that a quantizer has now.

    Buffers: `scale` and `offset`, float32, in the quantizer's shape.
    """

    def __init__(self, quantizer: QuantizeDequantize) -> None:
        super().__init__()
        encoding: Any = quantizer.get_encodings()
        self.shape, self.block_size = quantizer.shape, quantizer.block_size
        self.qmin, self.qmax = int(encoding.qmin), int(encoding.qmax)
        self.register_buffer("scale", encoding.scale.detach().clone())
        self.register_buffer("offset", encoding.offset.detach().clone())

    def simulate(self, input: Tensor) -> Tensor:
        """Round a plain tensor to the grid and back."""
        scale: Any = self.scale
        offset: Any = self.offset
        return ops.quantize_dequantize(input, scale, offset, self.qmin, self.qmax, self.block_size)

    def forward(self, input: Tensor) -> Tensor:
        """As `simulate`."""
        return self.simulate(input)


class FixedBias:
    """In place of a `BiasGrid`: a bias that is known, or one rounded with a constant step."""

    def __init__(self, value: Tensor | None = None, scale: Tensor | None = None) -> None:
        self.value = value
        self.scale = scale

    def round(self, bias: Tensor) -> Tensor:
        """The rounded bias."""
        if self.value is not None:
            return self.value
        assert self.scale is not None
        offset = torch.zeros_like(self.scale)
        return ops.quantize_dequantize(bias, self.scale, offset, *INT32_LIMITS)

    def facts(self) -> None:
        """Unknown to the cache of parameters; see `BiasGrid.facts`."""
        return


def require_calibrated(model: nn.Module) -> None:
    """Refuse a simulation with quantizers that have seen no data.

    Raises:
        ValueError: with their names. Those whose calibration saw no usable number pass their input
            through, in the simulation and in exports.
    """
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, QuantizerBase)
        and not module.is_initialized()
        and module.calibration_issue is None
    ]
    if names:
        raise uncalibrated(names)


def quantized_modules(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Names and modules that hold quantizers."""
    for name, module in model.named_modules():
        if isinstance(module, BaseQuantizationMixin):
            yield name, module


def replace_quantizers(
    model: nn.Module, make: Callable[[str, QuantizerBase], QuantizerBase]
) -> None:
    """Put `make(name, quantizer)` in the place of each quantizer; shared ones stay shared."""
    made: dict[int, QuantizerBase] = {}
    for owner, module in quantized_modules(model):
        for kind in ("input_quantizers", "output_quantizers", "param_quantizers"):
            container: Any = getattr(module, kind)
            slots = container if isinstance(container, nn.ModuleDict) else range(len(container))
            for key in list(slots):
                quantizer = container[key]
                if quantizer is not None:
                    if id(quantizer) not in made:
                        name = f"{owner}.{kind}.{key}".removeprefix(".")
                        made[id(quantizer)] = make(name, quantizer)
                    container[key] = made[id(quantizer)]


def rounded_biases(model: nn.Module) -> Iterator[tuple[str, Any, int, BiasGrid, Tensor]]:
    """Each bias that the simulation rounds: name, module, call site, grid and rounded value."""
    for name, module in quantized_modules(model):
        if not module.bias_grids or module.bias is None or module.param_quantizers["bias"]:
            continue
        for site, grid in module.bias_grids.items():
            rounded = grid.round(module.bias)
            if rounded is not module.bias:
                yield name, module, site, grid, rounded.detach()


def fix(name: str, quantizer: QuantizerBase) -> QuantizerBase:
    """A `FixedQuantizer` where that is all the quantizer does, else the quantizer itself."""
    if not isinstance(quantizer, QuantizeDequantize) or not quantizer.is_initialized():
        return quantizer
    if not quantizer._has_plain_map or quantizer.zero_point_shift:
        return quantizer
    clips = quantizer.parametrization.clips
    return quantizer if clips else FixedQuantizer(quantizer)


def frozen_copy(model: nn.Module, example: Example, *, fold_parameters: bool) -> nn.Module:
    """A copy of `sim.model` in evaluation mode that computes the same with constant grids.

    Args:
        model: module that holds quantizers, all with a range; unchanged, its tensors are shared.
        example: of its arguments.
        fold_parameters: parameters hold their quantized values, unless code reads them past their
            layer's quantizer and would compute something else; otherwise they are quantized
            whenever the copy runs.
    """
    if fold_parameters:
        folded = _frozen_copy(model, fold_parameters=True)
        if example.agrees(folded):
            return folded
    return _frozen_copy(model, fold_parameters=False)


@torch.no_grad()
def _frozen_copy(model: nn.Module, *, fold_parameters: bool) -> nn.Module:
    frozen = shared_copy(model)
    fixed: dict[Any, dict[int, FixedBias]] = {}
    for _, module, site, grid, rounded in list(rounded_biases(frozen)):
        is_plain = not fold_parameters and grid.norm is None
        bias = FixedBias(scale=grid.scale()) if is_plain else FixedBias(rounded)
        fixed.setdefault(module, {})[site] = bias
    for _, module in quantized_modules(frozen):
        module.bias_grids = None
        if fold_parameters:
            module.fold_param_quantizers()
        of_sites: dict[int, Any] = fixed.get(module, {})
        if fold_parameters and len(of_sites) == 1 == _calls(module):
            module.bias = nn.Parameter(of_sites[0].value.clone(), requires_grad=False)
        elif of_sites:
            module.bias_grids = of_sites
    replace_quantizers(frozen, fix)
    return frozen


def _calls(module: Any) -> int:
    """How often the model calls a module."""
    return max(1, len(module.output_quantizers) // max(1, module.outputs_per_call))
