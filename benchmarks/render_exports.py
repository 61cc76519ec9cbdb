"""The table of docs/export.md: which networks export, from ``results/exports.json``."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "exports.json"
PAGE = RESULTS.parents[2] / "docs" / "export.md"
TABLE = re.compile(r"(?<=<!-- exports -->\n).*?(?=<!-- /exports -->)", re.DOTALL)
_EMPTY = "-"


def markdown(report: dict[str, Any]) -> str:
    """Return the table of a report of ``benchmarks.export_sweep``."""
    rows = {(row["network"], row["opset"]): row for row in report["rows"]}
    networks = list(dict.fromkeys(network for network, _ in rows))
    opsets = sorted({opset for _, opset in rows})
    lines = [
        f"| network | noise, dB | {' | '.join(f'opset {opset}' for opset in opsets)} |",
        f"|---|---:|{'---:|' * len(opsets)}",
    ]
    for network in networks:
        found = [rows.get((network, opset)) for opset in opsets]
        noise = next(float(row["noise_db"]) for row in found if row is not None)
        cells = [f"{noise:.1f}", *map(_cell, found)]
        lines.append(f"| {network} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(row: dict[str, Any] | None) -> str:
    if row is None:
        return _EMPTY
    if "error" in row:
        return str(row["error"]).replace("|", "/")
    sqnr = float(row["sqnr_db"])
    if math.isinf(sqnr):
        return "exact"
    equal = min(100 * row["equal"], 99.9)  # never rounded up to all
    return f"{equal:.1f} %, {sqnr:.1f} dB"
