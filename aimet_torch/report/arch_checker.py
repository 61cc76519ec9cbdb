"""`ArchChecker`: rules about architectures, with a page of what they found."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from aimet_torch.analysis.model_rules import GRAPH_RULES, Finding, GraphRule, apply_rules
from aimet_torch.graph import ModelGraph, OpNode
from aimet_torch.report import pages
from aimet_torch.report.document import environment

__all__ = ["ArchChecker"]

_FILE = "arch_checker_report.html"


class ArchChecker:
    """Checks an architecture before it is trained, under AIMET's name.

    Rules: channels of convolutions (at least 32, multiples of 32; those of the model's input do not
    count), PReLU and SiLU, batch norms that cannot be folded, padding between convolutions, batch
    norms behind concatenations. Unlike in AIMET, functions are seen like modules, and a call does
    not repeat what earlier calls have found.
    """

    _node_checks: ClassVar[list[tuple[type, Callable[[Any], bool]]]] = []
    _pattern_checks: ClassVar[list[Callable[[ModelGraph], Iterable[OpNode]]]] = []

    @staticmethod
    def add_node_check(check_target_type: type, arch_check: Callable[[Any], bool]) -> None:
        """Add a check of modules for all further calls.

        Args:
            check_target_type: Class of the modules.
            arch_check: ``check(module)``: True if all is well. Its name is the rule's name, the
                first line of its docstring tells the issue.
        """
        ArchChecker._node_checks.append((check_target_type, arch_check))

    @staticmethod
    def add_pattern_check(arch_check: Callable[[ModelGraph], Iterable[OpNode]]) -> None:
        """Add a check of graphs for all further calls.

        Args:
            arch_check: ``check(graph)``: the operations that are not as they should be, of the
                `aimet_torch.graph.ModelGraph`. Its name and docstring as for
                :meth:`add_node_check`.
        """
        ArchChecker._pattern_checks.append(arch_check)

    @staticmethod
    def check_model_arch(
        model: nn.Module, dummy_input: Any, result_dir: str | os.PathLike[str] | None = None
    ) -> list[Finding]:
        """Apply all rules to a model.

        Args:
            model: Left as it is.
            dummy_input: A tensor, a tuple of arguments, or a dict.
            result_dir: Folder for ``arch_checker_report.html`` and ``.json``; None: no files.

        Returns:
            One entry for each operation and rule that it breaks, in the order of execution.
        """
        rules = dict(GRAPH_RULES)
        for kind, check in ArchChecker._node_checks:
            rules[_name(rules, check)] = (_node_rule(kind, check), *_texts(check))
        for pattern in ArchChecker._pattern_checks:
            rules[_name(rules, pattern)] = (pattern, *_texts(pattern))
        findings = apply_rules(model, dummy_input, rules)
        if result_dir is not None:
            path = Path(result_dir) / _FILE
            pages.write(path, _page(type(model).__name__, findings, rules))
            rows = [vars(finding) for finding in findings]
            pages.write_json(path.with_suffix(".json"), {"findings": rows})
        return findings


def _node_rule(kind: type, check: Callable[[Any], bool]) -> GraphRule:
    def rule(graph: ModelGraph) -> list[OpNode]:
        return [
            op
            for op in graph.ops
            if isinstance(op.module, kind) and not op.call_index and not check(op.module)
        ]

    return rule


def _name(rules: dict[str, Any], check: Any) -> str:
    name = getattr(check, "__name__", type(check).__name__)
    candidate, count = name, 1
    while candidate in rules:
        count += 1
        candidate = f"{name} {count}"
    return candidate


def _texts(check: Any) -> tuple[str, str]:
    lines = (getattr(check, "__doc__", None) or "").strip().splitlines()
    name = getattr(check, "__name__", type(check).__name__)
    return lines[0] if lines else f"The check {name} fails.", ""


def _page(title: str, findings: list[Finding], rules: dict[str, Any]) -> str:
    counts = {name: sum(f.rule == name for f in findings) for name in rules}
    return pages.render(
        "architecture.html",
        title=title,
        findings=findings,
        rules=[(name, counts[name], *rules[name][1:]) for name in rules],
        environment=environment(),
    )
