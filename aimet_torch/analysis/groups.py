"""Quantizer groups: quantizers that must have one precision, because one kernel reads them.

An integer kernel takes an activation and a weight of certain types. So the quantizer of an
activation belongs together with those of the weights of all layers that read it, as in AIMET. Two
more cases follow here: a layer that is called several times joins the activations of its calls,
and weights that several layers share join the layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aimet_torch.graph import GRID_PRESERVING_OPS, OpNode
from aimet_torch.nn.base import BaseQuantizationMixin
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.quantsim.accumulators import input_quantizer

__all__ = ["QuantizerGroup", "find_quantizer_groups"]


@dataclass(frozen=True)
class QuantizerGroup:
    """Quantizers that must have one precision.

    Attributes:
        name: layers whose weights it holds, or the activation that it consists of; of a
            simulation's groups, each has another one.
        activations: quantizers of activations, by their names in ``sim.model``, such as
            ``relu1.output_quantizers.0``.
        params: quantizers of parameters, such as ``conv2.param_quantizers.weight``.
        readers: names of the operators (``sim.graph``) that compute with them.
        op_types: ONNX names of the readers, each once: what a target needs kernels for.
    """

    name: str
    activations: tuple[str, ...] = ()
    params: tuple[str, ...] = ()
    readers: tuple[str, ...] = ()
    op_types: tuple[str, ...] = ()

    @property
    def quantizers(self) -> tuple[str, ...]:
        """All quantizers."""
        return self.activations + self.params

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the modules whose parameters the group holds, each once."""
        return tuple(dict.fromkeys(name.rsplit(".", 2)[0] for name in self.params))

    def to_list(self) -> list[tuple[str, str]]:
        """Pairs such as ``("output", "relu1")``, ``("weight", "conv2")``, as AIMET lists them."""
        kinds = {"input_quantizers": "input", "output_quantizers": "output"}
        pairs = []
        for name in self.quantizers:
            module, kind, key = name.rsplit(".", 2)
            label = kinds.get(kind, "weight")
            pairs.append(
                (label, f"{module}_input_quantizer_idx_{key}" if label == "input" else module)
            )
        return pairs

    def __str__(self) -> str:
        return self.name


def find_quantizer_groups(sim: QuantizationSimModel) -> list[QuantizerGroup]:
    """Divide the quantizers of a simulation into groups that must have one precision each.

    Args:
        sim: with all the quantizers that are to be considered in place.

    Returns:
        Groups in the order of execution; every quantizer is in exactly one.

    >>> import torch
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> sim = QuantizationSimModel(model, torch.randn(1, 2))
    >>> for group in find_quantizer_groups(sim):
    ...     print(group.name, group.quantizers)
    0 ('0.input_quantizers.0', '0.param_quantizers.weight')
    2 ('1.output_quantizers.0', '2.param_quantizers.weight')
    2 (output) ('2.output_quantizers.0',)
    """
    joined = _Joined({id(quantizer): name for name, quantizer in sim.named_quantizers()})
    for op in sim.graph.ops:
        if not op.is_boundary:
            _add_operator(sim, op, joined)
    for boundary in sim.graph.boundaries:
        for op in boundary.ops:
            _add_leaf(op, joined)
    for module in sim.qmodules():  # the trace may have called it never
        for quantizer in _activations(module):
            joined.add(quantizer)
        for quantizer in _params(module):
            joined.add(quantizer, is_param=True)
    return list(joined.groups())


class _Joined:
    """Sets of quantizers that grow together, in the order in which they were met."""

    def __init__(self, names: dict[int, str]) -> None:
        self._names = names
        self._parent: dict[int, int] = {}
        self._params: set[int] = set()
        self._readers: dict[int, dict[str, str]] = {}

    def add(self, quantizer: Any, is_param: bool = False) -> None:
        key = id(quantizer)
        self._parent.setdefault(key, key)
        if is_param:
            self._params.add(key)

    def join(self, quantizers: list[Any]) -> None:
        for other in quantizers[1:]:
            first, second = self._root(id(quantizers[0])), self._root(id(other))
            self._parent[second] = first

    def read(self, quantizers: list[Any], op: OpNode) -> None:
        for quantizer in quantizers:
            self._readers.setdefault(id(quantizer), {})[op.name] = op.op_type

    def _root(self, key: int) -> int:
        while self._parent[key] != key:
            key = self._parent[key]
        return key

    def groups(self) -> Iterator[QuantizerGroup]:
        members: dict[int, list[int]] = {}
        for key in self._parent:
            members.setdefault(self._root(key), []).append(key)
        used: Counter[str] = Counter()
        for keys in members.values():
            readers: dict[str, str] = {}
            for key in keys:
                readers |= self._readers.get(key, {})
            activations = tuple(self._names[key] for key in keys if key not in self._params)
            params = tuple(self._names[key] for key in keys if key in self._params)
            name = _name_of(activations, params)
            used[name] += 1
            if used[name] > 1:  # a module with several results
                name = f"{name} {used[name]}"
            types = tuple(dict.fromkeys(readers.values()))
            yield QuantizerGroup(name, activations, params, tuple(readers), types)


def _name_of(activations: tuple[str, ...], params: tuple[str, ...]) -> str:
    if params:
        return " + ".join(dict.fromkeys(name.rsplit(".", 2)[0] for name in params))
    module, kind, _ = activations[0].rsplit(".", 2)
    return f"{module} ({kind.removesuffix('_quantizers')})"


def _add_operator(sim: QuantizationSimModel, op: OpNode, joined: _Joined) -> None:
    params = _params(op.module) if isinstance(op.module, BaseQuantizationMixin) else []
    activations = []
    for position, value in enumerate(op.inputs):
        found = input_quantizer(op, position) if value.is_float else None
        if found is None:
            continue
        module, kind, index = found
        quantizer = getattr(module, kind)[index]
        decision = sim.plan.inputs.get((op.name, position))
        if decision is not None and decision.is_param:
            params.append(quantizer)
        else:
            activations.append(quantizer)
    for quantizer in activations:
        joined.add(quantizer)
    for quantizer in params:
        joined.add(quantizer, is_param=True)
    if params:
        joined.join([*activations, *params])
    if params or op.op_type not in GRID_PRESERVING_OPS:
        joined.read([*activations, *params], op)
    for quantizer in _outputs_of_call(op):
        joined.add(quantizer)


def _outputs_of_call(op: OpNode) -> list[Any]:
    module: Any = op.module
    if not isinstance(module, BaseQuantizationMixin):
        return []
    first = op.call_index * module.outputs_per_call
    own = list(module.output_quantizers)[first : first + module.outputs_per_call]
    return [quantizer for quantizer in own if quantizer is not None]


def _add_leaf(op: OpNode, joined: _Joined) -> None:
    """A layer in a part that could not be traced: who feeds it is not known."""
    if not isinstance(op.module, BaseQuantizationMixin):
        return
    module: Any = op.module
    params = _params(module)
    activations = [quantizer for quantizer in module.input_quantizers if quantizer is not None]
    for quantizer in activations:
        joined.add(quantizer)
    for quantizer in params:
        joined.add(quantizer, is_param=True)
    if params:
        joined.join([*activations, *params])
    joined.read([*activations, *params], op)
    for quantizer in module.output_quantizers:
        if quantizer is not None:
            joined.add(quantizer)


def _params(module: Any) -> list[Any]:
    return [quantizer for quantizer in module.param_quantizers.values() if quantizer is not None]


def _activations(module: Any) -> list[Any]:
    own = [*module.input_quantizers, *module.output_quantizers]
    return [quantizer for quantizer in own if quantizer is not None]
