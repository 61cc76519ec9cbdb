"""What each technique costs, as the sentences of its page, from ``results/*.json``."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.render_figures import DOCS, read

COST = re.compile(r"(<!-- cost (\w+) -->\n).*?(<!-- /cost -->)", re.DOTALL)


def _cases() -> dict[str, Any]:
    (run,) = [run for run in read("benchmarks")["runs"] if run["environment"]["threads"] == 1]
    return {case["name"]: case for case in run["cases"]}


def _rival(case: dict[str, Any], name: str) -> float:
    return next(r["ratio"] for r in case["rivals"] if r["name"].startswith(name))


def _times(case: dict[str, Any], bound: str, what: str) -> str:
    """How many times a bound, and how much faster than aimet-torch."""
    faster = 1 / _rival(case, "aimet-torch")
    ratio = _rival(case, bound)
    return f"{ratio:.2f} times as long as {what} ({faster:.2g} times faster than aimet-torch 2.42)"


def _quantizers() -> str:
    cases = _cases()
    built, forward = cases["model/mobilenet_v2/build"], cases["model/mobilenet_v2/forward"]
    return (
        f"MobileNetV2 on one thread: {1e3 * built['median']:.0f} ms to build the simulation"
        f" ({1 / _rival(built, 'aimet-torch'):.2g} times faster than aimet-torch 2.42). A forward"
        f" pass takes {_times(forward, 'folded FP32 forward', 'in FP32')}."
        " [benchmarks.md](benchmarks.md) has all figures."
    )


def _ranges() -> str:
    cases = _cases()
    parts = []
    for name, label in (("min_max", "min-max ranges"), ("tf_enhanced", "TF-enhanced ranges")):
        case = cases[f"model/mobilenet_v2/calibration_{name}"]
        what = "a forward pass in FP32"
        parts.append(f"{label} take {_times(case, 'folded FP32 forward', what)}")
    return f"MobileNetV2 on one thread: {', '.join(parts)}."


def _equalization() -> str:
    case = _cases()["model/mobilenet_v2/fold_and_equalize"]
    return (
        f"Folding and equalizing MobileNetV2, tracing included, takes {1e3 * case['median']:.0f} ms"
        f" on one thread ({1 / _rival(case, 'aimet-torch'):.2g} times faster than aimet-torch"
        " 2.42), no data, and at run time nothing but the clips that take the place of ReLU6."
    )


def _of_photographs(name: str, what: str) -> Callable[[], str]:
    def render() -> str:
        row = read("effects")[name]
        return (
            f"MobileNetV2, {row['photographs']} photographs: {row['cpu_seconds']:.2g} s of one"
            f" processor{what}."
        )

    return render


def _rounding() -> str:
    report = read("rounding")
    row = next(
        r for r in report["mobilenet_v2"] if (r["weight_bits"], r["activation_bits"]) == (4, 32)
    )
    fashion = report["fashion_residual"][0]
    ours, blocks = row["adaround"]["cpu_seconds"], row["blocks"]["cpu_seconds"]
    theirs = fashion["aimet_torch_adaround"]["cpu_seconds"]
    return (
        f"MobileNetV2, 4 bits, 128 images: {ours:.0f} s of a processor for AdaRound,"
        f" {blocks:.0f} s for blocks; all measurements of [this kind](#blocks-of-layers) together"
        f" took {report['peak_memory_mb'] / 1000:.1f} GB of memory at their peak."
        " Fashion-MNIST's residual network, 1,024 images:"
        f" {fashion['adaround']['cpu_seconds']:.2g} s, aimet-torch 2.42 {theirs:.0f} s with 1,000"
        " iterations (its default is 10,000)."
    )


def _norms() -> str:
    rows = read("effects")["batch_norms"]["rows"]
    row = next(row for row in rows if row["network"] == "residual")
    return (
        f"Fashion-MNIST's residual network, 2,560 images: {row['batches_cpu_seconds']:.1g} s of a"
        f" processor, one after the other {row['sequential_cpu_seconds']:.1g} s."
    )


def _attempts() -> str:
    row = read("effects")["auto_quant"]
    seconds = sum(attempt["seconds"] for attempt in row["attempts"])
    return (
        f"{len(row['attempts'])} attempts on Fashion-MNIST's separable network, 512 images to"
        f" calibrate and 5,000 to evaluate: {seconds:.0f} s."
    )


def _training() -> str:
    cases = _cases()
    step = _times(cases["model/mobilenet_v2/training"], "FP32 step", "in FP32")
    memory = cases["model/mobilenet_v2/training_memory_learned"]
    return (
        f"A step of MobileNetV2 on one thread takes {step}, and {_rival(memory, 'FP32 step'):.2f}"
        f" times the memory ({1 / _rival(memory, 'aimet-torch'):.2g} times less than aimet-torch)."
    )


def _analysis() -> str:
    rows = read("sensitivity")["rows"]
    parts = [
        f"{row['network']} {row['seconds_estimating']:.2g} s ({row['evaluations']} evaluations:"
        f" {row['seconds_evaluating']:.3g} s)"
        for row in rows
    ]
    return f"Sensitivity at two bit widths: {', '.join(parts)}."


def _mixed_precision() -> str:
    rows = read("mixed_precision")["mobilenet_v2"]
    ours = statistics.mean(row["exact"]["cpu_seconds"] for row in rows)
    theirs = statistics.mean(row["search"]["cpu_seconds"] for row in rows)
    evaluations = statistics.mean(row["search"]["evaluations"] for row in rows)
    return (
        f"MobileNetV2, W8A16 to W4A8: {ours:.0f} s of a processor and no evaluation; AIMET's"
        f" search, run by this project, {theirs:.0f} s for {evaluations:.0f} evaluations of 16"
        " photographs."
    )


def _low_rank() -> str:
    seconds = read("effects")["low_rank"]["cpu_seconds"]
    plain, fitted = (seconds[name] for name in ("spatial, truncated (AIMET's)",
                                                "best of four, fitted to data"))  # fmt: skip
    return (
        f"Fashion-MNIST's residual network, 1,024 images: {plain:.1g} s of a processor truncated,"
        f" {fitted:.1f} s fitted to data, the best of four forms for each layer."
    )


def _pruning() -> str:
    seconds = read("effects")["pruning"]["cpu_seconds"]
    plain, fitted = seconds["magnitude, not fitted"], seconds["Gram, fitted"]
    return (
        f"Fashion-MNIST's residual network, 1,024 images: {plain:.1g} s of a processor without"
        f" data, {fitted:.1f} s with."
    )


def _selection() -> str:
    seconds = read("effects")["ratio_selection"]["cpu_seconds"]
    return (
        "Fashion-MNIST's residual network, spatial SVD with data, selection and factorization:"
        f" {seconds['exact']:.1f} s of a processor exact, {seconds[GREEDY]:.1f} s greedy with"
        " scores on 2,000 images."
    )


def _verification() -> str:
    seconds = {
        f"{row['network']}, {row['setting']}": row["seconds"] for row in read("fidelity")["rows"]
    }
    return (
        "ONNX Runtime takes seconds, the emulated HTP minutes: both together"
        f" {seconds['ResNet-18, W8A8']:.0f} s for ResNet-18 and"
        f" {seconds['MobileNetV2, W8A8']:.0f} s for MobileNetV2 (8 samples, one thread)."
    )


GREEDY = "greedy (AIMET's)"
COSTS: dict[str, Callable[[], str]] = {
    "activation_equalization": _of_photographs("activation_equalization", ""),
    "analysis": _analysis,
    "auto_quant": _attempts,
    "bias_correction": _of_photographs("bias_correction", ", empirical, with one scale per tensor"),
    "bn_reestimation": _norms,
    "equalization": _equalization,
    "low_rank": _low_rank,
    "mixed_precision": _mixed_precision,
    "pruning": _pruning,
    "qat": _training,
    "quantizers": _quantizers,
    "ranges": _ranges,
    "ratio_selection": _selection,
    "rounding": _rounding,
    "verification": _verification,
}


def renewed(text: str) -> str:
    """Return a page with the costs of the committed reports."""
    return COST.sub(lambda match: f"{match[1]}{COSTS[match[2]]()}\n{match[3]}", text)


def main() -> None:
    """Renew the costs on all pages."""
    for page in DOCS.glob("*.md"):
        text = page.read_text()
        if COST.search(text):
            page.write_text(renewed(text))


if __name__ == "__main__":
    main()
