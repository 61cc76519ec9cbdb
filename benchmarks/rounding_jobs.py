"""AdaRound jobs by AIMET's interface, so that aimet-torch runs the same code; see `subjects`.

A job returns numbers, not tensors to compare: what it took, and how good the result is.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import fashion_mnist
from benchmarks.subjects import subject
from benchmarks.timing import Clock, Subject

CALIBRATION_IMAGES = 1024


def folded_fashion(name: str) -> nn.Module:
    """A trained network whose batch norms the library at hand has folded."""
    from aimet_torch.batch_norm_fold import fold_all_batch_norms

    model = copy.deepcopy(fashion_mnist.trained(name))
    fold_all_batch_norms(model, (1, 1, 28, 28), dummy_input=torch.zeros(1, 1, 28, 28))
    return model


def simulate(
    model: nn.Module, batches: list[Tensor], bits: int, encodings: Path | None, activations: bool
) -> nn.Module:
    """A calibrated simulation: weights of ``bits``, activations of 8 bits or none."""
    from aimet_torch.quantsim import QuantizationSimModel

    sim = QuantizationSimModel(model, batches[0][:1], default_param_bw=bits)
    if not activations:
        for module in sim.qmodules():
            module._remove_activation_quantizers()
    if encodings is not None:
        sim.set_and_freeze_param_encodings(str(encodings))

    def run(simulated: nn.Module, _: Any = None) -> None:
        with torch.no_grad():
            for batch in batches:
                simulated(batch)

    sim.compute_encodings(run, None)
    return sim.model


def rounded(
    model: nn.Module, batches: list[Tensor], bits: int, iterations: int | None, folder: str
) -> tuple[nn.Module, Clock]:
    """A model rounded by the library's AdaRound, and the time that took."""
    from aimet_torch.adaround.adaround_weight import Adaround, AdaroundParameters

    parameters = AdaroundParameters(
        batches,
        len(batches),
        default_num_iterations=iterations,
        forward_fn=lambda network, batch: network(batch),
    )
    clock = Clock()
    result = Adaround.apply_adaround(
        model, batches[0][:1], parameters, folder, "model", default_param_bw=bits
    )
    return result, clock.stop()


@subject
def fashion_adaround(*, network: str, bits: int, iterations: int | None, seed: int) -> Subject:
    """AdaRound of a network for Fashion-MNIST: (times, top-1 with FP32 and 8-bit activations)."""

    def run() -> Tensor:
        model = folded_fashion(network)
        batches = fashion_mnist.calibration_batches(CALIBRATION_IMAGES, seed=seed)
        torch.manual_seed(seed)
        with tempfile.TemporaryDirectory() as folder:
            result, clock = rounded(model, batches, bits, iterations, folder)
            path = Path(folder) / "model.encodings"
            accuracies = [
                fashion_mnist.accuracy(simulate(result, batches, bits, path, activations))
                for activations in (False, True)
            ]
        return torch.tensor([*clock.times(), *accuracies])

    return Subject(run)


@subject
def resnet18_adaround(*, bits: int, iterations: int | None) -> Subject:
    """AdaRound of ResNet-18 on one batch of 32 times 3x32x32: (times, error of each layer).

    The error is that of a layer's output on held-out data, over the output's own mean square, in
    the rounded network against the original one.
    """
    from examples import assets

    def run() -> Tensor:
        from aimet_torch.batch_norm_fold import fold_all_batch_norms

        torch.manual_seed(0)
        model = assets.import_torchvision().models.resnet18().eval()
        data, held_out = (torch.randn(32, 3, 32, 32) for _ in range(2))
        fold_all_batch_norms(model, (1, 3, 32, 32), dummy_input=data[:1])
        with tempfile.TemporaryDirectory() as folder:
            result, clock = rounded(model, [data], bits, iterations, folder)
            # What AdaRound returns may still lie beside its grid: only the simulation rounds.
            path = Path(folder) / "model.encodings"
            simulated = simulate(result, [data], bits, path, activations=False)
        return torch.tensor([*clock.times(), *layer_errors(model, simulated, held_out)])

    return Subject(run)


@torch.no_grad()
def layer_errors(original: nn.Module, changed: nn.Module, batch: Tensor) -> list[float]:
    """Mean squared error of the output of each convolution and linear layer, over its power."""
    found: list[dict[str, Tensor]] = []
    for model in (original, changed):
        outputs: dict[str, Tensor] = {}
        hooks = [
            # A copy: an activation function may overwrite what only it reads.
            module.register_forward_hook(
                lambda _, __, output, name=name, outputs=outputs: outputs.__setitem__(
                    name, output.clone()
                )
            )
            for name, module in model.named_modules()
            if isinstance(module, nn.Conv2d | nn.Linear)
        ]
        model(batch)
        for hook in hooks:
            hook.remove()
        found.append(outputs)
    wanted, given = found
    return [
        float((given[name] - wanted[name]).square().mean() / wanted[name].square().mean())
        for name in wanted
    ]
