"""From wishes for layers to precisions of quantizers: who decides about a tensor, and conflicts."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

from aimet_torch.graph import OpNode, Value
from aimet_torch.mixed_precision.kernels import (
    FusedKernel,
    describe,
    fused_kernels,
    is_supported,
    only_moves,
    supported_types,
)
from aimet_torch.mixed_precision.precision import Precision
from aimet_torch.mixed_precision.sites import Site, SiteMap
from aimet_torch.quantsim import QuantizationSimModel

__all__ = ["Change", "PrecisionConflictError", "Request", "Resolution", "resolve"]


class PrecisionConflictError(ValueError, RuntimeError):
    """Wishes that contradict each other or the target. Also a RuntimeError, as AIMET raises."""


@dataclass
class Request:
    """One wish.

    Attributes:
        label: what it is about, for messages.
        ops: the operators meant, or none.
        values: inputs and outputs of the model meant, or none.
        activation: precision of all their inputs, or one for each; None leaves them.
        params: precision by parameter name.
    """

    label: str
    ops: list[OpNode] = field(default_factory=list)
    values: list[Value] = field(default_factory=list)
    activation: Precision | list[Precision | None] | None = None
    params: dict[str, Precision] = field(default_factory=dict)

    def activation_text(self) -> str:
        """The wish for activations in words."""
        if isinstance(self.activation, list):
            return ", ".join("-" if wished is None else str(wished) for wished in self.activation)
        return "-" if self.activation is None else str(self.activation)

    def params_text(self) -> str:
        """The wish for parameters in words."""
        return ", ".join(f"{name}: {wished}" for name, wished in self.params.items()) or "-"


@dataclass(frozen=True)
class Change:
    """A quantizer that gets another precision.

    Attributes:
        site: which one.
        old: what it was.
        new: what it will be.
        reason: whose wish it is.
    """

    site: Site
    old: Precision
    new: Precision
    reason: str

    def __str__(self) -> str:
        return f"{self.site.name}: {self.old} -> {self.new}"


@dataclass
class Resolution:
    """What follows from all wishes.

    Attributes:
        changes: to be made.
        conflicts: wishes that a later one overrules, one line each.
        unsupported: operators without a kernel for what they would get, one line each.
    """

    changes: list[Change] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    unsupported: list[str] = field(default_factory=list)

    def report(self, strict: bool) -> None:
        """Raise what stands against the wishes, or warn of it.

        Raises:
            PrecisionConflictError: there is something, and `strict`.
        """
        lines = [*self.conflicts, *self.unsupported]
        if not lines:
            return
        text = "MixedPrecisionConfigurator.apply: " + "\n  ".join(
            [f"{len(lines)} of the wishes cannot be granted:", *lines]
        )
        if strict:
            raise PrecisionConflictError(
                f"{text}\nchange the wishes, or pass strict=False: the later wish then wins"
            )
        warnings.warn(text, stacklevel=3)


@dataclass(frozen=True)
class _Wish:
    """One wish at one quantizer.

    Attributes:
        request: its index: later ones win.
        precision: what is wished.
        reader: who reads the tensor, or the model's input or output.
        is_weak: of the one who makes the tensor: whoever reads it has precedence.
    """

    request: int
    precision: Precision
    reader: str
    is_weak: bool = False


class _Resolver:
    def __init__(
        self, sim: QuantizationSimModel, sites: SiteMap, requests: Sequence[Request]
    ) -> None:
        self._sim = sim
        self._sites = sites
        self._requests = requests
        self._kernels = fused_kernels(sim.graph, sim.plan)
        self._kernels |= {leaf: FusedKernel([leaf]) for leaf in sites.leaves}
        self._wishes: dict[Site, list[_Wish]] = {}
        self._result = Resolution()

    def run(self) -> Resolution:
        of_kernel: dict[FusedKernel, tuple[int, OpNode]] = {}
        of_op: dict[OpNode, int] = {}
        for index, request in enumerate(self._requests):
            for op in request.ops:
                of_op[op] = index
                if request.activation is not None:
                    of_kernel[self._kernels[op]] = (index, op)
            for value in request.values:
                self._wish_for_value(value, index, request)
        for op, index in of_op.items():
            for name, site in self._sites.params(op).items():
                wished = self._requests[index].params.get(name)
                if wished is not None:
                    self._add(site, _Wish(index, wished, op.name))
        for kernel, (index, op) in of_kernel.items():
            self._wish_for_kernel(kernel, index, op)
        for site, wishes in self._wishes.items():
            self._settle(site, wishes)
        self._check_support(of_op)
        return self._result

    def _add(self, site: Site | None, wish: _Wish) -> None:
        if site is not None:
            self._wishes.setdefault(site, []).append(wish)

    def _wish_for_kernel(self, kernel: FusedKernel, index: int, named: OpNode) -> None:
        """Inputs of all fused operators, and what leaves the last of them."""
        activation = self._requests[index].activation
        if isinstance(activation, list):
            for position, site in self._sites.activations(named):
                wished = activation[position]
                if wished is not None:
                    self._add(site, _Wish(index, wished, named.name))
            lead = activation[0] if activation else None
        else:
            lead = activation
            for op in kernel.ops:
                for _, site in self._sites.activations(op):
                    self._add(site, _Wish(index, activation, op.name))  # type: ignore[arg-type]
        if lead is not None:
            for site in kernel.outputs(self._sites):
                self._add(site, _Wish(index, lead, kernel.ops[-1].name, is_weak=True))

    def _wish_for_value(self, value: Value, index: int, request: Request) -> None:
        wished = request.activation
        assert isinstance(wished, Precision)
        if value.producer is None:
            found = {self._sites.source(op, i) for op, i in value.consumers}
        else:
            found = {self._made_by(value)}
        for site in found:
            self._add(site, _Wish(index, wished, request.label))

    def _made_by(self, value: Value) -> Site | None:
        producer = value.producer
        assert producer is not None
        site = self._sites.outputs(producer)[producer.outputs.index(value)]
        if site is None and producer.inputs:  # it only moves numbers
            return self._sites.source(producer, 0)
        return site

    def _settle(self, site: Site, wishes: list[_Wish]) -> None:
        strong = sorted((w for w in wishes if not w.is_weak), key=lambda w: w.request)
        if strong:
            winner = strong[-1]
            for loser in strong[:-1]:
                if loser.precision != winner.precision:
                    self._result.conflicts.append(
                        f"{site.name}: {winner.precision} for {winner.reader} (wish "
                        f"{winner.request}: {self._requests[winner.request].label}), but "
                        f"{loser.precision} for {loser.reader} (wish {loser.request}: "
                        f"{self._requests[loser.request].label})"
                    )
        else:
            winner = max(wishes, key=lambda w: w.request)
            if not (winner.precision < site.precision or self._leaves_model(site)):
                return
        if winner.precision == site.precision:
            return
        reason = f"wish {winner.request}: {self._requests[winner.request].label}"
        if site.is_frozen:
            self._result.unsupported.append(
                f"{site.name}: its range is frozen at {site.precision}, so it cannot have "
                f"{winner.precision} ({reason}); call allow_overwrite(True) on it first"
            )
            return
        self._result.changes.append(Change(site, site.precision, winner.precision, reason))

    def _leaves_model(self, site: Site) -> bool:
        return any(
            value.producer is not None and self._made_by(value) is site
            for value in self._sim.graph.outputs
        )

    def _check_support(self, of_op: dict[OpNode, int]) -> None:
        """Every operator that was named, or whose tensors change, needs a kernel."""
        new = {change.site: change.new for change in self._result.changes}
        for op in self._kernels:
            kernels = supported_types(self._sim.config, op.op_type)
            params = self._sites.params(op)
            operands = [site for _, site in self._sites.activations(op)]
            is_touched = op in of_op or any(s in new for s in (*operands, *params.values()))
            if not kernels or not is_touched or only_moves(op):
                continue
            weight = params.get("weight")
            param = None if weight is None else new.get(weight, weight.precision)
            everything: list[Site | None] = [*operands] or [None]
            for site in everything:
                activation = None if site is None else new.get(site, site.precision)
                if not is_supported(kernels, activation, param):
                    known = "; ".join(map(describe, kernels))
                    self._result.unsupported.append(
                        f"{op.name}: no kernel of {op.op_type} takes activations of {activation}"
                        f"{'' if param is None else f' and weights of {param}'}; there is {known}"
                    )
                    break


def resolve(sim: QuantizationSimModel, sites: SiteMap, requests: Sequence[Request]) -> Resolution:
    """Settle wishes without changing anything.

    Args:
        sim: the simulation.
        sites: its quantizers.
        requests: the wishes in order.
    """
    return _Resolver(sim, sites, requests).run()
