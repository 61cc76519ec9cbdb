"""Quantizers inside modules that cannot be traced.

Such a module runs its own Python forward; its leaf modules are quantized in place. Without a graph,
one run on the example input shows which leaf reads a tensor that no other leaf has produced: that
operand gets an input quantizer, so that only chains of functional operators stay in floating point
(the summary lists them).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
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

    handles = [use.module.register_forward_hook(note(use), with_kwargs=True) for use in uses]
    if any(value.kind == "activation" for value in boundary.inputs):
        # What comes from traced operators has a quantizer there.
        handles.append(root.register_forward_pre_hook(enter, with_kwargs=True))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
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
