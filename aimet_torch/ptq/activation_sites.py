"""The activation quantizers of a simulation, applied at the nodes of the original network's graph.

During an optimization their effect can be left out at random elements (QDrop).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree

from aimet_torch.graph import ModelGraph
from aimet_torch.nn.apply import apply_quantizer
from aimet_torch.nn.base import BaseQuantizationMixin
from aimet_torch.ops.random_choice import choose_randomly
from aimet_torch.quantization.affine import QuantizeDequantize
from aimet_torch.quantization.affine.ranges import MIN_MAX

__all__ = ["ActivationSites", "Draws"]


class Draws:
    """Random choices between activations with and without quantization, another one at each call.

    Args:
        probability: Of an element without quantization.
        seed: The same draws in the same order for the same seed.
    """

    def __init__(self, probability: float, seed: int) -> None:
        self.probability = probability
        self._seed = seed

    def __call__(self, real: Tensor, quantized: Tensor) -> Tensor:
        """An element of either tensor at each position."""
        self._seed += 1
        return choose_randomly(real, quantized, self.probability, self._seed)


class ActivationSites:
    """Quantizers of activations by node.

    Args:
        graph: The original network's graph, after ``to_module()``.
        simulated: The simulated model, with modules of the same names.

    Attributes:
        draws: None: every activation is quantized.
    """

    def __init__(self, graph: ModelGraph, simulated: nn.Module) -> None:
        self.draws: Draws | None = None
        modules = dict(simulated.named_modules(remove_duplicate=False))
        self._sites: dict[fx.Node, tuple[Any, int]] = {}
        for op in graph.ops:
            module = modules.get(op.module_name or "")
            if op.fx_node is not None and isinstance(module, BaseQuantizationMixin):
                self._sites[op.fx_node] = (module, op.call_index)

    def concerns(self, node: fx.Node) -> bool:
        """Whether something is quantized at a node."""
        return any(True for _ in self._of(node))

    def learnable(self, nodes: Iterable[fx.Node]) -> list[QuantizeDequantize]:
        """The quantizers at some nodes whose limits may change, each once."""
        found = {id(q): q for node in nodes for q in self._of(node)}
        return [
            q
            for q in found.values()
            if isinstance(q, QuantizeDequantize)
            and q.parametrization is MIN_MAX
            and q.is_overwrite_allowed()
            and q.is_initialized()
        ]

    def freeze(self) -> None:
        """Keep all ranges from now on."""
        for node in self._sites:
            for quantizer in self._of(node):
                quantizer.allow_overwrite(False)  # type: ignore[operator]

    def inputs(
        self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of a node as its operation gets them."""
        module, call = self._sites.get(node, (None, 0))
        if module is None:
            return args, kwargs
        return self._quantized(
            (args, kwargs), module.input_quantizers, call * module.inputs_per_call
        )

    def output(self, node: fx.Node, value: Any) -> Any:
        """The result of a node as others get it."""
        module, call = self._sites.get(node, (None, 0))
        if module is None:
            return value
        return self._quantized(value, module.output_quantizers, call * module.outputs_per_call)

    def _of(self, node: fx.Node) -> Iterator[nn.Module]:
        module, call = self._sites.get(node, (None, 0))
        if module is None:
            return
        for quantizers, count in (
            (module.input_quantizers, module.inputs_per_call),
            (module.output_quantizers, module.outputs_per_call),
        ):
            for quantizer in list(quantizers)[call * count : (call + 1) * count]:
                if quantizer is not None:
                    yield quantizer

    def _quantized(self, value: Any, quantizers: nn.ModuleList, first: int) -> Any:
        leaves, structure = _pytree.tree_flatten(value)
        index = first
        for i, leaf in enumerate(leaves):
            if not isinstance(leaf, torch.Tensor):
                continue
            quantizer: Any = quantizers[index] if index < len(quantizers) else None
            index += 1
            if quantizer is None or not leaf.is_floating_point():
                continue
            quantized = apply_quantizer(quantizer, leaf)
            leaves[i] = quantized if self.draws is None else self.draws(leaf, quantized)
        return _pytree.tree_unflatten(leaves, structure)
