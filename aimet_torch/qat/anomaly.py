"""Naming the layer in which NaN or infinity first appeared."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.graph.structure import leaves
from aimet_torch.nn.base import BaseQuantizationMixin
from aimet_torch.qat.learning import model_of
from aimet_torch.quantization.base import QuantizerBase
from aimet_torch.quantsim import QuantizationSimModel

__all__ = ["detect_anomaly"]


@contextlib.contextmanager
def detect_anomaly(model: nn.Module | QuantizationSimModel) -> Iterator[None]:
    """Within it, the first result or gradient that is not finite raises, naming its layer.

    For looking into a training that went wrong: every tensor is looked at, which waits for an
    accelerator and runs fused passes one by one. It does not look into compiled modules.

        with detect_anomaly(sim):
            loss = criterion(sim.model(images), labels)
            loss.backward()

    Args:
        model: a simulation or any module.

    Raises:
        FloatingPointError: within the context: a layer made NaN or infinity of finite inputs, or
            the gradient of a layer's input, of its parameter or of the model's output (then the
            loss is to blame) is not finite.
        TypeError: ``model`` is neither.
    """
    module = model_of("detect_anomaly", model)
    watch = _Watch()
    handles = []
    for name, layer in module.named_modules():
        is_layer = isinstance(layer, BaseQuantizationMixin) or not any(layer.children())
        if is_layer and not isinstance(layer, (QuantizerBase, nn.ModuleList, nn.ModuleDict)):
            handles.append(layer.register_forward_hook(watch.forward_hook(name), with_kwargs=True))
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            handles.append(parameter.register_hook(watch.parameter_hook(name)))
    try:
        yield
    finally:
        watch.is_active = False
        for handle in handles:
            handle.remove()


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _kind(tensor: Tensor) -> str:
    return "NaN" if bool(tensor.isnan().any()) else "infinity"


class _Watch:
    def __init__(self) -> None:
        self.is_active = True
        # Readers by tensor; the tensor is kept, so that no id is used twice.
        self._readers: dict[int, tuple[Tensor, list[str]]] = {}

    def forward_hook(self, name: str) -> Any:
        def check(layer: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            inputs = [t for t in leaves((args, kwargs)) if isinstance(t, Tensor)]
            outputs = [t for t in leaves(output) if isinstance(t, Tensor)]
            for tensor in outputs:
                if not _is_finite(tensor) and all(map(_is_finite, inputs)):
                    self._blame_forward(name, layer, tensor)
            for tensor in inputs:
                self._watch_gradient(tensor, name)
            for tensor in outputs:
                self._watch_gradient(tensor, None)

        return check

    def _blame_forward(self, name: str, layer: nn.Module, output: Tensor) -> None:
        spoiled = [key for key, p in layer.named_parameters() if not _is_finite(p)]
        cause = f"; not finite are its parameters {', '.join(spoiled)}" if spoiled else ""
        raise FloatingPointError(
            f"detect_anomaly: {_kind(output)} first appeared in the output of `{name}` "
            f"({type(layer).__name__}), whose inputs are finite{cause}"
        )

    def _watch_gradient(self, tensor: Tensor, reader: str | None) -> None:
        if not (tensor.requires_grad and tensor.is_floating_point() and torch.is_grad_enabled()):
            return
        known = self._readers.get(id(tensor))
        if known is None:
            known = self._readers[id(tensor)] = (tensor, [])
            readers = known[1]
            tensor.register_hook(lambda grad: self._check_gradient(grad, readers))
        if reader is not None:
            known[1].append(reader)

    def _check_gradient(self, grad: Tensor, readers: list[str]) -> None:
        if not self.is_active or _is_finite(grad):
            return
        where = (
            "the gradient of the input of " + " or ".join(f"`{name}`" for name in readers)
            if readers
            else "the gradient of the model's output: the loss made it"
        )
        raise FloatingPointError(f"detect_anomaly: {_kind(grad)} first appeared in {where}")

    def parameter_hook(self, name: str) -> Any:
        def check(grad: Tensor) -> None:
            if self.is_active and not _is_finite(grad):
                raise FloatingPointError(
                    f"detect_anomaly: {_kind(grad)} first appeared in the gradient of the "
                    f"parameter `{name}`"
                )

        return check
