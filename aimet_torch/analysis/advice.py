"""From measurements to findings: what hurts, why, and the call that mends it.

A table of rules over plain numbers. Each rule looks at one tensor (or at the whole network) and
either is silent or gives a finding. The thresholds are where the techniques begin to pay in this
project's measurements (docs/analysis.md says how each was chosen).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

__all__ = ["CALLS", "Finding", "NetworkFacts", "TensorFacts", "advise"]

#: A tensor that causes less of the loss than this needs no mending.
WORTH_A_FINDING = 0.05
#: Below it a tensor is noise more than signal for a classifier's eyes.
POOR_SQNR_DB = 20.0
#: Largest range of a channel over the median one, from which one scale for all is too coarse: it
#: costs three bits of the median channel.
WIDE_SPREAD = 8.0
#: Largest magnitude over that of 99.9 % of the values, likewise.
LONG_TAIL = 4.0
#: Share of the values beyond the limits of the grid.
MUCH_CLIPPED = 0.02
#: Loss with more bits over loss now, above which bits are not what is missing.
HARDLY_BETTER = 0.5


@dataclass(frozen=True)
class TensorFacts:
    """What was measured of one quantized tensor.

    Attributes:
        quantizer: name of its quantizer in ``sim.model``.
        op_type: ONNX name of the operator that reads a parameter or makes an activation.
        is_param: a parameter, not an activation.
        bitwidth: of its integers.
        scales: number of ranges; 1: one for the whole tensor.
        share: of the expected loss of all tensors, 0 to 1.
        sqnr_db: power of the tensor over that of the rounding error, in dB.
        clipped: share of values beyond the limits of the grid.
        spread: largest range of an output channel over the median one; 1 for activations.
        tail: largest magnitude over that which 99.9 % of the values stay below.
        share_left: loss with `next_bits` over that now; None: not measured.
        is_before_norm: a LayerNorm or RMSNorm reads it.
        is_frozen: its range may not be overwritten.
    """

    quantizer: str
    op_type: str
    is_param: bool
    bitwidth: int
    scales: int
    share: float
    sqnr_db: float
    clipped: float = 0.0
    spread: float = 1.0
    tail: float = 1.0
    share_left: float | None = None
    is_before_norm: bool = False
    is_frozen: bool = False

    @property
    def layer(self) -> str:
        """Name of the module that owns the quantizer."""
        return self.quantizer.rsplit(".", 2)[0]

    @property
    def next_bits(self) -> int:
        """The next larger number of bits that targets have."""
        return 8 if self.bitwidth < 8 else 16

    @property
    def tensor(self) -> str:
        """``weight``, ``input 0``, ``output 0``, ..."""
        _, kind, key = self.quantizer.rsplit(".", 2)
        return key if kind == "param_quantizers" else f"{kind.removesuffix('_quantizers')} {key}"


@dataclass(frozen=True)
class NetworkFacts:
    """What was measured of the whole network.

    Attributes:
        tensors: of all quantizers with a range.
        scheme: how ranges of activations were found: ``min_max``, ``mse``, ...
        unfolded_batch_norms: batch norms that could be folded into the layer before.
        uncalibrated: names of quantizers without a range.
        fp32_score: of the model in floating point, larger is better; None without an evaluation.
        weights_score: with the weights alone quantized.
        activations_score: with the activations alone quantized.
        output_sqnr_db: of the last layer against floating point; None: not measured.
    """

    tensors: Sequence[TensorFacts]
    scheme: str = "min_max"
    unfolded_batch_norms: Sequence[str] = ()
    uncalibrated: Sequence[str] = ()
    fp32_score: float | None = None
    weights_score: float | None = None
    activations_score: float | None = None
    output_sqnr_db: float | None = None


@dataclass(frozen=True)
class Finding:
    """One thing to do.

    Attributes:
        kind: key of `CALLS`.
        subjects: layers or quantizers that it is about.
        cause: what was measured, in a sentence.
        fix: what to do, in a sentence.
        call: Python code that does it; ``model``, ``dummy_input``, ``data_loader`` and ``sim`` are
            those of the user.
        share: of the expected loss that it is about, 0 to 1.
    """

    kind: str
    subjects: tuple[str, ...]
    cause: str
    fix: str
    call: str
    share: float = 0.0
    numbers: dict[str, float] = field(default_factory=dict)


#: Code by kind of finding. ``{names}``: layers, ``{paths}``: quantizers, ``{bits}``: of theirs.
CALLS: dict[str, str] = {
    "calibrate": "sim.compute_encodings(data_loader)",
    "fold": (
        "from aimet_torch.batch_norm_fold import fold_all_batch_norms\n\n"
        "fold_all_batch_norms(model, None, dummy_input)\n"
        "sim = QuantizationSimModel(model, dummy_input)\n"
        "sim.compute_encodings(data_loader)"
    ),
    "per_channel": (
        'sim = QuantizationSimModel(model, dummy_input, config_file="default")  # scales per '
        "channel\nsim.compute_encodings(data_loader)"
    ),
    "equalize": (
        "from aimet_torch.cross_layer_equalization import equalize_model\n\n"
        "equalize_model(model, dummy_input=dummy_input)\n"
        "sim = QuantizationSimModel(model, dummy_input)\n"
        "sim.compute_encodings(data_loader)"
    ),
    "equalize_activations": (
        "from aimet_torch.ptq import equalize_activations\n\n"
        "equalize_activations(model, dummy_input, data_loader)\n"
        "sim = QuantizationSimModel(model, dummy_input)\n"
        "sim.compute_encodings(data_loader)"
    ),
    "repair": (
        "from aimet_torch.ptq import quantize_without_labels\n\n"
        "sim = quantize_without_labels(model, dummy_input, data_loader)  # model: as it was trained"
    ),
    "round": (
        "from aimet_torch.ptq import round_weights_of_sim\n\n"
        "round_weights_of_sim(sim, data_loader)  # AdaRound, layer by layer\n"
        "sim.compute_encodings(data_loader)"
    ),
    "range": (
        'sim = QuantizationSimModel(model, dummy_input, quant_scheme="mse")\n'
        "sim.compute_encodings(data_loader)"
    ),
    "norm_range": (
        "from aimet_torch.ptq import set_ranges_before_norms\n\n"
        "set_ranges_before_norms(sim, data_loader)"
    ),
    "wider_range": (
        'sim = QuantizationSimModel(model, dummy_input, quant_scheme="min_max")\n'
        "sim.compute_encodings(data_loader)"
    ),
    "more_bits": (
        "for name in {paths}:\n"
        "    sim.model.get_submodule(name).bitwidth = {bits}\n"
        "sim.compute_encodings(data_loader)"
    ),
    "exclude": "sim.exclude_layers_from_quantization({names})",
    "learn_ranges": (
        "from aimet_torch.ptq import tune_activation_ranges\n\n"
        "tune_activation_ranges(sim, model, data_loader)"
    ),
}

_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def advise(facts: NetworkFacts) -> list[Finding]:
    """Turn measurements into findings, the most rewarding first.

    Args:
        facts: of one simulation. Nothing else is looked at.

    Returns:
        Findings with a call each; at most one of a kind, which names all layers it is about. Empty
        when no tensor stands out.
    """
    findings = list(_about_the_network(facts))
    for kind, rule, cause, fix in _RULES:
        hits = [t for t in facts.tensors if rule(t, facts)]
        if hits:
            findings.append(_of_tensors(kind, hits, cause, fix))
    if not findings and _is_hurt(facts):
        findings.append(_nothing_stands_out(facts))
    order = {"calibrate": 0, "fold": 1, "repair": 2}  # of what changes the rest
    return sorted(findings, key=lambda f: (order.get(f.kind, len(order)), -f.share))


# -- rules about tensors ---------------------------------------------------------------------------


def _matters(t: TensorFacts) -> bool:
    return t.share >= WORTH_A_FINDING


def _is_weight(t: TensorFacts) -> bool:
    return t.is_param and t.tensor == "weight" and t.op_type in _LAYERS


def _needs_channels(t: TensorFacts, facts: NetworkFacts) -> bool:
    return _is_weight(t) and _matters(t) and t.scales == 1 and t.spread >= WIDE_SPREAD


def _needs_equalization(t: TensorFacts, facts: NetworkFacts) -> bool:
    return _needs_channels(t, facts) and t.op_type in ("Conv", "ConvTranspose", "Gemm")


def _needs_rounding(t: TensorFacts, facts: NetworkFacts) -> bool:
    is_coarse = t.bitwidth < 8 or t.sqnr_db < POOR_SQNR_DB
    return _is_weight(t) and _matters(t) and not t.is_frozen and is_coarse


def _has_long_tail(t: TensorFacts, facts: NetworkFacts) -> bool:
    return not t.is_param and _matters(t) and t.tail >= LONG_TAIL and not t.is_frozen


def _needs_norm_range(t: TensorFacts, facts: NetworkFacts) -> bool:
    return _has_long_tail(t, facts) and t.is_before_norm


def _needs_smoothing(t: TensorFacts, facts: NetworkFacts) -> bool:
    return _has_long_tail(t, facts) and not t.is_before_norm


def _needs_other_range(t: TensorFacts, facts: NetworkFacts) -> bool:
    return _needs_smoothing(t, facts) and facts.scheme in ("min_max", "tf")


def _is_clipped(t: TensorFacts, facts: NetworkFacts) -> bool:
    return not t.is_param and _matters(t) and t.clipped >= MUCH_CLIPPED and not t.is_frozen


def _gains_by_bits(t: TensorFacts) -> bool:
    return t.share_left is not None and t.share_left < HARDLY_BETTER


def _needs_bits(t: TensorFacts, facts: NetworkFacts) -> bool:
    # Three times the mean; in a network of a few tensors, half of all.
    usual = min(0.5, 3 / max(len(facts.tensors), 1))
    stands_out = t.share >= max(2 * WORTH_A_FINDING, usual)
    return stands_out and t.bitwidth < 16 and _gains_by_bits(t) and not t.is_frozen


def _needs_floats(t: TensorFacts, facts: NetworkFacts) -> bool:
    is_hopeless = t.bitwidth >= 16 or (t.share_left is not None and not _gains_by_bits(t))
    return is_hopeless and t.share >= 0.5


_Rule = Callable[[TensorFacts, NetworkFacts], bool]
_RULES: tuple[tuple[str, _Rule, str, str], ...] = (
    (
        "per_channel",
        _needs_channels,
        "one scale serves all channels of the weight, but their ranges differ {spread:.0f} times",
        "give each output channel a scale of its own",
    ),
    (
        "equalize",
        _needs_equalization,
        "channels of the weight differ {spread:.0f} times in range, and the target may allow one "
        "scale only",
        "move the differences into the neighboring layers",
    ),
    (
        "round",
        _needs_rounding,
        "rounding the weight to {bitwidth:.0f} bits leaves {sqnr_db:.0f} dB",
        "choose which weights to round up by what the layer computes, not to the nearest integer",
    ),
    (
        "norm_range",
        _needs_norm_range,
        "a few values in front of the normalization are {tail:.0f} times as large as the others",
        "clip them: the normalized values change little",
    ),
    (
        "equalize_activations",
        _needs_smoothing,
        "a few values of the activation are {tail:.0f} times as large as 99.9 % of them",
        "move the large channels into the weights that read them",
    ),
    (
        "range",
        _needs_other_range,
        "the range covers outliers {tail:.0f} times beyond 99.9 % of the values",
        "take the range with the least squared error instead of the extremes",
    ),
    (
        "wider_range",
        _is_clipped,
        "{clipped_percent:.1f} % of the values lie beyond the limits of the grid",
        "widen the range, or calibrate on data like those of the evaluation",
    ),
    (
        "more_bits",
        _needs_bits,
        "the tensor alone causes {share_percent:.0f} % of the expected loss; {next_bits:.0f} bits "
        "leave {left_percent:.1f} % of that",
        "give it {next_bits:.0f} bits",
    ),
    (
        "exclude",
        _needs_floats,
        "it causes {share_percent:.0f} % of the expected loss, and more bits hardly help",
        "leave the layer in floating point",
    ),
)


def _of_tensors(kind: str, hits: list[TensorFacts], cause: str, fix: str) -> Finding:
    hits = sorted(hits, key=lambda t: t.share, reverse=True)
    worst = hits[0]
    if kind == "more_bits":
        hits = [t for t in hits if t.next_bits == worst.next_bits]
    numbers = {
        "spread": worst.spread,
        "tail": worst.tail,
        "bitwidth": float(worst.bitwidth),
        "sqnr_db": worst.sqnr_db,
        "clipped_percent": 100 * worst.clipped,
        "share_percent": 100 * worst.share,
        "next_bits": float(worst.next_bits),
        "left_percent": 100 * (worst.share_left or 0.0),
    }
    layers = list(dict.fromkeys(t.layer for t in hits))
    call = CALLS[kind]
    if "{" in call:
        call = call.format(names=layers, paths=[t.quantizer for t in hits], bits=worst.next_bits)
    where = f"{worst.layer} ({worst.tensor})" + (
        f" and {len(hits) - 1} more" if len(hits) > 1 else ""
    )
    return Finding(
        kind,
        tuple(t.quantizer for t in hits),
        f"{where}: {cause.format(**numbers)}",
        fix.format(**numbers),
        call,
        min(1.0, sum(t.share for t in hits)),
        numbers,
    )


# -- rules about the whole network -----------------------------------------------------------------


def _about_the_network(facts: NetworkFacts) -> Iterator[Finding]:
    if facts.uncalibrated:
        yield Finding(
            "calibrate",
            tuple(facts.uncalibrated),
            f"{_some(facts.uncalibrated)} have no range and pass their input through",
            "calibrate with data that reach them",
            CALLS["calibrate"],
        )
    if facts.unfolded_batch_norms:
        yield Finding(
            "fold",
            tuple(facts.unfolded_batch_norms),
            f"{_some(facts.unfolded_batch_norms)} could be part of the layer before",
            "fold them before the simulation is made: targets do it, and weights and ranges change",
            CALLS["fold"],
        )
    weights = [t for t in facts.tensors if _is_weight(t)]
    is_poor = facts.output_sqnr_db is not None and facts.output_sqnr_db < POOR_SQNR_DB
    if is_poor and weights and not any(t.is_frozen for t in weights):
        yield Finding(
            "repair",
            (),
            f"The last layer is left with {facts.output_sqnr_db:.0f} dB, with weights rounded to "
            "nearest",
            "repair the whole network without labels: equalize it, round its weights by what their "
            "layers compute, correct its biases",
            CALLS["repair"],
        )


def _is_hurt(facts: NetworkFacts) -> bool:
    return any(t.share > 0 and t.sqnr_db < POOR_SQNR_DB for t in facts.tensors)


def _nothing_stands_out(facts: NetworkFacts) -> Finding:
    weights = sum(t.share for t in facts.tensors if t.is_param)
    if weights >= 0.5:
        return Finding(
            "round",
            (),
            f"no tensor stands out; weights cause {100 * weights:.0f} % of the expected loss",
            "round all weights by what their layers compute",
            CALLS["round"],
            weights,
        )
    return Finding(
        "learn_ranges",
        (),
        f"no tensor stands out; activations cause {100 * (1 - weights):.0f} % of the expected loss",
        "learn the ranges of all activations together, against the outputs",
        CALLS["learn_ranges"],
        1 - weights,
    )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
