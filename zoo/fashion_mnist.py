"""What the three Fashion-MNIST networks of the zoo share."""

from __future__ import annotations

from aimet_torch.common.defs import CompressionScheme
from benchmarks import fashion_mnist
from zoo.common import Entry

CALIBRATION_IMAGES = 1024


def entry(name: str, scheme: CompressionScheme) -> Entry:
    """The entry of a key of `fashion_mnist.NETWORKS`; half the multiply-accumulates."""
    return Entry(
        name=f"fashion_mnist_{name}",
        title=f"Fashion-MNIST, {name}",
        load=lambda: fashion_mnist.trained(name),
        batches=lambda: fashion_mnist.calibration_batches(CALIBRATION_IMAGES),
        score=fashion_mnist.accuracy,
        unit="% top-1",
        data=f"10,000 test images; {CALIBRATION_IMAGES:,} training images calibrate",
        tolerance=0.5,
        scheme=scheme,
        ratio=0.5,
    )
