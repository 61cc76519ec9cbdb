"""The tables of the model zoo in README.md and docs/zoo.md, from ``results/zoo.json``."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "zoo.json"
PAGE = RESULTS.parents[2] / "docs" / "zoo.md"
TABLE = re.compile(r"(?<=<!-- zoo -->\n).*?(?=<!-- /zoo -->)", re.DOTALL)
GRAPHS = re.compile(r"(?<=<!-- zoo graphs -->\n).*?(?=<!-- /zoo graphs -->)", re.DOTALL)
#: What the compression of a row is called.
SCHEMES = {
    "channel_pruning": "channels pruned",
    "spatial_svd": "spatial SVD",
    "weight_svd": "weight SVD",
}
_SCORES = ("fp32", "w8a8", "w4a8", "compressed", "compressed_w8a8")
#: Digits of a score behind the point, by its unit.
_DIGITS = {"Spearman": 3, "% agreement": 1, "dB": 1}
_GRAPHS = "dB"


def summary(report: dict[str, Any]) -> str:
    """Return the table of networks with trained weights, for the README."""
    return f"{markdown(report).rstrip()} More, and how to repeat it: [docs/zoo.md](docs/zoo.md).\n"


def markdown(report: dict[str, Any]) -> str:
    """Return the table of networks with trained weights."""
    trained, graphs = _rows(report)
    lines = [
        "| network | score | FP32 | W8A8 | W4A8 | MACs left | compressed | compressed W8A8 |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in trained:
        fp32, w8a8, w4a8, *compressed = (_score(row, column) for column in _SCORES)
        left = f"{100 * row['macs']:.0f} %, {SCHEMES[row['scheme']]}"
        cells = [row["network"], row["unit"], fp32, w8a8, w4a8, left, *compressed]
        lines.append(f"| {' | '.join(cells)} |")
    data = " ".join(f"{names}: {data}." for data, names in _by_data(trained).items())
    machine = report["environment"]
    lines += [
        "",
        "No labels, no training: quantized by `quantize_without_labels`, compressed by"
        " `ModelCompressor` with the exact choice of ratios, fitted to the inputs that calibrate."
        f" {data} One seed, {machine['processor']}, torch {machine['torch']};"
        f" `python -m zoo`. With random weights, {len(graphs)} of torchvision's architectures go"
        " the same way.",
    ]
    return "\n".join(lines) + "\n"


def graphs(report: dict[str, Any]) -> str:
    """Return the table of architectures with random weights."""
    _, rows = _rows(report)
    lines = [
        "| architecture | W8A8 | W4A8 | MACs left | compressed | compressed W8A8"
        " | its file in ONNX Runtime |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: str(row["network"])):
        _, w8a8, w4a8, *compressed = (_score(row, column) for column in _SCORES)
        left = f"{100 * row['macs']:.0f} %"
        cells = [row["network"], w8a8, w4a8, left, *compressed, _file(row)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _rows(report: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of trained networks, accuracies last, and rows with random weights."""
    rows = list(report["rows"].values())
    trained = [row for row in rows if row["unit"] != _GRAPHS]
    trained.sort(key=lambda row: (row["unit"] == "% top-1", row["network"]))
    return trained, [row for row in rows if row["unit"] == _GRAPHS]


def _score(row: dict[str, Any], column: str) -> str:
    return _number(float(row[column]), _DIGITS.get(row["unit"], 2))


def _number(value: float, digits: int) -> str:
    return "exact" if math.isinf(value) else f"{value:.{digits}f}"


def _file(row: dict[str, Any]) -> str:
    if "onnx_sqnr_db" not in row:
        return "-"
    value = float(row["onnx_sqnr_db"])
    if math.isinf(value):
        return "equal"
    equal = min(100 * row["onnx_equal"], 99.9)  # never rounded up to all
    return f"{equal:.1f} % equal, {value:.1f} dB"


def _by_data(rows: list[dict[str, Any]]) -> dict[str, str]:
    """What rows were measured on -> the networks, or what several of them are called by."""
    found: dict[str, list[str]] = {}
    for row in rows:
        found.setdefault(row["data"], []).append(row["network"].partition(",")[0])
    return {data: ", ".join(dict.fromkeys(names)) for data, names in found.items()}
