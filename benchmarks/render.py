"""Reports as text: what a run prints, the tables of the README and of docs.

``python -m benchmarks.render`` renews them from the committed reports.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import (
    render_accuracy,
    render_compression,
    render_costs,
    render_exports,
    render_fidelity,
    render_figures,
    render_low_rank,
    render_mixed_precision,
    render_qat,
    render_rounding,
    render_sensitivity,
    render_zoo,
)

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "benchmarks.json"
ROUNDING = RESULTS.with_name("rounding.json")
README = ROOT / "README.md"
PAGE = ROOT / "docs" / "benchmarks.md"
REPAIR = ROOT / "docs" / "ptq.md"
#: Cases of the README's table; the page has all.
HEADLINES = (
    "quantize_dequantize/32K",
    "quantize_dequantize/16M",
    "quantize_dequantize/axis_last",
    "quantize_dequantize/bfloat16",
    "quantize_dequantize/backward_16M",
    "quantize_dequantize/16_elements",
    "histogram/sqnr_tensor",
    "histogram/sqnr_512_channels",
    "formats/float8_e4m3fn",
    "model/mobilenet_v2/forward",
    "model/resnet18/forward",
    "model/mobilenet_v2/training",
    "model/resnet18/training",
    "model/mobilenet_v2/training_memory_learned",
    "model/resnet18/training_memory_learned",
    "model/mobilenet_v2/calibration_min_max",
    "model/mobilenet_v2/calibration_tf_enhanced",
    "model/mobilenet_v2/build",
    "import/package",
)
#: A spread above this share of the median is printed beside it.
UNSTEADY = 0.15
TABLE = re.compile(r"(?<=<!-- benchmarks -->\n).*?(?=<!-- /benchmarks -->)", re.DOTALL)
ROUNDING_TABLE = re.compile(r"(?<=<!-- rounding -->\n).*?(?=<!-- /rounding -->)", re.DOTALL)


def duration(seconds: float) -> str:
    """Return a time with three digits and a fitting unit."""
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 1 or unit == "µs":
            return f"{seconds * factor:.3g} {unit}"
    raise AssertionError


def amount(value: float, case: dict[str, Any]) -> str:
    """Return a time or, in cases that measure memory, a size."""
    return f"{value / 1e6:.3g} MB" if case.get("unit") == "bytes" else duration(value)


def met(value: float, target: float | None) -> str:
    """Return a remark on a target, empty without one."""
    if target is None:
        return ""
    return "" if value <= target else " (target missed)"


def lines_of(case: dict[str, Any]) -> list[str]:
    """Return a case of a report as lines of text."""
    spread = f"± {amount(case['spread'], case)}"
    limit = met(case["median"], case["limit"])
    lines = [f"{case['name']}: {amount(case['median'], case)} {spread}{limit}"]
    for rival in case["rivals"]:
        lines.append(f"  {rival['name']}: {_rival_text(rival, case)}")
    return lines


def _rival_text(rival: dict[str, Any], case: dict[str, Any]) -> str:
    if "unavailable" in rival:
        return f"not measured: {rival['unavailable']}"
    if not rival["agrees"]:
        return f"not timed, RESULTS DIFFER: {rival['agreement']}"
    low, high = rival["ratio_quartiles"]
    return (
        f"{amount(rival['median'], case)} ± {amount(rival['spread'], case)},"
        f" ratio {rival['ratio']:.3g}"
        f" [{low:.3g}, {high:.3g}]{met(rival['ratio'], rival['target'])}; {rival['agreement']}"
    )


def markdown(report: dict[str, Any]) -> str:
    """Return all cases of a report: a table for each number of threads, and the GPU's."""
    parts = [_table(run) for run in report["runs"]]
    return "\n\n".join([*parts, _legend(report), _gpu(report["gpu"])]) + "\n"


def summary(report: dict[str, Any]) -> str:
    """Return the README's table of a report: `HEADLINES`, numbers of threads side by side."""
    runs = report["runs"]
    header, rule = ["", "time or memory"], ["---", "---:"]
    for run in runs:
        header += [f"of a bound, {_threads(run)}", "PyTorch", "aimet-torch 2.42"]
        rule += ["---:"] * 3
    lines = [f"| {' | '.join(header)} |", f"|{'|'.join(rule)}|"]
    by_name = [{case["name"]: case for case in run["cases"]} for run in runs]
    for name in HEADLINES:
        if any(name not in cases for cases in by_name):
            continue  # a run of chosen cases
        cells = [by_name[0][name]["title"], _cost(by_name[0][name])]
        for cases in by_name:
            cells += [_cell(cases[name], role) for role in ("bound", "pytorch", "aimet")]
        lines.append(f"| {' | '.join(cells)} |")
    more = f"All {len(runs[0]['cases'])} cases: [docs/benchmarks.md](docs/benchmarks.md)."
    return "\n\n".join(["\n".join(lines), f"{_legend(report)} {more}", _gpu(report["gpu"])]) + "\n"


