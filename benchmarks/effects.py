"""What each technique does to a real network, in the few numbers that a picture takes.

``python -m benchmarks.effects [NAME ...]`` measures anew what is named, everything otherwise, and
writes ``benchmarks/results/effects.json``; ``python -m benchmarks.render`` draws the pictures of
the documentation from there. Errors and accuracies do not depend on the load of the machine.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.common.tables import write_json
from aimet_torch.report.metrics import sqnr_db
from benchmarks import environment, fashion_mnist
from benchmarks.accuracy_subjects import CONFIGS, logits, photographs
from benchmarks.effects_compression import SUBJECTS as COMPRESSION
from benchmarks.model_subjects import network

RESULTS = Path(__file__).with_name("results") / "effects.json"
_SHAPE = (1, 3, 224, 224)


def folded() -> nn.Module:
    """MobileNetV2 with its ImageNet weights, batch norms folded."""
    from aimet_torch.batch_norm_fold import fold_all_batch_norms

    model = network("mobilenet_v2")
    fold_all_batch_norms(model, _SHAPE)
    return model


def outputs_of(model: nn.Module, name: str, batches: list[Tensor]) -> Tensor:
    """Return what a module gives for all batches."""
    found: list[Tensor] = []
    handle = model.get_submodule(name).register_forward_hook(lambda _, __, y: found.append(y))
    logits(model, batches)
    handle.remove()
    return torch.cat(found)


def _rounded(values: Tensor, digits: int = 4) -> list[float]:
    return [float(f"{value:.{digits}g}") for value in values.flatten().tolist()]


@torch.no_grad()
def ranges() -> dict[str, Any]:
    """An activation with outliers, the ranges that each method sets, and the error of every one."""
    from aimet_torch.quantization.affine import quantize_dequantize
    from aimet_torch.quantsim import QuantizationSimModel

    name, bits = "features.2.conv.2", 4
    calibration, _ = photographs(0)
    model = folded()
    values = outputs_of(model, name, calibration).double()
    row: dict[str, Any] = {"layer": name, "bits": bits, "methods": {}}
    low, high = float(values.min()), float(values.max())
    row["low"], row["high"] = low, high
    row["counts"] = torch.histc(values, 120, low, high).long().tolist()

    def error(bottom: float, top: float) -> float:
        scale = (top - bottom) / (2**bits - 1)
        offset = torch.tensor(bottom / scale).round().double()
        kept = quantize_dequantize(values, torch.tensor(scale).double(), offset, 0, 2**bits - 1)
        return float((kept - values).square().sum() / values.square().sum())

    shares = [k / 50 for k in range(5, 51)]
    row["curve"] = [[share, float(f"{error(share * low, share * high):.4g}")] for share in shares]
    for method in ("min_max", "tf_enhanced", "mse"):
        sim = QuantizationSimModel(
            model, calibration[0][:1], quant_scheme=method, default_output_bw=bits
        )
        sim.compute_encodings(calibration)
        quantizer = sim.model.get_submodule(name).output_quantizers[0]
        bottom, top = float(quantizer.get_min()), float(quantizer.get_max())
        row["methods"][method] = [bottom, top, error(bottom, top)]
    return row


def equalization() -> dict[str, Any]:
    """Smallest and largest weight of each channel of the first depthwise layer."""
    from aimet_torch.cross_layer_equalization import equalize_model

    name = "features.1.conv.0.0"
    model = folded()
    before = model.get_submodule(name).weight.detach().flatten(1).clone()
    start = time.process_time()
    equalize_model(model, _SHAPE)
    seconds = time.process_time() - start
    after = model.get_submodule(name).weight.detach().flatten(1)
    return {
        "layer": name,
        "before": [_rounded(before.amin(1)), _rounded(before.amax(1))],
        "after": [_rounded(after.amin(1)), _rounded(after.amax(1))],
        "cpu_seconds": round(seconds, 3),
    }


def activation_equalization() -> dict[str, Any]:
    """Largest absolute value of each channel of an activation, in its own order of channels."""
    from aimet_torch.ptq import equalize_activations

    name = "features.13.conv.2"
    calibration, _ = photographs(0)
    model = folded()
    found: dict[str, Any] = {"layer": name, "photographs": sum(map(len, calibration))}
    for when in ("before", "after"):
        values = outputs_of(model, name, calibration)
        found[when] = _rounded(values.abs().amax((0, 2, 3)))
        if when == "before":
            start = time.process_time()
            equalize_activations(model, calibration[0][:1], calibration, alpha=0.5)
            found["cpu_seconds"] = round(time.process_time() - start, 2)
    return found


def bias_correction() -> dict[str, Any]:
    """By how much the mean of each output channel is off, in the deviations of the channel."""
    from aimet_torch.bias_correction import correct_bias
    from aimet_torch.quantsim import QuantizationSimModel, QuantParams

    name = "features.6.conv.2"
    calibration, rest = photographs(0)
    model = folded()
    expected = outputs_of(model, name, rest)
    found: dict[str, Any] = {"layer": name, "photographs": sum(map(len, calibration))}
    for when in ("before", "after"):
        sim = QuantizationSimModel(
            copy.deepcopy(model), calibration[0][:1], "mse", config_file=CONFIGS["tensor"]
        )
        sim.compute_encodings(calibration)
        shifts = (outputs_of(sim.model, name, rest) - expected).mean((0, 2, 3))
        found[when] = _rounded(shifts / expected.std((0, 2, 3)))
        if when == "before":
            parameters = QuantParams(8, 8, quant_scheme="mse", config_file=CONFIGS["tensor"])
            start = time.process_time()
            correct_bias(model, parameters, 64, calibration, 64)
            found["cpu_seconds"] = round(time.process_time() - start, 2)
    return found


def rounding() -> dict[str, Any]:
    """How far from the weight, in steps, AdaRound's integers are, and the error of each layer."""
    from benchmarks.rounding_jobs import folded_fashion, layer_errors, rounded, simulate

    bits = 4
    model = folded_fashion("residual")
    batches = fashion_mnist.calibration_batches(1024)
    tests = fashion_mnist.load("test")[0][:2000]
    distances, errors = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        result, _ = rounded(model, batches, bits, None, folder)
        path = Path(folder) / "model.encodings"
        for label, network_, file in (("nearest", model, None), ("AdaRound", result, path)):
            sim = simulate(network_, batches, bits, file, activations=False)
            errors[label] = _rounded(torch.tensor(layer_errors(model, sim, tests)))
            steps = []
            for name, layer in sim.named_modules():
                quantizers = getattr(layer, "param_quantizers", {})
                if "weight" not in quantizers or not isinstance(layer, nn.Conv2d | nn.Linear):
                    continue
                quantizer = quantizers["weight"]
                kept, scale = quantizer(layer.weight), quantizer.get_scale()
                original = model.get_submodule(name).weight
                steps.append(((kept - original) / scale).flatten())
            counts = torch.histc(torch.cat(steps).detach(), 60, -1.5, 1.5).long()
            distances[label] = counts.tolist()
    return {"network": "residual", "bits": bits, "distances": distances, "errors": errors}


