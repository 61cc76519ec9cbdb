"""The main job on a real network: quantize MobileNetV2, repair it, export it, run it elsewhere.

FP32 -> W8A8 simulation -> the same after batch-norm folding and cross-layer equalization -> export
-> ONNX Runtime, on photographs; agreement with FP32 needs no labels. ``make demo`` runs this.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import assets
import onnxruntime
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import aimet_torch
from aimet_torch import QuantizationSimModel
from aimet_torch.batch_norm_fold import fold_all_batch_norms
from aimet_torch.common.progress import progress
from aimet_torch.common.tables import format_percent
from aimet_torch.cross_layer_equalization import equalize_model
from aimet_torch.report import (
    QuantizationReport,
    Step,
    describe_quantizers,
    layer_sqnr,
    sqnr_db,
    top1_agreement,
)
from aimet_torch.report.pages import format_db

BATCH_SIZE = 8
# One photograph of four calibrates; what is measured is measured on others.
CALIBRATION_PERIOD = 4
CALIBRATION_COUNT = 48
EVALUATION_COUNT = 96
NAME = "mobilenet_v2"


@dataclass
class Run:
    """The data, FP32's answers and the rows so far."""

    calibration: Tensor
    evaluation: Tensor
    steps: list[Step] = field(default_factory=list)
    fp32_logits: Tensor = field(default_factory=lambda: torch.empty(0))

    def logits(self, model: Callable[[Tensor], Tensor], description: str) -> Tensor:
        batches = self.evaluation.split(BATCH_SIZE)
        with torch.no_grad():
            return torch.cat([model(batch) for batch in progress(batches, description)])

    def add(self, name: str, start: float, logits: Tensor | None = None, detail: str = "") -> None:
        agreement, ratio = None, None
        if logits is not None:
            agreement = top1_agreement(self.fp32_logits, logits)
            ratio = sqnr_db(self.fp32_logits, logits)
        self.steps.append(Step(name, time.perf_counter() - start, agreement, ratio, detail))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("demo_out"), help="folder of results")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)

    begin = time.perf_counter()
    console = Console()
    run = load_photographs()
    console.print(
        f"MobileNetV2 (torchvision's ImageNet weights); {len(run.calibration)} photographs to"
        f" calibrate, {len(run.evaluation)} others to measure ({assets.photographs_source()})"
    )

    start = time.perf_counter()
    model = assets.load_mobilenet_v2()
    run.fp32_logits = run.logits(model, "FP32")
    run.add("FP32", start, run.fp32_logits)

    networks = {"": model} | repaired(model, run)
    # Per tensor is where equalization matters; the last simulation is the default's best.
    for config, granularity in (("default_per_tensor", "per tensor"), (None, "per channel")):
        for suffix, network in networks.items():
            name = f"W8A8 {granularity}{suffix}"
            start = time.perf_counter()
            sim = QuantizationSimModel(network, run.calibration[:1], config_file=config)
            sim.compute_encodings(run.calibration.split(BATCH_SIZE))
            logits = run.logits(sim.model, name)
            run.add(name, start, logits)

    start = time.perf_counter()
    files = export(sim, run, output)
    run.add("export", start, detail="FP32 ONNX with encodings, and ONNX with QuantizeLinear nodes")

    start = time.perf_counter()
    runtime_logits = run.logits(OnnxModel(output / f"{NAME}_qdq.onnx"), "ONNX Runtime")
    run.add("ONNX Runtime, QDQ model", start, runtime_logits, "runs the last simulation elsewhere")

    write_report(sim, name, run, files, output)
    console.print(table(run.steps))
    console.print(
        f"ONNX Runtime against the simulation: top-1 equal on"
        f" {format_percent(top1_agreement(logits, runtime_logits))},"
        f" SQNR {format_db(sqnr_db(logits, runtime_logits))};"
        f" {time.perf_counter() - begin:.0f} s in all"
    )
    console.print(
        f"\nWhere to go next:\n"
        f"  {output}/report.html      open it in a browser: every layer, every quantizer\n"
        f"  examples/quickstart.py    the same for a network of yours, in ten lines\n"
        f"  README.md                 what else there is, and how a C++ program uses it",
        highlight=False,
    )


