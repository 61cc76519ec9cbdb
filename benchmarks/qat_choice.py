"""How the recipes of `benchmarks.qat` were chosen: on training images that were kept out.

``python -m benchmarks.qat_choice [--output FILE] [NAME ...]``. For each network and number of bits
learning rates around those of `benchmarks.qat_subjects.RECIPES` train on all but the last 5,000
training images, which measure. No test image is read. Another recipe replaces that of
`RECIPES` if its mean over the networks is better by a tenth of a point, which is what seeds make
of one and the same. The networks themselves were trained on all training images, so only
differences between recipes mean something here.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks import fashion_mnist
from benchmarks.qat import BITS, EPOCHS
from benchmarks.qat_subjects import RECIPES, Training

RESULTS = Path(__file__).resolve().parent / "results" / "qat_choice.json"
HELD_OUT = 5000
#: Factors of the network's learning rate, and of those of ranges.
FACTORS = ((1.0, 1.0), (0.5, 1.0), (2.0, 1.0))


def measure(network: str, bits: int, factors: tuple[float, float], images: int | None) -> float:
    """Accuracy in percent on what was kept out."""
    recipe, (of_network, of_ranges) = RECIPES[bits], factors
    rates = {
        "lr": recipe.lr * of_network,
        "param_range_lr": recipe.param_range_lr * of_ranges,
        "activation_range_lr": recipe.activation_range_lr * of_ranges,
    }
    training = Training(network, bits, 0, EPOCHS, images, rates, HELD_OUT)
    for _ in range(training.steps):
        training.step()
    return round(float(training.accuracies()[1]), 2)


def run(names: list[str], images: int | None, output: Path) -> None:
    """Measure what the file has not yet; the file is written after every training."""
    report: dict[str, Any] = {"held_out": HELD_OUT, "images": images, "rows": []}
    if output.exists():
        report = json.loads(output.read_text())
    done = {(r["network"], r["bits"], r["lr_factor"], r["range_factor"]) for r in report["rows"]}
    for bits in BITS:
        for factors in FACTORS:
            for network in names:
                if (network, bits, *factors) in done:
                    continue
                row = {"network": network, "bits": bits}
                row |= dict(zip(("lr_factor", "range_factor"), factors, strict=True))
                row["percent"] = measure(network, bits, factors, images)
                report["rows"].append(row)
                print(json.dumps(row), flush=True)
                output.write_text(json.dumps(report, indent=1) + "\n")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {list(fashion_mnist.NETWORKS)}; all without")
    parser.add_argument("--images", type=int, help="of the 55,000, to try something out")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run(arguments.names or list(fashion_mnist.NETWORKS), arguments.images, arguments.output)


if __name__ == "__main__":
    main()