def _legend(report: dict[str, Any]) -> str:
    machine = report["runs"][-1]["environment"]
    return (
        "Medians. Of a bound: how many times what the work cannot do without, or what the network"
        " takes without quantization. PyTorch, aimet-torch: how many times faster (or smaller)"
        " than they are,"
        " in the same run, results compared first;"
        " a dash: no such operation, or not compared. ±: the quartiles are that far apart, the"
        f" figure is no result of record. {machine['processor']},"
        f" {machine['instruction_set']} kernels, torch {machine['torch']}."
    )


def _threads(run: dict[str, Any]) -> str:
    count = run["environment"]["threads"]
    return f"{count} thread" + ("s" if count > 1 else "")


def _cost(case: dict[str, Any]) -> str:
    spread = case["spread"] / case["median"]
    unsteady = f" ± {100 * spread:.0f} %" if spread > UNSTEADY else ""
    return amount(case["median"], case) + unsteady + met(case["median"], case["limit"])


def _table(run: dict[str, Any]) -> str:
    machine = run["environment"]
    lines = [
        f"| {_threads(run)} of {machine['processors']}"
        " | time or memory | of a bound | PyTorch | aimet-torch 2.42 |",
        "|---|---:|---:|---:|---:|",
    ]
    for case in run["cases"]:
        cells = [case["title"], _cost(case)]
        cells += [_cell(case, role) for role in ("bound", "pytorch", "aimet")]
        lines.append(f"| {' | '.join(cells)} |")
    load = f"Load {machine['load_before']} before, {machine['load_after']} after this run."
    return "\n".join([*lines, "", load])


def _gpu(section: dict[str, Any]) -> str:
    if "unavailable" in section:
        reason = section["unavailable"]
        return (
            "| GPU | of the copy's bandwidth |\n|---|---:|\n"
            f"| forward, backward, per channel | not measured: {reason} |"
        )
    lines = [f"| {section['device']} | of the copy's bandwidth |", "|---|---:|"]
    for case in section["cases"]:
        title = f"{case['name']}, {case['elements'] >> 20}M {case['dtype']}"
        remark = "" if case["met"] else " (target missed)"
        lines.append(f"| {title} | {case['fraction']:.2f}{remark} |")
    return "\n".join(lines)


def _cell(case: dict[str, Any], role: str) -> str:
    cells = []
    for rival in case["rivals"]:
        if rival["role"] != role:
            continue
        if "ratio" not in rival:
            cells.append("not measured" if "unavailable" in rival else "results differ")
        elif role == "bound":
            remark = met(rival["ratio"], rival["target"])
            cells.append(f"{rival['ratio']:.2f} `{rival['name']}`{remark}")
        else:
            cells.append(f"{1 / rival['ratio']:.3g}x{met(rival['ratio'], rival['target'])}")
    return ", ".join(cells) or "-"


#: The file of results, the page, the block of the page, and what makes its text of the results.
BLOCKS: tuple[tuple[Path, Path, re.Pattern[str], Callable[[Any], str]], ...] = (
    (RESULTS, PAGE, TABLE, markdown),
    (RESULTS, README, TABLE, summary),
    (ROUNDING, README, ROUNDING_TABLE, render_rounding.markdown),
    (render_qat.RESULTS, README, render_qat.TABLE, render_qat.markdown),
    (render_accuracy.RESULTS, README, render_accuracy.TABLE, render_accuracy.markdown),
    (render_accuracy.RESULTS, REPAIR, render_accuracy.EFFECTS, render_accuracy.effects),
    (render_fidelity.RESULTS, README, render_fidelity.TABLE, render_fidelity.markdown),
    (render_compression.RESULTS, README, render_compression.TABLE, render_compression.summary),
    *(
        (each.RESULTS, each.PAGE, each.TABLE, each.markdown)
        for each in (
            render_compression,
            render_exports,
            render_low_rank,
            render_mixed_precision,
            render_sensitivity,
            render_zoo,
        )
    ),
    (render_zoo.RESULTS, README, render_zoo.TABLE, render_zoo.summary),
    (render_zoo.RESULTS, render_zoo.PAGE, render_zoo.GRAPHS, render_zoo.graphs),
)


def main() -> None:
    """Renew the blocks and pictures of the README and of docs from the committed reports."""
    for results, page, block, text in BLOCKS:
        found = text(json.loads(results.read_text()))
        page.write_text(block.sub(lambda _, found=found: found, page.read_text()))
    render_figures.main()
    render_costs.main()


if __name__ == "__main__":
    main()
