"""``python -m zoo.fashion_mnist_residual``: three residual blocks."""

from aimet_torch.common.defs import CompressionScheme
from zoo.common import run
from zoo.fashion_mnist import entry

ENTRIES = (entry("residual", CompressionScheme.spatial_svd),)

if __name__ == "__main__":
    raise SystemExit(run(ENTRIES))
