"""The table of docs/analysis.md, from ``results/sensitivity.json``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "sensitivity.json"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "analysis.md"
TABLE = re.compile(r"(?<=<!-- sensitivity -->\n).*?(?=<!-- /sensitivity -->)", re.DOTALL)


def markdown(report: dict[str, Any]) -> str:
    """Return the table of a report of ``benchmarks.sensitivity``."""
    lines = [
        "| network | evaluations | rank correlation | at 4 bits | at 8 bits | from SQNR of the "
        "tensors | one pass | evaluating | |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in report["rows"]:
        numbers = (
            f"{row['evaluations']} x {row['samples_evaluated']}",
            f"**{row['spearman']:.3f}**",
            f"{row['spearman_4_bits']:.3f}",
            f"{row['spearman_8_bits']:.3f}",
            f"{row['spearman_sqnr']:.3f}",
            f"{row['seconds_estimating']:.2g} s",
            f"{row['seconds_evaluating']:.3g} s",
            f"1/{1 / row['time_ratio']:.0f}",
        )
        lines.append(f"| {' | '.join((row['network'], *numbers))} |")
    lines += [
        "",
        "Every quantizer alone at 4 and at 8 bits: error of the outputs on inputs that calibrated "
        "nothing (evaluations x inputs) against the estimate, Spearman's rank correlation over all "
        f"of them and within each width. Targets: at least {report['targets']['spearman']}, in at "
        f"most 1/{1 / report['targets']['time']:.0f} of the time.",
    ]
    return "\n".join(lines) + "\n"
