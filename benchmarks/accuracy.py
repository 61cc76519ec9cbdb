"""What quantization without labels costs in accuracy, technique by technique, beside aimet-torch.

``python -m benchmarks.accuracy [--output FILE] [--seeds N] [--no-rival] [WORD ...]``

MobileNetV2 with its ImageNet weights on photographs: agreement of the first choice with FP32 and
signal-to-noise ratio of the logits. For each seed the photographs are divided anew into halves; 64
of one half calibrate, the other half measures. MiniLM: rank correlation with people's word
similarities; for each seed other words calibrate. No label is ever read but those of MiniLM's
score. ``benchmarks.rounding`` has more on the rounding of weights.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch import QuantizationSimModel
from aimet_torch.ptq import data_free_quantization, quantize_without_labels
from aimet_torch.report.metrics import sqnr_db, top1_agreement
from benchmarks import environment, minilm
from benchmarks.accuracy_subjects import CALIBRATION_SIZE, CONFIGS, logits, photographs
from benchmarks.model_subjects import network
from benchmarks.rivals import Rival, RivalUnavailableError
from benchmarks.subjects import make_subject
from examples import assets

# Where normalized photographs lie: (0 - 0.485) / 0.229 and (1 - 0.406) / 0.225.
_IMAGE_RANGE = (-2.12, 2.64)
_WORDS = 256


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        network: in words.
        setting: bits and scales of weights, in words.
        recipe: what was done, in words.
        run: gives the scores for a seed.
        target: smallest mean, by score.
        rival: arguments of the subject `quantized_logits` that aimet-torch runs too.
        largest_loss: against the row in FP32, by score.
    """

    network: str
    setting: str
    recipe: str
    run: Callable[[int], dict[str, float]]
    target: dict[str, float] | None = None
    rival: dict[str, Any] | None = None
    largest_loss: dict[str, float] | None = None


# ---------------------------------------------------------------------------------------- networks


def _image_scores(outputs: Tensor, seed: int) -> dict[str, float]:
    _, rest = photographs(seed)
    reference = logits(network("mobilenet_v2"), rest)
    return {
        "agreement_percent": round(100 * top1_agreement(reference, outputs), 2),
        "sqnr_db": round(sqnr_db(reference, outputs), 2),
    }


def _plain(seed: int, **arguments: Any) -> dict[str, float]:
    return _image_scores(make_subject("quantized_logits", {"seed": seed, **arguments}).run(), seed)


def _recipe(seed: int, *, scales: str, **options: Any) -> dict[str, float]:
    calibration, rest = photographs(seed)
    sim = quantize_without_labels(
        network("mobilenet_v2"),
        calibration[0][:1],
        calibration,
        config_file=CONFIGS[scales],
        **options,
    )
    return _image_scores(logits(sim.model, rest), seed)


def _data_free(seed: int, *, scales: str) -> dict[str, float]:
    _, rest = photographs(seed)
    sim = data_free_quantization(
        network("mobilenet_v2"),
        torch.zeros(1, 3, 224, 224),
        config_file=CONFIGS[scales],
        input_range=_IMAGE_RANGE,
    )
    return _image_scores(logits(sim.model, rest), seed)


def _sentence_scores(model: nn.Module) -> dict[str, float]:
    return {"spearman": round(minilm.spearman(model), 4)}


def _few_bits_for_layers_only(sim: QuantizationSimModel) -> None:
    """Tables of embeddings and factors of normalizations keep 8 bits."""
    for module in sim.qmodules():
        for quantizer in module.param_quantizers.values():
            if quantizer is not None and not isinstance(module, nn.Linear):
                quantizer.bitwidth = 8


def _minilm_fp32(seed: int) -> dict[str, float]:
    return _sentence_scores(minilm.load())


def _minilm_nearest(seed: int, *, weight_bits: int, bits: int, scheme: str) -> dict[str, float]:
    batches = minilm.calibration_batches(_WORDS, seed)
    sim = QuantizationSimModel(
        minilm.load(), batches[0], scheme, default_param_bw=weight_bits, default_output_bw=bits
    )
    _few_bits_for_layers_only(sim)
    sim.compute_encodings(batches)
    return _sentence_scores(sim.model)


def _minilm_recipe(seed: int, *, weight_bits: int, bits: int) -> dict[str, float]:
    batches = minilm.calibration_batches(_WORDS, seed)
    sim = quantize_without_labels(
        minilm.load(),
        batches[0],
        batches,
        default_param_bw=weight_bits,
        default_output_bw=bits,
        quant_scheme="min_max",
        alpha=None,
        rounds_weights=weight_bits < 8,
        configure=_few_bits_for_layers_only,
    )
    return _sentence_scores(sim.model)


# ------------------------------------------------------------------------------------------- table


