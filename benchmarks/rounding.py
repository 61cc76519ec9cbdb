"""What rounding of weights recovers: MobileNetV2 on photographs, networks for Fashion-MNIST.

``python -m benchmarks.rounding [--output FILE] [NAME ...]``. Every second photograph calibrates (64
of them), the others measure; Fashion-MNIST is calibrated on 1,024 training images without their
labels and measured on the 10,000 test images. Weights are per channel, batch norms folded.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch import QuantizationSimModel
from aimet_torch.adaround.adaround_weight import Adaround, AdaroundParameters
from aimet_torch.batch_norm_fold import fold_all_batch_norms
from benchmarks import fashion_mnist

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
import assets

Measure = Callable[[nn.Module], dict[str, float]]


def _outputs(model: nn.Module, batches: list[Tensor]) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(x) for x in batches])


def _agreement(model: nn.Module, batches: list[Tensor]) -> Measure:
    """Agreement of the first choice and signal-to-noise ratio of the logits, against FP32."""
    reference = _outputs(model, batches)

    def measure(other: nn.Module) -> dict[str, float]:
        outputs = _outputs(other, batches)
        noise = (outputs - reference).square().sum() / reference.square().sum()
        same = (outputs.argmax(1) == reference.argmax(1)).float().mean()
        return {
            "agreement_percent": round(100 * float(same), 2),
            "sqnr_db": round(-10 * float(noise.log10()), 2),
        }

    return measure


def _simulate(
    model: nn.Module, batches: list[Tensor], bits: int, encodings: Path | None, activations: bool
) -> nn.Module:
    sim = QuantizationSimModel(model, batches[0][:1], default_param_bw=bits)
    if not activations:
        for module in sim.qmodules():
            module._remove_activation_quantizers()
    if encodings is not None:
        sim.set_and_freeze_param_encodings(encodings)
    sim.compute_encodings(batches)
    return sim.model


def run(
    model: nn.Module, calibration: list[Tensor], measure: Measure, bits: int, activations: bool
) -> dict[str, Any]:
    """Nearest and AdaRound at one bit width."""
    row: dict[str, Any] = {"weight_bits": bits, "activation_bits": 8 if activations else 32}
    row["nearest"] = measure(_simulate(model, calibration, bits, None, activations))
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        parameters = AdaroundParameters(calibration, len(calibration))
        rounded = Adaround.apply_adaround(
            model, calibration[0][:1], parameters, folder, "model", bits
        )
        row["seconds"] = round(time.perf_counter() - start, 1)
        path = Path(folder) / "model.encodings"
        row["adaround"] = measure(_simulate(rounded, calibration, bits, path, activations))
    return row


def mobilenet_v2() -> tuple[nn.Module, list[Tensor], Measure]:
    """Weights of ImageNet; 64 photographs calibrate, 143 others measure."""
    model = assets.load_mobilenet_v2()
    fold_all_batch_norms(model, (1, 3, 224, 224))
    photographs = assets.load_photographs()
    return (
        model,
        list(photographs[::2][:64].split(8)),
        _agreement(model, list(photographs[1::2][:143].split(16))),
    )


def _fashion(name: str) -> tuple[nn.Module, list[Tensor], Measure]:
    model = copy.deepcopy(fashion_mnist.trained(name))
    fold_all_batch_norms(model, (1, 1, 28, 28))

    def measure(other: nn.Module) -> dict[str, float]:
        return {"top1_percent": round(fashion_mnist.accuracy(other), 2)}

    return model, fashion_mnist.calibration_batches(1024), measure


def resnet18_job() -> dict[str, Any]:
    """The job of aimet-torch's slowest day: ResNet-18, 3x32x32, one batch of 32; time only."""
    torch.manual_seed(0)
    model = assets.import_torchvision().models.resnet18().eval()
    fold_all_batch_norms(model, (1, 3, 32, 32))
    data = [torch.randn(32, 3, 32, 32)]
    reference, held_out = copy.deepcopy(model), [torch.randn(32, 3, 32, 32)]
    return run(model, data, _agreement(reference, held_out), 4, False)


CASES: dict[str, Callable[[], tuple[nn.Module, list[Tensor], Measure]]] = {
    "mobilenet_v2": mobilenet_v2,
    "fashion_residual": lambda: _fashion("residual"),
    "fashion_separable": lambda: _fashion("separable"),
}
SETTINGS = {
    "mobilenet_v2": [(8, False), (4, False), (3, False), (4, True)],
    "fashion_residual": [(b, a) for a in (False, True) for b in (4, 3, 2)],
    "fashion_separable": [(b, a) for a in (False, True) for b in (4, 3, 2)],
}


def main() -> None:
    """Run the cases named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {[*CASES, 'resnet18_job']}")
    parser.add_argument("--output", type=Path, help="file for the results, JSON")
    arguments = parser.parse_args()
    names = arguments.names or [*CASES, "resnet18_job"]
    results: dict[str, Any] = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    for name in names:
        if name == "resnet18_job":
            results[name] = [resnet18_job()]
            print(name, json.dumps(results[name][0]), flush=True)
            continue
        model, calibration, measure = CASES[name]()
        rows = results[name] = []
        with contextlib.suppress(KeyError):
            print(name, "FP32", json.dumps(measure(model)), flush=True)
        for bits, activations in SETTINGS[name]:
            rows.append(run(model, calibration, measure, bits, activations))
            print(name, json.dumps(rows[-1]), flush=True)
    results["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
