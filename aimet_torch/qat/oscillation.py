"""Weights of low bits that jump between two integers, and how to calm them.

Near the boundary between two integers the straight-through gradient changes its sign with the
rounding, so a weight may jump at every other step. Nagel et al., Overcoming Oscillations in
Quantization-Aware Training, arXiv 2203.11086.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.qat.learning import model_of, quantizers_of_parameters
from aimet_torch.quantization.affine import AffineEncoding, AffineQuantizerBase
from aimet_torch.quantsim import QuantizationSimModel

__all__ = ["IterativeFreezing", "oscillation_dampening"]

_STATE = ("integer", "direction", "frequency", "average", "frozen")


def _weights(model: nn.Module, max_bits: int) -> Iterator[tuple[str, Tensor, AffineEncoding]]:
    """(name, parameter, encoding without gradients) of the quantized weights of few bits."""
    for quantizer, parameter, name in quantizers_of_parameters(model):
        if not isinstance(quantizer, AffineQuantizerBase) or quantizer.bitwidth > max_bits:
            continue
        if not name.endswith("bias") and quantizer.is_initialized():
            encoding = quantizer.get_encodings()
            assert encoding is not None
            yield name, parameter, encoding.map_tensors(torch.Tensor.detach)


def oscillation_dampening(model: nn.Module | QuantizationSimModel, max_bits: int = 4) -> Tensor:
    """The dampening loss: it pulls weights from the boundaries to the middle of their steps.

    ``sum (w^ - clip(w, s qmin, s qmax))^2`` over all quantized weights, eq. 6, with gradients to
    the weights alone: ``2 (w - w^)`` inside the range. Multiply it by lambda, which the paper
    raises from 0 to 0.1 along a cosine, and add it to the loss.

    Args:
        model: a simulation, or a module with quantizers.
        max_bits: weights of more bits are left out.

    Returns:
        A scalar; 0 without such weights.

    Raises:
        TypeError: ``model`` is neither.
    """
    module = model_of("oscillation_dampening", model)
    terms = []
    for _, weight, encoding in _weights(module, max_bits):
        rounded = encoding.quantize_dequantize(weight.detach()).as_subclass(Tensor)
        # Where the clip acts, it differs from w^ by nothing that a gradient could reach.
        is_inside = (rounded - weight.detach()).abs() <= _expanded_step(encoding, weight)
        terms.append(((weight - rounded).where(is_inside, 0.0)).square().sum())
    return torch.stack(terms).sum() if terms else torch.zeros(())


def _expanded_step(encoding: AffineEncoding, weight: Tensor) -> Tensor:
    """Half a step of the grid of each element, with room for rounding."""
    zeros = torch.zeros_like(weight)
    one_step = encoding.dequantize(zeros + 1).as_subclass(Tensor)
    return (one_step - encoding.dequantize(zeros).as_subclass(Tensor)) * (0.5 + 1e-5)


class IterativeFreezing:
    """Freezes weights that oscillate at the integer where they were most of the time.

    After each optimizer step and for each weight, algorithm 1 of the paper: ``o = 1`` where the
    integer changed in the direction opposite to its change before; ``f = m o + (1 - m) f``; where
    ``f > threshold`` the weight stays for ever at the rounded moving average of its integer (times
    the scale, which trains on).

        freezing = IterativeFreezing(sim)
        ...
        optimizer.step()
        freezing.step()

    Args:
        model: a simulation, or a module with quantizers.
        threshold: frequency from which on to freeze; the paper lowers it from 0.1 to 0.01 along a
            cosine, which assigning to the attribute does.
        momentum: ``m``, of frequency and average.
        max_bits: weights of more bits are left out.

    Attributes:
        threshold: as above.

    Raises:
        TypeError: ``model`` is neither.
        ValueError: momentum or threshold is not between 0 and 1.
    """

    def __init__(
        self,
        model: nn.Module | QuantizationSimModel,
        threshold: float = 0.1,
        momentum: float = 0.01,
        max_bits: int = 4,
    ) -> None:
        for label, value in (("threshold", threshold), ("momentum", momentum)):
            if not 0 < value < 1:
                raise ValueError(
                    f"IterativeFreezing: `{label}` must be between 0 and 1, got {value}"
                )
        self._model = model_of("IterativeFreezing", model)
        self.threshold = threshold
        self.momentum = momentum
        self.max_bits = max_bits
        self._states: dict[str, dict[str, Tensor]] = {}

    @torch.no_grad()
    def step(self) -> None:
        """Count oscillations, freeze, and put frozen weights back to their integers."""
        for name, weight, encoding in _weights(self._model, self.max_bits):
            integer = encoding.quantize(weight.detach()).as_subclass(Tensor).float()
            state = self._states.get(name)
            if state is None:
                self._states[name] = _new_state(integer)
                continue
            change = torch.sign(integer - state["integer"])
            oscillates = (change * state["direction"]) < 0
            state["frequency"].lerp_(oscillates.float(), self.momentum)
            state["average"].lerp_(integer, self.momentum)
            state["direction"].copy_(torch.where(change != 0, change, state["direction"]))
            newly = (state["frequency"] > self.threshold) & ~state["frozen"]
            state["average"].copy_(torch.where(newly, state["average"].round(), state["average"]))
            state["frozen"] |= newly
            # The average of a frozen weight is its integer: it does not move any more.
            integer = torch.where(state["frozen"], state["average"].round(), integer)
            state["average"].copy_(torch.where(state["frozen"], integer, state["average"]))
            state["integer"].copy_(integer)
            if bool(state["frozen"].any()):
                fixed = encoding.dequantize(integer).as_subclass(Tensor).to(weight.dtype)
                weight.copy_(torch.where(state["frozen"], fixed, weight))

    def frozen_fraction(self) -> float:
        """Share of the observed weights that are frozen, 0 to 1."""
        masks = [state["frozen"] for state in self._states.values()]
        total = sum(mask.numel() for mask in masks)
        return sum(int(mask.sum()) for mask in masks) / total if total else 0.0

    def oscillating_fraction(self, frequency: float = 0.005) -> float:
        """Share of the observed weights that are free and oscillate more than ``frequency``."""
        found = [(s["frequency"] > frequency) & ~s["frozen"] for s in self._states.values()]
        total = sum(mask.numel() for mask in found)
        return sum(int(mask.sum()) for mask in found) / total if total else 0.0

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint needs: tensors by name, copied."""
        return {
            f"{name}.{key}": state[key].clone()
            for name, state in self._states.items()
            for key in _STATE
        }

    def load_state_dict(self, state_dict: Mapping[str, Tensor]) -> None:
        """Take over a `state_dict`.

        Raises:
            ValueError: it is of another model; nothing changes then.
        """
        shapes = {name: w.shape for name, w, _ in _weights(self._model, self.max_bits)}
        loaded: dict[str, dict[str, Any]] = {}
        for entry, tensor in state_dict.items():
            name, _, key = entry.rpartition(".")
            if key not in _STATE or shapes.get(name) != tensor.shape:
                raise ValueError(
                    f"IterativeFreezing.load_state_dict: `state_dict` has {entry!r} of shape "
                    f"{tuple(tensor.shape)}, which is none of this model's weights"
                )
            loaded.setdefault(name, {})[key] = tensor.clone()
        incomplete = [name for name, state in loaded.items() if len(state) < len(_STATE)]
        if incomplete:
            raise ValueError(
                f"IterativeFreezing.load_state_dict: `state_dict` is incomplete for {incomplete}"
            )
        self._states = loaded


def _new_state(integer: Tensor) -> dict[str, Tensor]:
    return {
        "integer": integer,
        "direction": torch.zeros_like(integer),
        "frequency": torch.zeros_like(integer),
        "average": integer.clone(),
        "frozen": torch.zeros_like(integer, dtype=torch.bool),
    }
