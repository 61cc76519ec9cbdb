"""What quantization-aware training reaches, and what a step costs: Fashion-MNIST, three networks.

``python -m benchmarks.qat [--output FILE] [NAME ...]``. From the trained FP32 network, two epochs
at 8, 4 and 2 bits for weights and activations, by the loop of `benchmarks.qat_subjects`, measured
on the 10,000 test images. aimet-torch 2.42 runs the same loop in its own process, its steps turn
by turn with ours. As a control, FP32 trains for as long. Then one step of MobileNetV2.

Rows that the output file has are kept, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from aimet_torch.qat import DistillationLoss, learn_ranges, parameter_groups
from aimet_torch.quantsim import QuantizationSimModel
from benchmarks import environment, fashion_mnist
from benchmarks.qat_subjects import BATCH_SIZE, RECIPES, fashion_mnist_training
from benchmarks.render_qat import RESULTS
from benchmarks.rivals import Rival, RivalUnavailableError

SUBJECT = fashion_mnist_training.__name__
EPOCHS = 2
#: Points of accuracy that training may leave to FP32.
ALLOWED = {"W8A8": 0.0, "W4A4": 0.5, "W2A2": 4.0, "W2A2 LSQ": 4.0}
STEPS_A_TURN = 20


def train(arguments: dict[str, Any], rival: Rival | None, steps: int) -> dict[str, Any]:
    """One training here and, where there is a rival, there; seconds are of a step."""
    contestants: dict[str, Any] = {"ours": fashion_mnist_training(**arguments)}
    if rival is not None:
        contestants["rival"] = rival.load(SUBJECT, arguments)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for first in range(0, steps, STEPS_A_TURN):
        count = min(STEPS_A_TURN, steps - first)
        for name, contestant in contestants.items():
            seconds[name].append(contestant.seconds(count) / count)
    row: dict[str, Any] = {"seed": arguments["seed"]}
    for name, contestant in contestants.items():
        before, after = (round(float(value), 2) for value in contestant.results()[0])
        row[name] = {
            "calibrated": before,
            "trained": after,
            "step_ms": round(1e3 * statistics.median(seconds[name]), 2),
        }
    if rival is not None:
        turns = zip(seconds["rival"], seconds["ours"], strict=True)
        row["times_faster"] = round(statistics.median(t / o for t, o in turns), 2)
    return row


def mobilenet_v2_step(batch_size: int = 16) -> dict[str, Any]:
    """Distillation loss of MobileNetV2 in W8A8 on photographs, before and after one step."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
    import assets

    teacher = assets.load_mobilenet_v2()
    images = assets.load_photographs()[: 8 * batch_size : 8]
    sim = QuantizationSimModel(teacher, images[:1])
    sim.compute_encodings([images])
    learn_ranges(sim, "lsq")
    criterion = DistillationLoss(teacher)
    groups = parameter_groups(sim, 1e-4, param_range_lr=1e-6, activation_range_lr=1e-5)
    optimizer = torch.optim.SGD(groups)
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = criterion(sim.model(images), images)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return {"photographs": len(images), "loss_before": losses[0], "loss_after": losses[1]}


def run(names: list[str], seeds: int, rival_seeds: int, images: int | None, output: Path) -> None:
    """Train what `output` has not yet, and write it after every training."""
    report: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {"rows": []}
    report["environment"] = environment.describe(torch.get_num_threads())
    report |= {"epochs": EPOCHS, "batch_size": BATCH_SIZE, "allowed": ALLOWED}
    report["recipes"] = {name: vars(recipe) for name, recipe in RECIPES.items()}
    done = {(row["network"], row["setting"], row["seed"]) for row in report["rows"]}
    rival = None
    if rival_seeds:
        try:
            rival = Rival(torch.get_num_threads())
            report["environment"]["rival"] = rival.versions
        except RivalUnavailableError as error:
            print(f"aimet-torch 2.42 not measured: {error}", file=sys.stderr)
    count = images or len(fashion_mnist.load("train")[1])
    steps = EPOCHS * -(-count // BATCH_SIZE)
    try:
        for seed in range(seeds):
            for network in names:
                for setting, recipe in RECIPES.items():
                    if (network, setting, seed) in done:
                        continue
                    arguments = {
                        "network": network, "setting": setting, "seed": seed,
                        "epochs": EPOCHS, "images": images,
                    }  # fmt: skip
                    # What the rival cannot do is compared with what it can: the row of limits.
                    shared = recipe.bits != 32 and recipe.method == "min_max"
                    other = rival if shared and seed < rival_seeds else None
                    row = {"network": network, "setting": setting}
                    row |= train(arguments, other, steps)
                    report["rows"].append(row)
                    print(json.dumps(row), flush=True)
                    _write(report, output)
    finally:
        if rival is not None:
            rival.close()
    report["mobilenet_v2"] = mobilenet_v2_step()
    print("mobilenet_v2", json.dumps(report["mobilenet_v2"]), flush=True)
    _write(report, output)


def _write(report: dict[str, Any], output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_suffix(".part")
    temporary.write_text(json.dumps(report, indent=1) + "\n")
    temporary.replace(output)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {list(fashion_mnist.NETWORKS)}; all without")
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each kind")
    parser.add_argument(
        "--rival-seeds", type=int, default=1, help="those that aimet-torch makes too"
    )
    parser.add_argument("--images", type=int, help="of the 60,000, to try something out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    run(
        arguments.names or list(fashion_mnist.NETWORKS),
        arguments.seeds,
        arguments.rival_seeds,
        arguments.images,
        arguments.output,
    )


if __name__ == "__main__":
    main()
