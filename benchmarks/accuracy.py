"""What quantization without labels costs in accuracy, technique by technique, beside aimet-torch.

``python -m benchmarks.accuracy [--output FILE] [--seeds N] [--no-rival] [WORD ...]``

MobileNetV2 with its ImageNet weights on photographs: agreement of the first choice with FP32 and
signal-to-noise ratio of the logits. For each seed the photographs are divided anew into halves; 64
of one half calibrate, the other half measures. MiniLM: rank correlation with people's word
similarities; for each seed other words calibrate. No label is ever read but those of MiniLM's
score. ``benchmarks.rounding`` has more on the rounding of weights.

Rows are measured anew where one of the words occurs in their text, all of them without words; the
others stay in FILE as they are. With ``--missing`` those that FILE has stay, too.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from benchmarks import environment
from benchmarks.accuracy_rows import Job, Row, all_rows
from benchmarks.accuracy_subjects import CALIBRATION_SIZE, WORDS
from benchmarks.rivals import Rival, RivalUnavailableError
from benchmarks.timing import Clock
from examples import assets


def run(
    row: Row, seeds: list[int], rival: Rival | str, fp32: dict[str, float] | None
) -> dict[str, Any]:
    """The scores of a row for all seeds, and the rival's where it does the same."""
    found = _named(row)
    scores, times = [], []
    for seed in seeds:
        clock = Clock()
        scores.append(row.run(seed))
        times.append([round(value, 1) for value in clock.stop().times()])
    seconds, cpu_seconds = (list(column) for column in zip(*times, strict=True))
    found |= {"scores": _by_name(scores), "seconds": seconds, "cpu_seconds": cpu_seconds}
    if row.target is not None:
        found["target"] = row.target
    if row.largest_loss is not None and fp32 is not None:
        found["target"] = {k: round(fp32[k] - loss, 4) for k, loss in row.largest_loss.items()}
    if row.rival is not None:
        found["rival"] = _rival_scores(row.rival, seeds, rival)
    return found


def _named(row: Row) -> dict[str, Any]:
    return {
        "network": row.network,
        "setting": row.setting,
        "recipe": row.recipe,
        "is_effect": row.is_effect,
    }


def _key(found: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(found[name]) for name in ("network", "setting", "recipe", "is_effect"))


def _rival_scores(job: Job, seeds: list[int], rival: Rival | str) -> dict[str, Any]:
    if isinstance(rival, str):
        return {"unavailable": rival}
    scores = []
    try:
        for seed in seeds:
            remote = rival.load(job.subject, {"seed": seed, **job.arguments})
            scores.append(job.scores(torch.from_numpy(remote.results()[0]), seed))
    except RivalUnavailableError as error:
        return {"unavailable": str(error)}
    return {"scores": _by_name(scores)}


def _by_name(scores: list[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [found[name] for found in scores] for name in scores[0]}


def main() -> None:
    """Measure all rows, or those whose network, setting or recipe has one of the words."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="rows in whose text one of these occurs")
    parser.add_argument("--output", type=Path, help="file for the results, JSON")
    parser.add_argument("--seeds", type=int, default=3, help="divisions of the photographs")
    parser.add_argument("--missing", action="store_true", help="only rows that FILE has not yet")
    parser.add_argument("--no-rival", action="store_true", help="without aimet-torch 2.42")
    arguments = parser.parse_args()
    rows = all_rows()
    chosen = [row for row in rows if _is_named(row, arguments.words)]
    rival: Rival | str = "aimet-torch 2.42 was not asked for"
    threads = torch.get_num_threads()
    report: dict[str, Any] = {
        "environment": environment.describe(threads),
        "seeds": list(range(arguments.seeds)),
        "photographs": len(assets.load_photographs()),
        "calibration_size": CALIBRATION_SIZE,
        "words": WORDS,
    }
    finished: dict[tuple[str, ...], dict[str, Any]] = {}
    if (
        (arguments.words or arguments.missing)
        and arguments.output is not None
        and arguments.output.exists()
    ):
        before = json.loads(arguments.output.read_text())
        _check_same_measurement(before, report, arguments.output)
        finished = {_key(found): found for found in before["rows"]}
        report["environment"] |= {k: v for k, v in before["environment"].items() if k == "rival"}
    if arguments.missing:
        chosen = [row for row in chosen if _key(_named(row)) not in finished]
    if not arguments.no_rival and any(row.rival is not None for row in chosen):
        try:
            rival = Rival(threads)
            report["environment"]["rival"] = rival.versions
        except RivalUnavailableError as error:
            rival = str(error)
    try:
        for row in chosen:
            found = run(row, report["seeds"], rival, _fp32(finished.values(), row.network))
            finished[_key(found)] = found
            print(json.dumps(found), flush=True)
            if arguments.output is not None:
                report["rows"] = [
                    finished[key] for key in map(_key, map(_named, rows)) if key in finished
                ]
                arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    finally:
        if isinstance(rival, Rival):
            rival.close()


def _is_named(row: Row, words: list[str]) -> bool:
    text = f"{row.network} {row.setting} {row.recipe}"
    return not words or any(word in text for word in words)


def _check_same_measurement(before: dict[str, Any], report: dict[str, Any], path: Path) -> None:
    for name in ("seeds", "photographs", "calibration_size", "words"):
        if before[name] != report[name]:
            raise SystemExit(
                f"{path} has rows with {name} = {before[name]}, these would have {report[name]}:"
                " measure all rows, or write to another file"
            )


def _fp32(rows: Iterable[dict[str, Any]], network: str) -> dict[str, float] | None:
    """The scores of a network in FP32, where they have been measured."""
    for row in rows:
        if (row["network"], row["setting"]) == (network, "FP32"):
            return {name: values[0] for name, values in row["scores"].items()}
    return None


if __name__ == "__main__":
    main()
