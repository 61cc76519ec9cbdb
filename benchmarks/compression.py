"""What compression costs in accuracy and saves in time: this project and aimet-torch 2.42.

``python -m benchmarks.compression [--output FILE] [ROW ...]``; ``--list`` names the rows. Five
kinds, each on networks trained on Fashion-MNIST (a seed chooses the calibration pictures and the
order of training):

- ``plain/...``: both libraries without fine-tuning, on the same ratios of the layers, and each with
  its own choice of ratios. Ours again with data.
- ``tuned/...``: spatial SVD, channel pruning and three epochs, to half the multiply-accumulates.
- ``together/...``: accuracy, multiply-accumulates, bytes and time after each step, with W8A8.
- ``shapes/...``: whether MobileNetV2 and ResNets come within 1 % of the ratio that was asked for.
- ``search/...``: seconds of the whole automatic search for ResNet-18 at 64 x 64 on 500 pictures.

Rows that the output file has are kept, so a run that was stopped goes on where it was; ``--again``
measures ours again and keeps aimet-torch's part of them.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from aimet_torch.common.tables import text_table, write_json
from benchmarks.compression_subjects import SEARCH_IMAGES, compressed_network
from benchmarks.compression_training import together, tuned
from benchmarks.environment import describe
from benchmarks.rivals import Rival, RivalUnavailableError

RESULTS = Path(__file__).with_name("results") / "compression.json"
NETWORKS = ("resnet", "cnn", "separable")
SEEDS = (0, 1, 2)
SCHEMES = ("spatial_svd", "weight_svd", "channel_pruning")
RATIOS = (0.5, 0.66, 0.75)
SHAPES = {"mobilenet_v2": "weight_svd", "resnet18": "spatial_svd", "resnet50": "spatial_svd"}

Row = dict[str, Any]


def plain(
    network: str,
    scheme: str,
    selection: str,
    rival: Callable[[], Rival | None],
    earlier: Row,
) -> Row:
    """Accuracy of both libraries right after compressing to half, in percent."""
    given: Row = {"network": network, "scheme": scheme, "ratio": 0.5, "images": 1000}
    row: Row = {key: earlier[key] for key in ("rival",) if key in earlier}
    theirs = {**given, "selection": selection}
    if not row and (found := rival()) is not None:
        row["rival"] = _outcome(lambda: found.load(compressed_network.__name__, theirs).results())
    row["ours"] = _outcome(functools.partial(_results, theirs))
    own = {**given, "selection": "uniform" if selection == "uniform" else "exact", "data": True}
    row["ours_data"] = [
        _outcome(functools.partial(_results, {**own, "seed": seed})) for seed in SEEDS
    ]
    return row


def _results(given: Row) -> Any:
    return compressed_network(**given).results()


def _outcome(compute: Callable[[], Any]) -> Row:
    try:
        before, after, ratio = (float(value) for value in compute()[0])
    except (RivalUnavailableError, RuntimeError, ValueError) as error:
        return {"error": str(error)[:200]}
    return {"before": round(before, 2), "after": round(after, 2), "mac_ratio": round(ratio, 4)}


def shape(name: str, ratio: float) -> Row:
    """The ratio that a network reaches, of its multiply-accumulates, at 64 x 64."""
    job = compressed_network(
        network=name, scheme=SHAPES[name], ratio=ratio, selection="exact", images=64
    )
    _, _, reached = (float(value) for value in job.results()[0])
    return {"asked": ratio, "reached": round(reached, 4)}


def search(rival: Rival | None) -> Row:
    """Seconds of compressing ResNet-18 to half, choice of ratios and all."""
    given: Row = {
        "network": "resnet18",
        "scheme": "spatial_svd",
        "ratio": 0.5,
        "images": SEARCH_IMAGES,
    }
    row = {
        f"ours_{selection}": round(compressed_network(**given, selection=selection).seconds(1), 2)
        for selection in ("exact", "greedy")
    }
    if rival is not None:
        subject = rival.load(compressed_network.__name__, {**given, "selection": "greedy"})
        row["rival"] = round(subject.seconds(1), 2)
        row["times_faster"] = round(row["rival"] / row["ours_exact"], 1)
    return row


def rows(
    rival: Callable[[], Rival | None], earlier: dict[str, Row]
) -> dict[str, Callable[[], Row]]:
    """Every row by its name.

    Args:
        rival: starts aimet-torch when it is first needed.
        earlier: rows of another run, whose parts of aimet-torch are taken over.
    """
    found: dict[str, Callable[[], Row]] = {}
    for name in NETWORKS:
        for scheme in SCHEMES:
            for selection in ("uniform", "greedy"):
                key = f"plain/{name}/{scheme}/{selection}"
                found[key] = functools.partial(
                    plain, name, scheme, selection, rival, earlier.get(key, {})
                )
    for name in ("resnet", "cnn"):
        for seed in SEEDS:
            found[f"tuned/{name}/{seed}"] = functools.partial(tuned, name, seed)
    for name in ("resnet", "cnn"):
        found[f"together/{name}"] = functools.partial(together, name)
    for name in SHAPES:
        for ratio in RATIOS:
            found[f"shapes/{name}/{ratio}"] = functools.partial(shape, name, ratio)
    found["search/resnet18"] = lambda: search(rival())
    return found


def main() -> None:
    """Measure what is missing, print it, and write the JSON after every row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="rows, or the beginning of their names")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--again", action="store_true", help="also rows that the file has")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rivals: list[Rival | None] = []

    def rival() -> Rival | None:
        if not rivals:
            try:
                rivals.append(Rival(options.threads))
            except RivalUnavailableError as error:
                print(f"without aimet-torch: {error}")
                rivals.append(None)
        return rivals[0]

    document: dict[str, Any] = {"rows": {}}
    if options.output.exists():
        document = json.loads(options.output.read_text())
    jobs = rows(rival, document["rows"])
    chosen = [n for n in jobs if not options.names or n.startswith(tuple(options.names))]
    if options.list:
        print("\n".join(chosen))
        return
    for name in chosen:
        if options.again or name not in document["rows"]:
            start = time.perf_counter()
            document["rows"][name] = jobs[name]()
            document["rows"][name]["seconds"] = round(time.perf_counter() - start, 1)
            document["environment"] = describe(options.threads)
            write_json(options.output, document)
        print(name, json.dumps(document["rows"][name]), flush=True)
    print(text_table(("row", "result"), [(n, json.dumps(document["rows"][n])) for n in chosen]))
    for found in rivals:
        if found is not None:
            found.close()


if __name__ == "__main__":
    main()
