"""Where the quantizers of a simulation sit, which tensors they govern, how to change their bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from aimet_torch.graph import OpNode, Value, op_type_of_module
from aimet_torch.mixed_precision.precision import Precision, precision_of
from aimet_torch.quantization.affine import AffineQuantizerBase
from aimet_torch.quantization.base import QuantizerBase
from aimet_torch.quantization.float import FloatQuantizeDequantize
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.quantsim.accumulators import attach_bias_grids, input_quantizer
from aimet_torch.quantsim.placement import SIGNED_FACTORS_SINCE, Decision, param_decisions
from aimet_torch.quantsim.realize import QuantizerMaker

__all__ = ["Site", "SiteMap"]

_ACTIVATION_LISTS = ("input_quantizers", "output_quantizers")


@dataclasses.dataclass(eq=False)
class Site:
    """A quantizer and everywhere that it sits: a tensor that several operators read has one.

    Attributes:
        name: of the quantizer, as `QuantizationSimModel.named_quantizers` lists it.
        is_param: whether it quantizes a parameter that counts as a weight.
        slots: (list or dict of quantizers, position or name of the parameter).
        decision: what the placement planned here.
        tensor_shape: of the weight; empty for activations.
    """

    name: str
    is_param: bool
    slots: list[tuple[Any, Any]]
    decision: Decision
    tensor_shape: tuple[int, ...] = ()

    @property
    def quantizer(self) -> QuantizerBase:
        """The quantizer that is there now."""
        holder, key = self.slots[0]
        found: QuantizerBase = holder[key]
        return found

    @property
    def precision(self) -> Precision:
        """Its number format now."""
        return precision_of(self.quantizer)

    @property
    def is_frozen(self) -> bool:
        """Whether its range may not change, so that its bits may not either."""
        quantizer = self.quantizer
        return bool(quantizer._range_names) and not quantizer.is_overwrite_allowed()


class SiteMap:
    """All quantizers of a simulation by the tensors that they govern.

    Args:
        sim: the simulation; its quantizers may change their bits, not their places, afterwards.
        leaves: of an earlier map of it.

    Attributes:
        sites: in the order of execution.
        by_name: the same by name.
        leaves: layers inside parts that could not be traced, as operators without a graph.
    """

    def __init__(self, sim: QuantizationSimModel, leaves: list[OpNode] | None = None) -> None:
        self._sim = sim
        self._names = {id(quantizer): name for name, quantizer in sim.named_quantizers()}
        self._by_quantizer: dict[int, Site] = {}
        self.sites: list[Site] = []
        for op in sim.graph.ops:
            self._add_op(op)
        traced = {id(op.module) for op in sim.graph.ops}
        self.leaves = leaves or [
            OpNode(name, op_type_of_module(module), None, module, name)  # type: ignore[arg-type]
            for name, module in sim.named_qmodules()
            if id(module) not in traced
        ]
        for leaf in self.leaves:
            self._add_leaf(leaf)
        self.by_name = {site.name: site for site in self.sites}
        # Looked up by place from now on, since quantizers are replaced.
        self._by_slot = {
            (id(holder), key): site for site in self.sites for holder, key in site.slots
        }

    # -- lookups -----------------------------------------------------------------------------------

    def at(self, holder: Any, key: Any) -> Site | None:
        """The site at a position of a list, or a name of a dict, of quantizers."""
        return self._by_slot.get((id(holder), key))

    def source(self, op: OpNode, position: int) -> Site | None:
        """What governs an operand: its own quantizer, or that of whoever has made it.

        Operators that only move numbers are looked through. None for floating point, as inside a
        chain of operators that a target fuses.
        """
        found = input_quantizer(op, position)
        return None if found is None else self.at(getattr(found[0], found[1]), found[2])

    def outputs(self, op: OpNode) -> list[Site | None]:
        """The quantizers of an operator's results, None where there is none."""
        module: Any = op.module
        quantizers = getattr(module, "output_quantizers", None)
        if quantizers is None:
            return [None] * len(op.outputs)
        first = op.call_index * module.outputs_per_call
        count = len(quantizers) if op.fx_node is None else len(op.outputs)
        return [self.at(quantizers, first + j) for j in range(count)]

    def params(self, op: OpNode) -> dict[str, Site]:
        """The quantizers of an operator's weights by parameter name.

        A parameter that a functional operator reads is called "weight", as that of a module.
        """
        found: dict[str, Site] = {}
        holder = getattr(op.module, "param_quantizers", None)
        for name in holder or ():
            site = self.at(holder, name)
            if site is not None:
                found[name] = site
        for position, _ in enumerate(op.inputs):
            site = self.source(op, position)
            if site is not None and site.is_param:
                found["weight"] = site
        return found

    def activations(self, op: OpNode) -> Iterator[tuple[int, Site]]:
        """Positions of an operator's operands that are no weights, and what governs them."""
        if op.fx_node is None:
            quantizers: Any = getattr(op.module, "input_quantizers", ())
            for position, _ in enumerate(quantizers):
                site = self.at(quantizers, position)
                if site is not None:
                    yield position, site
            return
        for position, _ in enumerate(op.inputs):
            site = self.source(op, position)
            if site is not None and not site.is_param:
                yield position, site

    # -- changes -----------------------------------------------------------------------------------

    def set_precision(self, site: Site, precision: Precision) -> None:
        """Give a quantizer other bits, or another kind of number. An integer grid keeps its range.

        Raises:
            ValueError: the quantizer cannot have them.
        """
        quantizer: Any = site.quantizer
        if precision_of(quantizer) == precision:
            return
        limit = getattr(quantizer, "decompressed_bw", precision.bits)
        if precision.is_float or isinstance(quantizer, FloatQuantizeDequantize):
            self._replace(site, self._make(site, precision))
        elif precision.bits > limit:
            raise ValueError(
                f"mixed precision: {site.name} has blocks on a grid of {limit} bits that they "
                f"share and cannot have {precision.bits} bits; exclude its layer, or use "
                "QuantizeDequantize there"
            )
        else:
            quantizer.bitwidth = precision.bits

    def _make(self, site: Site, precision: Precision) -> QuantizerBase:
        settings = dataclasses.replace(
            self._sim.settings,
            data_type=precision.to_aimet()[1],
            output_bitwidth=precision.bits,
            param_bitwidth=precision.bits,
        )
        maker = QuantizerMaker(settings)
        make = maker.weight if site.is_param else maker.activation
        made: Any = make(site.decision, site.tensor_shape)
        self._sim._realization.limits.extend(maker.realization.limits)
        return made

    def _replace(self, site: Site, quantizer: QuantizerBase) -> None:
        """Put another quantizer into all places of a site."""
        device = next((p.device for p in self._sim.model.parameters()), torch.device("cpu"))
        quantizer.to(device).train(site.quantizer.training)
        for holder, key in site.slots:
            holder[key] = quantizer

    def finish(self) -> None:
        """After quantizers have changed: biases follow the new grids, products their targets'.

        From V73 on the HTP multiplies two 16-bit activations only if the second one is symmetric.
        """
        generation = self._sim.config.hw_generation
        if generation is not None and generation >= SIGNED_FACTORS_SINCE:
            for op in self._sim.graph.find_ops("MatMul"):
                site = self.source(op, 1) if len(op.inputs) > 1 else None
                quantizer: Any = None if site is None or site.is_param else site.quantizer
                if isinstance(quantizer, AffineQuantizerBase):
                    assert site is not None
                    quantizer.symmetric = site.decision.is_symmetric or quantizer.bitwidth > 8
                    quantizer.signed = quantizer.symmetric
        for module in self._sim.qmodules():
            module.bias_grids = None
        attach_bias_grids(self._sim.graph)

    # -- construction ------------------------------------------------------------------------------

    def _add_op(self, op: OpNode) -> None:
        module: Any = op.module
        if not hasattr(module, "param_quantizers"):
            return
        plan = self._sim.plan
        for i, value in enumerate(op.inputs):
            key = op.call_index * module.inputs_per_call + i
            decision = plan.inputs.get((op.name, i))
            self._add(module, "input_quantizers", key, decision, value)
        if op.call_index == 0:
            for name in module.param_quantizers:
                decision = plan.params.get((op.name, name))
                self._add(module, "param_quantizers", name, decision)
        for j, _ in enumerate(op.outputs):
            key = op.call_index * module.outputs_per_call + j
            decision = plan.outputs.get((op.name, j))
            self._add(module, "output_quantizers", key, decision)

    def _add_leaf(self, leaf: OpNode) -> None:
        config, module = self._sim.config, leaf.module
        assert module is not None
        params = param_decisions(module, leaf.op_type, config)
        for which in _ACTIVATION_LISTS:
            for key in range(len(getattr(module, which))):
                symmetric = config.is_activation_symmetric(leaf.op_type)
                self._add(module, which, key, Decision(True, "", symmetric))
        for name in params:
            self._add(module, "param_quantizers", name, params[name])

    def _add(
        self,
        module: Any,
        which: str,
        key: Any,
        decision: Decision | None,
        value: Value | None = None,
    ) -> None:
        holder = getattr(module, which)
        if not isinstance(key, str) and key >= len(holder):
            return
        quantizer: nn.Module | None = holder[key]
        if not isinstance(quantizer, QuantizerBase):
            return
        known = self._by_quantizer.get(id(quantizer))
        if known is not None:
            if not any(other is holder and other_key == key for other, other_key in known.slots):
                known.slots.append((holder, key))
            return
        is_own = which == "param_quantizers"
        decision = decision or Decision(True, "", is_param=is_own)
        shape: tuple[int, ...] = tuple(value.shape) if value is not None else ()
        if is_own:
            tensor = getattr(module, key)
            shape = tuple(tensor.shape) if tensor is not None else ()
        name = self._names[id(quantizer)]
        site = Site(name, decision.is_param, [(holder, key)], decision)
        site.tensor_shape = shape if decision.is_param else ()
        self._by_quantizer[id(quantizer)] = site
        self.sites.append(site)
