"""What the scripts of the zoo share: the columns of a row, the file of all rows, its check."""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

import aimet_torch
from aimet_torch import defs
from aimet_torch.common.defs import CompressionScheme, CostMetric
from aimet_torch.common.tables import json_ready, text_table, write_json
from aimet_torch.compress import ModelCompressor
from aimet_torch.compression import estimate_cost
from aimet_torch.ptq import quantize_without_labels
from benchmarks import environment

RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "zoo.json"
#: Compressions that an entry may ask for.
SCHEMES = (
    CompressionScheme.channel_pruning,
    CompressionScheme.spatial_svd,
    CompressionScheme.weight_svd,
)
#: Scores of a row, in the order of the table.
COLUMNS = ("fp32", "w8a8", "w4a8", "compressed", "compressed_w8a8")
#: By how much the share of multiply-accumulates may differ between two runs.
SHARE_TOLERANCE = 0.03
#: By how many dB an ONNX file must be nearer to the simulation than the simulation to FP32.
ONNX_MARGIN_DB = 3.0

Row = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A network of the zoo.

    Attributes:
        name: key of its row.
        title: its name in tables.
        load: the network in evaluation mode; fetches weights that are missing.
        batches: what calibrates, without labels; a batch is what the network takes.
        score: of a network; higher is better.
        unit: of the score, such as "% top-1".
        data: what the score and the calibration run on, in words.
        tolerance: how much more than the committed row another run may lose, in the score's unit.
        scheme: of the compression, one of `SCHEMES`.
        ratio: multiply-accumulates that the compression leaves, in (0, 1].
        selection: of channels that are pruned, as for `ChannelPruningParameters`.
        options: for `quantize_without_labels`, by bits of weights, where defaults do not suit.
        exports: write the compressed W8A8 network as ONNX and compare ONNX Runtime with it.
    """

    name: str
    title: str
    load: Callable[[], nn.Module]
    batches: Callable[[], list[Any]]
    score: Callable[[Any], float]
    unit: str
    data: str
    tolerance: float
    scheme: CompressionScheme
    ratio: float
    selection: str = "gram"
    options: Mapping[int, dict[str, Any]] = field(default_factory=dict)
    exports: bool = False


def measure(entry: Entry) -> Row:
    """One row: the scores, and the share of multiply-accumulates that compression leaves."""
    torch.manual_seed(0)
    model, batches = entry.load(), entry.batches()

    def simulation(network: nn.Module, bits: int) -> Any:
        options = entry.options.get(bits, {})
        return quantize_without_labels(
            network, batches[0], batches, default_param_bw=bits, **options
        )

    def score(network: Any) -> float:
        with torch.no_grad():
            return round(float(entry.score(network)), 4)

    small = compress(entry, model, batches)
    small_sim = simulation(small, 8)
    costs = [estimate_cost(network, batches[0]).macs for network in (small, model)]
    row: Row = {
        "network": entry.title,
        "unit": entry.unit,
        "data": entry.data,
        "tolerance": entry.tolerance,
        "scheme": entry.scheme.name,
        "fp32": score(model),
        "w8a8": score(simulation(model, 8).model),
        "w4a8": score(simulation(model, 4).model),
        "compressed": score(small),
        "compressed_w8a8": score(small_sim.model),
        "macs": round(costs[0] / costs[1], 4),
    }
    if entry.exports:
        row |= _exported(small_sim, batches[0])
    return row


def compress(entry: Entry, model: nn.Module, batches: list[Any]) -> nn.Module:
    """A smaller network: ratios of layers chosen exactly, weights fitted to ``batches``."""
    select: Any = defs.ExactSelectionParameters(entry.ratio, data_loader=batches)
    parameters: Any
    if entry.scheme is CompressionScheme.channel_pruning:
        pruning = defs.ChannelPruningParameters
        auto = pruning.AutoModeParams(select)
        inputs = sum(len(batch[0] if isinstance(batch, tuple) else batch) for batch in batches)
        parameters = pruning(
            batches, inputs, True, pruning.Mode.auto, auto, selection=entry.selection
        )
    elif entry.scheme is CompressionScheme.weight_svd:
        weight = defs.WeightSvdParameters
        chosen = weight.AutoModeParams(defs.RankSelectScheme.greedy, select)
        parameters = weight(weight.Mode.auto, chosen, data_loader=batches)
    else:
        spatial = defs.SpatialSvdParameters
        auto = spatial.AutoModeParams(select)
        parameters = spatial(spatial.Mode.auto, auto, data_loader=batches)
    small, _ = ModelCompressor.compress_model(
        model,
        lambda network, *_: min(float(entry.score(network)), sys.float_info.max),  # FP32 in dB: inf
        None,
        batches[0],
        entry.scheme,
        CostMetric.mac,
        parameters,
    )
    return small


def _exported(sim: Any, batch: Any) -> Row:
    """How near ONNX Runtime is to the simulation, with the file of the simulation."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.onnx")
        aimet_torch.onnx.export(sim, (batch,), path)
        found = aimet_torch.verify(sim, path, batch, node_by_node=False, optimized=False)
    (output,) = found.outputs
    return {
        "onnx_equal": round(output.equal, 4),
        "onnx_sqnr_db": round(output.sqnr_db, 2),
        "onnx_noise_db": round(output.noise_db, 2),
    }


