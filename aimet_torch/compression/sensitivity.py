"""What each candidate of each layer does to the model's outputs, from one pass over some inputs.

A candidate changes its layer's outputs by e. To first order the model's outputs change by J e,
where J is the Jacobian that the layer's outputs have in the model. For a vector v of random signs,
g = J^T v comes from one backward pass for all layers at once, and the mean of (g e)^2 is the power
of J e: so one forward and one backward pass, and each candidate's layer on the inputs that the
original gets, stand for running the model with every candidate.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from aimet_torch.common.collectives import Ranks
from aimet_torch.common.progress import progress
from aimet_torch.compression.calls import Call, split_call
from aimet_torch.compression.schemes import Unit

__all__ = ["measure_sensitivities"]

_AT_ONCE = 32  # samples: what a layer gets and gives for that many is kept for the backward pass


def measure_sensitivities(
    model: nn.Module,
    calls: Sequence[Call],
    units: Sequence[Unit],
    ranks: Ranks,
    seed: int = 0,
) -> Tensor:
    """Power that each candidate alone adds to the error of the outputs, over that of the outputs.

    Where no gradient comes back from the outputs, an error of a layer's outputs counts as one of
    the model's.

    Args:
        model: Left as it is.
        calls: Arguments of each run.
        units: Layers with their candidates.
        ranks: Each takes its part of the calls; all get the same result.
        seed: Of the random signs.

    Returns:
        (units, candidates) float64; NaN where a unit has fewer candidates.

    Raises:
        ValueError: The model gives no floating-point tensor, or something that is not finite.
    """
    probe = _Probe(model, units)
    chunks = [chunk for call in calls for chunk in split_call(call, _AT_ONCE)]
    own = list(range(len(chunks)))[ranks.rank :: ranks.size]
    for index in progress(own, "Measuring layers", unit="batch"):
        probe.run(chunks[index], seed + index)
    ranks.sum_([probe.power, probe.own_power, probe.samples])
    count = probe.samples.clamp(min=1)
    has_gradient = probe.power.nan_to_num().amax(1, keepdim=True) > 0
    of_layer = probe.own_power / count
    table = torch.where(has_gradient, _smoothed(probe.power / count, of_layer), of_layer)
    # Weights that are fitted in the end lose less than the modules that were measured.
    fitted = torch.full_like(table, torch.nan)
    for row, unit in zip(fitted, units, strict=True):
        errors = [torch.nan if c.error is None else c.error for c in unit.candidates]
        row[: len(errors)] = torch.tensor(errors, dtype=torch.float64)
    share = (fitted / of_layer.clamp(min=1e-30)).clamp(max=1)
    return table * torch.where(share.isfinite(), share, 1.0)


def _smoothed(power: Tensor, own: Tensor) -> Tensor:
    """What candidates do to the outputs, with less noise.

    The layer's own error is known nearly without noise; by how much the rest of the model amplifies
    it is not, but hardly differs between neighbors: so that is averaged over five candidates.
    """
    gains = power / own.clamp(min=1e-30)
    exists = gains.isfinite()

    def averaged(values: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool1d(values[:, None], 5, 1, 2)[:, 0]

    gains = averaged(torch.where(exists, gains, 0.0)) / averaged(exists.double()).clamp(min=1e-30)
    return torch.where(exists, gains * own, torch.nan)


class _Probe:
    """A copy of the model whose layers compare their candidates when the backward pass comes."""

    def __init__(self, model: nn.Module, units: Sequence[Unit]) -> None:
        self._units = units
        width = max((len(unit.candidates) for unit in units), default=0)
        self.power = torch.full((len(units), width), torch.nan, dtype=torch.float64)
        for row, unit in zip(self.power, units, strict=True):
            row[: len(unit.candidates)] = 0
        self.own_power = self.power.clone()
        self.samples = torch.zeros(1, dtype=torch.float64)
        self._model = copy.deepcopy(model).eval().requires_grad_(False)
        # By unit and candidate: the product of gradient and change, for each sample of the chunk.
        self._products: dict[tuple[int, int], Tensor] = {}
        self._waiting: dict[int, tuple[int, str, Tensor, Tensor]] = {}
        self._count = 0
        self._in_run = 0
        # Without the new modules: they are made, used and dropped one by one.
        self._layers = [list(unit.candidates[0].build()) for unit in units]
        for index, names in enumerate(self._layers):
            for name in names:
                module = self._model.get_submodule(name)
                module.register_forward_hook(self._hook(index, name), with_kwargs=True)

    def _hook(self, index: int, name: str) -> Any:
        def observe(_: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
            x = (args[0] if args else next(iter(kwargs.values()))).detach().clone()
            y = output if output.requires_grad else output.detach().requires_grad_()
            key, self._count = self._count, self._count + 1
            self._waiting[key] = (index, name, x, y.detach())
            y.register_hook(lambda gradient: self._compare(key, gradient))
            return y.clone()  # what follows may work in place

        return observe

    def run(self, call: Call, seed: int) -> None:
        self._products, self._waiting = {}, {}
        args, kwargs = call
        with torch.enable_grad():
            outputs = [
                leaf
                for leaf in _pytree.tree_leaves(self._model(*args, **kwargs))
                if isinstance(leaf, Tensor) and leaf.is_floating_point()
            ]
            if not outputs:
                raise ValueError(
                    "compress_model: the exact choice needs a model whose outputs hold a "
                    "floating-point tensor; use GreedySelectionParameters"
                )
            self._in_run = len(outputs[0]) if outputs[0].dim() else 1
            reached = [y for y in outputs if y.requires_grad]
            generator = torch.Generator().manual_seed(seed)
            signs = [_signs(y, generator) / len(reached) ** 0.5 for y in reached]
            if reached:
                torch.autograd.backward(reached, signs)
        for (index, candidate), product in self._products.items():
            self.power[index, candidate] += product.square().sum().cpu()
        for index, name, x, y in self._waiting.values():
            for _ in self._errors(index, name, x, y):
                pass
        self.samples += self._in_run

    def _errors(self, index: int, name: str, x: Tensor, y: Tensor) -> Iterator[tuple[int, Tensor]]:
        """What each candidate changes; notes its power, over that of the layer's outputs."""
        with torch.no_grad():
            is_linear = isinstance(self._model.get_submodule(name), nn.Linear)
            whole = _variance(y, y.dim() - 1 if is_linear else 1)
            for candidate, found in enumerate(self._units[index].candidates):
                error = found.build()[name].eval()(x) - y
                lost = error.double().square().sum() / whole
                self.own_power[index, candidate] += self._in_run * lost.cpu()
                yield candidate, error

    def _compare(self, key: int, gradient: Tensor) -> None:
        index, name, x, y = self._waiting.pop(key)
        for candidate, error in self._errors(index, name, x, y):
            product = (gradient.double() * error).flatten(1).sum(1)
            earlier = self._products.get((index, candidate))
            if earlier is not None and earlier.shape != product.shape:
                # Calls on other shapes: as if they were independent.
                self.power[index, candidate] += product.square().sum().cpu()
            else:
                total = product if earlier is None else earlier + product
                self._products[index, candidate] = total


def _signs(y: Tensor, generator: torch.Generator) -> Tensor:
    """Random signs over the square root of the power of an output, per sample."""
    if not bool(torch.isfinite(y).all()):
        raise ValueError(
            "compress_model: the model's outputs must be finite, got NaN or infinities"
        )
    signs = torch.randint(0, 2, y.shape, generator=generator).to(y) * 2 - 1
    power = _power(y.detach()) / (len(y) if y.dim() else 1)
    return signs / float(power) ** 0.5


def _variance(y: Tensor, channel: int) -> Tensor:
    """Sum of the squared deviations from the mean of each channel."""
    values = y.double()
    others = [dim for dim in range(y.dim()) if dim != channel]
    return (values - values.mean(others, keepdim=True)).square().sum().clamp(min=1e-30)


def _power(y: Tensor) -> Tensor:
    """Sum of the squared deviations from the mean over the samples; of the squares, for one."""
    values = y.double()
    if y.dim() and len(y) > 1:
        values = values - values.mean(0)
    return values.square().sum().clamp(min=1e-30)
