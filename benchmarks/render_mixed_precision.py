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
    if report.get("mobilenet_v2"):
        lines += ["", *_mobilenet(report["mobilenet_v2"])]
    return "\n".join(lines) + "\n"


def _mobilenet(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| MobileNetV2, candidates W8A16 to W4A8 | AIMET's search, run by this project |"
        " exact choice | bit-operations | evaluations | seconds of a processor |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        search, exact = row["search"], row["exact"]
        found = [f"{c['agreement']:.1f} %, {c['sqnr_db']:.1f} dB" for c in (search, exact)]
        lines.append(
            f"| {30 - row['drop_db']:g} dB wanted: agreement with FP32, SQNR | {found[0]} | "
            f"{found[1]} | {100 * search['bit_ops']:.1f} : {100 * exact['bit_ops']:.1f} % | "
            f"{search['evaluations']} : {exact['evaluations']} | "
            f"{search['cpu_seconds']:.0f} : {exact['cpu_seconds']:.0f} |"
        )
    return lines


def _means(rows: list[dict[str, Any]]) -> dict[tuple[str, str], float]:
    names = ("accuracy", "bit_ops", "evaluations", "cpu_seconds")
    return {
        (who, name): sum(row[who][name] for row in rows) / len(rows)
        for who in ("rival", "exact")
        for name in names
    }
