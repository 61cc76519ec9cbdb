"""Runs cases: checks that results agree, then times all contestants round by round."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.agreement import Rule, nothing_to_compare
from benchmarks.rivals import Rival, RivalUnavailableError
from benchmarks.subjects import make_subject
from benchmarks.timing import Stopwatch, Subject

#: A sample shorter than this tells more about the clock than about the work.
SHORTEST_SAMPLE = 5e-3
#: A call longer than this brings its own data into the caches.
WARM_UP_BELOW = 0.05
FEWEST_ROUNDS = 3
AIMET = "aimet-torch 2.42"


@dataclass(frozen=True)
class RivalSpec:
    """Somebody to compare with.

    Attributes:
        name: as it is printed.
        make: gets the case's arguments, returns the work; None for aimet-torch, which runs the
            candidate's code in its own process.
        rule: how results are compared.
        target: the ratio (our median over the rival's) that is aimed at; None without one.
        role: column of the README's table: "bound", "pytorch" or "aimet".
    """

    name: str
    make: Callable[..., Subject] | None
    rule: Rule
    role: str
    target: float | None = None


def aimet(rule: Rule, target: float | None = None) -> RivalSpec:
    """aimet-torch 2.42 as a rival."""
    return RivalSpec(AIMET, None, rule, "aimet", target)


def bound(
    name: str, make: Callable[..., Subject], target: float | None = None, rule: Rule | None = None
) -> RivalSpec:
    """What the work cannot be faster than, or the network without quantization."""
    rule = rule or nothing_to_compare("a bound: computes less")
    return RivalSpec(name, make, rule, "bound", target)


def pytorch(
    name: str, make: Callable[..., Subject], rule: Rule, target: float | None = None
) -> RivalSpec:
    """An operator of PyTorch with the same purpose."""
    return RivalSpec(name, make, rule, "pytorch", target)


@dataclass(frozen=True)
class Case:
    """One line of the report.

    Attributes:
        name: path-like, such as "quantize_dequantize/32K".
        title: for people.
        subject: the candidate, a name in `benchmarks.subjects.SUBJECTS`.
        arguments: of the subject; rivals get the same.
        rivals: to compare with.
        limit: seconds that the candidate itself should stay under; None without a target.
        unit: "seconds", or "bytes" where the subjects' own clocks count memory.
    """

    name: str
    title: str
    subject: str
    arguments: Mapping[str, Any]
    rivals: tuple[RivalSpec, ...]
    limit: float | None = None
    unit: str = "seconds"


@dataclass
class Samples:
    """Seconds a call, one figure for each round."""

    calls: int
    seconds: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Return median and spread (distance of the quartiles) in seconds, and counts."""
        low, _, high = quartiles(self.seconds)
        return {
            "median": statistics.median(self.seconds),
            "spread": high - low,
            "rounds": len(self.seconds),
            "calls": self.calls,
        }


def quartiles(values: list[float]) -> list[float]:
    """Return the three quartiles of at least one value."""
    if len(values) == 1:
        return values * 3
    return statistics.quantiles(values, n=4, method="inclusive")


def interleave(contestants: Mapping[str, Stopwatch], seconds: float) -> dict[str, Samples]:
    """Time all contestants in turn, round by round, until `seconds` have passed.

    Each round begins with another one, so that none always follows the same. Before a short sample
    the contestant runs once outside the clock: its data are where its own work left them.
    """
    samples: dict[str, Samples] = {}
    short: dict[str, bool] = {}
    for name, contestant in contestants.items():
        once = contestant.seconds(1)
        samples[name] = Samples(max(1, math.ceil(SHORTEST_SAMPLE / max(once, 1e-7))))
        short[name] = once < WARM_UP_BELOW
    names = list(contestants)
    deadline = time.perf_counter() + seconds
    rounds = 0
    while rounds < FEWEST_ROUNDS or time.perf_counter() < deadline:
        first = rounds % len(names)
        for name in names[first:] + names[:first]:
            contestant, taken = contestants[name], samples[name]
            if short[name]:
                contestant.seconds(1)
            taken.seconds.append(contestant.seconds(taken.calls) / taken.calls)
        rounds += 1
    return samples


def run_case(case: Case, rival: Rival | str, seconds: float) -> dict[str, Any]:
    """Compare, then time, a case.

    Args:
        case: the case.
        rival: aimet-torch's process, or the reason why there is none.
        seconds: to spend on timing.

    Returns:
        The case's part of the report. A rival whose result does not agree is not timed.
    """
    contestants: dict[str, Stopwatch] = {}
    arguments = dict(case.arguments)
    candidate = make_subject(case.subject, arguments)
    ours = candidate.results()
    contestants["ours"] = candidate
    entries: list[dict[str, Any]] = []
    for spec in case.rivals:
        entry: dict[str, Any] = {"name": spec.name, "role": spec.role, "target": spec.target}
        entries.append(entry)
        try:
            contestant = _make(spec, case.subject, arguments, rival)
            theirs = contestant.results()
        except RivalUnavailableError as error:
            entry["unavailable"] = str(error)
            continue
        entry["agrees"], entry["agreement"] = spec.rule(ours, theirs)
        if entry["agrees"]:
            contestants[spec.name] = contestant
        del theirs
    del ours
    samples = interleave(contestants, seconds)
    own = samples["ours"]
    for entry in entries:
        taken = samples.get(entry["name"])
        if taken is not None:
            entry.update(taken.summary(), **ratio(own, taken))
    return {
        "name": case.name,
        "title": case.title,
        "limit": case.limit,
        "unit": case.unit,
        **own.summary(),
        "rivals": entries,
    }


def ratio(ours: Samples, theirs: Samples) -> dict[str, Any]:
    """Return the ratio of the medians, and the quartiles of the ratios round by round."""
    each = [a / b for a, b in zip(ours.seconds, theirs.seconds, strict=True)]
    low, _, high = quartiles(each)
    median = statistics.median(ours.seconds) / statistics.median(theirs.seconds)
    return {"ratio": median, "ratio_quartiles": [low, high]}


def _make(
    spec: RivalSpec, subject: str, arguments: dict[str, Any], rival: Rival | str
) -> Stopwatch:
    if spec.make is not None:
        return spec.make(**arguments)
    if isinstance(rival, str):
        raise RivalUnavailableError(rival)
    return rival.load(subject, arguments)
