"""Keep the results of a demo: benchmarks/results/demo.json, and the README's table made from it.

usage: make demo && python .ci/record_demo.py
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "demo_out" / "report.json"
RESULTS = ROOT / "benchmarks" / "results" / "demo.json"
README = ROOT / "README.md"
TABLE = re.compile(r"(?<=<!-- demo -->\n).*?(?=<!-- /demo -->)", re.DOTALL)


def kept(report: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a report that is worth keeping under version control."""
    # Not the times: they are those of whatever else the machine did.
    steps = [
        {key: step[key] for key in ("name", "top1_agreement", "sqnr_db")}
        for step in report["steps"]
    ]
    kept_keys = ("title", "description", "environment")
    return {key: report[key] for key in kept_keys} | {"steps": steps}


def markdown(results: dict[str, Any]) -> str:
    """Return the README's table of recorded results."""
    lines = [
        "| MobileNetV2, ImageNet weights | top-1 agreement with FP32 | SQNR of the logits |",
        "|---|---:|---:|",
    ]
    for step in results["steps"]:
        if step["top1_agreement"] is not None:
            ratio = step["sqnr_db"]
            text = "exact" if ratio == "inf" else f"{ratio:.1f} dB"
            lines.append(f"| {step['name']} | {100 * step['top1_agreement']:.1f} % | {text} |")
    machine = results["environment"]
    lines += [
        "",
        f"{results['description']} Measured with torch {machine['torch']},"
        f" {machine['CPU kernels']} kernels. Per tensor and per channel: scales of the weights;"
        " folded: batch norms; equalized: cross-layer equalization. No labels, no training.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Copy the results and renew the table."""
    results = kept(json.loads(SOURCE.read_text()))
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    README.write_text(TABLE.sub(lambda _: markdown(results), README.read_text()))


if __name__ == "__main__":
    main()
