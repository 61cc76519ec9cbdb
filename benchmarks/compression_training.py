"""Half the multiply-accumulates step by step, with training; see `benchmarks.compression`."""

from __future__ import annotations

import io
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import aimet_torch
from aimet_torch import QuantizationSimModel, defs
from aimet_torch.common.defs import CompressionScheme, CostMetric
from aimet_torch.compress import ModelCompressor
from aimet_torch.compression import estimate_cost
from benchmarks import fashion_mnist

EPOCHS = 3

Row = dict[str, Any]


def tuned(name: str, seed: int) -> Row:
    """Spatial SVD, channel pruning and three epochs, to half the multiply-accumulates."""
    torch.manual_seed(seed)
    model = fashion_mnist.trained(name)
    images, labels = fashion_mnist.load("train")
    data = fashion_mnist.calibration_batches(1024, seed=seed)
    *_, (_, compressed) = halved(model, data)
    row: Row = {
        "before": round(fashion_mnist.accuracy(model), 2),
        "compressed": round(fashion_mnist.accuracy(compressed), 2),
        "mac_ratio": round(_macs(compressed, data[0]) / _macs(model, data[0]), 4),
    }
    _train(compressed, images, labels)
    row["tuned"] = round(fashion_mnist.accuracy(compressed), 2)
    control = fashion_mnist.trained(name)
    _train(control, images, labels)
    row["control"] = round(fashion_mnist.accuracy(control), 2)
    row["speedup"] = {}
    for count in (1, 16):
        x = data[0][:count]
        seconds = times([_plain_onnx(each, x) for each in (model, compressed)], x)
        row["speedup"][str(count)] = _ratio(*seconds)
    return row


def together(name: str) -> Row:
    """What each step costs and saves: two compressions, training, 8 bits."""
    torch.manual_seed(0)
    model = fashion_mnist.trained(name)
    images, labels = fashion_mnist.load("train")
    data = fashion_mnist.calibration_batches(1024)
    x = data[0][:16]
    found: list[Row] = []
    exported: list[bytes] = []

    def note(step: str, network: nn.Module, file: bytes, size: int) -> None:
        accuracy, macs = fashion_mnist.accuracy(network), _macs(network, x)
        found.append({"step": step, "accuracy": round(accuracy, 2), "macs": macs, "bytes": size})
        exported.append(file)

    def note_plain(step: str, network: nn.Module) -> None:
        size = estimate_cost(network, x[:1]).parameter_bytes
        note(step, network, _plain_onnx(network, x), size)

    note_plain("FP32", model)
    compressed = model
    for step, compressed in halved(model, data):
        note_plain(step, compressed)
    _train(compressed, images, labels)
    note_plain("fine-tuned", compressed)
    sim = QuantizationSimModel(compressed, x)
    sim.compute_encodings(data)
    note("W8A8", sim.model, _quantized_onnx(sim, x), sim.deployment_report().bytes_after)
    seconds = times(exported, x)
    for row, own in zip(found, seconds, strict=True):
        row["milliseconds"] = round(1e3 * statistics.median(own), 3)
        row["times_faster"] = _ratio(seconds[0], own)
    return {"steps": found}


def halved(model: nn.Module, data: list[torch.Tensor]) -> Iterator[tuple[str, nn.Module]]:
    """Both compressions; multiples of 8 channels throughout: what kernels are fast with."""
    left = 1.0
    for scheme, ratio in (("spatial_svd", 0.85), ("channel_pruning", 0.5)):
        wanted = defs.ExactSelectionParameters(ratio / left, data_loader=data)
        parameters: Any
        if scheme == "spatial_svd":
            svd = defs.SpatialSvdParameters
            parameters = svd(svd.Mode.auto, svd.AutoModeParams(wanted), 8, data)
        else:
            pruning = defs.ChannelPruningParameters
            mode, params = pruning.Mode.auto, pruning.AutoModeParams(wanted)
            parameters = pruning(data, 1024, True, mode, params, 8, "gram")
        model, stats = ModelCompressor.compress_model(
            model,
            lambda each, *_: fashion_mnist.accuracy(each, 1000),
            None,
            (1, 1, 28, 28),
            CompressionScheme[scheme],
            CostMetric.mac,
            parameters,
        )
        left *= stats.mac_compression_ratio  # a ratio is that of the model as it comes in
        yield scheme.replace("_", " ").replace("svd", "SVD"), model


def _macs(model: nn.Module, x: torch.Tensor) -> int:
    return estimate_cost(model, x[:1]).macs


def _train(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    steps = EPOCHS * -(-len(images) // 128)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps)
    model.train()
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(images)).split(128):
            loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def _plain_onnx(model: nn.Module, x: torch.Tensor) -> bytes:
    file = io.BytesIO()
    program: Any = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    program.save(file)
    return file.getvalue()


def _quantized_onnx(sim: QuantizationSimModel, x: torch.Tensor) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        aimet_torch.onnx.export(sim, (x,), str(path))
        return path.read_bytes()


def times(files: Sequence[bytes], x: torch.Tensor, rounds: int = 60) -> list[list[float]]:
    """Seconds of each file's runs in ONNX Runtime with one thread, turn by turn."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [onnxruntime.InferenceSession(file, options) for file in files]
    seconds: list[list[float]] = [[] for _ in sessions]
    for _ in range(rounds):
        for session, own in zip(sessions, seconds, strict=True):
            start = time.perf_counter()
            session.run(None, {session.get_inputs()[0].name: x.numpy()})
            own.append(time.perf_counter() - start)
    return seconds


def _ratio(before: Sequence[float], after: Sequence[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(before, after, strict=True)), 2)