def load_photographs() -> Run:
    photographs = assets.load_photographs()
    place = torch.arange(len(photographs))
    calibrates = place % CALIBRATION_PERIOD == 0
    return Run(
        spread(photographs[calibrates], CALIBRATION_COUNT),
        spread(photographs[~calibrates], EVALUATION_COUNT),
    )


def spread(photographs: Tensor, count: int) -> Tensor:
    """Return `count` photographs from all over the collection, or all where there are fewer."""
    count = min(count, len(photographs))
    return photographs[torch.arange(count) * len(photographs) // count]


def repaired(model: nn.Module, run: Run) -> dict[str, nn.Module]:
    """Return the network with batch norms folded, and with layers equalized on top, by suffix."""
    folded, equalized = copy.deepcopy(model), copy.deepcopy(model)
    example = run.calibration[:1]
    start = time.perf_counter()
    fold_all_batch_norms(folded, None, dummy_input=example)
    run.add("FP32, folded", start, run.logits(folded, "folded"))
    start = time.perf_counter()
    equalize_model(equalized, dummy_input=example)
    run.add("FP32, folded, equalized", start, run.logits(equalized, "equalized"))
    return {", folded": folded, ", folded, equalized": equalized}


def export(sim: QuantizationSimModel, run: Run, output: Path) -> list[tuple[str, str]]:
    example = run.calibration[:1]
    batch = {"x": {0: torch.export.Dim.DYNAMIC}}
    sim.onnx.export((example,), output / f"{NAME}.onnx", dynamic_shapes=batch)
    aimet_torch.onnx.export(sim, (example,), output / f"{NAME}_qdq.onnx", dynamic_shapes=batch)
    return [
        (f"{NAME}.onnx", "the network in FP32, without a trace of quantizers"),
        (f"{NAME}.encodings", "scale, offset and bit width of each tensor of that file, as JSON"),
        (f"{NAME}_qdq.onnx", "the same simulation with QuantizeLinear and DequantizeLinear nodes"),
    ]


class OnnxModel:
    """An ONNX file in ONNX Runtime as a function of a tensor, node by node as it is written."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        # Optimized, the runtime replaces QDQ groups by integer kernels with other roundings.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        self.input_name = self.session.get_inputs()[0].name

    def __call__(self, batch: Tensor) -> Tensor:
        (logits,) = self.session.run(None, {self.input_name: batch.numpy()})
        return torch.from_numpy(logits)


def write_report(
    sim: QuantizationSimModel, name: str, run: Run, files: list[tuple[str, str]], output: Path
) -> None:
    report = QuantizationReport(
        title="MobileNetV2: FP32 to W8A8",
        description=(
            f"torchvision's MobileNetV2 with its ImageNet weights. {len(run.calibration)}"
            f" photographs calibrated it, {len(run.evaluation)} others measured it"
            f" ({assets.photographs_source()})."
        ),
        steps=run.steps,
        quantizers=describe_quantizers(sim),
        subject=name,
        layers=layer_sqnr(sim, run.evaluation[:BATCH_SIZE]),
        unquantized=[(row.name, "; ".join(row.outputs)) for row in sim.summary().float_ops],
        files=files,
    )
    report.write_json(output / "report.json")
    report.write_html(output / "report.html")


def table(steps: list[Step]) -> Table:
    result = Table("step", box=box.SIMPLE_HEAD)
    for heading in ("top-1 = FP32", "SQNR of logits", "time"):
        result.add_column(heading, justify="right")
    for step in steps:
        numbers = format_percent(step.top1_agreement), format_db(step.sqnr_db)
        result.add_row(step.name, *numbers, f"{step.seconds:.1f} s")
    return result


if __name__ == "__main__":
    main()
