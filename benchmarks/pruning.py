"""Channel pruning without fine-tuning: magnitudes, the LASSO and Gram matrices side by side.

The whole model at half its multiply-accumulates. ``python -m benchmarks.pruning`` writes
``benchmarks/results/pruning.json``. Accuracies are exact for a seed of the calibration images;
their spread over seeds is given.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch

from aimet_torch.common.tables import text_table
from aimet_torch.compression import PruningPlan
from benchmarks import fashion_mnist
from benchmarks.environment import write_rows

RESULTS = Path(__file__).with_name("results") / "pruning.json"
IMAGES = 1024
SEEDS = (0, 1, 2)
RATIO = 0.5
SELECTIONS = ("magnitude", "lasso", "gram")
ALLOCATIONS = ("uniform", "errors")


def measure(name: str) -> dict[str, Any]:
    """Return the accuracies of one network in percent, before and behind each method."""
    model = fashion_mnist.trained(name)
    x = fashion_mnist.calibration_batches(1)[0]
    plain = PruningPlan(model, x)
    result = plain.apply(plain.counts(RATIO))
    row: dict[str, Any] = {
        "network": name,
        "ratio": RATIO,
        "float": fashion_mnist.accuracy(model),
        "not_fitted": fashion_mnist.accuracy(result.model),
    }
    for selection in SELECTIONS:
        for allocation in ALLOCATIONS:
            row[f"{selection}_{allocation}"] = []
    for seed in SEEDS:
        data = fashion_mnist.calibration_batches(IMAGES, seed=seed)
        for selection in SELECTIONS:
            plan = PruningPlan(model, x, data=data, selection=selection)
            for allocation in ALLOCATIONS:
                result = plan.apply(plan.counts(RATIO, allocation=allocation))
                accuracy = fashion_mnist.accuracy(result.model)
                row[f"{selection}_{allocation}"].append(accuracy)
                row[f"{selection}_{allocation}_mac_ratio"] = result.mac_ratio
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Return the results as a table of text."""
    methods = [f"{s}_{a}" for s in SELECTIONS for a in ALLOCATIONS]
    cells = []
    for row in rows:
        line = [row["network"], f"{row['float']:.2f}", f"{row['not_fitted']:.2f}"]
        for method in methods:
            low, high = min(row[method]), max(row[method])
            line.append(f"{statistics.mean(row[method]):.2f} ({low:.2f} to {high:.2f})")
        cells.append(line)
    header = ["network", "float", "magnitude, not fitted"]
    return text_table([*header, *(method.replace("_", ", ") for method in methods)], cells)


def main() -> None:
    """Measure all networks, print a table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS)
    output = parser.parse_args().output
    torch.manual_seed(0)
    rows = [measure(name) for name in fashion_mnist.NETWORKS]
    write_rows(output, rows, images=IMAGES, seeds=SEEDS)
    print(table(rows))


if __name__ == "__main__":
    main()
