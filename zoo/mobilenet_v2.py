"""``python -m zoo.mobilenet_v2``: ImageNet weights on photographs, by agreement with FP32."""

from __future__ import annotations

import functools

from torch import Tensor, nn

from aimet_torch.common.defs import CompressionScheme
from aimet_torch.report.metrics import top1_agreement
from benchmarks.accuracy_subjects import logits, photographs
from examples import assets
from zoo.common import Entry, run

SEED = 0  # of the halves: one calibrates, the other is compared


def load() -> nn.Module:
    """The network; its weights and the photographs are fetched where they are missing."""
    assets.fetch()
    return assets.load_mobilenet_v2()


@functools.cache
def _reference() -> tuple[list[Tensor], Tensor]:
    rest = photographs(SEED)[1]
    return rest, logits(load(), rest)


def agreement(model: nn.Module) -> float:
    """Photographs with the first choice of FP32, in percent."""
    rest, reference = _reference()
    return 100 * top1_agreement(reference, logits(model, rest))


ENTRIES = (
    Entry(
        name="mobilenet_v2",
        title="MobileNetV2",
        load=load,
        batches=lambda: photographs(SEED, None)[0],
        score=agreement,
        unit="% agreement",
        data="top-1 on one half of the photographs; of the other half, 64 calibrate quantizers and"
        " all fit what is compressed",
        tolerance=4.0,
        scheme=CompressionScheme.channel_pruning,
        ratio=0.9,
        # What activations lose less by equalization, weights of 4 bits lose more.
        options={8: {"num_batches": 8}, 4: {"num_batches": 8, "alpha": 0.25}},
    ),
)

if __name__ == "__main__":
    raise SystemExit(run(ENTRIES))
