"""Which networks export, in which opset, and whether the file computes what was simulated.

``python -m benchmarks.export_sweep [--output FILE] [--opsets 13 20] [NAME ...]``

Networks: torchvision's architectures (random weights, as they are: batch norms not folded),
MobileNetV2 with its ImageNet weights, MiniLM-L6 with its weights, and ``torch.nn``'s recurrent
layers and attention. Each is simulated at W8A8, calibrated on a batch, exported as QDQ and as plain
ONNX with encodings, checked by ``onnx.checker`` with shape inference, and run in ONNX Runtime on
another batch, of another size, beside the simulation. A run that was interrupted goes on where it
stopped: rows that FILE has already are kept.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from aimet_torch import QuantizationSimModel
from aimet_torch.export import activation_edges, export_onnx_with_encodings, onnx_qdq
from aimet_torch.report.metrics import sqnr_db
from aimet_torch.report.pages import json_ready, text_table
from benchmarks import environment, minilm
from examples import assets

OPSETS = (13, 17, 20, 21, 23)
#: torchvision's architectures and the size of their inputs.
ARCHITECTURES = {
    "resnet18": 64,
    "mobilenet_v3_small": 64,
    "shufflenet_v2_x1_0": 64,
    "squeezenet1_1": 64,
    "efficientnet_b0": 64,
    "densenet121": 64,
    "googlenet": 64,
    "convnext_tiny": 64,
    "swin_t": 64,
    "vit_b_16": 224,
}
_BATCH = 2


class _Recurrent(nn.Module):
    """A recurrent layer of two levels, both directions, and a classifier."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cells = kind(12, 16, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.cells(x)[0][:, -1])
        return logits


