"""``python -m zoo.fashion_mnist_separable``: channels are pruned, kernels are 1 x 1."""

from aimet_torch.common.defs import CompressionScheme
from zoo.common import run
from zoo.fashion_mnist import entry

ENTRIES = (entry("separable", CompressionScheme.channel_pruning),)

if __name__ == "__main__":
    raise SystemExit(run(ENTRIES))
