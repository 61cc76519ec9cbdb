"""What both libraries do to MobileNetV2 before its accuracy is measured; see `benchmarks.subjects`.

The photographs are divided at random, differently for each seed: 64 of one half calibrate, the
other half measures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import minilm
from benchmarks.model_subjects import network, prepared, scheme_of
from benchmarks.subjects import subject
from benchmarks.timing import Subject

CALIBRATION_SIZE = 64
#: How many words calibrate MiniLM.
WORDS = 256
_CONFIGS = Path(__file__).resolve().parents[1] / "aimet_torch" / "quantsim" / "configs"
CONFIGS = {
    "channel": str(_CONFIGS / "default_config_per_channel.json"),
    "tensor": str(_CONFIGS / "default_config.json"),
}


def photographs(
    seed: int, size: int | None = CALIBRATION_SIZE
) -> tuple[list[Tensor], list[Tensor]]:
    """Batches that calibrate, ``size`` photographs or all of the half, and those that measure."""
    from examples import assets

    images = assets.load_photographs()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    half = len(images) // 2
    calibration, rest = images[order[:half]], images[order[half:]]
    return list(calibration[:size].split(8)), list(rest.split(16))


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


@subject
def word_similarity(*, seed: int, scheme: str, weight_bits: int, bits: int) -> Subject:
    """MiniLM's score on WordSim-353, (1,), weights of linear layers rounded to nearest."""
    from aimet_torch.quantsim import QuantizationSimModel

    batches = minilm.calibration_batches(WORDS, seed)
    with torch.no_grad():
        sim = QuantizationSimModel(
            prepared(minilm.load()),
            batches[0],
            quant_scheme=scheme_of(scheme),
            default_param_bw=weight_bits,
            default_output_bw=bits,
            config_file=CONFIGS["channel"],
        )
        few_bits_for_layers_only(sim)
        sim.compute_encodings(lambda model: [model(*batch) for batch in batches])
    return Subject(lambda: torch.tensor([minilm.spearman(sim.model)]))


def few_bits_for_layers_only(sim: Any) -> None:
    """Tables of embeddings and factors of normalizations keep 8 bits."""
    for module in sim.qmodules():
        for quantizer in module.param_quantizers.values():
            if quantizer is not None and not isinstance(module, nn.Linear):
                quantizer.bitwidth = 8