def problems(row: Row, committed: Row) -> list[str]:
    """Where a row is worse than the committed one by more than its tolerance.

    Scores are compared by what they lose against FP32 of their own run. FP32 itself may be off by
    twice the tolerance, to either side: another machine trains a slightly different network.
    """
    allowed = float(committed["tolerance"])
    found = []
    for column in COLUMNS:
        now, then = (_compared(each, column) for each in (row, committed))
        worse = then - now if now != then else 0.0
        limit = 2 * allowed if column == "fp32" else allowed
        if not (abs(worse) if column == "fp32" else worse) <= limit:
            found.append(
                f"{row['network']}: {column} is {row[column]} {row['unit']}, committed are"
                f" {committed[column]} (FP32 {row['fp32']} and {committed['fp32']});"
                f" {limit} less are allowed"
            )
    if not abs(row["macs"] - committed["macs"]) <= SHARE_TOLERANCE:
        found.append(
            f"{row['network']}: compression leaves {row['macs']} of the multiply-accumulates,"
            f" committed are {committed['macs']}; {SHARE_TOLERANCE} are allowed"
        )
    if "onnx_sqnr_db" in row and not (
        float(row["onnx_sqnr_db"]) >= float(row["onnx_noise_db"]) + ONNX_MARGIN_DB
    ):
        found.append(
            f"{row['network']}: ONNX Runtime agrees with the simulation to {row['onnx_sqnr_db']}"
            f" dB only, with a quantization noise of {row['onnx_noise_db']} dB;"
            f" {ONNX_MARGIN_DB} more are wanted"
        )
    return found


def _compared(row: Row, column: str) -> float:
    value, fp32 = float(row[column]), float(row["fp32"])
    return value if column == "fp32" or math.isinf(fp32) else value - fp32


def read(path: Path) -> dict[str, Row]:
    """The rows of a file by name; none where there is no file."""
    return dict(json.loads(path.read_text())["rows"]) if path.exists() else {}


def run(entries: Sequence[Entry]) -> int:
    """The command line of a script and of ``python -m zoo``.

    Rows that the file lacks are measured and stored one by one, so a run that was stopped goes on
    where it was.

    Returns:
        The exit code: 1 where a row is worse than the committed one by more than its tolerance.
    """
    parser = argparse.ArgumentParser(description="FP32, W8A8, W4A8 and compressed side by side")
    parser.add_argument("names", nargs="*", help="rows; all by default")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON file for the rows")
    parser.add_argument("--again", action="store_true", help="also rows that the file has")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    names = [entry.name for entry in entries]
    unknown = sorted(set(options.names) - set(names))
    if unknown:
        parser.error(f"no such rows: {', '.join(unknown)}; there are {', '.join(names)}")
    torch.set_num_threads(options.threads)
    committed = read(RESULTS)
    rows = read(options.output)
    chosen = [entry for entry in entries if not options.names or entry.name in options.names]
    failures: list[str] = []
    for entry in chosen:
        if options.again or entry.name not in rows:
            rows[entry.name] = json_ready(measure(entry))
            machine = environment.describe(options.threads)
            write_json(options.output, {"environment": machine, "rows": dict(sorted(rows.items()))})
            print(json.dumps({entry.name: rows[entry.name]}), flush=True)
        if entry.name in committed:
            failures += problems(rows[entry.name], committed[entry.name])
    header = ("network", "unit", *COLUMNS, "macs")
    cells = [[str(rows[e.name][key]) for key in header] for e in chosen]
    print(text_table(header, cells))
    print("\n".join(failures), end="\n" if failures else "")
    return 1 if failures else 0
