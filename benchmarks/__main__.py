"""Run benchmarks: ``python -m benchmarks [NAME...]``; see ``--help``."""

from __future__ import annotations

import argparse
import json
import os
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch

from benchmarks import environment, formats, gpu, kernels, models, operators
from benchmarks.harness import AIMET, Case, run_case
from benchmarks.render import lines_of
from benchmarks.rivals import Rival, RivalUnavailableError


def all_cases() -> list[Case]:
    """Return every case, operators first."""
    return [*operators.cases(), *formats.cases(), *models.cases()]


def chosen(names: list[str]) -> list[Case]:
    """Return the cases whose name begins with, or matches, one of `names`; all without names.

    Raises:
        ValueError: a name fits no case.
    """
    cases = all_cases()
    for name in names:
        if not any(_fits(case, name) for case in cases):
            known = ", ".join(case.name for case in cases)
            raise ValueError(f"benchmarks: no case is called `{name}`; there are: {known}")
    return [case for case in cases if not names or any(_fits(case, name) for name in names)]


def _fits(case: Case, name: str) -> bool:
    return case.name == name or case.name.startswith(f"{name}/") or fnmatch(case.name, name)


def run(cases: list[Case], threads: int, seconds: float, with_rival: bool) -> dict[str, Any]:
    """Run cases one after the other, printing each, and return their part of the report."""
    torch.set_num_threads(threads)
    report: dict[str, Any] = {"environment": environment.describe(threads), "seconds": seconds}
    report["environment"]["load_before"] = environment.load()
    rival: Rival | str = f"{AIMET} was not asked for"
    if with_rival and any(spec.role == "aimet" for case in cases for spec in case.rivals):
        try:
            rival = Rival(threads)
            report["environment"]["rival"] = rival.versions
        except RivalUnavailableError as error:
            rival = str(error)
    report["cases"] = []
    try:
        for case in cases:
            report["cases"].append(run_case(case, rival, seconds))
            print(*lines_of(report["cases"][-1]), sep="\n", flush=True)
    finally:
        if isinstance(rival, Rival):
            rival.close()
    report["environment"]["load_after"] = environment.load()
    return report


def thread_counts(values: list[str]) -> list[int]:
    """Return the numbers that `values` stand for; "all" is every processor.

    Raises:
        ValueError: neither a positive number nor "all".
    """
    counts = []
    for value in values:
        if value != "all" and not (value.isdecimal() and int(value) > 0):
            raise ValueError(f'benchmarks: --threads takes numbers and "all", got `{value}`')
        count = os.cpu_count() or 1 if value == "all" else int(value)
        if count not in counts:
            counts.append(count)
    return counts


def run_kernels(output: Path | None) -> int:
    """Time the bare kernels, print and write what they reach of memcpy."""
    try:
        entries = kernels.run()
    except FileNotFoundError as error:
        print(error)
        return 1
    print(*(kernels.line_of(entry) for entry in entries), sep="\n")
    if output is not None:
        report = {"environment": environment.describe(threads=1), "kernels": entries}
        output.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def main() -> int:
    """Run what the command line asks for; 1 when results did not agree."""
    description = "Times every case against its rivals, round by round."
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=description)
    names = 'case, group or pattern; "kernels" alone: the bare kernels against memcpy'
    parser.add_argument("names", nargs="*", metavar="NAME", help=names)
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    threads = 'numbers of threads, one run for each; "all": one for each processor'
    parser.add_argument(
        "--threads", nargs="+", default=[str(torch.get_num_threads())], help=threads
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="timing, for each case")
    parser.add_argument("--output", type=Path, help="write the report as JSON")
    parser.add_argument("--no-rival", action="store_true", help=f"without {AIMET}")
    arguments = parser.parse_args()
    if arguments.names == ["kernels"]:
        return run_kernels(arguments.output)
    try:
        cases = chosen(arguments.names)
        thread_counts(arguments.threads)
    except ValueError as error:
        parser.error(str(error))
    if arguments.list:
        print(*(case.name for case in cases), sep="\n")
        return 0
    runs = [
        run(cases, count, arguments.seconds, not arguments.no_rival)
        for count in thread_counts(arguments.threads)
    ]
    report = {"runs": runs, "gpu": gpu.section()}
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    rivals = [entry for part in runs for case in part["cases"] for entry in case["rivals"]]
    return int(any(entry.get("agrees") is False for entry in rivals))


if __name__ == "__main__":
    raise SystemExit(main())
