"""The table of docs/low_rank.md, from ``benchmarks/results/low_rank.json``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results") / "low_rank.json"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "low_rank.md"
TABLE = re.compile(r"(?<=<!-- low rank -->\n).*?(?=<!-- /low rank -->)", re.DOTALL)


def markdown(report: dict[str, Any]) -> str:
    """Plain truncation beside factors that are fitted to data, without training."""
    lines = [
        "| Fashion-MNIST, all layers at half their MACs | FP32 | scheme | truncated |"
        " fitted to data | worst layer |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for row in report["rows"]:
        if row["metric"] != "mac":
            continue
        for scheme in ("spatial", "auto"):
            found = row[f"{scheme}_data"]
            lines.append(
                f"| {row['network']} | {row['float']:.2f} | `{scheme}` |"
                f" {row[f'{scheme}_plain']:.2f} | {sum(found) / len(found):.2f}"
                f" [{min(found):.2f}, {max(found):.2f}] | {row[f'{scheme}_worst_layer']:.2f} |"
            )
    lines += [
        "",
        f"Top-1 in %, {report['images']:,} images without labels, means over {len(report['seeds'])}"
        " choices of them, the range in brackets. Every convolution of one group behind the first"
        " layer. Worst layer: the largest error of a layer's outputs, fitted, over that of the"
        " truncated weight; below 1, every layer gains. `python -m benchmarks.low_rank`",
    ]
    return "\n".join(lines) + "\n"
