"""How the recipes of `benchmarks.qat` were chosen: on training images that were kept out.

``python -m benchmarks.qat_choice [--output FILE] [NAME ...]``. For each network and setting
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
from benchmarks.qat import EPOCHS
from benchmarks.qat_subjects import Training

RESULTS = Path(__file__).resolve().parent / "results" / "qat_choice.json"
HELD_OUT = 5000
#: Learning rates of the network, by setting.
RATES = {
    "W2A2 LSQ": (2e-3, 4e-3, 8e-3),
    "W2A2": (2e-3, 4e-3, 8e-3),
    "W4A4": (1e-3, 2e-3, 4e-3),
    "W8A8": (1e-3, 2e-3, 4e-3),
}


def measure(network: str, setting: str, rate: float, images: int | None) -> float:
    """Accuracy in percent on what was kept out."""
    training = Training(network, setting, 0, EPOCHS, images, {"lr": rate}, HELD_OUT)
    for _ in range(training.steps):
        training.step()
    return round(float(training.accuracies()[1]), 2)


def run(names: list[str], images: int | None, output: Path) -> None:
    """Measure what the file has not yet; the file is written after every training."""
    report: dict[str, Any] = {"held_out": HELD_OUT, "images": images, "rows": []}
    if output.exists():
        report = json.loads(output.read_text())
    done = {(row["network"], row["setting"], row["lr"]) for row in report["rows"]}
    for setting, rates in RATES.items():
        for rate in rates:
            for network in names:
                if (network, setting, rate) in done:
                    continue
                row = {"network": network, "setting": setting, "lr": rate}
                row["percent"] = measure(network, setting, rate, images)
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
