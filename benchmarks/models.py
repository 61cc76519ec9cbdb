"""Cases on whole networks."""

from __future__ import annotations

from typing import Any

import torch

import benchmarks.analysis_subjects  # noqa: F401 - enters its subjects
from benchmarks import agreement
from benchmarks.harness import Case, aimet, bound
from benchmarks.model_subjects import (
    folded_network,
    images,
    network,
    peak_memory,
    training_step,
)
from benchmarks.timing import Subject

NETWORKS = (("mobilenet_v2", "MobileNetV2"), ("resnet18", "ResNet-18"))
BATCH = (16, 3, 128, 128)
# The rules of the two libraries put quantizers at slightly different places, and noise of 8 bits
# differs with each: results are alike, never equal.
ALIKE = 6.0


def fp32_forward(*, model: str, shape: tuple[int, ...], **_: Any) -> Subject:
    """Run the network with folded batch norms, unquantized."""
    folded, batch = folded_network(model, shape), images(shape)

    def run() -> torch.Tensor:
        with torch.no_grad():
            return folded(batch)

    return Subject(run)


def fp32_original(*, model: str, shape: tuple[int, ...], **_: Any) -> Subject:
    """Run the network as it comes."""
    original, batch = network(model), images(shape)

    def run() -> torch.Tensor:
        with torch.no_grad():
            return original(batch)

    return Subject(run)


def fp32_step(*, model: str, shape: tuple[int, ...]) -> Subject:
    """Train the network one step."""
    return training_step(network(model), images(shape))


def fp32_memory(*, model: str, shape: tuple[int, ...], **_: Any) -> Subject:
    """Measure the peak memory of a training step of the network."""
    return peak_memory(fp32_step(model=model, shape=shape))


def cases() -> list[Case]:
    """Return all cases of this file."""
    cases = []
    for name, title in NETWORKS:
        given: dict[str, Any] = {"model": name, "shape": BATCH}
        alike = agreement.sqnr_at_least(ALIKE)
        cases += [
            Case(
                f"model/{name}/forward",
                f"{title}, simulated forward",
                "simulated_forward",
                given,
                (bound("folded FP32 forward", fp32_forward, 1.25, alike), aimet(alike)),
            ),
            Case(
                f"model/{name}/training",
                f"{title}, step of quantization-aware training",
                "quantized_training_step",
                given,
                (
                    bound("FP32 step", fp32_step, 1.35, agreement.close(0.2)),
                    aimet(agreement.close(0.2)),
                ),
            ),
        ]
        for learned, label in ((True, "learned"), (False, "static")):
            close = agreement.close(0.2)
            cases.append(
                Case(
                    f"model/{name}/training_memory_{label}",
                    f"{title}, peak memory of that step, {label} ranges",
                    "quantized_training_memory",
                    given | {"learned": learned},
                    (bound("FP32 step", fp32_memory, 1.15, close), aimet(close)),
                    unit="bytes",
                )
            )
        schemes = (
            ("min_max", "min-max", 1.4),
            ("post_training_tf_enhanced", "TF-enhanced", 2.0),
        )
        for scheme, label, limit in schemes:
            cases.append(
                Case(
                    f"model/{name}/calibration_{scheme.removeprefix('post_training_')}",
                    f"{title}, {label} calibration",
                    "calibration",
                    given | {"scheme": scheme},
                    (bound("folded FP32 forward", fp32_forward, limit, alike), aimet(alike)),
                )
            )
    given = {"model": "mobilenet_v2", "shape": BATCH}
    built = agreement.nothing_to_compare("nothing to compare")
    # aimet-torch replaces ReLU6, which changes the function; ours is held to FP32.
    equalized = agreement.nothing_to_compare("another network: ReLU6 became ReLU")
    same = agreement.sqnr_at_least(60)
    cases += [
        Case(
            "model/mobilenet_v2/build",
            "MobileNetV2, building the simulation",
            "build_simulation",
            given,
            (aimet(built),),
            limit=0.5,
        ),
        Case(
            "model/mobilenet_v2/fold_and_equalize",
            "MobileNetV2, folding and equalizing",
            "fold_and_equalize",
            given,
            (bound("FP32 forward", fp32_original, None, same), aimet(equalized)),
            limit=0.1,
        ),
    ]
    cases.append(
        Case(
            "analysis/quant_analyzer",
            "ResNet-18, QuantAnalyzer: each layer on, off, its ranges and its loss",
            "quant_analysis",
            {"model": "resnet18", "shape": (4, 3, 64, 64)},
            (aimet(agreement.close(0.5), 0.5),),
        )
    )
    statements: tuple[tuple[str, str, float | None], ...] = (
        ("package", "import aimet_torch", 0.3),
        ("simulation", "from aimet_torch.quantsim import QuantizationSimModel", None),
    )
    for label, statement, limit in statements:
        cases.append(
            Case(
                f"import/{label}",
                f"`{statement}`, after torch",
                "import_time",
                {"statement": statement},
                (aimet(built),),
                limit=limit,
            )
        )
    return cases
