"""What quantizers of floating-point formats share: their state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from aimet_torch.quantization.base import QuantizerBase, unknown_state

__all__ = ["FloatQuantizerBase"]

_STATE_VERSION = 1


class FloatQuantizerBase(QuantizerBase):
    """Base of quantizers of floating-point formats: format and what is frozen are in state dicts.

    Subclasses implement `_format_numbers` and `_set_format_numbers`.
    """

    def _format_numbers(self) -> dict[str, int]:
        """The format as integers, by the name that messages give them."""
        raise NotImplementedError(f"{type(self).__name__}._format_numbers is not defined")

    def _set_format_numbers(self, numbers: list[int]) -> None:
        """Take over the values of `_format_numbers`."""
        raise NotImplementedError(f"{type(self).__name__}._set_format_numbers is not defined")

    def get_extra_state(self) -> Tensor:
        """Format, and what is frozen, as integers: part of the state dict."""
        flags = map(int, self._overwrite_allowed.values())
        return torch.tensor([_STATE_VERSION, *self._format_numbers().values(), *flags])

    def set_extra_state(self, state: Tensor) -> None:
        """Take over what is frozen; the format was taken over before the range was loaded."""
        flags = state.tolist()[1 + len(self._format_numbers()) :]
        self._overwrite_allowed.update(zip(self._range_names, map(bool, flags), strict=True))

    def misfits(self, state: Any) -> list[str]:
        """How the format of a state dict's entry differs from this one, one line each."""
        if not self._is_extra_state(state):
            return unknown_state(state, _STATE_VERSION)
        own = self._format_numbers()
        return [
            f"has {name} {theirs}, the model {mine}"
            for (name, mine), theirs in zip(own.items(), state.tolist()[1:], strict=False)
            if theirs != mine
        ]

    def _is_extra_state(self, state: Any) -> bool:
        """Whether it is what `get_extra_state` returns."""
        length = 1 + len(self._format_numbers()) + len(self._overwrite_allowed)
        is_tensor = isinstance(state, Tensor) and state.dtype == torch.int64
        return is_tensor and state.numel() == length and int(state[0]) == _STATE_VERSION

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        state_dict = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
        key = prefix + "_extra_state"
        is_frozen = bool(self._range_names) and not self.is_overwrite_allowed()
        if not is_frozen and self._is_extra_state(state_dict.get(key)):
            numbers = state_dict[key].tolist()[1:]
            self._set_format_numbers(numbers[: len(self._format_numbers())])
        else:  # AIMET's, or of a version without one
            state_dict[key] = self.get_extra_state()
        for name in self._range_names:
            if is_frozen and prefix + name in state_dict:
                state_dict[prefix + name] = getattr(self, name)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        self._initialized = False
        self.is_initialized()
