"""One-pass sensitivity against evaluating every quantizer by itself.

``python -m benchmarks.sensitivity [--output FILE] [--samples N] [NETWORK ...]``

For each quantizer of a network at 4 and at 8 bits, all others off: the error of the outputs on
inputs that calibrated nothing (brute force), and what `estimate_sensitivity` says after one
backward pass for each batch of a few calibration inputs. Compared are the rankings (Spearman) and
the times. Every evaluation is kept as it comes: a run that was interrupted goes on there.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.analysis import Precision, Switchboard, estimate_sensitivity, evaluate_settings
from aimet_torch.batch_norm_fold import fold_all_batch_norms
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.report.pages import json_ready
from benchmarks import environment, fashion_mnist
from benchmarks.fidelity import minilm_encoder
from benchmarks.model_subjects import network

BITWIDTHS = (4, 8)
_TARGETS = {"spearman": 0.8, "time": 1 / 20}


@dataclass(frozen=True)
class Case:
    """A network with batches that calibrate, that the estimate sees, and that measure.

    Attributes:
        model: trained, batch norms folded.
        calibration: batches.
        estimate: batches that `estimate_sensitivity` gets, of the calibration's samples.
        samples: batches that every quantizer is evaluated on.
    """

    model: nn.Module
    calibration: list[Tensor]
    estimate: list[Tensor]
    samples: list[Tensor]


def mobilenet_v2(count: int | None) -> Case:
    """ImageNet weights; photographs."""
    from examples import assets

    images = assets.load_photographs()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    chosen = images[order]
    model = network("mobilenet_v2")
    fold_all_batch_norms(model, (1, 3, 224, 224))
    calibration = list(chosen[:64].split(8))
    return Case(
        model, calibration, calibration[:2], list(chosen[64 : 64 + (count or 64)].split(16))
    )


def fashion(name: str) -> Callable[[int | None], Case]:
    """A network trained on Fashion-MNIST."""

    def make(count: int | None) -> Case:
        model = fashion_mnist.trained(name)
        fold_all_batch_norms(model, (1, 1, 28, 28))
        calibration = fashion_mnist.calibration_batches(512)
        images = fashion_mnist.load("test")[0][: count or 4000]
        return Case(model, calibration, calibration[:2], list(images.split(250)))

    return make


def minilm(count: int | None) -> Case:
    """The trained encoder; sequences of words."""
    case = minilm_encoder(count or 16)  # more words than that there are not
    calibration = list(torch.cat(case.calibration).split(8))
    samples = list(torch.cat(case.samples).split(16))
    return Case(case.model, calibration, calibration[:2], samples)


NETWORKS: dict[str, Callable[[int | None], Case]] = {
    "MobileNetV2": mobilenet_v2,
    "Fashion-MNIST residual": fashion("residual"),
    "Fashion-MNIST separable": fashion("separable"),
    "MiniLM-L6": minilm,
}


def spearman(first: list[float], second: list[float]) -> float:
    """Rank correlation; equal values share a rank."""
    ranks = torch.stack([_ranks(first), _ranks(second)])
    return float(torch.corrcoef(ranks)[0, 1])


def _ranks(values: list[float]) -> Tensor:
    x = torch.tensor(values, dtype=torch.float64)
    below = (x[None] < x[:, None]).sum(1)
    equal = (x[None] == x[:, None]).sum(1)
    return below + (equal - 1) / 2


def measure(
    case: Case,
    found: dict[str, list[float]],
    keep: Callable[[], None],
    estimates: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Compare both ways on one network.

    Args:
        case: the network.
        found: error and seconds by quantizer and bits, of an earlier run; grows.
        keep: called whenever ``found`` has grown.
        estimates: takes the estimate of each quantizer at each number of bits.
    """
    sim = QuantizationSimModel(case.model, case.samples[0][:1])
    sim.compute_encodings(case.calibration)
    table = estimate_sensitivity(sim, case.estimate, BITWIDTHS)
    board = Switchboard(sim)
    board.observe(case.calibration, BITWIDTHS)
    with torch.no_grad(), board.only(()):
        expected = torch.cat([sim.model(x) for x in case.samples])
    seconds = 0.0

    def error(model: nn.Module) -> float:
        nonlocal seconds
        start = time.perf_counter()
        outputs = torch.cat([model(x) for x in case.samples])
        value = float((outputs - expected).square().sum() / expected.square().sum())
        seconds = time.perf_counter() - start
        return value

    def note(label: str, score: float) -> None:
        found[label] = [score, round(seconds, 4)]
        keep()

    settings = {
        f"{row.name} {row.bitwidth}": board.only_at({row.name: Precision(row.bitwidth)})
        for row in table
    }
    known = {label: pair[0] for label, pair in found.items() if label in settings}
    truth = evaluate_settings(board, settings, error, known=known, on_score=note)
    brute = sum(found[label][1] for label in settings)
    rows = {f"{row.name} {row.bitwidth}": row for row in table}
    if estimates is not None:
        estimates |= {label: rows[label].loss for label in settings}
    result: dict[str, Any] = {
        "quantizers": len(board.quantizers),
        "evaluations": len(settings),
        "samples_evaluated": sum(map(len, case.samples)),
        "samples_estimated": table.samples,
        "seconds_evaluating": round(brute, 2),
        "seconds_estimating": round(table.seconds, 3),
        "time_ratio": table.seconds / brute,
        "spearman": spearman([rows[k].loss for k in settings], [truth[k] for k in settings]),
        "spearman_sqnr": spearman(
            [-rows[k].sqnr_db for k in settings], [truth[k] for k in settings]
        ),
    }
    for bits in BITWIDTHS:
        keys = [k for k in settings if rows[k].bitwidth == bits]
        result[f"spearman_{bits}_bits"] = spearman(
            [rows[k].loss for k in keys], [truth[k] for k in keys]
        )
    result["reached"] = (
        result["spearman"] >= _TARGETS["spearman"] and result["time_ratio"] <= _TARGETS["time"]
    )
    return result


def main() -> None:
    """Measure and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("networks", nargs="*", help="only networks whose name has one of these")
    parser.add_argument("--output", type=Path, default=Path("build/sensitivity.json"))
    parser.add_argument("--samples", type=int, help="inputs that every quantizer is evaluated on")
    arguments = parser.parse_args()
    output: Path = arguments.output
    report: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {}
    report.setdefault("rows", [])
    unfinished: dict[str, Any] = report.setdefault("unfinished", {})
    report["environment"] = environment.describe(torch.get_num_threads())
    report["targets"] = _TARGETS
    output.parent.mkdir(parents=True, exist_ok=True)

    def keep() -> None:
        output.write_text(json.dumps(json_ready(report), indent=2, allow_nan=False) + "\n")

    done = {row["network"] for row in report["rows"]}
    for name, make in NETWORKS.items():
        wanted = not arguments.networks or any(word in name for word in arguments.networks)
        if name in done or not wanted:
            continue
        row = measure(make(arguments.samples), unfinished.setdefault(name, {}), keep)
        report["rows"].append({"network": name, **row, "load": environment.load()})
        del unfinished[name]
        report["rows"].sort(key=lambda r: list(NETWORKS).index(r["network"]))
        keep()
        print(json.dumps(report["rows"][-1]), flush=True)


if __name__ == "__main__":
    main()
