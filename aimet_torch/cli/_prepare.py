"""The model, the data and the example input that the options of a command name."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.cli._data import DATA_OPTIONS, Batches, ImageSettings, load_batches
from aimet_torch.cli._measure import to_device
from aimet_torch.cli._models import example_from, input_count, load_model
from aimet_torch.cli._session import say
from aimet_torch.graph import bind_inputs, module_of_torchscript

__all__ = ["Job", "prepare", "read_batches", "recipe_batches"]


@dataclass
class Job:
    """What a command works on.

    Attributes:
        model: In evaluation mode, on the device.
        example: Example input.
        batches: What calibrates and what measures; empty without data.
    """

    model: nn.Module
    example: Any
    batches: Batches

    @property
    def is_convolutional(self) -> bool:
        """Whether the model has a two-dimensional convolution."""
        return any(isinstance(module, nn.Conv2d) for module in self.model.modules())

    @staticmethod
    def count(batches: list[Any]) -> int:
        """Samples in batches."""
        leaves = [
            next(t for t in torch.utils._pytree.tree_leaves(b) if isinstance(t, Tensor))
            for b in batches
        ]
        return sum(leaf.shape[0] if leaf.dim() else 1 for leaf in leaves)


def prepare(command: str, options: argparse.Namespace, *, needs_data: bool) -> Job:
    """Load what the options name.

    Raises:
        ValueError: something is missing, of the wrong kind, or the model does not run on it.
    """
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {options.device}: this torch sees no GPU; `aimet doctor`")
    say(f"loading {options.model}")
    model, example = load_model(options.model)
    model = model.to(device)
    if options.example is not None:
        example = example_from(options.example)
    batches = Batches([], [])
    if options.data is not None:
        batches = read_batches(options, input_count(model, example))
        if batches.note:
            say(batches.note)
        if example is None:
            example = batches.example
    elif needs_data:
        raise ValueError(
            f"{command}: --data is missing: a folder of images, a .npy or .npz file, or "
            "package.module:function of an iterable of batches"
        )
    if example is None:
        raise ValueError(f"{command}: without --data, --example is needed, such as 1x3x224x224")
    batches = Batches(
        to_device(batches.calibration, options.device),
        to_device(batches.measurement, options.device),
        batches.labels,
        batches.note,
    )
    example = to_device(example, options.device)
    if isinstance(model, torch.jit.ScriptModule):
        model = module_of_torchscript(model, example)
    for call in (example, *batches.calibration[:1]):
        _try(command, model, call)
    return Job(model, example, batches)


def read_batches(options: argparse.Namespace, inputs: int | None) -> Batches:
    """The data that ``DATA_OPTIONS`` name; see :func:`~aimet_torch.cli._data.load_batches`."""
    return load_batches(
        options.data,
        samples=options.samples,
        measure_samples=options.measure_samples,
        batch_size=options.batch_size,
        images=ImageSettings(options.image_size, options.mean, options.std),
        inputs=inputs,
    )


def recipe_batches(content: dict[str, Any], changes: dict[str, Any], command: str) -> Batches:
    """The data of the run that has written a simulation, or other data.

    Args:
        content: Of `load_simulation`.
        changes: Options that differ from those of the run; a ``data`` of None is that of the run.
        command: For messages.

    Raises:
        ValueError: the run had no data, and no other is named.
    """
    recipe = {option.name: option.default for option in DATA_OPTIONS}
    recipe.update({k: v for k, v in content.get("recipe", {}).items() if k in recipe})
    recipe.update({k: v for k, v in changes.items() if v is not None})
    if recipe["data"] is None:
        raise ValueError(f"{command}: the run had no data; name some with --data")
    inputs = input_count(content["sim"].model, content["example"])
    return read_batches(argparse.Namespace(**recipe), inputs)


def _try(command: str, model: nn.Module, call: Any) -> None:
    """Run a model once, so that data which does not fit is named before the work begins."""
    args, kwargs = bind_inputs(model, call)
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    except Exception as error:
        shapes = ", ".join(
            f"{str(t.dtype).removeprefix('torch.')}{list(t.shape)}"
            for t in torch.utils._pytree.tree_leaves((args, kwargs))
            if isinstance(t, Tensor)
        )
        reason = (str(error).strip() or "no message").splitlines()[0]
        raise ValueError(
            f"{command}: the model fails on {shapes or 'its input'}: {type(error).__name__}: "
            f"{reason}; see --example, --image-size, and what --data gives"
        ) from error
