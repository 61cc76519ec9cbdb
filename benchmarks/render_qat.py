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
        controls = [row["ours"] for row in of_network if row["setting"] == "FP32"]
        fp32 = statistics.mean(row["calibrated"] for row in controls)
        for setting in sorted({row["setting"] for row in of_network} - {"FP32"}, key=_place):
            found = [row for row in of_network if row["setting"] == setting]
            rivals = [row for row in found if "rival" in row]
            seeds |= {row["seed"] for row in found}
            rival_seeds |= {row["seed"] for row in rivals}
            trained = [row["ours"]["trained"] for row in found]
            missed = statistics.mean(trained) < fp32 - float(report["allowed"][setting])
            lines.append(
                f"| {network}, {setting} | {fp32:.2f}"
                f" | {statistics.mean(r['ours']['calibrated'] for r in found):.2f}"
                f" | {_spread(trained)}{' (target missed)' if missed else ''}"
                f" | {_spread([r['rival']['trained'] for r in rivals])} | {_steps(rivals)} |"
            )
        control = [row["trained"] for row in controls]
        lines.append(f"| {network}, FP32 | {fp32:.2f} | - | {_spread(control)} | - | - |")
    machine = report["environment"]
    lines += [
        "",
        f"Means and, behind ±, half the distance of the extremes of {len(seeds)} trainings (seeds"
        f" of the images that calibrate and of the order of batches); aimet-torch trained"
        f" {len(rival_seeds)} of them, its steps turn by turn with ours. FP32 trained as long is"
        " the control: the networks were not trained to the end. Both libraries learn limits;"
        " LSQ learns scales, which aimet-torch cannot. At 2 bits, weights and inputs of the first"
        " and last layer have 8 bits in both. Below 8 bits both re-estimate batch norms at the"
        " end; at 2 bits this project does so one after the other."
        " Aims: FP32, 0.5 points below it, 4 points below it."
        f" One thread, {machine['processor']}, torch {machine['torch']};"
        " `python -m benchmarks.qat`.",
    ]
    return "\n".join(lines) + "\n"


def _place(setting: str) -> tuple[int, str]:
    """Many bits first."""
    return -int(setting[1]), setting


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
