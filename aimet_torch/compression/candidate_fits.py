"""Factors of candidates as the final model will have them: fitted to data.

In the final model a layer is fitted to the inputs that it gets there. While ratios are chosen, the
other layers are as they were; so candidates are fitted to the inputs of the original, from one pass
over the data, with one decomposition for all ranks of a layer. The first factor of a kernel in two
parts is that of the decomposition, the second one is solved for exactly; alternating between them
is left to the final model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.common.progress import progress
from aimet_torch.compression.calls import Call
from aimet_torch.compression.fitting import DAMPING, Outputs
from aimet_torch.compression.layers import Choice, factor_modules, scale_outputs
from aimet_torch.graph import ModelGraph
from aimet_torch.ops.low_rank import low_rank_fits, low_rank_product
from aimet_torch.ops.reconstruction import LayerSums, bias_of_means, rounding_problem
from aimet_torch.ptq.layer_view import LayerView
from aimet_torch.ptq.layers import ModuleUses
from aimet_torch.ptq.value_cache import free_memory

__all__ = ["CandidateFits"]

_MOST_INPUTS = 8192  # of an output: second moments of more take too much memory


class CandidateFits:
    """Fitted factors of some layers at some ranks.

    Args:
        graph: Of the model, in evaluation mode.
        uses: Of the graph.
        calls: Arguments of the model.
    """

    def __init__(self, graph: ModelGraph, uses: ModuleUses, calls: Sequence[Call]) -> None:
        self._graph, self._uses, self._calls = graph, uses, calls
        # Both factors and the bias, by name, factorization and rank.
        self._made: dict[tuple[str, str, int], tuple[Tensor, Tensor, Tensor]] = {}

    def fit(self, wanted: Mapping[str, Iterable[Choice]]) -> None:
        """Fit layers by name. Those that are called several times are left out."""
        model: Any = self._graph.model
        layers: dict[str, Any] = {name: model.get_submodule(name) for name in wanted}
        views = {
            name: LayerView(layer)
            for name, layer in layers.items()
            if self._uses.obstacle(layer) is None and LayerView(layer).inputs <= _MOST_INPUTS
        }
        for batch in _by_memory(views):
            outputs = {n: Outputs.of(self._graph.calls_of(layers[n])[0], views[n]) for n in batch}
            sums = self._sums(batch, outputs)
            for name in progress(batch, "Fitting candidates", unit="layer"):
                self._fit(name, views[name], outputs[name], sums[name], wanted[name])

    def modules(self, name: str, layer: Any, choice: Choice) -> nn.Module | None:
        """What was found for a rank of a layer; None where nothing was."""
        found = self._made.get((name, choice.factorization, choice.rank))
        return None if found is None else factor_modules(layer, choice.factorization, *found)

    def _sums(
        self, views: Mapping[str, LayerView], outputs: Mapping[str, Outputs]
    ) -> dict[str, LayerSums]:
        """Second moments of what layers get and give, through the batch norms behind them."""
        model: Any = self._graph.model
        sums = {name: view.new_sums() for name, view in views.items()}

        def add(name: str) -> Any:
            def hook(_: nn.Module, args: Any, output: Tensor) -> None:
                views[name].add_batch(sums[name], args[0], outputs[name].apply(output, None))

            return hook

        handles = [model.get_submodule(n).register_forward_hook(add(n)) for n in views]
        try:
            with torch.no_grad():
                for args, kwargs in progress(self._calls, "Second moments", unit="batch"):
                    model(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()
        return sums

    def _fit(
        self,
        name: str,
        view: LayerView,
        outputs: Outputs,
        sums: LayerSums,
        wanted: Iterable[Choice],
    ) -> None:
        layer: Any = view.layer
        if not bool(torch.isfinite(sums.gram).all()) or float(sums.total.sum()) == 0:
            return
        own = outputs.rows(view.matrices(layer.weight.detach()))
        target, gram = rounding_problem(sums, own, True, DAMPING(sums))
        kernel = () if isinstance(layer, nn.Linear) else tuple(layer.kernel_size)
        ranks: dict[str, set[int]] = {}
        for choice in wanted:
            ranks.setdefault(choice.factorization, set()).add(choice.rank)
        for kind, found in ranks.items():
            order = sorted(found)
            fits = low_rank_fits(
                target, gram, kernel, kind, order, transposed=view.transposed, max_sweeps=0
            )
            for rank, (first, second, _) in zip(order, fits, strict=True):
                product = low_rank_product(
                    first, second, kind, groups=view.groups, transposed=view.transposed
                )
                bias = outputs.unfold_bias(bias_of_means(sums, view.matrices(product)))
                unscaled = scale_outputs(layer, kind, second, 1 / outputs.scale)
                dtype = layer.weight.dtype
                self._made[name, kind, rank] = (
                    first.to(dtype),
                    unscaled.to(dtype),
                    bias.to(dtype),
                )


def _by_memory(views: Mapping[str, LayerView]) -> Iterator[dict[str, LayerView]]:
    """Layers whose sums fit into memory together."""
    budget, held = free_memory() // 3, 0
    batch: dict[str, LayerView] = {}
    for name, view in views.items():
        own = 8 * view.groups * view.inputs**2
        if batch and held + own > budget:
            yield batch
            batch, held = {}, 0
        batch[name] = view
        held += own
    if batch:
        yield batch
