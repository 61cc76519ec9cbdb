"""What both libraries do to MobileNetV2 before its accuracy is measured; see `benchmarks.subjects`.

The photographs are divided at random, differently for each seed: 64 of one half calibrate, the
other half measures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.model_subjects import network, scheme_of
from benchmarks.subjects import subject
from benchmarks.timing import Subject

CALIBRATION_SIZE = 64
_CONFIGS = Path(__file__).resolve().parents[1] / "aimet_torch" / "quantsim" / "configs"
CONFIGS = {
    "channel": str(_CONFIGS / "default_config_per_channel.json"),
    "tensor": str(_CONFIGS / "default_config.json"),
}


def photographs(seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Batches that calibrate, and batches that measure."""
    from examples import assets

    images = assets.load_photographs()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    half = len(images) // 2
    calibration, rest = images[order[:half]], images[order[half:]]
    return list(calibration[:CALIBRATION_SIZE].split(8)), list(rest.split(16))


def logits(model: Any, batches: list[Tensor]) -> Tensor:
    """What a network makes of all batches."""
    with torch.no_grad():
        return torch.cat([model(x) for x in batches])


@subject
def quantized_logits(
    *, seed: int, scheme: str, scales: str, equalizes: bool, weight_bits: int = 8
) -> Subject:
    """Logits of the simulation with A8, weights rounded to nearest, folded or equalized before."""
    from aimet_torch.batch_norm_fold import fold_all_batch_norms
    from aimet_torch.cross_layer_equalization import equalize_model
    from aimet_torch.quantsim import QuantizationSimModel

    calibration, rest = photographs(seed)
    model = network("mobilenet_v2")
    if equalizes:
        equalize_model(model, (1, 3, 224, 224))
    else:
        fold_all_batch_norms(model, (1, 3, 224, 224))
    with torch.no_grad():
        sim = QuantizationSimModel(
            model,
            calibration[0][:1],
            quant_scheme=scheme_of(scheme),
            default_param_bw=weight_bits,
            config_file=CONFIGS[scales],
        )
        sim.compute_encodings(lambda simulated: logits(simulated, calibration))
    return Subject(lambda: logits(sim.model, rest))