def _image_rows() -> list[Row]:
    def plain(setting: str, recipe: str, scheme: str, scales: str, **options: Any) -> Row:
        arguments = {"scheme": scheme, "scales": scales, "equalizes": False, **options}
        # aimet-torch has no range scheme that is called MSE.
        rival = None if scheme == "post_training_mse" else arguments
        return Row("MobileNetV2", setting, recipe, partial(_plain, **arguments), None, rival)

    def recipe(
        setting: str, words: str, scales: str, target: dict[str, float] | None, **options: Any
    ) -> Row:
        run = partial(_recipe, scales=scales, **options)
        return Row("MobileNetV2", setting, words, run, target)

    tf_enhanced, mse = "post_training_tf_enhanced", "post_training_mse"
    setting = "W8A8, scales per channel"
    rows = [
        plain(setting, "min-max ranges", "min_max", "channel"),
        plain(setting, "TF-enhanced ranges", tf_enhanced, "channel"),
        plain(setting, "MSE ranges", mse, "channel"),
        recipe(setting, "and activation equalization", "channel", None, rounds_weights=False),
        recipe(
            setting,
            "and rounding of weights (`quantize_without_labels`)",
            "channel",
            {"agreement_percent": 91, "sqnr_db": 18},
        ),
    ]
    setting = "W8A8, scales per tensor"
    rows += [
        plain(setting, "min-max ranges", "min_max", "tensor"),
        plain(setting, "and `equalize_model`", "min_max", "tensor", equalizes=True),
        recipe(
            setting,
            "`quantize_without_labels`",
            "tensor",
            {"agreement_percent": 85},
            equalizes_layers=True,
        ),
        Row(
            "MobileNetV2",
            setting,
            "no picture at all (`data_free_quantization`)",
            partial(_data_free, scales="tensor"),
            {"agreement_percent": 80},
        ),
    ]
    setting = "W4A8, scales per channel"
    rows.append(plain(setting, "min-max ranges", "min_max", "channel", weight_bits=4))
    # What activations lose less, weights of few bits lose more.
    for alpha in (None, 0.25, 0.5):
        words = f"`quantize_without_labels(alpha={alpha})`"
        target = {"agreement_percent": 77}
        rows.append(recipe(setting, words, "channel", target, default_param_bw=4, alpha=alpha))
    return rows


def _word_rows() -> list[Row]:
    rows = [Row("MiniLM-L6", "FP32", "", _minilm_fp32)]
    for weight_bits, bits in ((8, 8), (4, 16)):
        options = {"weight_bits": weight_bits, "bits": bits}
        setting = f"W{weight_bits}A{bits}, scales per channel"
        rows += [
            Row(
                "MiniLM-L6",
                setting,
                f"{words} ranges",
                partial(_minilm_nearest, scheme=scheme, **options),
            )
            for words, scheme in (("min-max", "min_max"), ("MSE", "mse"))
        ]
        rows.append(
            Row(
                "MiniLM-L6",
                setting,
                "`quantize_without_labels`",
                partial(_minilm_recipe, **options),
                largest_loss={"spearman": 0.01 if bits == 8 else 0.02},
            )
        )
    return rows


def run(
    row: Row, seeds: list[int], rival: Rival | str, fp32: dict[str, float] | None
) -> dict[str, Any]:
    """The scores of a row for all seeds, and the rival's where it does the same."""
    found: dict[str, Any] = {"network": row.network, "setting": row.setting, "recipe": row.recipe}
    scores, seconds = [], []
    for seed in seeds:
        start = time.perf_counter()
        scores.append(row.run(seed))
        seconds.append(round(time.perf_counter() - start, 1))
    found |= {"scores": _by_name(scores), "seconds": seconds}
    if row.target is not None:
        found["target"] = row.target
    if row.largest_loss is not None and fp32 is not None:
        found["target"] = {k: round(fp32[k] - loss, 4) for k, loss in row.largest_loss.items()}
    if row.rival is not None:
        found["rival"] = _rival_scores(row.rival, seeds, rival)
    return found


def _rival_scores(
    arguments: dict[str, Any], seeds: list[int], rival: Rival | str
) -> dict[str, Any]:
    if isinstance(rival, str):
        return {"unavailable": rival}
    scores = []
    try:
        for seed in seeds:
            remote = rival.load("quantized_logits", {"seed": seed, **arguments})
            scores.append(_image_scores(torch.from_numpy(remote.results()[0]), seed))
    except RivalUnavailableError as error:
        return {"unavailable": str(error)}
    return {"scores": _by_name(scores)}


def _by_name(scores: list[dict[str, float]]) -> dict[str, list[float]]:
    return {name: [found[name] for found in scores] for name in scores[0]}


def main() -> None:
    """Measure all rows, or those whose network, setting or recipe has one of the words."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="rows in whose text one of these occurs")
    parser.add_argument("--output", type=Path, help="file for the results, JSON")
    parser.add_argument("--seeds", type=int, default=3, help="divisions of the photographs")
    parser.add_argument("--no-rival", action="store_true", help="without aimet-torch 2.42")
    arguments = parser.parse_args()
    seeds = list(range(arguments.seeds))
    rows = [
        row
        for row in (*_image_rows(), *_word_rows())
        if not arguments.words
        or any(word in f"{row.network} {row.setting} {row.recipe}" for word in arguments.words)
    ]
    rival: Rival | str = "aimet-torch 2.42 was not asked for"
    threads = torch.get_num_threads()
    report: dict[str, Any] = {
        "environment": environment.describe(threads),
        "seeds": seeds,
        "photographs": len(assets.load_photographs()),
        "calibration_size": CALIBRATION_SIZE,
        "words": _WORDS,
        "rows": [],
    }
    if not arguments.no_rival and any(row.rival is not None for row in rows):
        try:
            rival = Rival(threads)
            report["environment"]["rival"] = rival.versions
        except RivalUnavailableError as error:
            rival = str(error)
    fp32 = None
    try:
        for row in rows:
            found = run(row, seeds, rival, fp32)
            if row.setting == "FP32":
                fp32 = {name: values[0] for name, values in found["scores"].items()}
            report["rows"].append(found)
            print(json.dumps(found), flush=True)
            if arguments.output is not None:
                arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    finally:
        if isinstance(rival, Rival):
            rival.close()


if __name__ == "__main__":
    main()