def batch_norms() -> dict[str, Any]:
    """Top-1 of networks trained with 2 bits, by what the statistics of batch norms are."""
    from aimet_torch.bn_reestimation import reestimate_bn_stats
    from benchmarks.qat_subjects import Training

    rows = []
    for name in ("cnn", "residual", "separable"):
        recipe = {"reestimates": False}
        training = Training(name, "W2A2", epochs=1, images=20_000, recipe=recipe)
        for _ in range(training.steps):
            training.step()
        model = training.model.eval()
        images = fashion_mnist.load("train")[0][:2560].split(128)
        row = {"network": name, "running": fashion_mnist.accuracy(model)}
        for label, sequential in (("batches", False), ("sequential", True)):
            start = time.process_time()
            with reestimate_bn_stats(model, images, len(images), sequential=sequential):
                row[f"{label}_cpu_seconds"] = round(time.process_time() - start, 2)
                row[label] = fashion_mnist.accuracy(model)
        rows.append(row)
    return {"setting": "W2A2, one epoch of 20,000 images", "rows": rows}


def sensitivity() -> dict[str, Any]:
    """Estimate and measured error of every quantizer by itself."""
    from benchmarks.sensitivity import NETWORKS, measure

    found: dict[str, list[float]] = {}
    points: dict[str, float] = {}
    row = measure(NETWORKS["Fashion-MNIST residual"](None), found, lambda: None, points)
    return {
        "network": "Fashion-MNIST residual",
        "spearman": row["spearman"],
        "points": [[name, *map(float, (points[name], found[name][0]))] for name in found],
    }


