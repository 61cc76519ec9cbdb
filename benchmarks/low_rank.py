"""Low-rank factors without fine-tuning: plain truncation beside factors fitted to data.

Every convolution of one group behind the first layer is replaced at half its cost; linear layers
keep their shape. ``python -m benchmarks.low_rank`` writes ``benchmarks/results/low_rank.json``.
Accuracies are exact for a seed of the calibration images; their spread over seeds is given.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aimet_torch.common.defs import CostMetric
from aimet_torch.common.tables import text_table
from aimet_torch.compression import factorize
from benchmarks import fashion_mnist
from benchmarks.environment import write_rows

RESULTS = Path(__file__).with_name("results") / "low_rank.json"
IMAGES = 1024
SEEDS = (0, 1, 2)
SCHEMES = ("spatial", "auto")


def measure(name: str, metric: CostMetric, ratio: float = 0.5) -> dict[str, Any]:
    """Return the accuracies of one network in percent, before and behind each method."""
    model = fashion_mnist.trained(name)
    layers = [
        key
        for key, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and module.groups == 1
    ][1:]
    x = fashion_mnist.calibration_batches(1)[0]
    row: dict[str, Any] = {
        "network": name,
        "metric": metric.name,
        "ratio": ratio,
        "float": fashion_mnist.accuracy(model),
    }
    for scheme in SCHEMES:
        options: dict[str, Any] = {"scheme": scheme, "metric": metric}
        ratios = dict.fromkeys(layers, ratio)
        plain = factorize(model, x, ratios, **options)
        row[f"{scheme}_plain"] = fashion_mnist.accuracy(plain.model)
        fitted = [
            factorize(
                model, x, ratios, data=fashion_mnist.calibration_batches(IMAGES, seed=seed),
                **options,
            )
            for seed in SEEDS
        ]  # fmt: skip
        row[f"{scheme}_data"] = [fashion_mnist.accuracy(each.model) for each in fitted]
        row[f"{scheme}_mac_ratio"] = fitted[0].mac_ratio
        row[f"{scheme}_worst_layer"] = max(
            layer.output_error / layer.plain_error
            for each in fitted
            for layer in each.layers
            if layer.output_error is not None and layer.plain_error
        )
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Return the results as a table of text."""
    header = ["network", "metric", "float"]
    header += [f"{scheme}: {what}" for scheme in SCHEMES for what in ("plain", "with data")]
    cells = []
    for row in rows:
        line = [row["network"], row["metric"], f"{row['float']:.2f}"]
        for scheme in SCHEMES:
            low, high = min(row[f"{scheme}_data"]), max(row[f"{scheme}_data"])
            mean = statistics.mean(row[f"{scheme}_data"])
            line += [f"{row[f'{scheme}_plain']:.2f}", f"{mean:.2f} ({low:.2f} to {high:.2f})"]
        cells.append(line)
    return text_table(header, cells)


def main() -> None:
    """Measure all networks, print a table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS)
    output = parser.parse_args().output
    torch.manual_seed(0)
    rows = [
        measure(name, metric)
        for name in fashion_mnist.NETWORKS
        for metric in (CostMetric.mac, CostMetric.memory)
    ]
    write_rows(output, rows, images=IMAGES, seeds=SEEDS)
    print(table(rows))


if __name__ == "__main__":
    main()
