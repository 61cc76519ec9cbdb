"""AIMET's mixed-precision search by AIMET's interface: aimet-torch runs the same code.

See `benchmarks.subjects`. The result is a document, so it travels as the bytes of its JSON.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import fashion_mnist
from benchmarks.rounding_jobs import folded_fashion
from benchmarks.subjects import subject
from benchmarks.timing import Clock, Subject

CALIBRATION_IMAGES = 512
#: Training images whose labels the search may look at; disjoint from the test images.
LABELLED_IMAGES = 2000
#: Images whose outputs the sensitivity of phase 1 is measured on.
SENSITIVITY_IMAGES = 256
#: Bits of (activations, weights).
CANDIDATES = ((8, 8), (8, 4), (4, 8), (4, 4))


def candidates() -> list[Any]:
    """The candidates as AIMET writes them."""
    from aimet_torch.common.defs import QuantizationDataType

    kind = QuantizationDataType.int
    return [((activation, kind), (weight, kind)) for activation, weight in CANDIDATES]


def calibration(seed: int) -> list[Tensor]:
    """Unlabelled batches."""
    return fashion_mnist.calibration_batches(CALIBRATION_IMAGES, seed=seed)


def labelled(seed: int) -> tuple[Tensor, Tensor]:
    """Training images and their labels, none of which calibrates."""
    images, labels = fashion_mnist.load("train")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    chosen = order[CALIBRATION_IMAGES : CALIBRATION_IMAGES + LABELLED_IMAGES]
    return images[chosen], labels[chosen]


def simulation(network: str, batches: list[Tensor]) -> Any:
    """A simulation with the library's default rules, folded, not calibrated."""
    from aimet_torch.quantsim import QuantizationSimModel

    return QuantizationSimModel(folded_fashion(network), batches[0][:1])


def bits_of(sim: Any) -> dict[str, int]:
    """Bits by name of the quantizer."""
    return {
        name: int(module.bitwidth)
        for name, module in sim.model.named_modules()
        if hasattr(module, "bitwidth") and hasattr(module, "get_encodings")
    }


class Counted:
    """A callback that counts its calls."""

    def __init__(self, function: Callable[[nn.Module], float]) -> None:
        self._function = function
        self.calls = 0

    def __call__(self, model: nn.Module, _: Any = None) -> float:
        """Evaluate ``model``."""
        self.calls += 1
        with torch.no_grad():
            return float(self._function(model))


@subject
def mixed_precision_search(*, network: str, seed: int, drop: float) -> Subject:
    """`choose_mixed_precision` of a network for Fashion-MNIST, as the bytes of a JSON document."""

    def run() -> Tensor:
        from aimet_torch.amp.mixed_precision_algo import EvalCallbackFactory
        from aimet_torch.common.defs import CallbackFunc
        from aimet_torch.mixed_precision import choose_mixed_precision

        batches = calibration(seed)
        images, labels = labelled(seed)
        sim = simulation(network, batches)
        loader = torch.utils.data.DataLoader(torch.cat(batches), batch_size=64)
        noise = Counted(EvalCallbackFactory(loader).sqnr(SENSITIVITY_IMAGES))
        score = Counted(lambda model: fashion_mnist.accuracy_on(model, images, labels))

        def calibrate(model: nn.Module, _: Any = None) -> None:
            with torch.no_grad():
                for batch in batches:
                    model(batch)

        sim.compute_encodings(calibrate, None)  # aimet-torch fails on quantizers in no group
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            choose_mixed_precision(
                sim, batches[0][:1], candidates(), noise, score, drop, folder, True,
                CallbackFunc(calibrate, None),
            )  # fmt: skip
        seconds, cpu_seconds = clock.stop().times()
        document = {
            "bits": bits_of(sim),
            "evaluations": noise.calls + score.calls,
            "sensitivity_evaluations": noise.calls,
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "accuracy": fashion_mnist.accuracy(sim.model),
        }
        return torch.tensor(list(json.dumps(document).encode()), dtype=torch.uint8)

    return Subject(run)
