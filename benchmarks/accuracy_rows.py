"""The rows of `benchmarks.accuracy`: networks, settings, recipes, targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.ptq import data_free_quantization, quantize_without_labels
from aimet_torch.ptq.bias_correction import correct_biases_of_sim
from aimet_torch.report.metrics import sqnr_db, top1_agreement
from benchmarks import minilm
from benchmarks.accuracy_subjects import (
    CALIBRATION_SIZE,
    CONFIGS,
    WORDS,
    few_bits_for_layers_only,
    logits,
    photographs,
)
from benchmarks.model_subjects import network
from benchmarks.subjects import make_subject

# Where normalized photographs lie: (0 - 0.485) / 0.229 and (1 - 0.406) / 0.225.
_IMAGE_RANGE = (-2.12, 2.64)


@dataclass(frozen=True)
class Job:
    """What both libraries run.

    Attributes:
        subject: of `benchmarks.accuracy_subjects`.
        arguments: its arguments but for the seed.
        scores: of its result for a seed.
    """

    subject: str
    arguments: dict[str, Any]
    scores: Callable[[Tensor, int], dict[str, float]]

    def run(self, seed: int) -> dict[str, float]:
        """The scores of this project."""
        return self.scores(make_subject(self.subject, {"seed": seed, **self.arguments}).run(), seed)


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        network: in words.
        setting: bits and scales of weights, in words.
        recipe: what was done, in words.
        run: gives the scores for a seed.
        target: smallest mean, by score.
        rival: what aimet-torch runs too.
        largest_loss: against the row in FP32, by score.
        is_effect: shows what one technique adds or takes away: for docs/ptq.md, not the README.
    """

    network: str
    setting: str
    recipe: str
    run: Callable[[int], dict[str, float]]
    target: dict[str, float] | None = None
    rival: Job | None = None
    largest_loss: dict[str, float] | None = None
    is_effect: bool = False


# ---------------------------------------------------------------------------------------- networks


def image_scores(outputs: Tensor, seed: int) -> dict[str, float]:
    """Agreement and signal-to-noise ratio of logits with those in FP32."""
    _, rest = photographs(seed)
    reference = logits(network("mobilenet_v2"), rest)
    return {
        "agreement_percent": round(100 * top1_agreement(reference, outputs), 2),
        "sqnr_db": round(sqnr_db(reference, outputs), 2),
    }


def _recipe(
    seed: int,
    *,
    scales: str,
    size: int | None = CALIBRATION_SIZE,
    corrects_biases: bool = False,
    **options: Any,
) -> dict[str, float]:
    calibration, rest = photographs(seed, size)
    sim = quantize_without_labels(
        network("mobilenet_v2"),
        calibration[0][:1],
        calibration,
        config_file=CONFIGS[scales],
        **options,
    )
    if corrects_biases:
        correct_biases_of_sim(sim, calibration)
    return image_scores(logits(sim.model, rest), seed)


def _data_free(seed: int, *, scales: str) -> dict[str, float]:
    _, rest = photographs(seed)
    sim = data_free_quantization(
        network("mobilenet_v2"),
        torch.zeros(1, 3, 224, 224),
        config_file=CONFIGS[scales],
        input_range=_IMAGE_RANGE,
    )
    return image_scores(logits(sim.model, rest), seed)


def _word_scores(similarity: Tensor, seed: int) -> dict[str, float]:
    return {"spearman": round(float(similarity), 4)}


def _sentence_scores(model: nn.Module) -> dict[str, float]:
    return {"spearman": round(minilm.spearman(model), 4)}


def _minilm_fp32(seed: int) -> dict[str, float]:
    return _sentence_scores(minilm.load())


def _minilm_recipe(seed: int, *, weight_bits: int, bits: int, **options: Any) -> dict[str, float]:
    batches = minilm.calibration_batches(WORDS, seed)
    sim = quantize_without_labels(
        minilm.load(),
        batches[0],
        batches,
        default_param_bw=weight_bits,
        default_output_bw=bits,
        quant_scheme="min_max",
        alpha=None,
        configure=few_bits_for_layers_only,
        **options,
    )
    return _sentence_scores(sim.model)


# ------------------------------------------------------------------------------------------- table


