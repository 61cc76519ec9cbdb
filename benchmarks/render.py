"""Reports as text, and the README's table. ``python -m benchmarks.render`` renews the table."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from benchmarks import render_accuracy, render_qat, render_rounding

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "benchmarks.json"
ROUNDING = RESULTS.with_name("rounding.json")
README = ROOT / "README.md"
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
    """Return the README's tables of a report: one for each number of threads, and the GPU's."""
    parts = [_table(run) for run in report["runs"]]
    machine = report["runs"][-1]["environment"]
    parts.append(
        "Medians. Of a bound: how many times what the work cannot do without, or what the network"
        " takes without quantization. PyTorch, aimet-torch: how many times faster (or smaller)"
        " than they are,"
        " in the same run, results compared first;"
        " a dash: no such operation, or not compared. ±: the quartiles are that far apart, the"
        f" figure is no result of record. {machine['processor']},"
        f" {machine['instruction_set']} kernels, torch {machine['torch']}."
    )
    parts.append(_gpu(report["gpu"]))
    return "\n\n".join(parts) + "\n"


def _table(run: dict[str, Any]) -> str:
    machine = run["environment"]
    threads = f"{machine['threads']} thread" + ("s" if machine["threads"] > 1 else "")
    lines = [
        f"| {threads} of {machine['processors']}"
        " | time or memory | of a bound | PyTorch | aimet-torch 2.42 |",
        "|---|---:|---:|---:|---:|",
    ]
    for case in run["cases"]:
        spread = case["spread"] / case["median"]
        unsteady = f" ± {100 * spread:.0f} %" if spread > UNSTEADY else ""
        time = amount(case["median"], case) + unsteady + met(case["median"], case["limit"])
        cells = [case["title"], time]
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


def main() -> None:
    """Renew the README's tables from the committed reports."""
    table = markdown(json.loads(RESULTS.read_text()))
    text = TABLE.sub(lambda _: table, README.read_text())
    if ROUNDING.exists():
        rounding = render_rounding.markdown(json.loads(ROUNDING.read_text()))
        text = ROUNDING_TABLE.sub(lambda _: rounding, text)
    if render_qat.RESULTS.exists():
        training = render_qat.markdown(json.loads(render_qat.RESULTS.read_text()))
        text = render_qat.TABLE.sub(lambda _: training, text)
    if render_accuracy.RESULTS.exists():
        accuracies = render_accuracy.markdown(json.loads(render_accuracy.RESULTS.read_text()))
        text = render_accuracy.TABLE.sub(lambda _: accuracies, text)
    README.write_text(text)


if __name__ == "__main__":
    main()
