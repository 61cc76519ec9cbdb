"""``python -m zoo.torchvision_graphs``: torchvision's architectures with random weights.

A test of the graph: everything has to work on each of them, to be as near to FP32 as it was, and to
run in ONNX Runtime. What random weights lose says nothing about trained ones.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.common.defs import CompressionScheme
from aimet_torch.report.metrics import sqnr_db
from benchmarks import export_sweep
from zoo.common import Entry, run

TRANSFORMERS = ("convnext_tiny", "swin_t", "vit_b_16")
#: Exporting these takes minutes; docs/export.md has them.
NOT_EXPORTED = ("swin_t", "vit_b_16")
#: Random inputs: as many calibrate, as many others are compared.
INPUTS, BATCH, SIZE = 16, 8, 64


def normalized(model: nn.Module, x: Tensor) -> nn.Module:
    """The model in evaluation mode, with batch norms that give every layer a power of one.

    With the statistics that a constructor sets, activations vanish layer by layer: the outputs of
    many architectures would be constants, which nothing can change.
    """

    def set_statistics(norm: Any, args: tuple[Tensor, ...]) -> None:
        norm.running_mean.zero_()
        norm.running_var.fill_(args[0].square().mean())

    model.eval()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    handles = [norm.register_forward_pre_hook(set_statistics) for norm in norms]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return model


def entry(name: str) -> Entry:
    """The entry of a key of `export_sweep.ARCHITECTURES`."""

    def inputs(seed: int) -> Tensor:
        return torch.randn(INPUTS, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))

    def load() -> nn.Module:
        torch.manual_seed(0)
        sizes = {"image_size": SIZE} if name.startswith("vit") else {}
        return normalized(export_sweep.architecture(name, **sizes), inputs(1))

    @functools.cache
    def reference() -> Tensor:
        with torch.no_grad():
            return load()(inputs(2))

    options: dict[str, Any] = {"rounds_weights": False}  # from random inputs: minutes for nothing
    if name in TRANSFORMERS:  # as docs/ptq.md advises
        options |= {"quant_scheme": "min_max", "alpha": None}
    return Entry(
        name=name,
        title=name,
        load=load,
        batches=lambda: list(inputs(1).split(BATCH)),
        score=lambda model: sqnr_db(reference(), model(inputs(2))),
        unit="dB",
        data=f"{INPUTS} random inputs of {SIZE} x {SIZE}; {INPUTS} others calibrate",
        tolerance=2.0,
        scheme=CompressionScheme.channel_pruning,
        ratio=0.75,
        selection="magnitude",
        options={8: options, 4: options},
        exports=name not in NOT_EXPORTED,
    )


ENTRIES = tuple(entry(name) for name in export_sweep.ARCHITECTURES)

if __name__ == "__main__":
    raise SystemExit(run(ENTRIES))
