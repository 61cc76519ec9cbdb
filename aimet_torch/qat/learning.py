"""Choosing what training learns of the quantizers, and with which learning rates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.nn.base import BaseQuantizationMixin
from aimet_torch.quantization.affine import AffineQuantizerBase
from aimet_torch.quantization.affine.ranges import PARAMETRIZATIONS, LsqRange, RangeParametrization
from aimet_torch.quantization.base import QuantizerBase, plain_tensor
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.quantsim.calibration import require_whole

__all__ = ["learn_ranges", "model_of", "parameter_groups", "quantizers_of_parameters"]


def model_of(operator: str, model: nn.Module | QuantizationSimModel) -> nn.Module:
    """The simulated module of ``model``.

    Raises:
        TypeError: neither a module nor a simulation.
    """
    found = model.model if isinstance(model, QuantizationSimModel) else model
    if not isinstance(found, nn.Module):
        raise TypeError(
            f"{operator}: `model` must be a QuantizationSimModel or an nn.Module, got "
            f"{type(model).__name__}"
        )
    return found


def quantizers_of_parameters(model: nn.Module) -> Iterator[tuple[QuantizerBase, Tensor, str]]:
    """(quantizer, parameter, its name) of every quantized parameter of ``model``."""
    for name, module in model.named_modules():
        if isinstance(module, BaseQuantizationMixin):
            for key, quantizer in module.param_quantizers.items():
                parameter = getattr(module, key)
                if quantizer is not None and parameter is not None:
                    yield quantizer, parameter, f"{name}.{key}" if name else key


@torch.no_grad()
def learn_ranges(
    model: nn.Module | QuantizationSimModel,
    method: str = "lsq",
    activation_method: str | None = None,
    *,
    initialization: str = "calibrated",
    gradient_scale: bool = True,
    power_of_two: bool = True,
) -> list[str]:
    """Choose what training learns of each quantizer's range; grids and ranges stay.

    Call it after calibration and before the optimizer is made. ``"min_max"`` learns both limits
    (AIMET 2.x); ``"lsq"`` the scale; ``"lsq+"`` scale and offset (``"lsq"`` on symmetric grids,
    which have none); ``"tqt"`` the binary logarithm of the threshold, with scales that are powers
    of two; ``"pact"`` the clipping level. Formulas: docs/qat.md.

    Left as they are: frozen quantizers (``allow_overwrite(False)``), floating-point ones, and
    those that compute their scale in a way of their own (grouped blocks), which learn limits.

    Args:
        model: a simulation, or a module with quantizers.
        method: for quantizers of parameters, and of activations unless told otherwise.
        activation_method: for quantizers of activations.
        initialization: "calibrated" keeps the range that calibration found; "lsq" starts the
            scale of parameters at ``2 mean|w| / sqrt(Qp)``, section 2.1 of the LSQ paper.
        gradient_scale: whether LSQ and LSQ+ scale their gradients with ``1 / sqrt(N Qp)``.
        power_of_two: whether scales of TQT are powers of two.

    Returns:
        The names of the quantizers that learn their range now.

    Raises:
        TypeError: ``model`` is neither.
        ValueError: a method or initialization that does not exist.
        NotImplementedError: PACT with blocks or a shifted grid; a sharded model.

    >>> model = nn.Sequential(nn.Linear(4, 2))
    >>> sim = QuantizationSimModel(model, torch.randn(1, 4), default_param_bw=4)
    >>> sim.compute_encodings([torch.randn(8, 4)])
    >>> learn_ranges(sim, "lsq")[0]
    '0.param_quantizers.weight'
    >>> [name for name, _ in sim.model[0].param_quantizers["weight"].named_parameters()]
    ['scale']
    """
    module = model_of("learn_ranges", model)
    require_whole("learn_ranges", module)
    for label, value in (("method", method), ("activation_method", activation_method)):
        if value is not None and value not in PARAMETRIZATIONS:
            raise ValueError(
                f"learn_ranges: `{label}` must be one of {', '.join(PARAMETRIZATIONS)}, got "
                f"{value!r}"
            )
    if initialization not in ("calibrated", "lsq"):
        raise ValueError(
            f'learn_ranges: `initialization` must be "calibrated" or "lsq", got {initialization!r}'
        )
    parameters = {id(q): parameter for q, parameter, _ in quantizers_of_parameters(module)}
    learning = []
    for name, quantizer in module.named_modules():
        if not isinstance(quantizer, AffineQuantizerBase) or not quantizer.is_overwrite_allowed():
            continue
        parameter = parameters.get(id(quantizer))
        chosen = method if parameter is not None else activation_method or method
        quantizer.set_parametrization(
            _parametrization(quantizer, chosen, gradient_scale, power_of_two, parameter is None)
        )
        quantizer.requires_grad_(True)
        if parameter is not None and initialization == "lsq":
            _initialize(quantizer, plain_tensor(parameter))
        learning.append(name)
    return learning


def _parametrization(
    quantizer: Any, method: str, gradient_scale: bool, power_of_two: bool, has_batch: bool
) -> RangeParametrization:
    if method == "lsq+" and quantizer.symmetric:
        method = "lsq"
    cls: Any = PARAMETRIZATIONS["min_max" if quantizer._changes_grid() else method]
    if issubclass(cls, LsqRange):
        return cls(gradient_scale=gradient_scale, has_batch=has_batch)
    return cls(power_of_two=power_of_two) if method == "tqt" else cls()


def _initialize(quantizer: Any, parameter: Tensor) -> None:
    """Set the scale to ``2 mean|w| / sqrt(Qp)``; zeros keep the range that they have."""
    magnitude = parameter.detach().abs().float()
    if quantizer.block_size is not None:
        return  # N would be the elements of a block; their calibrated ranges are kept
    lead = magnitude.dim() - len(quantizer.shape)
    dims = [*range(lead), *(lead + d for d, size in enumerate(quantizer.shape) if size == 1)]
    mean = magnitude.mean(dims).reshape(quantizer.shape) if dims else magnitude
    scale = 2 * mean / max(1, quantizer.qmax) ** 0.5
    if bool((scale > 0).all()):
        offset = 0.0 if quantizer.symmetric and quantizer.signed else quantizer.get_offset()
        quantizer.set_range((offset + quantizer.qmin) * scale, (offset + quantizer.qmax) * scale)


def parameter_groups(
    model: nn.Module | QuantizationSimModel,
    lr: float,
    weight_decay: float = 0.0,
    *,
    param_range_lr: float | None = None,
    activation_range_lr: float | None = None,
    range_weight_decay: float = 0.0,
    other_parameters: Iterable[nn.Parameter] = (),
) -> list[dict[str, Any]]:
    """Groups for an optimizer: parameters of the network, ranges of parameters, of activations.

    Args:
        model: a simulation, or a module with quantizers; after `learn_ranges`.
        lr: learning rate of the network's parameters.
        weight_decay: of the network's parameters.
        param_range_lr: learning rate of the ranges of parameters; ``lr`` if None.
        activation_range_lr: learning rate of the ranges of activations; ``lr`` if None.
        range_weight_decay: of all ranges. PACT wants that of the network.
        other_parameters: further parameters for the network's group, such as a loss's.

    Returns:
        A dict for each group that is not empty, with ``params``, ``lr``, ``weight_decay`` and
        ``name`` ("parameters", "parameter_ranges", "activation_ranges"). What needs no gradient,
        such as frozen ranges, is left out.

    Raises:
        TypeError: ``model`` is neither.
    """
    module = model_of("parameter_groups", model)
    of_parameters = {id(p) for q, _, _ in quantizers_of_parameters(module) for p in q.parameters()}
    of_quantizers = {
        id(p) for q in module.modules() if isinstance(q, QuantizerBase) for p in q.parameters()
    }
    groups: dict[str, list[nn.Parameter]] = {
        "parameters": [],
        "parameter_ranges": [],
        "activation_ranges": [],
    }
    seen: set[int] = set()
    for parameter in (*module.parameters(), *other_parameters):
        if not parameter.requires_grad or id(parameter) in seen:
            continue
        seen.add(id(parameter))
        if id(parameter) in of_parameters:
            groups["parameter_ranges"].append(parameter)
        elif id(parameter) in of_quantizers:
            groups["activation_ranges"].append(parameter)
        else:
            groups["parameters"].append(parameter)
    rates = {
        "parameters": (lr, weight_decay),
        "parameter_ranges": (lr if param_range_lr is None else param_range_lr, range_weight_decay),
        "activation_ranges": (
            lr if activation_range_lr is None else activation_range_lr,
            range_weight_decay,
        ),
    }
    return [
        {"params": found, "lr": rates[name][0], "weight_decay": rates[name][1], "name": name}
        for name, found in groups.items()
        if found
    ]