class _Attention(nn.Module):
    """`nn.MultiheadAttention` on one tensor, and on three."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.MultiheadAttention(16, 4, batch_first=True)
        self.cross = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.own(x, x, x, need_weights=False)[0]
        result: Tensor = y + self.cross(y, x.flip(1), x, need_weights=False)[0]
        return result


def _images(size: int) -> Callable[[int], tuple[Tensor, ...]]:
    return lambda count: (torch.randn(count, 3, size, size),)


def _sequences(count: int) -> tuple[Tensor, ...]:
    return (torch.randn(count, 9, 12),)


def architecture(name: str, **options: Any) -> nn.Module:
    """One of `ARCHITECTURES` with random weights, none of them zeros only."""
    options |= {"init_weights": False} if name == "googlenet" else {}
    model: nn.Module = getattr(assets.import_torchvision().models, name)(weights=None, **options)
    with torch.no_grad():
        for parameter in model.parameters():  # a head of zeros would hide every difference
            if not parameter.any():
                parameter.normal_(0.0, 0.02)
    return model


def _words(count: int) -> tuple[Tensor, ...]:
    tokens, mask = next(iter(minilm.calibration_batches(32)))
    return tokens[:count], mask[:count]


def _photographs(count: int) -> tuple[Tensor, ...]:
    return (assets.load_photographs(count),)


Network = tuple[Callable[[], nn.Module], Callable[[int], tuple[Tensor, ...]]]
NETWORKS: dict[str, Network] = {
    **{n: (lambda n=n: architecture(n), _images(size)) for n, size in ARCHITECTURES.items()},
    "mobilenet_v2 (trained)": (assets.load_mobilenet_v2, _photographs),
    "MiniLM-L6 (trained)": (minilm.load, _words),
    "LSTM": (lambda: _Recurrent(nn.LSTM), _sequences),
    "GRU": (lambda: _Recurrent(nn.GRU), _sequences),
    "RNN": (lambda: _Recurrent(nn.RNN), _sequences),
    "attention": (_Attention, lambda count: (torch.randn(count, 7, 16),)),
    "transformer encoder": (
        lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2),
        lambda count: (torch.randn(count, 7, 16),),
    ),
}  # fmt: skip


def sweep(
    names: Sequence[str], opsets: Sequence[int], known: set[tuple[str, int]]
) -> Iterator[dict[str, Any]]:
    """One row for each network and opset, but for those that are `known`."""
    for name in names:
        wanted = [opset for opset in opsets if (name, opset) not in known]
        if not wanted:
            continue
        build, batch = NETWORKS[name]
        torch.manual_seed(0)
        model = build().eval()
        example, other = batch(_BATCH), batch(_BATCH + 1)
        sim = QuantizationSimModel(model, example)
        sim.compute_encodings(lambda m, example=example: m(*example))
        with torch.no_grad():
            simulated, floats = sim.model(*other), model(*other)
        for opset in wanted:
            row = {"network": name, "opset": opset, **_one(sim, example, other, simulated, opset)}
            row["noise_db"] = sqnr_db(floats, simulated)
            yield row


def _one(
    sim: QuantizationSimModel,
    example: tuple[Tensor, ...],
    other: tuple[Tensor, ...],
    simulated: Tensor,
    opset: int,
) -> dict[str, Any]:
    shapes = tuple({0: "batch"} for _ in example)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path, plain = Path(folder, "qdq.onnx"), Path(folder, "plain.onnx")
        try:
            onnx_qdq.export(sim, example, path, opset_version=opset, dynamic_shapes=shapes)
            export_onnx_with_encodings(
                sim, example, plain, opset_version=opset, dynamic_shapes=shapes
            )
            for file in (path, plain):
                onnx.checker.check_model(str(file), full_check=True)
            result = _run(path, other)
            _run(plain, other)
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        bare = len(activation_edges(path)[0])
    step = [float(q.get_scale()) for n, q in sim.named_quantizers() if ".output_quantizers." in n][
        -1
    ]
    expected = simulated.numpy()
    return {
        "seconds": time.perf_counter() - start,
        "equal": float((result == expected).mean()),
        "steps": float(np.abs(result - expected).max() / step),
        "sqnr_db": sqnr_db(simulated, torch.from_numpy(result)),
        "float_edges": bare,
    }


def _run(path: Path, inputs: tuple[Tensor, ...]) -> np.ndarray:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    result: np.ndarray = session.run(
        None, {n: x.numpy() for n, x in zip(names, inputs, strict=True)}
    )[0]
    return result


def main() -> int:
    """Print the table; fail when a network does not export or is far from its simulation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", default=list(NETWORKS), help="networks; default: all")
    parser.add_argument("--opsets", nargs="+", type=int, default=list(OPSETS))
    parser.add_argument("--output", type=Path, help="JSON file for the rows")
    arguments = parser.parse_args()
    names = arguments.names or list(NETWORKS)
    rows = read_rows(arguments.output) if arguments.output is not None else []
    known = {(row["network"], row["opset"]) for row in rows}
    for row in sweep(names, arguments.opsets, known):
        print(json.dumps(json_ready(row)), flush=True)
        rows.append(row)
        if arguments.output is not None:
            rows.sort(key=lambda row: (list(NETWORKS).index(row["network"]), row["opset"]))
            machine = environment.describe(torch.get_num_threads())
            document = {"environment": machine, "rows": json_ready(rows)}
            arguments.output.write_text(json.dumps(document, indent=1) + "\n")
    rows = [r for r in rows if r["network"] in names and r["opset"] in arguments.opsets]
    header = ("network", "opset", "equal", "steps", "SQNR", "noise", "float edges")
    print(text_table(header, [_cells(row) for row in rows]))
    return 0 if all(is_good(row) for row in rows) else 1


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file, with infinities as numbers again; none where there is no file."""
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    for row in rows:
        row |= {key: float(row[key]) for key in ("sqnr_db", "noise_db") if key in row}
    return rows


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    if "error" in row:
        return (row["network"], str(row["opset"]), row["error"], "", "", "", "")
    return (
        row["network"],
        str(row["opset"]),
        f"{100 * row['equal']:.1f} %",
        f"{row['steps']:.2g}",
        "exact" if math.isinf(row["sqnr_db"]) else f"{row['sqnr_db']:.1f} dB",
        f"{row['noise_db']:.1f} dB",
        str(row["float_edges"]),
    )


def is_good(row: dict[str, Any]) -> bool:
    """10 dB above the quantization noise, or within one step of the output."""
    if "error" in row:
        return False
    return bool(row["steps"] <= 1.01 or row["sqnr_db"] >= row["noise_db"] + 10)


if __name__ == "__main__":
    raise SystemExit(main())
