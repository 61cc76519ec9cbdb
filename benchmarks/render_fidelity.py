"""The README's table of targets beside the simulation, from ``results/fidelity.json``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "fidelity.json"
TABLE = re.compile(r"(?<=<!-- fidelity -->\n).*?(?=<!-- /fidelity -->)", re.DOTALL)
_TARGETS = ("onnxruntime", "htp")
_EMPTY = "-"


def markdown(report: dict[str, Any]) -> str:
    """Return the table of a report of ``benchmarks.fidelity``."""
    lines = [
        "| network | against FP32: simulation, ONNX Runtime, HTP | ONNX Runtime against the"
        " simulation: operators, outputs | HTP against the simulation: operators, outputs |",
        "|---|---:|---:|---:|",
    ]
    for row in report["rows"]:
        cells = [f"{row['network']} {row['setting']}", _against_float(row)]
        cells += [_against_simulation(row.get(target)) for target in _TARGETS]
        lines.append(f"| {' | '.join(cells)} |")
    samples = ", ".join(str(n) for n in sorted({row["samples"] for row in report["rows"]}))
    versions = _versions(report["rows"])
    lines += [
        "",
        "SQNR of the outputs in dB. Operators: each with its quantizers, fed with the simulation's"
        " values: mean share of equal results, and the largest difference in steps of the grid"
        " (with 16 bits, the least SQNR). HTP: Qualcomm's AI engine, as its x86-64 library"
        f" computes it; the whole graph runs there ({versions}). {samples} inputs that did not"
        f" calibrate, {report['calibration_size']} that did; configuration `{report['config']}`."
        " MobileNetV2 (ImageNet weights, photographs), ResNet-18 (random weights), MiniLM-L6"
        " (trained, words); weights of 4 bits are rounded by GPTQ."
        " [docs/verification.md](docs/verification.md)",
    ]
    return "\n".join(lines) + "\n"


def _against_float(row: dict[str, Any]) -> str:
    outputs = [_output(row.get(target)) for target in _TARGETS]
    simulated = next((o["noise_db"] for o in outputs if o is not None), None)
    reached = [None if o is None else o["float_db"] for o in outputs]
    return ", ".join(_db(value) for value in (simulated, *reached))


def _against_simulation(target: dict[str, Any] | None) -> str:
    output = _output(target)
    if target is None or output is None or target["mean_equal"] is None:
        return _EMPTY
    equal = f"{_percent(target['mean_equal'])} equal"
    steps = target["most_steps"]
    is_wide = target["bitwidth"] > 8
    distance = f"≥ {_db(target['least_node_sqnr_db'])} dB" if is_wide else f"≤ {steps:.0f}"
    if steps == 0:
        distance = "no difference"
    outside = target["nodes"] - target["nodes_within"]
    remark = f" ({outside} of {target['nodes']} outside the limits)" if outside else ""
    return f"{equal}, {distance}{remark}; {_db(output['sqnr_db'])}{_unit(output['sqnr_db'])}"


def _output(target: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if target is None else target.get("end to end")


def _db(value: float | str | None) -> str:
    """JSON has no infinity: equal outputs are the text "inf"."""
    if value is None:
        return _EMPTY
    return "equal" if value == "inf" else f"{float(value):.1f}"


def _unit(value: float | str) -> str:
    return "" if value == "inf" else " dB"


def _percent(share: float) -> str:
    # Never rounded up to all.
    return "100 %" if share == 1 else f"{min(100 * share, 99.99):.4g} %"


def _versions(rows: list[dict[str, Any]]) -> str:
    found = {
        k: v
        for row in rows
        for t in _TARGETS
        for k, v in row.get(t, {}).get("versions", {}).items()
    }
    return ", ".join(f"{name} {version}" for name, version in sorted(found.items()))
