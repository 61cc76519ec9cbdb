"""Quantization-aware training on Fashion-MNIST as a subject; see `benchmarks.subjects`.

One loop for this project and aimet-torch 2.42: same network, placement of quantizers, calibration,
order of images, optimizer and learning rates. What differs is the library: aimet-torch has no LSQ,
and re-estimates batch norms all at once only.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import fashion_mnist
from benchmarks.model_subjects import _parameters_of_network, prepared, scheme_of
from benchmarks.subjects import subject
from benchmarks.timing import Subject

BATCH_SIZE = 128
_EXAMPLE = (1, 1, 28, 28)


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    Attributes:
        bits: of weights and activations; 32 trains without quantizers.
        lr: of the network's parameters at the beginning; a cosine takes it to zero.
        param_range_lr: of the ranges of weights, likewise.
        activation_range_lr: of the ranges of activations, likewise.
        scheme: that calibration sets ranges by.
        method: what this project learns of a range, see `aimet_torch.qat.learn_ranges`.
        outer_bits: of weights and inputs of the first and the last layer and of the logits; as all
            others if None.
        reestimates: whether the statistics of batch norms are taken anew after training, from 2,560
            training images: running averages follow weights of few bits too late.
        sequential: one batch norm after the other, where the library can.
    """

    bits: int
    lr: float
    param_range_lr: float = 0.0
    activation_range_lr: float = 0.0
    scheme: str = "post_training_tf_enhanced"
    method: str = "min_max"
    outer_bits: int | None = None
    reestimates: bool = False
    sequential: bool = False


_FEW_BITS = {
    "bits": 2,
    "param_range_lr": 5e-4,
    "activation_range_lr": 4e-3,
    "outer_bits": 8,
    "reestimates": True,
    "sequential": True,
}
#: By the name of a row; learning rates as `benchmarks.qat_choice` found them.
RECIPES = {
    "W2A2 LSQ": Recipe(**_FEW_BITS, lr=8e-3, method="lsq"),
    "W2A2": Recipe(**_FEW_BITS, lr=4e-3),
    "W4A4": Recipe(4, lr=1e-3, param_range_lr=1e-4, activation_range_lr=1e-3, reestimates=True),
    "W8A8": Recipe(8, lr=4e-3, param_range_lr=1e-5, activation_range_lr=1e-3, scheme="min_max"),
    "FP32": Recipe(32, lr=4e-3),
}


class Training:
    """A network on its way, one batch after the other.

    Args:
        network: name in `fashion_mnist.NETWORKS`.
        setting: name in `RECIPES`.
        seed: of the images that calibrate and of the order of batches.
        epochs: passes over the training images.
        images: how many training images there are; all by default.
        recipe: fields in place of those of ``RECIPES[setting]``.
        held_out: how many of the last training images are not trained on but measure, in place of
            the test images: to choose a recipe by.

    Attributes:
        steps: batches until the end.
    """

    def __init__(
        self,
        network: str,
        setting: str,
        seed: int = 0,
        epochs: int = 2,
        images: int | None = None,
        recipe: dict[str, Any] | None = None,
        held_out: int = 0,
    ) -> None:
        self.model = prepared(fashion_mnist.trained(network))
        chosen = dataclasses.replace(RECIPES[setting], **(recipe or {}))
        self._recipe = chosen
        groups: list[dict[str, Any]]
        if chosen.bits == 32:
            groups = [{"params": list(self.model.parameters()), "lr": chosen.lr}]
        else:
            self.model = simulation(self.model, chosen, seed)
            groups = _groups(self.model, chosen)
        trains = fashion_mnist.load("train")
        if held_out:
            measures = (trains[0][-held_out:], trains[1][-held_out:])
            trains = (trains[0][:-held_out], trains[1][:-held_out])
        else:
            measures = fashion_mnist.load("test")
        self._measured = measures
        self.before = fashion_mnist.accuracy_on(self.model, *measures)
        self._images, self._labels = trains[0][:images], trains[1][:images]
        generator = torch.Generator().manual_seed(seed)
        self._batches = [
            batch
            for _ in range(epochs)
            for batch in torch.randperm(len(self._labels), generator=generator).split(BATCH_SIZE)
        ]
        self.steps = len(self._batches)
        self._optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / self.steps))
        )
        self._taken = 0
        self.model.train()

    def step(self) -> None:
        """Train on the next batch."""
        batch = self._batches[self._taken]
        self._taken += 1
        loss = functional.cross_entropy(self.model(self._images[batch]), self._labels[batch])
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._schedule.step()

    def accuracies(self) -> Tensor:
        """Top-1 accuracy in percent, before training and at its end, float64 (2,)."""
        self.model.eval()
        if self._recipe.reestimates:
            _reestimate(self.model, self._recipe.sequential)
            self.model.eval()
        after = fashion_mnist.accuracy_on(self.model, *self._measured)
        return torch.tensor([self.before, after], dtype=torch.float64)


