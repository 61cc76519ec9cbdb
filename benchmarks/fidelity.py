"""Whether the target computes what was simulated: ONNX Runtime and Qualcomm's HTP, emulated.

``python -m benchmarks.fidelity [--output FILE] [--samples N] [WORD ...]``

Each network is simulated, exported as QDQ and run by `aimet_torch.verify` on both targets, on
inputs that did not calibrate it, one at a time. MobileNetV2 has its ImageNet weights and sees
photographs; ResNet-18 has random weights and batch norms that saw photographs; MiniLM-L6's encoder
has its weights and sees words. No labels; weights of 4 bits are rounded by GPTQ first. Rows that
the output file has are kept, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import aimet_torch
from aimet_torch import QuantizationSimModel
from aimet_torch.batch_norm_fold import fold_all_batch_norms
from aimet_torch.export import onnx_qdq
from aimet_torch.ptq import apply_gptq
from aimet_torch.report.pages import json_ready
from aimet_torch.verification import Verification, htp
from benchmarks import environment, minilm
from benchmarks.model_subjects import network
from examples import assets

#: (bits of weights, bits of activations).
SETTINGS = {"W8A8": (8, 8), "W8A16": (8, 16), "W4A8": (4, 8)}
_CONFIG = "htp_v73"
_CALIBRATION_SIZE = 32
_SAMPLES = 8
_TOKENS = 16
_RESNET_SIZE = 128


@dataclass(frozen=True)
class Case:
    """A network with what calibrates and what measures it, one sample a tensor."""

    model: nn.Module
    calibration: list[Tensor]
    samples: list[Tensor]


# ---------------------------------------------------------------------------------------- networks


def _photographs(count: int) -> tuple[list[Tensor], list[Tensor]]:
    images = assets.load_photographs()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    chosen = images[order[: _CALIBRATION_SIZE + count]]
    return list(chosen[:_CALIBRATION_SIZE].split(1)), list(chosen[_CALIBRATION_SIZE:].split(1))


def mobilenet_v2(count: int) -> Case:
    """Trained, batch norms folded."""
    calibration, samples = _photographs(count)
    model = network("mobilenet_v2")
    fold_all_batch_norms(model, (1, 3, 224, 224))
    return Case(model, calibration, samples)


def resnet18(count: int) -> Case:
    """Random weights; its batch norms see the photographs that calibrate."""
    calibration, samples = (
        [nn.functional.interpolate(x, _RESNET_SIZE, mode="bilinear") for x in part]
        for part in _photographs(count)
    )
    model = network("resnet18")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the mean over all batches
        for _ in range(2):
            model.train()(torch.cat(calibration))
    return Case(model.eval(), calibration, samples)


class _Encoder(nn.Module):
    """MiniLM behind its embeddings, for sequences without padding."""

    def __init__(self, model: minilm.MiniLM) -> None:
        super().__init__()
        self.layers = nn.ModuleList(model.encoder.layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, None)
        return x.mean(1)


def minilm_encoder(count: int) -> Case:
    """Trained; sequences of words."""
    model = minilm.load()
    first, second, _ = minilm.ratings()
    pieces = [piece for word in (*first, *second) for piece in minilm.tokens_of(word)[1:-1]]
    begin, end = minilm.tokens_of("")
    width = _TOKENS - 2
    rows = [
        torch.tensor([[begin, *pieces[i * width : (i + 1) * width], end]])
        for i in range(_CALIBRATION_SIZE + count)
    ]
    with torch.no_grad():
        sequences = [model.embeddings(row) for row in rows]
    return Case(
        _Encoder(model).eval(), sequences[:_CALIBRATION_SIZE], sequences[_CALIBRATION_SIZE:]
    )


NETWORKS: dict[str, Callable[[int], Case]] = {
    "MobileNetV2": mobilenet_v2,
    "ResNet-18": resnet18,
    "MiniLM-L6": minilm_encoder,
}


# ------------------------------------------------------------------------------------------- a row


def measure(case: Case, setting: str) -> dict[str, Any]:
    """Simulate, export and verify on every target that is there; 4-bit weights are rounded."""
    weight_bits, bits = SETTINGS[setting]
    start = time.perf_counter()
    sim = QuantizationSimModel(
        case.model,
        case.samples[0],
        default_param_bw=weight_bits,
        default_output_bw=bits,
        config_file=_CONFIG,
    )
    sim.compute_encodings(case.calibration)
    if weight_bits < 8:
        apply_gptq(sim, case.calibration, search_scales=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        onnx_qdq.export(sim, case.samples[0], path)
        results = {"onnxruntime": aimet_torch.verify(sim, path, case.samples)}
        if htp.unavailable() is None:
            results["htp"] = aimet_torch.verify(sim, path, case.samples, target="htp")
    row: dict[str, Any] = {"setting": setting, "samples": len(case.samples)}
    for name, result in results.items():
        row[name] = _summary(result)
    row["seconds"] = round(time.perf_counter() - start, 1)
    return row


def _summary(result: Verification) -> dict[str, Any]:
    nodes = result.nodes
    summary: dict[str, Any] = {
        "problems": result.problems,
        "notes": result.notes,
        "nodes": len(nodes),
        "bitwidth": max((row.bitwidth for row in nodes), default=None),
        "nodes_within": sum(row.is_within for row in nodes),
        "least_equal": min((row.equal for row in nodes), default=None),
        "mean_equal": sum(row.equal for row in nodes) / len(nodes) if nodes else None,
        "most_steps": max((row.steps for row in nodes), default=None),
        "least_node_sqnr_db": min((row.sqnr_db for row in nodes), default=None),
        "versions": {k: v for k, v in result.environment.items() if k.startswith("onnxruntime")},
    }
    for row in result.outputs:
        summary[row.case] = {
            "noise_db": row.noise_db,
            "sqnr_db": row.sqnr_db,
            "float_db": row.float_db,
            "equal": row.equal,
            "steps": row.steps,
            "top1": row.top1,
            "noise_top1": row.noise_top1,
            "float_top1": row.float_top1,
        }
    return summary


def _place(row: dict[str, Any]) -> tuple[int, int]:
    return list(NETWORKS).index(row["network"]), list(SETTINGS).index(row["setting"])


def main() -> None:
    """Measure and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="only rows whose network or setting has them")
    parser.add_argument("--output", type=Path, default=Path("build/fidelity.json"))
    parser.add_argument("--samples", type=int, default=_SAMPLES)
    arguments = parser.parse_args()
    rows = json.loads(arguments.output.read_text())["rows"] if arguments.output.exists() else []
    done = {(row["network"], row["setting"]) for row in rows}
    report: dict[str, Any] = {
        "environment": environment.describe(torch.get_num_threads()),
        "config": _CONFIG,
        "htp": htp.unavailable() or "available",
        "calibration_size": _CALIBRATION_SIZE,
        "rows": rows,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    for name, make in NETWORKS.items():
        chosen = [
            s
            for s in SETTINGS
            if (name, s) not in done and all(w in f"{name} {s}" for w in arguments.words)
        ]
        case = make(arguments.samples) if chosen else None
        for setting in chosen:
            assert case is not None
            rows.append(json_ready({"network": name, **measure(case, setting)}))
            print(json.dumps(rows[-1]), flush=True)
            rows.sort(key=_place)
            # After each row: a run that is interrupted has what it measured.
            text = json.dumps(report, indent=2, allow_nan=False) + "\n"
            arguments.output.write_text(text)


if __name__ == "__main__":
    main()
