"""What rounding of weights recovers: MobileNetV2 on photographs, networks for Fashion-MNIST.

``python -m benchmarks.rounding [--output FILE] [--seeds N] [--rival] [NAME ...]``. Every second
photograph calibrates (64 of them, and their mirror images), the others measure; Fashion-MNIST is
calibrated on 1,024 training images without their labels, other ones for each seed, and measured on
the 10,000 test images. Weights are per channel, batch norms folded. With ``--rival`` aimet-torch
2.42 does the same jobs with its own AdaRound (1,000 iterations; 20 for ResNet-18) in a process of
its own. Results of networks that are not named stay in FILE as they are.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch import QuantizationSimModel
from aimet_torch.batch_norm_fold import fold_all_batch_norms
from aimet_torch.ptq import BlockReconstructionParameters, apply_block_reconstruction
from benchmarks import fashion_mnist
from benchmarks.rivals import Rival, RivalUnavailableError
from benchmarks.rounding_jobs import CALIBRATION_IMAGES, folded_fashion, rounded, simulate
from benchmarks.subjects import make_subject
from benchmarks.timing import Clock

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
import assets

Measure = Callable[[nn.Module], dict[str, float]]

FASHION_ITERATIONS = 1000
RESNET_ITERATIONS = 20
#: Steps of block reconstruction, batches of 64 images of Fashion-MNIST or 8 photographs.
BLOCK_STEPS = {"fashion": 300, "mobilenet_v2": 300}
#: Steps for the scales and biases of the whole network behind it.
NETWORK_STEPS = {"fashion": 0, "mobilenet_v2": 100}


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


def reconstructed(
    model: nn.Module,
    batches: list[Tensor],
    bits: int,
    activations: bool,
    steps: int,
    seed: int = 0,
    **options: Any,
) -> tuple[nn.Module, Clock]:
    """A simulation after block reconstruction, with QDrop where activations are quantized."""
    clock = Clock()
    sim = QuantizationSimModel(model, batches[0][:1], default_param_bw=bits, quant_scheme="mse")
    if not activations:
        for module in sim.qmodules():
            module._remove_activation_quantizers()
    parameters = BlockReconstructionParameters(
        batches,
        len(batches),
        num_iterations=steps,
        activation_drop=0.5 if activations else None,
        seed=seed,
        **options,
    )
    with tempfile.TemporaryDirectory() as folder:
        apply_block_reconstruction(sim, parameters, folder, "model")
    return sim.model, clock.stop()


# -- MobileNetV2 -----------------------------------------------------------------------------------


def mobilenet_v2() -> tuple[nn.Module, list[Tensor], Measure]:
    """Weights of ImageNet; 64 photographs and their mirror images calibrate, 143 others measure."""
    model = assets.load_mobilenet_v2()
    fold_all_batch_norms(model, (1, 3, 224, 224))
    photographs = assets.load_photographs()
    calibration = photographs[::2][:64]
    return (
        model,
        [*calibration.split(8), *calibration.flip(3).split(8)],
        _agreement(model, list(photographs[1::2][:143].split(16))),
    )


def mobilenet_rows() -> list[dict[str, Any]]:
    """Nearest, AdaRound and block reconstruction at several bit widths."""
    model, calibration, measure = mobilenet_v2()
    rows = []
    for bits, activations in ((8, False), (4, False), (3, False), (4, True)):
        row: dict[str, Any] = {"weight_bits": bits, "activation_bits": 8 if activations else 32}
        row["nearest"] = measure(simulate(model, calibration, bits, None, activations))
        with tempfile.TemporaryDirectory() as folder:
            result, clock = rounded(model, calibration, bits, None, folder)
            path = Path(folder) / "model.encodings"
            found = measure(simulate(result, calibration, bits, path, activations))
            row["adaround"] = found | _times([clock.times()])
        result, clock = reconstructed(
            model,
            calibration,
            bits,
            activations,
            BLOCK_STEPS["mobilenet_v2"],
            network_iterations=NETWORK_STEPS["mobilenet_v2"],
        )
        row["blocks"] = measure(result) | _times([clock.times()])
        rows.append(row)
        print("mobilenet_v2", json.dumps(row), flush=True)
    return rows


# -- Fashion-MNIST ---------------------------------------------------------------------------------


def fashion_rows(name: str, seeds: int, rival: Rival | None) -> list[dict[str, Any]]:
    """Everybody's top-1 at 4, 3 and 2 bits, mean and range over the seeds."""
    model = folded_fashion(name)
    fp32 = round(fashion_mnist.accuracy(model), 2)
    rows = []
    for bits in (4, 3, 2):
        found: dict[str, list[list[float]]] = {"nearest": [], "adaround": [], "blocks": []}
        if rival is not None:
            found["aimet_torch_adaround"] = []
        for seed in range(seeds):
            batches = fashion_mnist.calibration_batches(CALIBRATION_IMAGES, seed=seed)
            nearest = [
                fashion_mnist.accuracy(simulate(model, batches, bits, None, activations))
                for activations in (False, True)
            ]
            found["nearest"].append([0.0, 0.0, *nearest])
            job = {"network": name, "bits": bits, "seed": seed}
            ours = make_subject("fashion_adaround", {**job, "iterations": None}).results()
            found["adaround"].append(ours[0].tolist())
            joint = [
                reconstructed(model, batches, bits, activations, BLOCK_STEPS["fashion"], seed)
                for activations in (False, True)
            ]
            found["blocks"].append(
                [*joint[1][1].times(), *(fashion_mnist.accuracy(result) for result, _ in joint)]
            )
            if rival is not None:
                remote = rival.load("fashion_adaround", {**job, "iterations": FASHION_ITERATIONS})
                found["aimet_torch_adaround"].append(remote.results()[0].tolist())
        for column, activations in ((2, False), (3, True)):
            row: dict[str, Any] = {"weight_bits": bits, "activation_bits": 8 if activations else 32}
            row |= {"fp32_percent": fp32, "seeds": seeds}
            for method, runs in found.items():
                row[method] = _over_seeds([run[column] for run in runs])
                if method != "nearest":
                    row[method] |= _times([(run[0], run[1]) for run in runs])
            rows.append(row)
            print(f"fashion_{name}", json.dumps(row), flush=True)
    return rows


