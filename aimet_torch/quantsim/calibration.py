"""Running a model to calibrate it: callbacks, data loaders and plain iterables of batches."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from aimet_torch.common.collectives import Ranks
from aimet_torch.common.progress import progress
from aimet_torch.graph import bind_inputs
from aimet_torch.quantization.affine.batch import end_calibration_of
from aimet_torch.quantization.base import QuantizerBase
from aimet_torch.quantization.merging import merge_statistics


class _NotSpecified:
    """Marks an argument that was not given, since None is a value that callers pass on."""

    def __repr__(self) -> str:
        return "NOT_SPECIFIED"


NOT_SPECIFIED = _NotSpecified()


def run_forward_passes(
    model: nn.Module,
    callback: Callable[..., Any] | Iterable[Any],
    callback_args: Any = NOT_SPECIFIED,
    input_count: int = 1,
    description: str = "Calibrating",
    ranks: Ranks | None = None,
) -> None:
    """Run a user's calibration data through a model.

    Args:
        model: the model to run.
        callback: `callback(model)` or `callback(model, callback_args)`; or a data loader or other
            iterable of batches, then with a progress bar. A batch is a tensor, a mapping of keyword
            arguments, or a tuple or list of which the first `input_count` entries go to the model
            (what follows are labels).
        callback_args: second argument of the callback; only with a callable.
        input_count: how many positional inputs the model takes.
        description: text of the progress bar.
        ranks: who else runs a part of the data; then one of them may have none.

    Raises:
        TypeError: neither callable nor iterable, or arguments given with an iterable.
        ValueError: an iterable without batches, on all ranks.
    """
    count = _run(model, callback, callback_args, input_count, description)
    counts = [count] if ranks is None else ranks.gather(count)
    if not any(counts):
        raise ValueError(
            "compute_encodings: `forward_pass_callback` is an iterable without batches"
            + (" on every rank" if len(counts) > 1 else "")
        )


def _run(
    model: nn.Module,
    callback: Callable[..., Any] | Iterable[Any],
    callback_args: Any,
    input_count: int,
    description: str,
) -> int:
    """As `run_forward_passes`; returns the number of batches, 1 for what a callable has done."""
    if callable(callback) and not isinstance(callback, torch.utils.data.DataLoader):
        if callback_args is NOT_SPECIFIED:
            callback(model)
        else:
            callback(model, callback_args)
        return 1
    if not isinstance(callback, Iterable):
        raise TypeError(
            "compute_encodings: `forward_pass_callback` must be callable or an iterable of "
            "batches, got "
            f"{type(callback).__name__}"
        )
    if callback_args is not NOT_SPECIFIED:
        raise TypeError(
            "compute_encodings: `forward_pass_callback_args` goes with a callable; leave it out "
            "with batches"
        )
    device = _device_of(model)
    count = 0
    for batch in progress(callback, description):
        args, kwargs = _arguments(model, batch, input_count)
        model(*_to_device(args, device), **_to_device(kwargs, device))
        count += 1
    return count


@contextlib.contextmanager
def calibrating(quantizers: Iterable[QuantizerBase], ranks: Ranks | None = None) -> Iterator[None]:
    """Several quantizers observe at once; an error inside leaves all their ranges as they were.

    Ranges that may not be overwritten are left alone.

    Args:
        quantizers: each once.
        ranks: who else observes; their statistics are merged at the end.
    """
    started = [quantizer for quantizer in quantizers if quantizer.begin_calibration()]
    try:
        yield
        if ranks is not None:
            merge_statistics(started, ranks)
    except BaseException:
        for quantizer in started:
            quantizer.cancel_calibration()
        raise
    end_calibration_of(started)


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode, no gradients; each module gets its own mode back."""
    modules = list(model.modules())
    training = [module for module in modules if module.training]
    # A simulation has hundreds of modules, most of them quantizers: setting an attribute of a
    # module takes longer than some of them do. Whoever overrides train() gets it called.
    is_plain = all(
        type(module).train is nn.Module.train
        and type(module).eval is nn.Module.eval
        and "training" in module.__dict__
        for module in modules
    )
    if training and not is_plain:
        model.eval()
    elif training:
        _set_training(training, False)
    try:
        with torch.no_grad():
            yield
    finally:
        if is_plain:
            _set_training(training, True)
        else:
            for module in training:
                module.training = True


def _set_training(modules: Iterable[nn.Module], is_training: bool) -> None:
    """`module.training = is_training` of modules that have nothing special about it."""
    for module in modules:
        module.__dict__["training"] = is_training


def require_whole(function: str, model: nn.Module) -> None:
    """Refuse a model whose parameters are shards.

    Raises:
        NotImplementedError: `fully_shard` was applied to the model.
    """
    if any(hasattr(parameter, "device_mesh") for parameter in model.parameters()):  # DTensor
        raise NotImplementedError(
            f"{function}: `model` is sharded; call {function} before fully_shard, or load the "
            "state dict of the sharded model (get_model_state_dict with full_state_dict=True) into "
            "a simulation that is not"
        )


_Ranges = list[tuple[QuantizerBase, list[tuple[torch.Tensor, torch.Tensor]], bool]]


@torch.no_grad()
def ranges_of(model: nn.Module) -> _Ranges:
    """Every quantizer with its tensors and copies of them."""
    found: _Ranges = []
    for module in model.modules():
        if isinstance(module, QuantizerBase):
            own = (*module._parameters.values(), *module._buffers.values())
            copies = [(tensor, tensor.clone()) for tensor in own if tensor is not None]
            found.append((module, copies, getattr(module, "_initialized", True)))
    return found


@torch.no_grad()
def restore_ranges(ranges: _Ranges) -> None:
    """Give quantizers the ranges that `ranges_of` has seen."""
    for quantizer, tensors, is_initialized in ranges:
        for tensor, copied in tensors:
            tensor.copy_(copied)
        if hasattr(quantizer, "_initialized"):
            quantizer.__dict__["_initialized"] = is_initialized


def _arguments(
    model: nn.Module, batch: Any, input_count: int
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(batch, tuple | list):
        return tuple(batch[:input_count]), {}
    if isinstance(batch, Mapping):
        known = {k: v for k, v in batch.items() if k in inspect.signature(model.forward).parameters}
        # What a collate function adds, such as labels, is no input; a model that takes a dict gets
        # it whole.
        return bind_inputs(model, known or batch)
    return (batch,), {}


def _device_of(model: nn.Module) -> torch.device | None:
    return next((tensor.device for tensor in model.parameters()), None)


def _to_device(value: Any, device: torch.device | None) -> Any:
    if device is None:
        return value
    return torch.utils._pytree.tree_map(
        lambda leaf: leaf.to(device) if isinstance(leaf, torch.Tensor) else leaf, value
    )
