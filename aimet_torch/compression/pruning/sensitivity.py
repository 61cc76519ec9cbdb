"""What an error of each channel of a layer's outputs changes in the model's outputs.

An error d at a layer's output moves the model's output by J d. Its expected square needs no labels:
with random signs v, E (v^T J d)^2 = |J d|^2, and v^T J is one backward pass. Errors at different
positions and channels count as uncorrelated, so that a channel's weight is the sum of its squared
gradients over the positions.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.common.progress import progress
from aimet_torch.compression.pruning.propagation import Layer

__all__ = ["output_sensitivities"]

_PROJECTIONS = 4
_BATCHES = 16


def output_sensitivities(
    model: nn.Module, layers: Iterable[Layer], calls: list[tuple[tuple[Any, ...], dict[str, Any]]]
) -> dict[str, Tensor]:
    """The share of the variance of the model's outputs that an error of variance 1 loses.

    Args:
        model: Left as it is.
        layers: Modules of it; errors are those of a channel at all positions.
        calls: Arguments of the model; the first batches are enough.

    Returns:
        (out,) float64 by the name of the layer's weight; nothing where the model cannot be
        differentiated.
    """
    work = copy.deepcopy(model).eval()
    for parameter in work.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    sums: dict[str, Tensor] = {}

    def watch(name: str, dims: int) -> Any:
        def add(gradient: Tensor) -> None:
            channel = gradient.dim() - 1 - dims
            others = [dim for dim in range(gradient.dim()) if dim != channel]
            sums[name] = sums.get(name, 0.0) + gradient.double().square().sum(others).cpu()

        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            if output.requires_grad:
                output.register_hook(add)

        return hook

    for layer in layers:
        if layer.module is not None:
            module: Any = work.get_submodule(layer.name)
            module.register_forward_hook(watch(layer.weight, module.weight.dim() - 2))
    samples = 0
    try:
        for index, (args, kwargs) in enumerate(progress(calls[:_BATCHES], "Sensitivities")):
            with torch.enable_grad():
                outputs = _outputs(work(*args, **kwargs))
                samples += _PROJECTIONS * max(len(outputs[0]) if outputs[0].dim() else 1, 1)
                for projection in range(_PROJECTIONS):
                    seed = index * _PROJECTIONS + projection
                    _projected(outputs, seed).backward(retain_graph=projection + 1 < _PROJECTIONS)
    except (RuntimeError, IndexError):
        return {}
    return {name: total / samples for name, total in sums.items()}


def _outputs(result: Any) -> list[Tensor]:
    leaves = torch.utils._pytree.tree_leaves(result)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]


def _projected(outputs: list[Tensor], seed: int) -> Tensor:
    """Random signs times outputs, all of which have the same energy for each sample."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros((), device=outputs[0].device)
    for output in outputs:
        signs = torch.randint(0, 2, output.shape, generator=generator) * 2.0 - 1
        centered = output.detach() - output.detach().mean(0, keepdim=True)
        energy = centered.square().sum() / max(len(output) if output.dim() else 1, 1)
        scale = energy.clamp_min(1e-12).rsqrt()
        total = total + (output * signs.to(output)).sum() * scale
    return total
