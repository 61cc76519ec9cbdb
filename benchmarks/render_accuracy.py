"""The README's table of accuracies, from ``benchmarks/results/accuracy.json``."""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results" / "accuracy.json"
#: docs/ptq.md: what each technique adds.
EFFECTS = re.compile(r"(?<=<!-- effects -->\n).*?(?=<!-- /effects -->)", re.DOTALL)
TABLE = re.compile(r"(?<=<!-- accuracy -->\n).*?(?=<!-- /accuracy -->)", re.DOTALL)

_UNITS = {"agreement_percent": "{:.1f} %", "sqnr_db": "{:.1f} dB", "spearman": "{:.3f}"}


def markdown(report: dict[str, Any]) -> str:
    """Return the tables of a report of ``benchmarks.accuracy``."""
    parts = []
    rows = [row for row in report["rows"] if not row["is_effect"]]
    for network in dict.fromkeys(row["network"] for row in rows):
        parts.append(_table(network, [row for row in rows if row["network"] == network]))
    seeds = len(report["seeds"])
    if seeds == 1:
        how = (
            f"One random division of the {report['photographs']} photographs into halves (for"
            f" MiniLM one choice of {report['words']} words)."
        )
    else:
        how = (
            f"Means over {seeds} divisions of the {report['photographs']} photographs into halves"
            f" (for MiniLM over {seeds} choices of {report['words']} words), the range of the first"
            " figure in brackets."
        )
    parts.append(
        f"{how} {report['calibration_size']} photographs of one half calibrate, the other"
        " half measures: agreement of the first choice with FP32, signal-to-noise ratio of the"
        " logits."
        " MiniLM: rank correlation with people's similarities of words (WordSim-353). No labels, no"
        " training."
    )
    return "\n\n".join(parts) + "\n"


def effects(report: dict[str, Any]) -> str:
    """Return the table of what a recipe loses or gains by one change."""
    lines: list[str] = []
    whole: dict[str, float] = {}
    for row in report["rows"]:
        if not row["is_effect"]:
            continue
        means = {name: statistics.mean(values) for name, values in row["scores"].items()}
        agreement, sqnr = means["agreement_percent"], means["sqnr_db"]
        title = f"| **{row['network']}, {row['setting']}** | | | |"
        if title not in lines:
            lines.append(title)
            whole = means
            changes = ["", ""]
        else:
            changes = [
                f" ({agreement - whole['agreement_percent']:+.1f})",
                f" ({sqnr - whole['sqnr_db']:+.1f})",
            ]
        seconds = statistics.mean(row["cpu_seconds"])
        lines.append(
            f"| {row['recipe']} | {agreement:.1f} %{changes[0]} | {sqnr:.1f} dB{changes[1]}"
            f" | {seconds:.0f} s |"
        )
    header = [
        "| one change to the whole recipe | agreement with FP32 | SQNR | processor time |",
        "|---|---:|---:|---:|",
    ]
    return "\n".join([*header, *lines]) + "\n"


def _table(network: str, rows: list[dict[str, Any]]) -> str:
    title = "rank correlation" if "spearman" in rows[0]["scores"] else "agreement with FP32, SQNR"
    lines = [f"| {network} | {title} | aimet-torch 2.42 | processor time |", "|---|---:|---:|---:|"]
    setting = None
    for row in rows:
        if row["setting"] != setting:
            setting = row["setting"]
            lines.append(f"| **{setting}** | | | |")
        seconds = statistics.mean(row["cpu_seconds"])
        cells = [
            row["recipe"],
            _scores(row["scores"]) + _missed(row),
            _rival(row),
            f"{seconds:.0f} s",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _scores(scores: dict[str, list[float]]) -> str:
    texts = []
    for name, values in scores.items():
        text = _UNITS[name].format(statistics.mean(values))
        if not texts and max(values) > min(values):
            digits = _UNITS[name].split("}")[0] + "}"
            text += f" [{digits.format(min(values))}, {digits.format(max(values))}]"
        texts.append(text)
    return ", ".join(texts)


def _missed(row: dict[str, Any]) -> str:
    means = {name: statistics.mean(values) for name, values in row["scores"].items()}
    wanted = row.get("target") or {}
    is_missed = any(means[name] < smallest for name, smallest in wanted.items())
    return " (target missed)" if is_missed else ""


def _rival(row: dict[str, Any]) -> str:
    rival = row.get("rival")
    if rival is None:
        return "-"
    return "not measured" if "unavailable" in rival else _scores(rival["scores"])
