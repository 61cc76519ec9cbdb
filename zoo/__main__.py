"""``python -m zoo``: all networks; see docs/zoo.md."""

from __future__ import annotations

import importlib

from zoo.common import Entry, run

#: One for each network, but for those that share a table; in the order of the tables.
SCRIPTS = (
    "mobilenet_v2",
    "minilm",
    "fashion_mnist_cnn",
    "fashion_mnist_residual",
    "fashion_mnist_separable",
    "torchvision_graphs",
)


def all_entries() -> list[Entry]:
    """The entries of all scripts."""
    return [e for name in SCRIPTS for e in importlib.import_module(f"zoo.{name}").ENTRIES]


if __name__ == "__main__":
    raise SystemExit(run(all_entries()))
