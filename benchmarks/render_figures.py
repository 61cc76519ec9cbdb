"""Pictures and costs of the documentation, from ``results/*.json``; see `benchmarks.effects`."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks import charts

RESULTS = Path(__file__).resolve().parent / "results"
DOCS = Path(__file__).resolve().parents[1] / "docs"
FOLDER = DOCS / "figures"
_MEAN = statistics.mean


def read(name: str) -> Any:
    """Return a committed report."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def _repair() -> str:
    groups: dict[str, dict[str, float]] = {}
    for row in read("accuracy")["rows"]:
        if row["setting"] != "W8A8, scales per channel" or row["is_effect"]:
            continue
        if "agreement_percent" not in row["scores"]:
            continue
        values = {"this project": _MEAN(row["scores"]["agreement_percent"])}
        if "scores" in row.get("rival", {}):
            values["aimet-torch 2.42"] = _MEAN(row["rival"]["scores"]["agreement_percent"])
        label = re.sub(r" \(.*", "", row["recipe"].replace("`", ""))
        groups[label] = values
    title = "MobileNetV2, W8A8: first choices that stay those of FP32"
    return charts.bars(title, groups, " %", (50, 100))


def _grid() -> str:
    row = read("effects")["ranges"]
    panels, grids = {}, []
    for method, label in (("min_max", "min-max"), ("mse", "least squared error")):
        low, high, error = row["methods"][method]
        panels[f"{label}: error {100 * error:.1f} % of the power"] = row["counts"]
        step = (high - low) / (2 ** row["bits"] - 1)
        grids.append([low + k * step for k in range(2 ** row["bits"])])
    title = f"MobileNetV2, {row['layer']}: {row['bits']} bits have {2 ** row['bits']} values"
    return charts.histograms(
        title,
        panels,
        (row["low"], row["high"]),
        _within(grids, row["low"], row["high"]),
        "value; counts on a logarithmic scale",
    )


def _within(grids: Iterable[Iterable[float]], low: float, high: float) -> list[list[float]]:
    return [[value for value in grid if low <= value <= high] for grid in grids]


def _ranges() -> str:
    row = read("effects")["ranges"]
    names = {"min_max": "min-max", "tf_enhanced": "TF-enhanced", "mse": "least squared error"}
    span = row["high"] - row["low"]
    points = {
        names[method]: (min((high - low) / span, 1.0), error)
        for method, (low, high, error) in row["methods"].items()
    }
    title = f"MobileNetV2, {row['layer']}, {row['bits']} bits: the error of every range"
    labels = ("range as a share of that of all values", "squared error / power")
    limits = (0.0, 0.15)
    curve = [point for point in row["curve"] if point[1] <= limits[1]]
    return charts.lines(title, {"": curve}, labels, points=points, limits=limits)


def _equalization() -> str:
    row = read("effects")["equalization"]
    panels = {"before": row["before"], "behind equalize_model": row["after"]}
    title = f"MobileNetV2, {row['layer']}: weights of each channel, from least to largest"
    return charts.spans(title, panels)


def _activations() -> str:
    row = read("effects")["activation_equalization"]
    title = f"MobileNetV2, {row['layer']}: largest value of each channel"
    zeros = [0.0] * len(row["before"])
    panels = {
        "before": (zeros, row["before"]),
        "behind equalize_activations": (zeros, row["after"]),
    }
    return charts.spans(title, panels, is_shared=True)


def _biases() -> str:
    row = read("effects")["bias_correction"]
    panels = {
        name: ([min(v, 0.0) for v in row[key]], [max(v, 0.0) for v in row[key]])
        for name, key in (("before", "before"), ("behind correct_bias", "after"))
    }
    title = f"MobileNetV2, {row['layer']}, W8A8 per tensor: shift of each channel's mean"
    return charts.spans(title, panels, is_shared=True)


def _distances() -> str:
    row = read("effects")["rounding"]
    panels = {}
    for name, counts in row["distances"].items():
        error = _MEAN(row["errors"][name])
        panels[f"{name}: error of a layer's output {100 * error:.2f} %"] = counts
    title = f"Fashion-MNIST {row['network']}, W{row['bits']}: where weights are rounded to"
    label = "integer less weight, in steps; counts on a logarithmic scale"
    return charts.histograms(title, panels, (-1.5, 1.5), [[-0.5, 0.5]] * 2, label)


def _rounding() -> str:
    names = {"nearest": "nearest", "adaround": "AdaRound", "blocks": "block reconstruction"}
    groups = {}
    for row in read("rounding")["mobilenet_v2"]:
        activations = row["activation_bits"]
        label = f"W{row['weight_bits']}" + ("" if activations == 32 else f"A{activations}")
        groups[label] = {names[key]: row[key]["agreement_percent"] for key in names if key in row}
    title = "MobileNetV2: first choices that stay those of FP32"
    return charts.bars(title, groups, " %", (0, 100))


def _batch_norms() -> str:
    names = {
        "running": "running averages of the training",
        "batches": "averages of batches (AIMET's)",
        "sequential": "one after the other",
    }
    row = read("effects")["batch_norms"]
    groups = {
        each["network"]: {label: each[key] for key, label in names.items()} for each in row["rows"]
    }
    title = "Fashion-MNIST, W2A2 behind one epoch: top-1 by the statistics of batch norms"
    return charts.bars(title, groups, " %", (70, 95))


