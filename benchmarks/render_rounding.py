"""The README's table of what rounding recovers, from ``benchmarks/results/rounding.json``."""

from __future__ import annotations

from typing import Any

_METHODS = {
    "nearest": "nearest",
    "aimet_torch_adaround": "aimet-torch 2.42 AdaRound",
    "adaround": "AdaRound",
    "blocks": "block reconstruction",
}


def markdown(report: dict[str, Any]) -> str:
    """Return the tables of a report of ``benchmarks.rounding``."""
    parts = []
    if "mobilenet_v2" in report:
        parts.append(_mobilenet(report["mobilenet_v2"]))
    if any(key.startswith("fashion_") for key in report):
        parts.append(_fashion(report))
    if "resnet18_job" in report:
        parts.append(_resnet(report["resnet18_job"][0]))
    return "\n\n".join(parts) + "\n"


def _setting(row: dict[str, Any]) -> str:
    activations = row["activation_bits"]
    return f"W{row['weight_bits']}" + ("" if activations == 32 else f"A{activations}")


def _mobilenet(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| MobileNetV2, 64 photographs and mirror images: agreement on 143 others, SQNR | nearest |"
        " AdaRound | block reconstruction |",
        "|---|---:|---:|---:|",
    ]
    for row in rows:
        cells = [_setting(row)]
        for method in ("nearest", "adaround", "blocks"):
            found = row.get(method)
            if found is None:
                cells.append("-")
                continue
            text = f"{found['agreement_percent']:.1f} %, {found['sqnr_db']:.1f} dB"
            cells.append(text + _time(found))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _fashion(report: dict[str, Any]) -> str:
    networks = [key for key in report if key.startswith("fashion_")]
    methods = [m for m in _METHODS if any(m in row for key in networks for row in report[key])]
    title = " | ".join(_METHODS[method] for method in methods)
    lines = [f"| Fashion-MNIST, top-1 | FP32 | {title} |", "|---|---:|" + "---:|" * len(methods)]
    for key in networks:
        for row in report[key]:
            network = key.removeprefix("fashion_")
            cells = [f"{network} {_setting(row)}", f"{row['fp32_percent']:.2f}"]
            cells += [_cell(row.get(method)) for method in methods]
            lines.append(f"| {' | '.join(cells)} |")
    row = report[networks[0]][0]
    lines += [
        "",
        f"Mean over {row['seeds']} choices of 1,024 calibration images (range in brackets; one"
        " choice where there is none), and the processor seconds of the job; weights per channel,"
        " aimet-torch with 1,000 iterations a layer.",
    ]
    return "\n".join(lines)


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return "-"
    low, high = found["range"]
    spread = f" [{low:.2f}, {high:.2f}]" if high > low else ""
    return f"{found['top1_percent']:.2f}{spread}{_time(found)}"


def _time(found: dict[str, Any]) -> str:
    return f", {found['cpu_seconds']:.0f} s" if "cpu_seconds" in found else ""


def _resnet(row: dict[str, Any]) -> str:
    lines = [
        "| ResNet-18, 3x32x32, batch of 32, W4 | time | error of a layer's output on new data |",
        "|---|---:|---:|",
    ]
    for method in ("aimet_torch_adaround", "adaround"):
        if method in row:
            found = row[method]
            steps = f", {found['iterations']} iterations" if "iterations" in found else ""
            lines.append(
                f"| {_METHODS[method]}{steps} | {found['seconds']:.1f} s,"
                f" {found['cpu_seconds']:.1f} s of a processor |"
                f" {100 * found['mean_layer_error']:.2f} % |"
            )
    return "\n".join(lines)
