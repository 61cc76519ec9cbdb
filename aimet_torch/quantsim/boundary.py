"""Quantizers inside modules that cannot be traced.

Such a module runs its own Python forward; its leaf modules are quantized in place. Without a graph,
one run on the example input shows which leaf reads a tensor that no other leaf has produced: that
operand gets an input quantizer, so that only chains of functional operators stay in floating point
(the summary lists them). The same run shows which parameters of leaves other code reads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from aimet_torch.graph import GRID_PRESERVING_OPS, OpNode, op_type_of_module
from aimet_torch.quantsim.config import QuantSimConfig
from aimet_torch.quantsim.placement import Decision, param_decisions


@dataclass
class LeafUse:
    """What one run showed about a leaf module: its operands and its floating results."""

    name: str
    module: nn.Module
    fresh_operands: set[int] = field(default_factory=set)
    operand_count: int = 0
    result_count: int = 0
    params_read_elsewhere: frozenset[str] = frozenset()


class _ParameterReads(TorchFunctionMode):
    """Notes which of some parameters functions read while no leaf module is running."""

    #: Methods that return values as numbers; others without a tensor as result tell shape or type.
    _VALUES = frozenset({"item", "tolist", "numpy", "__bool__", "__float__", "__int__"})

    def __init__(self, parameters: set[int]) -> None:
        super().__init__()
        self.parameters = parameters
        self.read: set[int] = set()
        self.leaves_running = 0

    def enter(self, *_: object) -> None:
        self.leaves_running += 1

    def leave(self, *_: object) -> None:
        self.leaves_running -= 1

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.leaves_running:
            found = {id(t) for t in tree_leaves((args, kwargs))} & self.parameters
            if found and (
                getattr(func, "__name__", "") in self._VALUES
                or any(isinstance(t, torch.Tensor) for t in tree_leaves(result))
            ):
                self.read |= found
        return result


def observe_leaves(boundary: OpNode, run: Callable[[], object]) -> list[LeafUse]:
    """Run the model once and note how the leaf modules inside a boundary are used.

    Args:
        boundary: operator whose module could not be traced.
        run: runs the whole model on its example input.
    """
    prefix = f"{boundary.module_name}." if boundary.module_name else ""
    root: Any = boundary.module
    uses = [
        LeafUse(prefix + name, module)
        for name, module in root.named_modules()
        if not list(module.children()) and type(module).__module__.startswith("torch.nn.")
    ]
    if not uses:  # a scripted module, for one: it takes no hooks either
        return []
    produced: list[torch.Tensor] = []  # held, so that no address is used twice
    known: set[int] = set()

    def add(value: object) -> None:
        for leaf in tree_leaves(value):
            if isinstance(leaf, torch.Tensor):
                produced.append(leaf)
                known.add(id(leaf))

    def note(use: LeafUse) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: object) -> None:
            operands = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
            use.operand_count = max(use.operand_count, len(operands))
            use.fresh_operands |= {
                i for i, t in enumerate(operands) if t.is_floating_point() and id(t) not in known
            }
            results = [t for t in tree_leaves(output) if isinstance(t, torch.Tensor)]
            use.result_count = max(use.result_count, len(results))
            add(output)

        return hook

    def enter(_: nn.Module, args: Any, kwargs: Any) -> None:
        add((args, kwargs))

    owners: dict[int, list[tuple[LeafUse, str]]] = defaultdict(list)
    for use in uses:
        for name, parameter in use.module.named_parameters(recurse=False):
            owners[id(parameter)].append((use, name))
    reads = _ParameterReads(set(owners))
    handles = [use.module.register_forward_hook(note(use), with_kwargs=True) for use in uses]
    for use in uses:
        handles.append(use.module.register_forward_pre_hook(reads.enter))
        handles.append(use.module.register_forward_hook(reads.leave))
    if any(value.kind == "activation" for value in boundary.inputs):
        # What comes from traced operators has a quantizer there.
        handles.append(root.register_forward_pre_hook(enter, with_kwargs=True))
    try:
        with reads:
            run()
    finally:
        for handle in handles:
            handle.remove()
    for parameter_id in reads.read:
        for use, name in owners[parameter_id]:
            use.params_read_elsewhere |= {name}
    return uses


def leaf_decisions(
    use: LeafUse, config: QuantSimConfig
) -> tuple[list[Decision | None], list[Decision], dict[str, Decision]]:
    """Decisions for the operands, results and parameters of a leaf inside a boundary."""
    op_type = op_type_of_module(use.module)
    is_symmetric = config.is_activation_symmetric(op_type)
    keeps_grid = op_type in GRID_PRESERVING_OPS
    operands: list[Decision | None] = [
        Decision(True, "read inside an untraceable module", is_symmetric)
        if i in use.fresh_operands and not keeps_grid
        else None
        for i in range(use.operand_count)
    ]
    is_quantized = config.is_output_quantized(op_type) and not keeps_grid
    rule = config.op_rule(op_type)
    results = [
        Decision(
            is_quantized, "output", is_symmetric, limits=(rule.encoding_min, rule.encoding_max)
        )
        for _ in range(use.result_count)
    ]
    return operands, results, param_decisions(use.module, op_type, config)
