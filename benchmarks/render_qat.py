"""The README's table of quantization-aware training; see `benchmarks.qat`."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "qat.json"
TABLE = re.compile(r"(?<=<!-- qat -->\n).*?(?=<!-- /qat -->)", re.DOTALL)


def markdown(report: dict[str, Any]) -> str:
    """Return the table of a report of `benchmarks.qat`."""
    lines = [
        "| Fashion-MNIST, top-1 in % | FP32 | calibrated | 2 epochs of training"
        " | aimet-torch 2.42, the same loop | a step of ours, of theirs |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    rows = report["rows"]
    seeds, rival_seeds = set(), set()
    for network in dict.fromkeys(row["network"] for row in rows):
        of_network = [row for row in rows if row["network"] == network]
        fp32 = statistics.mean(r["ours"]["calibrated"] for r in of_network if r["bits"] == 32)
        for bits in sorted({row["bits"] for row in of_network} - {32}, reverse=True):
            found = [row for row in of_network if row["bits"] == bits]
            rivals = [row for row in found if "rival" in row]
            seeds |= {row["seed"] for row in found}
            rival_seeds |= {row["seed"] for row in rivals}
            trained = [row["ours"]["trained"] for row in found]
            missed = statistics.mean(trained) < fp32 - float(report["allowed"][str(bits)])
            lines.append(
                f"| {network}, W{bits}A{bits} | {fp32:.2f}"
                f" | {statistics.mean(r['ours']['calibrated'] for r in found):.2f}"
                f" | {_spread(trained)}{' (target missed)' if missed else ''}"
                f" | {_spread([r['rival']['trained'] for r in rivals])} | {_steps(rivals)} |"
            )
        control = [r["ours"]["trained"] for r in of_network if r["bits"] == 32]
        lines.append(f"| {network}, FP32 | {fp32:.2f} | - | {_spread(control)} | - | - |")
    machine = report["environment"]
    lines += [
        "",
        f"Means and, behind ±, half the distance of the extremes of {len(seeds)} trainings (seeds"
        f" of the images that calibrate and of the order of batches); aimet-torch trained"
        f" {len(rival_seeds)} of them, its steps turn by turn with ours. FP32 trained as long is"
        " the control: the networks were not trained to the end. W8A8 and W4A4 learn limits in"
        " both libraries; W2A2 learns scales by LSQ here, and weights and inputs of the first and"
        " last layer have 8 bits in both; below 8 bits both re-estimate batch norms at the end."
        " Aims: FP32, 0.5 points below it, 4 points below it."
        f" One thread, {machine['processor']}, torch {machine['torch']};"
        " `python -m benchmarks.qat`.",
    ]
    return "\n".join(lines) + "\n"


def _spread(values: list[float]) -> str:
    if not values:
        return "-"
    text = f"{statistics.mean(values):.2f}"
    return text if len(values) == 1 else f"{text} ± {(max(values) - min(values)) / 2:.2f}"


def _steps(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "-"
    ours, theirs = (
        statistics.median(r[name]["step_ms"] for r in rows) for name in ("ours", "rival")
    )
    faster = statistics.median(row["times_faster"] for row in rows)
    return f"{ours:.0f} ms, {theirs:.0f} ms: {faster:.2g}x"
