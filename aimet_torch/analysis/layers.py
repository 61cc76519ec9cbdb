"""How every layer of a simulation agrees with itself in floating point, in two runs of the model.

All layers are compared at once: each batch runs without and with quantizers, whatever the number
of layers.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.analysis.switching import Switchboard
from aimet_torch.quantization.base import plain_tensor

__all__ = ["LayerAgreement", "compare_layers"]


@dataclass(frozen=True)
class LayerAgreement:
    """One call of a layer, with all quantizers before it at work.

    Attributes:
        name: dotted name of the module, with ``#1``, ``#2``, ... for its second and later calls.
        layer_type: class of the module, without the prefix ``Quantized``.
        mse: mean squared difference of its output from that in floating point.
        sqnr_db: power of its output over the power of the difference, in dB.
    """

    name: str
    layer_type: str
    mse: float
    sqnr_db: float


@dataclass
class _Sums:
    power: float = 0.0
    noise: float = 0.0
    count: int = 0

    def add(self, reference: Tensor, actual: Tensor) -> None:
        dtype = torch.promote_types(reference.dtype, torch.float32)
        reference = reference.to(dtype)
        self.power += _sum_of_squares(reference)
        self.noise += _sum_of_squares(reference - actual.to(dtype))
        self.count += reference.numel()

    @property
    def sqnr_db(self) -> float:
        if math.isnan(self.noise) or math.isnan(self.power):
            return math.nan
        if self.noise == 0:
            return math.inf
        return 10 * math.log10(self.power / self.noise) if self.power > 0 else -math.inf


def compare_layers(
    board: Switchboard, run: Callable[[nn.Module, int], Any], batches: int
) -> list[LayerAgreement]:
    """Compare the outputs of all layers with and without the quantizers of a simulation.

    Args:
        board: of a calibrated simulation in evaluation mode.
        run: ``run(model, i)`` runs batch i; the same data each time.
        batches: number of batches. The outputs of all layers for one of them are kept in memory.

    Returns:
        One row for each call of a quantized module with a floating-point tensor as its output, in
        the order of execution; the model's first output is the row of the layer that makes it.
    """
    model = board.sim.model
    sums: dict[str, _Sums] = {}
    for batch in range(batches):
        expected: dict[str, Tensor] = {}

        def keep(name: str, output: Tensor, expected: dict[str, Tensor] = expected) -> None:
            expected[name] = output.clone()  # a later operation may write into it

        with board.only(()), _watching(board, keep):
            run(model, batch)

        def compare(name: str, output: Tensor, expected: dict[str, Tensor] = expected) -> None:
            reference = expected.pop(name, None)
            if reference is not None and reference.shape == output.shape:
                sums.setdefault(name, _Sums()).add(reference, output)

        with _watching(board, compare):
            run(model, batch)
    return [
        LayerAgreement(name, _type_of(model, name), found.noise / found.count, found.sqnr_db)
        for name, found in sums.items()
    ]


@contextlib.contextmanager
def _watching(board: Switchboard, see: Callable[[str, Tensor], Any]) -> Iterator[None]:
    """Within this context every output of a quantized module is shown, detached."""
    calls: Counter[str] = Counter()

    def hook(name: str, _module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point() and output.numel():
            call = f"{name}#{calls[name]}" if calls[name] else name
            see(call, plain_tensor(output.detach()))
        calls[name] += 1

    handles = [
        module.register_forward_hook(partial(hook, name))
        for name, module in board.sim.named_qmodules()
        if isinstance(module, nn.Module)
    ]
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()


def _type_of(model: nn.Module, call: str) -> str:
    module = model.get_submodule(call.partition("#")[0])
    return type(module).__name__.removeprefix("Quantized")


def _sum_of_squares(values: Tensor) -> float:
    # Accumulated in float64 without a copy of the tensor in float64.
    return torch.linalg.vector_norm(values, dtype=torch.float64).square().item()
