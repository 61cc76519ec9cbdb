"""Calibrating all quantized modules of a model at once."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator

from torch import nn

from aimet_torch.nn.base import BaseQuantizationMixin
from aimet_torch.quantization.affine.batch import end_calibration_of, is_ended_with_others
from aimet_torch.quantization.base import QuantizerBase

__all__ = ["compute_encodings", "compute_param_encodings", "compute_param_encodings_of"]

_NAMED_ISSUES = 8


def compute_param_encodings(model: nn.Module) -> None:
    """Set the ranges of all parameter quantizers in ``model`` from the parameters.

    Frozen quantizers (``allow_overwrite(False)``) keep theirs.
    """
    compute_param_encodings_of(m for m in model.modules() if isinstance(m, BaseQuantizationMixin))


def compute_param_encodings_of(modules: Iterable[BaseQuantizationMixin]) -> None:
    """As `compute_param_encodings`, for some quantized modules."""
    observing: dict[int, tuple[QuantizerBase, str]] = {}

    def finish(ended: dict[int, tuple[QuantizerBase, str]]) -> None:
        found = end_calibration_of(quantizer for quantizer, _ in ended.values())
        for key, issue in found.items():
            warnings.warn(f"{ended[key][1]}: {issue}", stacklevel=4)
        ended.clear()

    try:
        for module in modules:
            for name, quantizer in module.param_quantizers.items():
                parameter = getattr(module, name)
                if quantizer is None or parameter is None:
                    continue
                if id(quantizer) in observing:  # of several parameters the last one counts
                    finish(observing)
                if module._observe_parameter(parameter, quantizer):
                    observed = (quantizer, f"{type(module).__name__}.{name}")
                    if is_ended_with_others(quantizer):
                        observing[id(quantizer)] = observed
                    else:  # now: histograms of thousands of channels need not exist all at once
                        finish({id(quantizer): observed})
        finish(observing)
    finally:
        for quantizer, _ in observing.values():
            quantizer.cancel_calibration()


@contextlib.contextmanager
def compute_encodings(model: nn.Module) -> Iterator[None]:
    """Set the ranges of all quantizers in ``model``.

    Those of parameters are set at once. All others observe what passes within this context, which
    stays unquantized, and get their range at its end. Frozen quantizers keep theirs. Quantizers
    that saw no usable value are named in one warning, and let tensors pass unchanged afterwards.

    >>> import torch
    >>> from aimet_torch.nn import QuantizedReLU
    >>> from aimet_torch.quantization.affine import QuantizeDequantize
    >>> model = QuantizedReLU()
    >>> model.output_quantizers[0] = QuantizeDequantize((), bitwidth=2, symmetric=False)
    >>> with compute_encodings(model):
    ...     _ = model(torch.tensor([-1.0, 3.0]))
    >>> model(torch.tensor([0.4, 0.9])).tolist()
    [0.0, 1.0]
    """
    compute_param_encodings(model)
    of_parameters = {
        id(quantizer)
        for module in model.modules()
        if isinstance(module, BaseQuantizationMixin)
        for quantizer in module.param_quantizers.values()
    }
    started: dict[str, QuantizerBase] = {}
    for name, module in model.named_modules():
        is_activation = isinstance(module, QuantizerBase) and id(module) not in of_parameters
        if is_activation and module.begin_calibration():
            started[name] = module
    try:
        yield
    except BaseException:
        for quantizer in started.values():
            quantizer.cancel_calibration()
        raise
    found = end_calibration_of(started.values())
    issues = {name: found[id(q)] for name, q in started.items() if id(q) in found}
    if issues:
        lines = [f"  {name}: {issue}" for name, issue in list(issues.items())[:_NAMED_ISSUES]]
        if len(issues) > _NAMED_ISSUES:
            lines.append(f"  and {len(issues) - _NAMED_ISSUES} more")
        warnings.warn(
            f"compute_encodings: {len(issues)} of {len(started)} quantizers found no range\n"
            + "\n".join(lines),
            stacklevel=3,
        )
