"""Tables of compression in README and docs, from ``benchmarks/results/compression.json``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results") / "compression.json"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "compression.md"
TABLE = re.compile(r"(?<=<!-- compression -->\n).*?(?=<!-- /compression -->)", re.DOTALL)

Row = dict[str, Any]

_SCHEMES = {
    "spatial_svd": "spatial SVD",
    "weight_svd": "weight SVD",
    "channel_pruning": "channel pruning",
}


def summary(report: Row) -> str:
    """The README's tables: half the multiply-accumulates after training, and without."""
    rows = report["rows"]
    lines = [
        "| Fashion-MNIST, top-1 in % | FP32 | trained as long in FP32 | MACs | compressed |"
        " 3 epochs | time of 1 picture, of 16 |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for network in _names(rows, "tuned"):
        lines.append(_tuned(network, _part(rows, f"tuned/{network}/")))
    seeds = max(len(_part(rows, f"tuned/{n}/")) for n in _names(rows, "tuned"))
    lines += [
        "",
        "| without training, half the MACs asked for | FP32 | aimet-torch 2.42 |"
        " this project, fitted to data | of AIMET's loss |",
        "|---|---:|---:|---:|---:|",
        *_plain(rows, "greedy"),
        "",
        f"Means over {seeds} choices of the calibration pictures, the range in brackets; behind "
        "the colon the share of multiply-accumulates that is left. First table: spatial SVD, then "
        "channel pruning, then training; times in ONNX Runtime, one thread, turn by turn. Second "
        "table: each library chooses the ratios of the layers, aimet-torch by its greedy search, "
        "this project by the exact one." + _search(rows),
    ]
    return "\n".join(lines) + "\n"


def markdown(report: Row) -> str:
    """The tables of docs/compression.md: the same ratio for every layer, and ratios reached."""
    rows = report["rows"]
    lines = [
        "| the same ratio, 0.5, for every layer | FP32 | aimet-torch 2.42 |"
        " this project, fitted to data | of AIMET's loss |",
        "|---|---:|---:|---:|---:|",
        *_plain(rows, "uniform"),
        "",
        "Fashion-MNIST, top-1 in %, without training: means over the choices of the calibration "
        "pictures, the range in brackets; behind the colon the share of multiply-accumulates that "
        "is left. A ratio of channels is one of each layer's inputs; this project takes the "
        "outputs that nothing reads any more out of all coupled layers.",
        "",
    ]
    shapes = {n: _part(rows, f"shapes/{n}/") for n in _names(rows, "shapes")}
    asked = sorted({row["asked"] for found in shapes.values() for row in found})
    lines.append(f"| asked for | {' | '.join(f'{ratio:g}' for ratio in asked)} |")
    lines.append("|---|" + "---:|" * len(asked))
    for network, found in shapes.items():
        reached = {row["asked"]: f"{row['reached']:.4f}" for row in found}
        cells = " | ".join(reached.get(ratio, "-") for ratio in asked)
        lines.append(f"| {network}, reached | {cells} |")
    for network in _names(rows, "together"):
        (row,) = _part(rows, f"together/{network}")
        lines += ["", *_together(network, row["steps"])]
    return "\n".join(lines) + "\n"


def _together(network: str, steps: Sequence[Row]) -> list[str]:
    lines = [
        f"| {network}, step by step | top-1 in % | MACs | bytes of weights | 16 pictures |",
        "|---|---:|---:|---:|---:|",
    ]
    for step in steps:
        time = f"{step['milliseconds']:.2f} ms"
        if step is not steps[0]:
            time += f", {step['times_faster']:.2f}x faster"
        lines.append(
            f"| {step['step']} | {step['accuracy']:.2f} | {step['macs']:,} | {step['bytes']:,} |"
            f" {time} |"
        )
    return lines


def _names(rows: Row, kind: str) -> list[str]:
    return list(dict.fromkeys(key.split("/")[1] for key in rows if key.startswith(f"{kind}/")))


def _part(rows: Row, start: str) -> list[Row]:
    return [row for key, row in rows.items() if key.startswith(start)]


def _tuned(network: str, found: Sequence[Row]) -> str:
    times = [_mean([row["speedup"][size] for row in found]) for size in ("1", "16")]
    cells = [
        f"{found[0]['before']:.2f}",
        _range([row["control"] for row in found]),
        f"{_mean([row['mac_ratio'] for row in found]):.2f}",
        _range([row["compressed"] for row in found]),
        _range([row["tuned"] for row in found]),
        f"{times[0]:.2f}x, {times[1]:.2f}x faster",
    ]
    return f"| {network} | {' | '.join(cells)} |"


def _plain(rows: Row, selection: str) -> list[str]:
    lines = []
    for key, row in rows.items():
        if not (key.startswith("plain/") and key.endswith(f"/{selection}")):
            continue
        _, network, scheme, _ = key.split("/")
        ours = [one for one in row["ours_data"] if "after" in one]
        theirs = row.get("rival", {"error": "not measured"})
        before = ours[0]["before"]
        after = _mean([one["after"] for one in ours])
        macs = _mean([one["mac_ratio"] for one in ours])
        text, share = f"error: {theirs.get('error', '')[:60]}", "-"
        if "after" in theirs:
            text = f"{theirs['after']:.2f} : {theirs['mac_ratio']:.2f}"
            share = f"{(before - after) / (theirs['before'] - theirs['after']):.2f}"
        own = f"{_range([one['after'] for one in ours])} : {macs:.2f}"
        lines.append(f"| {network}, {_SCHEMES[scheme]} | {before:.2f} | {text} | {own} | {share} |")
    return lines


def _search(rows: Row) -> str:
    row = rows.get("search/resnet18")
    if row is None or "rival" not in row:
        return ""
    return (
        " The whole search for ResNet-18's shapes at 64 x 64 with 500 pictures takes "
        f"{row['rival']:.0f} s there, {row['ours_greedy']:.0f} s with the same search here and "
        f"{row['ours_exact']:.1f} s with the exact one ({row['times_faster']:.0f} times faster)."
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _range(values: Sequence[float]) -> str:
    mean = f"{_mean(values):.2f}"
    if len(values) == 1:
        return mean
    return f"{mean} [{min(values):.2f}, {max(values):.2f}]"