def _reestimate(model: nn.Module, sequential: bool) -> None:
    from aimet_torch.bn_reestimation import reestimate_bn_stats

    ways: dict[str, Any] = {}
    if sequential and "sequential" in inspect.signature(reestimate_bn_stats).parameters:
        ways = {"sequential": True}
    batches = fashion_mnist.calibration_batches(2560, BATCH_SIZE)
    reestimate_bn_stats(model, batches, len(batches), lambda model, x: model(x), **ways)


def simulation(model: nn.Module, recipe: Recipe, seed: int) -> nn.Module:
    """A calibrated simulation by the default rules, with the bits of ``recipe``."""
    from aimet_torch.quantsim import QuantizationSimModel

    # Below 4 bits, aimet-torch takes a width from the quantizers only.
    width = max(recipe.bits, 4)
    sim = QuantizationSimModel(
        model,
        torch.randn(_EXAMPLE, generator=torch.Generator().manual_seed(0)),
        quant_scheme=scheme_of(recipe.scheme),
        default_param_bw=width,
        default_output_bw=width,
    )
    _set_widths(sim.model, recipe.bits, recipe.outer_bits or recipe.bits)
    batches = fashion_mnist.calibration_batches(1024, seed=seed)
    with torch.no_grad():
        sim.compute_encodings(lambda simulated: [simulated(batch) for batch in batches])
    if recipe.method != "min_max":
        try:
            from aimet_torch.qat import learn_ranges
        except ImportError:
            pass
        else:
            learn_ranges(sim, recipe.method)
    return sim.model


def _set_widths(model: nn.Module, inner: int, outer: int) -> None:
    """Set ``outer`` bits for weights, inputs and results of the first and the last layer.

    The result of the first layer and all between have ``inner`` bits.
    """
    modules = [m for m in model.modules() if hasattr(m, "param_quantizers")]
    layers = [m for m in modules if dict(m.param_quantizers.items()).get("weight") is not None]
    before_last = modules[: modules.index(layers[-1])]
    outputs = [m for m in before_last if any(q is not None for q in m.output_quantizers)]
    for module in modules:
        is_outer = module in (layers[0], layers[-1])
        for found, bits in (
            (module.param_quantizers.values(), outer if is_outer else inner),
            (module.input_quantizers, outer if module is layers[0] else inner),
            (module.output_quantizers, outer if module in (outputs[-1], layers[-1]) else inner),
        ):
            for quantizer in found:
                if quantizer is not None:
                    quantizer.bitwidth = bits


def _groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    """Parameter groups in words of both libraries; here `parameter_groups` makes the same."""
    network = {id(p) for m in model.modules() for p in _parameters_of_network(m)}
    of_weights = {
        id(p)
        for m in model.modules()
        if hasattr(m, "param_quantizers")
        for p in m.param_quantizers.parameters()
    }
    groups: dict[str, list[nn.Parameter]] = {"network": [], "weights": [], "activations": []}
    for parameter in model.parameters():
        kind = "weights" if id(parameter) in of_weights else "activations"
        groups["network" if id(parameter) in network else kind].append(parameter)
    rates = (recipe.lr, recipe.param_range_lr, recipe.activation_range_lr)
    return [
        {"params": found, "lr": lr}
        for found, lr in zip(groups.values(), rates, strict=True)
        if found
    ]


@subject
def fashion_mnist_training(**arguments: Any) -> Subject:
    """A step of `Training` a call; its result are the accuracies before training and now."""
    training = Training(**arguments)
    return Subject(training.step, compute=training.accuracies)
