"""``python -m zoo.fashion_mnist_cnn``: two convolutions and two linear layers."""

from aimet_torch.common.defs import CompressionScheme
from zoo.common import run
from zoo.fashion_mnist import entry

ENTRIES = (entry("cnn", CompressionScheme.spatial_svd),)

if __name__ == "__main__":
    raise SystemExit(run(ENTRIES))
