"""Which bits to spend where: the exact choice beside AIMET's greedy search, on the same budget.

``python -m benchmarks.mixed_precision [--output FILE] [--seeds N] [--no-rival] [WORD ...]``

Networks for Fashion-MNIST; candidates W8A8, W4A8, W8A4, W4A4. aimet-torch 2.42 searches for an
allowed drop of the accuracy on 2,000 labelled training images (phase 1: SQNR, 256 images). What its
choice costs in bit-operations and in bytes of weights and activations is then the budget of our
exact choice, which sees no label and evaluates nothing: the 512 unlabelled images that calibrate
give the sensitivity. Both choices are applied to our simulation and measured on the 10,000 test
images; the rival's figure in its own simulation stands beside it. Our own greedy search runs the
same code as the rival's. ``exact_for_drop`` is given the allowed drop instead of a budget.

MobileNetV2 (`benchmarks.mixed_precision_mobilenet`) beside our own run of that search. Rows that
FILE has are not measured again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from aimet_torch.analysis import Precision, Switchboard
from aimet_torch.common.tables import text_table, write_json
from aimet_torch.mixed_precision import optimize_mixed_precision
from aimet_torch.mixed_precision.apply import apply_choice
from aimet_torch.mixed_precision.costs import Costs
from aimet_torch.mixed_precision.sites import SiteMap
from benchmarks import environment, fashion_mnist, mixed_precision_mobilenet, rounding_jobs
from benchmarks.mixed_precision_subjects import (
    CANDIDATES,
    Counted,
    calibration,
    candidates,
    labelled,
    simulation,
)
from benchmarks.rivals import Rival, RivalUnavailableError
from benchmarks.subjects import make_subject
from benchmarks.timing import Clock

RESULTS = Path(__file__).with_name("results") / "mixed_precision.json"
#: Allowed drops in points; beyond the last one every group ends at the cheapest candidate.
DROPS = {"separable": (0.5, 1.0, 2.0, 4.0), "cnn": (0.25, 0.5)}
NETWORKS = tuple(DROPS)
_SUBJECT = "mixed_precision_search"


def measure(network: str, seed: int, drop: float, rival: Rival | None) -> dict[str, Any]:
    """One row: the searches, and the exact choice on the budget of the rival's."""
    arguments = {"network": network, "seed": seed, "drop": drop}
    row: dict[str, Any] = dict(arguments)
    row["fp32"] = fashion_mnist.accuracy(rounding_jobs.folded_fashion(network))
    ours = document_of(make_subject(_SUBJECT, arguments).run())
    row["greedy"] = _without_bits(ours) | priced(network, seed, ours["bits"])
    reference = ours
    if rival is not None:
        reference = document_of(torch.from_numpy(rival.load(_SUBJECT, arguments).results()[0]))
        row["rival"] = _without_bits(reference) | priced(network, seed, reference["bits"])
    budget = row["rival" if rival is not None else "greedy"]
    row["exact"] = exact(network, seed, budget["bit_ops"], budget["bytes"])
    row["exact_for_drop"] = exact_for_drop(network, seed, drop)
    return row


def document_of(data: torch.Tensor) -> dict[str, Any]:
    """The document whose JSON these bytes are."""
    document: dict[str, Any] = json.loads(bytes(map(int, data.tolist())))
    return document


