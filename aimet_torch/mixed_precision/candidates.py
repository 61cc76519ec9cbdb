"""Which candidates each quantizer group may have, by the kernels of the target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aimet_torch.analysis.groups import QuantizerGroup
from aimet_torch.analysis.sensitivity import candidate_setting
from aimet_torch.analysis.switching import Setting, Switchboard
from aimet_torch.graph import OpNode
from aimet_torch.mixed_precision.kernels import describe, is_supported, supported_types
from aimet_torch.mixed_precision.precision import Candidate, Precision, effective_bits
from aimet_torch.quantization.affine import GroupedBlockQuantizeDequantize
from aimet_torch.quantsim import QuantizationSimModel

__all__ = ["Options", "check_candidates", "movable_groups", "options_of_groups", "setting_of"]

#: The candidates that each group may have, from fine to coarse.
Options = Mapping[QuantizerGroup, Sequence[Candidate]]


def check_candidates(candidates: Iterable[Any], function: str) -> list[Candidate]:
    """The candidates in our form, each once, in their order.

    Raises:
        ValueError: fewer than two different ones, or one that names no precision.
        TypeError: something else than AIMET's pairs.
    """
    found = []
    for candidate in candidates:
        try:
            parsed = Candidate.of(candidate)
        except TypeError:
            raise TypeError(
                f"{function}: `candidates` must hold pairs ((activation bits, data type), "
                f"(parameter bits, data type)), got {candidate!r}"
            ) from None
        if parsed.activation is None or parsed.param is None:
            raise ValueError(
                f"{function}: a candidate needs precisions for activations and parameters, got "
                f"{candidate!r}"
            )
        found.append(parsed)
    unique = list(dict.fromkeys(found))
    if len(unique) < 2:
        raise ValueError(
            f"{function}: `candidates` must hold at least two different candidates, got "
            f"{len(unique)}: there is nothing to choose"
        )
    return unique


def movable_groups(board: Switchboard, groups: Iterable[QuantizerGroup]) -> list[QuantizerGroup]:
    """The groups that may change.

    Those that hold a frozen quantizer may not, nor those with blocks whose scales are integers of a
    grid of their own (LPBQ).
    """
    return [
        group
        for group in groups
        if all(_may_change(board.quantizers[name]) for name in group.quantizers)
    ]


def _may_change(quantizer: Any) -> bool:
    if isinstance(quantizer, GroupedBlockQuantizeDequantize):
        return False
    return not quantizer._range_names or quantizer.is_overwrite_allowed()


def options_of_groups(
    sim: QuantizationSimModel,
    groups: Iterable[QuantizerGroup],
    candidates: Sequence[Candidate],
    use_all: bool,
    function: str,
) -> dict[QuantizerGroup, list[Candidate]]:
    """For each group the candidates that every reader of it has a kernel for.

    A group without parameters has candidates of activations alone, and one without activations of
    parameters alone; equal ones come once.

    Args:
        sim: whose configuration lists the kernels.
        groups: of the simulation.
        candidates: to choose from.
        use_all: do not look at the kernels.
        function: for messages.

    Raises:
        ValueError: a group for which there is none.
    """
    operators = {op.name: op for op in sim.graph.ops}
    found = {}
    for group in groups:
        readers = [operators[name] for name in group.readers if name in operators]
        allowed = [c for c in candidates if use_all or _has_kernels(sim, group, readers, c)]
        if not allowed:
            kernels = {
                op.op_type: [describe(k) for k in supported_types(sim.config, op.op_type)]
                for op in readers
            }
            raise ValueError(
                f"{function}: `candidates` has none for the group {group.name!r}; "
                f"`supported_kernels` of its readers: {kernels}; got "
                f"{', '.join(map(str, candidates))}. Add a candidate, or pass "
                "use_all_amp_candidates=True"
            )
        own = dict.fromkeys(
            Candidate(
                c.activation if group.activations else None, c.param if group.params else None
            )
            for c in allowed
        )
        found[group] = sorted(own, key=candidate_cost, reverse=True)
    return found


def candidate_cost(candidate: Candidate) -> tuple[float, float, float]:
    """By what candidates are compared: bit-operations, then bits of activations, of parameters."""
    sides = [candidate.activation, candidate.param]
    bits = [1.0 if side is None else effective_bits(side) for side in sides]
    return bits[0] * bits[1], bits[0], bits[1]


def _has_kernels(
    sim: QuantizationSimModel,
    group: QuantizerGroup,
    readers: Sequence[OpNode],
    candidate: Candidate,
) -> bool:
    activation = candidate.activation if group.activations else None
    return all(
        is_supported(
            supported_types(sim.config, op.op_type),
            activation,
            candidate.param if _reads_weight(op, group) else None,
        )
        for op in readers
    )


def _reads_weight(op: OpNode, group: QuantizerGroup) -> bool:
    quantizers = getattr(op.module, "param_quantizers", None) or {}
    is_own = any(quantizer is not None for quantizer in quantizers.values())
    return bool(group.params) and (is_own or op.op_type in ("Conv", "Gemm", "ConvTranspose"))


def closest(options: Sequence[Candidate], candidate: Candidate, group: QuantizerGroup) -> Candidate:
    """The candidate of a group that stands for one of the whole model.

    Itself, if the group may have it; otherwise the finest one, as in AIMET.
    """
    own = Candidate(
        candidate.activation if group.activations else None,
        candidate.param if group.params else None,
    )
    return own if own in options else options[0]


def setting_of(choice: Mapping[QuantizerGroup, Candidate]) -> dict[str, Precision | None]:
    """Precisions of single quantizers from candidates of groups."""
    setting: dict[str, Precision | None] = {}
    for group, candidate in choice.items():
        setting.update(candidate_setting(group, candidate))
    return setting


def bitwidths_in(options: Options) -> list[int]:
    """All integer bit widths that activations may get."""
    return sorted(
        {
            c.activation.bits
            for candidates in options.values()
            for c in candidates
            if c.activation is not None and not c.activation.is_float
        }
    )


def label_of(setting: Setting) -> str:
    """A text that tells settings apart: equal settings share their evaluation."""
    return " ".join(f"{name}={precision}" for name, precision in sorted(setting.items()))
