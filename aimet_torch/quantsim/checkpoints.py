"""State dicts of simulations: one that does not fit is refused before anything is loaded."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from aimet_torch.quantization.base import QuantizerBase

__all__ = ["check_before_loading", "differences"]

_EXTRA = "_extra_state"


def differences(model: nn.Module, state_dict: Mapping[str, Any], strict: bool = True) -> list[str]:
    """What keeps ``state_dict`` from being loaded into ``model``, one line each.

    Args:
        model: a simulated model.
        state_dict: of `torch.nn.Module.state_dict`, `torch.load` or safetensors.
        strict: also entries that only one of the two has, and other grids.

    >>> differences(nn.Linear(2, 2), {"weight": Tensor(3, 2), "bias": Tensor(2)})
    ['weight: has the shape (3, 2), the model (2, 2)']
    """
    own = model.state_dict()
    found = []
    for key, value in state_dict.items():
        mine = own.get(key)
        if key.endswith(_EXTRA) or not (isinstance(value, Tensor) and isinstance(mine, Tensor)):
            continue
        if value.shape != mine.shape:
            found.append(
                f"{key}: has the shape {tuple(value.shape)}, the model {tuple(mine.shape)}"
            )
    if not strict:
        return found
    quantizers = {
        name: quantizer
        for name, quantizer in model.named_modules(remove_duplicate=False)
        if isinstance(quantizer, QuantizerBase)
    }
    settled: set[str] = set()  # quantizers whose difference says why their keys differ
    for name, quantizer in quantizers.items():
        prefix = f"{name}." if name else ""
        has_tensors = any(k.startswith(prefix) and not k.endswith(_EXTRA) for k in own)
        if has_tensors and not any(key.startswith(prefix) for key in state_dict):
            found.append(f"{name}: the model has this quantizer, the checkpoint has not")
            settled.add(prefix)
        elif quantizer.is_overwrite_allowed() or not quantizer._range_names:
            others = quantizer.misfits(state_dict.get(prefix + _EXTRA))
            found += [f"{name}: {text}" for text in others]
            if others:
                settled.add(prefix)
    rest = own.keys() ^ state_dict.keys()
    for key in sorted(rest):
        if key.endswith(_EXTRA) or any(key.startswith(prefix) for prefix in settled):
            continue
        owner = "the model" if key in own else "the checkpoint"
        found.append(f"{key}: only {owner} has it")
    return found


def check_before_loading(model: nn.Module) -> None:
    """Let ``model.load_state_dict`` refuse what does not fit before anything is loaded."""
    # A partial, not a method: copies and pickles then load into the copy. A hook of torch's would
    # not know `strict`.
    model.__dict__["load_state_dict"] = functools.partial(_load, model)


def _load(
    module: nn.Module, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
) -> Any:
    """In place of ``module.load_state_dict``.

    Raises:
        RuntimeError: with the list of `differences`.
    """
    found = differences(module, state_dict, strict)
    if found:
        raise RuntimeError(
            f"load_state_dict: the checkpoint does not fit the model, which stays as it was; "
            f"{len(found)} difference{'s' if len(found) > 1 else ''}:\n"
            + "\n".join(f"  {line}" for line in found)
        )
    return type(module).load_state_dict(module, state_dict, strict=strict, assign=assign)
