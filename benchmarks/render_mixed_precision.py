"""The table of docs/mixed_precision.md, from ``benchmarks/results/mixed_precision.json``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results") / "mixed_precision.json"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "mixed_precision.md"
TABLE = re.compile(r"(?<=<!-- mixed precision -->\n).*?(?=<!-- /mixed precision -->)", re.DOTALL)


def markdown(report: dict[str, Any]) -> str:
    """The table of docs/mixed_precision.md: means over the seeds."""
    found: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for row in report["rows"]:
        if "rival" in row:
            found.setdefault((row["network"], row["drop"]), []).append(row)
    lines = [
        "| network | allowed drop | aimet-torch 2.42, top-1 | exact choice, top-1 |"
        " bit-operations | evaluations | seconds of a processor |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for (network, drop), rows in sorted(found.items(), key=lambda item: item[0]):
        mean = _means(rows)
        lines.append(
            f"| {network} | {drop:g} | {mean['rival', 'accuracy']:.2f} | "
            f"{mean['exact', 'accuracy']:.2f} | {100 * mean['rival', 'bit_ops']:.1f} : "
            f"{100 * mean['exact', 'bit_ops']:.1f} % | "
            f"{mean['rival', 'evaluations']:.0f} : {mean['exact', 'evaluations']:.0f} | "
            f"{mean['rival', 'cpu_seconds']:.1f} : {mean['exact', 'cpu_seconds']:.1f} |"
        )
    rows = [row for own in found.values() for row in own]
    good = sum(row["exact"]["accuracy"] >= row["rival"]["accuracy"] for row in rows)
    gain = sum(row["exact"]["accuracy"] - row["rival"]["accuracy"] for row in rows)
    lines.append(
        f"\nAt least as good in {good} of {len(rows)} searches; on average "
        f"{gain / max(len(rows), 1):+.2f} points."
    )
    return "\n".join(lines) + "\n"


def _means(rows: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    names = ("accuracy", "bit_ops", "evaluations", "cpu_seconds")
    return {
        (who, name): sum(row[who][name] for row in rows) / len(rows)
        for who in ("rival", "exact")
        for name in names
    }