def _times(runs: list[tuple[float, float]]) -> dict[str, float]:
    means = [round(sum(times) / len(runs), 1) for times in zip(*runs, strict=True)]
    return {"seconds": means[0], "cpu_seconds": means[1]}


def _over_seeds(values: list[float]) -> dict[str, Any]:
    mean = round(sum(values) / len(values), 2)
    extent = [round(min(values), 2), round(max(values), 2)]
    return {"top1_percent": mean, "range": extent, "seeds": len(values)}


# -- ResNet-18 -------------------------------------------------------------------------------------


def resnet18_rows(rival: Rival | None) -> list[dict[str, Any]]:
    """The job of aimet-torch's slowest day: ResNet-18, 3x32x32, one batch of 32, 21 layers."""
    row: dict[str, Any] = {"weight_bits": 4}
    contestants: list[tuple[str, int | None]] = [("adaround", None)]
    if rival is not None:
        contestants.append(("aimet_torch_adaround", RESNET_ITERATIONS))
    for method, iterations in contestants:
        job = {"bits": 4, "iterations": iterations}
        if iterations is None:
            results = make_subject("resnet18_adaround", job).results()
        else:
            assert rival is not None
            results = rival.load("resnet18_adaround", job).results()
        seconds, cpu_seconds, *errors = results[0].tolist()
        row[method] = {
            **_times([(seconds, cpu_seconds)]),
            "mean_layer_error": round(sum(errors) / len(errors), 5),
            "layer_errors": [round(error, 5) for error in errors],
        }
        if iterations is not None:
            row[method]["iterations"] = iterations
    print("resnet18_job", json.dumps(row), flush=True)
    return [row]


def main() -> None:
    """Run what is named on the command line, or all."""
    cases: dict[str, Callable[[int, Rival | None], list[dict[str, Any]]]] = {
        "mobilenet_v2": lambda seeds, rival: mobilenet_rows(),
        **{
            f"fashion_{name}": lambda seeds, rival, name=name: fashion_rows(name, seeds, rival)
            for name in fashion_mnist.NETWORKS
        },
        "resnet18_job": lambda seeds, rival: resnet18_rows(rival),
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {list(cases)}")
    parser.add_argument("--output", type=Path, help="file for the results, JSON")
    parser.add_argument("--seeds", type=int, default=1, help="choices of calibration images")
    parser.add_argument("--rival", action="store_true", help="run aimet-torch 2.42 too")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    if arguments.output is not None and arguments.output.exists():
        results = json.loads(arguments.output.read_text())
    results |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    rival: Rival | None = None
    if arguments.rival:
        try:
            rival = Rival(torch.get_num_threads())
        except RivalUnavailableError as error:
            sys.exit(f"aimet-torch cannot be run: {error}")
    for name in arguments.names or list(cases):
        results[name] = cases[name](arguments.seeds, rival)
        results["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        if arguments.output is not None:  # after each, so that a long run loses nothing
            arguments.output.write_text(json.dumps(results, indent=1) + "\n")
    if rival is not None:
        rival.close()


if __name__ == "__main__":
    main()