def number_formats() -> dict[str, Any]:
    """SQNR of a weight of MiniLM in several formats."""
    from aimet_torch.quantization import affine
    from aimet_torch.quantization import float as formats
    from benchmarks import minilm

    weight = dict(minilm.load().named_parameters())["encoder.layer.2.intermediate.dense.weight"]
    rows, columns = weight.shape
    quantizers: dict[str, Any] = {}
    for bits in (8, 4):
        quantizers[f"int{bits}, a scale per row"] = affine.QuantizeDequantize((rows, 1), bits, True)
    quantizers["int4, blocks of 32"] = affine.QuantizeDequantize(
        (rows, columns // 32), 4, True, block_size=(1, 32)
    )
    quantizers["int4, LPBQ, blocks of 32"] = affine.GroupedBlockQuantizeDequantize(
        (rows, columns // 32), 4, True, 8, block_size=(1, 32), block_grouping=(1, -1)
    )
    for dtype in (torch.float8_e4m3fn, torch.float8_e5m2):
        name = str(dtype).removeprefix("torch.")
        quantizers[name] = formats.FloatQuantizeDequantize(dtype=dtype)
    quantizers["MXFP8, e4m3"] = formats.MXQuantizeDequantize("float8e4m3fn")
    quantizers["MXFP4, blocks of 32"] = formats.MXQuantizeDequantize("float4e2m1")
    quantizers["NVFP4, blocks of 16"] = formats.NVFP4QuantizeDequantize()
    found = {}
    for label, quantizer in quantizers.items():
        with quantizer.compute_encodings():
            quantizer(weight)
        found[label] = round(sqnr_db(weight, quantizer(weight)), 2)
    return {"tensor": "MiniLM-L6, encoder.layer.2.intermediate.dense.weight", "sqnr_db": found}


def auto_quant() -> dict[str, Any]:
    """Attempts of AutoQuant on a network with depthwise layers."""
    from aimet_torch.auto_quant import AutoQuant

    model = fashion_mnist.trained("separable")
    images, labels = (part[:5000] for part in fashion_mnist.load("train"))
    batches = fashion_mnist.calibration_batches(512)
    with tempfile.TemporaryDirectory() as folder:
        job = AutoQuant(
            model,
            batches[0][:1],
            batches,
            lambda m: fashion_mnist.accuracy_on(m, images, labels),
            results_dir=folder,
            param_bw=4,
        )
        job.optimize(allowed_accuracy_drop=0.0)
        return json.loads((Path(folder) / "auto_quant.json").read_text())


SUBJECTS: dict[str, Callable[[], dict[str, Any]]] = {
    "ranges": ranges,
    "equalization": equalization,
    "activation_equalization": activation_equalization,
    "bias_correction": bias_correction,
    "rounding": rounding,
    "batch_norms": batch_norms,
    "sensitivity": sensitivity,
    "number_formats": number_formats,
    "auto_quant": auto_quant,
    **COMPRESSION,
}


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[[], *SUBJECTS])
    names = parser.parse_args().names or list(SUBJECTS)
    report = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in names:
        torch.manual_seed(0)
        report[name] = SUBJECTS[name]()
        report["environment"] = environment.describe(torch.get_num_threads())
        write_json(RESULTS, report)
        print(name, json.dumps(report[name])[:400], flush=True)


if __name__ == "__main__":
    main()