def _nearest(
    network: str,
    setting: str,
    recipe: str,
    subject: str,
    arguments: dict[str, Any],
    scores: Callable[[Tensor, int], dict[str, float]],
) -> Row:
    job = Job(subject, arguments, scores)
    # aimet-torch has no range scheme that is called MSE.
    rival = None if arguments["scheme"] == "post_training_mse" else job
    return Row(network, setting, recipe, job.run, rival=rival)


def _image_rows() -> list[Row]:
    def plain(setting: str, recipe: str, scheme: str, scales: str, **options: Any) -> Row:
        arguments = {"scheme": scheme, "scales": scales, "equalizes": False, **options}
        return _nearest("MobileNetV2", setting, recipe, "quantized_logits", arguments, image_scores)

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
            None,
        ),
        recipe(
            setting,
            "and learned ranges (`range_iterations=128`, by cross entropy)",
            "channel",
            {"agreement_percent": 91, "sqnr_db": 18},
            range_iterations=128,
            range_loss="cross_entropy",
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
        target = {"agreement_percent": 77} if alpha is None else None
        rows.append(recipe(setting, words, "channel", target, default_param_bw=4, alpha=alpha))
    rows.append(
        recipe(
            setting,
            "`alpha=None`, with all photographs of the half",
            "channel",
            {"agreement_percent": 77},
            default_param_bw=4,
            alpha=None,
            size=None,
        )
    )
    return rows


def _effect_rows() -> list[Row]:
    """The whole recipe, and the same with one technique less or another one in its place."""
    per_tensor = {"scales": "tensor", "equalizes_layers": True}
    four_bits = {"scales": "channel", "default_param_bw": 4, "alpha": None}
    nearest = {"rounds_weights": False}
    settings: list[tuple[str, dict[str, Any], list[tuple[str, dict[str, Any]]]]] = [
        (
            "W8A8, scales per channel",
            {"scales": "channel"},
            [
                ("min-max ranges", {"quant_scheme": "min_max"}),
                ("TF-enhanced ranges", {"quant_scheme": "tf_enhanced"}),
                ("no activation equalization", {"alpha": None}),
                ("rounding to nearest", nearest),
                ("bias correction in place of rounding", {**nearest, "corrects_biases": True}),
                ("bias correction after rounding", {"corrects_biases": True}),
                ("ranges of logits by cross entropy", {"logit_ranges": "cross_entropy"}),
            ],
        ),
        (
            "W8A8, scales per tensor, layers equalized",
            per_tensor,
            [
                ("layers not equalized", {"equalizes_layers": False}),
                ("no activation equalization", {"alpha": None}),
                ("rounding to nearest", nearest),
                ("bias correction in place of rounding", {**nearest, "corrects_biases": True}),
            ],
        ),
        (
            "W4A8, scales per channel, `alpha=None`",
            four_bits,
            [
                ("rounding to nearest", nearest),
                ("bias correction in place of rounding", {**nearest, "corrects_biases": True}),
            ],
        ),
    ]
    rows = []
    for setting, options, variants in settings:
        for words, changes in [("whole recipe", {}), *variants]:
            run = partial(_recipe, **{**options, **changes})
            rows.append(Row("MobileNetV2", setting, words, run, is_effect=True))
    return rows


def _word_rows() -> list[Row]:
    rows = [Row("MiniLM-L6", "FP32", "", _minilm_fp32)]
    for weight_bits, bits in ((8, 8), (4, 16)):
        options = {"weight_bits": weight_bits, "bits": bits}
        setting = f"W{weight_bits}A{bits}, scales per channel"
        rows += [
            _nearest(
                "MiniLM-L6",
                setting,
                f"{words} ranges",
                "word_similarity",
                {**options, "scheme": scheme},
                _word_scores,
            )
            for words, scheme in (("min-max", "min_max"), ("MSE", "post_training_mse"))
        ]
        recipe, words = partial(_minilm_recipe, **options), "`quantize_without_labels`"
        if bits > 8:
            allowed = {"spearman": 0.02}
            rows.append(Row("MiniLM-L6", setting, words, recipe, largest_loss=allowed))
            continue
        rows.append(Row("MiniLM-L6", setting, words, recipe))
        learned = partial(recipe, range_iterations=256)
        words, allowed = "and learned ranges (`range_iterations=256`)", {"spearman": 0.01}
        rows.append(Row("MiniLM-L6", setting, words, learned, largest_loss=allowed))
    return rows


def all_rows() -> list[Row]:
    """The rows of the README's table, then those of docs/ptq.md."""
    return [*_image_rows(), *_word_rows(), *_effect_rows()]