def _without_bits(document: dict[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in document.items() if key != "bits"}
    found["own_accuracy"] = found.pop("accuracy")
    return found


def priced(network: str, seed: int, bits: dict[str, int]) -> dict[str, Any]:
    """Costs of a choice, as shares of the finest candidate's, and its accuracy in our simulation.

    Args:
        network: a key of `fashion_mnist.NETWORKS`.
        seed: of the calibration images.
        bits: by name of the quantizer; quantizers that only the rival has are left out.
    """
    batches = calibration(seed)
    sim = simulation(network, batches)
    sim.compute_encodings(batches)
    names = dict(sim.named_quantizers())
    missing = sorted(names.keys() - bits.keys())
    if missing:
        raise ValueError(f"benchmarks.mixed_precision: no bits for {', '.join(missing)}")
    setting = {name: Precision(bits[name]) for name in names}
    board = Switchboard(sim)
    costs = Costs(board, SiteMap(sim))
    activation, weight = max(CANDIDATES)
    finest = {n: Precision(weight if n in board.params else activation) for n in names}
    full = costs.measures(finest)
    shares = {name: cost / full[name] for name, cost in costs.measures(setting).items()}
    apply_choice(sim, setting, batches)
    return {**shares, "accuracy": fashion_mnist.accuracy(sim.model)}


def exact(network: str, seed: int, bit_ops: float, bytes: float) -> dict[str, Any]:
    """The exact choice within shares of bit-operations and bytes."""
    batches = calibration(seed)
    sim = simulation(network, batches)
    clock = Clock()
    # A share that is the sum of the same numbers in another order may differ in its last bit.
    plan = optimize_mixed_precision(
        sim,
        batches,
        candidates(),
        bit_ops=min(bit_ops * (1 + 1e-9), 1.0),
        bytes=min(bytes * (1 + 1e-9), 1.0),
        loss="cross_entropy",
        num_batches=None,
    )
    seconds, cpu_seconds = clock.stop().times()
    return {
        **plan.relative,
        "evaluations": plan.evaluations,
        "is_optimal": plan.is_optimal,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "accuracy": fashion_mnist.accuracy(sim.model),
    }


def exact_for_drop(network: str, seed: int, drop: float) -> dict[str, Any]:
    """The exact choice with the fewest bit-operations that keeps the accuracy of the search."""
    batches = calibration(seed)
    images, labels = labelled(seed)
    sim = simulation(network, batches)
    score = Counted(lambda model: fashion_mnist.accuracy_on(model, images, labels))
    clock = Clock()
    plan = optimize_mixed_precision(
        sim,
        batches,
        candidates(),
        allowed_accuracy_drop=drop,
        eval_callback=score,
        loss="cross_entropy",
        num_batches=None,
    )
    seconds, cpu_seconds = clock.stop().times()
    return {
        **plan.relative,
        "evaluations": score.calls,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "accuracy": fashion_mnist.accuracy(sim.model),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows for the terminal."""
    cells = []
    for row in rows:
        rival = row.get("rival")
        cells.append(
            [
                f"{row['network']} {row['drop']:g}/{row['seed']}",
                f"{row['fp32']:.2f}",
                *(_cells(rival) if rival else ["", "", "", ""]),
                *_cells(row["greedy"]),
                *_cells(row["exact"]),
                *_cells(row["exact_for_drop"]),
            ]
        )
    heads = [f"{who} {what}" for who in ("aimet", "greedy", "exact", "for drop") for what in "abeo"]
    names = {"a": "top-1", "b": "bit-ops", "e": "evals", "o": "s"}
    header = [f"{h[:-1]}{names[h[-1]]}" for h in heads]
    return text_table(["network drop/seed", "FP32", *header], cells)


def _cells(found: dict[str, Any]) -> list[str]:
    return [
        f"{found['accuracy']:.2f}",
        f"{100 * found['bit_ops']:.1f} %",
        str(found["evaluations"]),
        f"{found['cpu_seconds']:.1f}",
    ]


def main() -> None:
    """Measure the rows that the file has not yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="networks")
    parser.add_argument("--output", type=Path, default=RESULTS, help="file for the results, JSON")
    parser.add_argument("--seeds", type=int, default=3, help="choices of the images")
    parser.add_argument("--no-rival", action="store_true", help="without aimet-torch 2.42")
    arguments = parser.parse_args()
    threads = torch.get_num_threads()
    report: dict[str, Any] = {"environment": environment.describe(threads), "rows": []}
    report["mobilenet_v2"] = []
    if arguments.output.exists():
        before = json.loads(arguments.output.read_text())
        report["rows"] = before["rows"]
        report["mobilenet_v2"] = before.get("mobilenet_v2", [])
        report["environment"] |= {k: v for k, v in before["environment"].items() if k == "rival"}
    known = {(row["network"], row["seed"], row["drop"]) for row in report["rows"]}
    jobs = [
        (network, seed, drop)
        for network in NETWORKS
        for drop in DROPS[network]
        for seed in range(arguments.seeds)
        if (network, seed, drop) not in known and network in (arguments.words or NETWORKS)
    ]
    rival: Rival | None = None
    if jobs and not arguments.no_rival:
        try:
            rival = Rival(threads)
            report["environment"]["rival"] = rival.versions
        except RivalUnavailableError as error:
            print(f"aimet-torch 2.42 is not available: {error}")
    try:
        for network, seed, drop in jobs:
            report["rows"].append(measure(network, seed, drop, rival))
            write_json(arguments.output, report)
            print(table(report["rows"][-1:]), flush=True)
    finally:
        if rival is not None:
            rival.close()
    if not arguments.words or "mobilenet_v2" in arguments.words:
        rows = report["mobilenet_v2"]
        for allowed in mixed_precision_mobilenet.DROPS:
            if all(row["drop_db"] != allowed for row in rows):
                rows.append(mixed_precision_mobilenet.measure(allowed))
                write_json(arguments.output, report)
    print(table(report["rows"]))


if __name__ == "__main__":
    main()