def _training() -> str:
    rows = read("qat")["rows"]
    groups: dict[str, dict[str, float]] = {}
    for network in dict.fromkeys(row["network"] for row in rows):
        for setting in ("W8A8", "W4A4", "W2A2"):
            found = [r for r in rows if (r["network"], r["setting"]) == (network, setting)]
            rivals = [row["rival"]["trained"] for row in found if "rival" in row]
            values = {
                "calibrated": _MEAN(row["ours"]["calibrated"] for row in found),
                "two epochs of training": _MEAN(row["ours"]["trained"] for row in found),
            }
            if rivals:
                values["aimet-torch 2.42, two epochs"] = _MEAN(rivals)
            groups[f"{network}, {setting}"] = values
    return charts.bars("Fashion-MNIST: top-1", groups, " %", (0, 100))


def _curves(name: str, title: str) -> Callable[[], str]:
    def render() -> str:
        row = read("effects")[name]
        values = [y for curve in row["curves"].values() for _, y in curve]
        limits = (max(40.0, min(values)), row["float"] + 0.5)
        return charts.lines(
            f"Fashion-MNIST {row['network']}: {title}",
            row["curves"],
            ("multiply-accumulates, share of the original", "top-1 in %"),
            limits=limits,
            mark=("FP32, whole", row["float"]),
        )

    return render


def _sensitivity() -> str:
    row = read("effects")["sensitivity"]
    points = {
        f"{bits} bits": [[a, b] for name, a, b in row["points"] if name.endswith(f" {bits}")]
        for bits in (4, 8)
    }
    title = f"{row['network']}: error that each quantizer causes (Spearman {row['spearman']:.3f})"
    return charts.scatter(title, points, ("estimated, one backward pass a batch", "measured"))


def _mixed_precision() -> str:
    rows = [row for row in read("mixed_precision")["rows"] if row["network"] == "separable"]
    curves = {}
    for key, label in (("rival", "aimet-torch 2.42's search"), ("exact", "exact choice")):
        found = []
        for drop in sorted({row["drop"] for row in rows}):
            of_drop = [row[key] for row in rows if row["drop"] == drop and key in row]
            if of_drop:
                found.append([_MEAN(r[name] for r in of_drop) for name in ("bit_ops", "accuracy")])
        curves[label] = sorted(found)
    labels = ("bit-operations, share of W8A8's", "top-1 in %")
    mark = ("FP32", rows[0]["fp32"])
    low = min(y for curve in curves.values() for _, y in curve)
    return charts.lines(
        "Fashion-MNIST separable: accuracy for bits", curves, labels,
        limits=(low - 0.3, rows[0]["fp32"] + 0.3), mark=mark,
    )  # fmt: skip


def _formats() -> str:
    row = read("effects")["number_formats"]
    groups = {label: {"SQNR": value} for label, value in row["sqnr_db"].items()}
    return charts.bars(f"{row['tensor']}: SQNR", groups, " dB", (0, 50))


def _attempts() -> str:
    row = read("effects")["auto_quant"]
    groups = {}
    for attempt in row["attempts"]:
        techniques, _, schemes = attempt["name"].rpartition("; ")
        label = techniques.replace("folding + ", "") or schemes
        if attempt["accuracy"] is not None:
            groups[label] = {"top-1": attempt["accuracy"]}
    low = min(value for values in groups.values() for value in values.values())
    title = "AutoQuant, Fashion-MNIST separable, W4A8: accuracy of each attempt"
    mark = ("FP32", row["fp32_accuracy"])
    return charts.bars(title, groups, " %", (5 * (low // 5 - 1), 90), mark)


def _verification() -> str:
    groups: dict[str, dict[str, float]] = {}
    for row in read("fidelity")["rows"]:
        if not row["setting"].endswith("A8"):
            continue  # with 16 bits, integers are closer to each other than the HTP computes
        values = {}
        for key, label in (("onnxruntime", "ONNX Runtime"), ("htp", "HTP, emulated")):
            if row.get(key, {}).get("mean_equal") is not None:
                values[label] = 100 * row[key]["mean_equal"]
        groups[f"{row['network']}, {row['setting']}"] = values
    title = "Equal integers in the target and in the simulation, mean of all operators"
    return charts.bars(title, groups, " %", (80, 100))


def _architecture() -> str:
    boxes = {
        "your nn.Module": (0, 0, "as it is"),
        "graph": (1, 0, "trace, one graph"),
        "quantsim": (2, 0, "quantizers, calibration"),
        "sim.model": (3, 0, "an ordinary nn.Module"),
        "ptq": (1, 1, "fold, equalize, round"),
        "torch.ops.aimet": (2, 1, "operators in C++"),
        "export": (3, 1, "ONNX, encodings, .pt2"),
    }
    arrows = [
        ("your nn.Module", "graph"), ("graph", "quantsim"), ("quantsim", "sim.model"),
        ("graph", "ptq"), ("ptq", "torch.ops.aimet"), ("quantsim", "torch.ops.aimet"),
        ("sim.model", "export"),
    ]  # fmt: skip
    return charts.flow("What happens to a model", boxes, arrows)


FIGURES: dict[str, Callable[[], str]] = {
    "activation_equalization": _activations,
    "architecture": _architecture,
    "auto_quant": _attempts,
    "batch_norms": _batch_norms,
    "bias_correction": _biases,
    "equalization": _equalization,
    "grid": _grid,
    "low_rank": _curves("low_rank", "top-1 without fine-tuning"),
    "mixed_precision": _mixed_precision,
    "number_formats": _formats,
    "pruning": _curves("pruning", "top-1 without fine-tuning"),
    "ranges": _ranges,
    "ratio_selection": _curves("ratio_selection", "spatial SVD, top-1 without fine-tuning"),
    "repair": _repair,
    "rounding": _rounding,
    "rounding_distances": _distances,
    "sensitivity": _sensitivity,
    "training": _training,
    "verification": _verification,
}


def main() -> None:
    """Draw all pictures anew."""
    FOLDER.mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        (FOLDER / f"{name}.svg").write_text(draw())


if __name__ == "__main__":
    main()
