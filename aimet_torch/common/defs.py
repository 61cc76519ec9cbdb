"""Enumerations and small parameter objects of AIMET's public interface.

Names, members and values follow AIMET 2.x (``aimet_torch.common.defs``, alias
``aimet_common.defs``), so that scripts and pickled values written for it mean the same here.
Nothing in this file imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from aimet_torch.common.compression_stats import CompressionStats

__all__ = [
    "QTYPE_ALIASES",
    "RANGE_LEARNING_SCHEMES",
    "ActivationType",
    "AdaroundConstants",
    "CallbackFunc",
    "CompressionScheme",
    "CompressionStats",
    "CostMetric",
    "EncodingType",
    "EvalFunction",
    "Float",
    "GreedySelectionParameters",
    "Int",
    "QuantDtypeBwInfo",
    "QuantScheme",
    "QuantizationDataType",
    "RankSelectScheme",
    "SupportedKernelsAction",
    "qtype",
]

EvalFunction = Callable[[Any, "int | None", bool], float]


class QuantScheme(Enum):
    """How the range of a quantizer is chosen from observed values.

    The range-learning members are those of AIMET 1.x. Here, as in AIMET 2.x, every quantizer's
    range is a trainable parameter, so they only select the calibration that starts the training.
    """

    min_max = 1
    post_training_tf = min_max
    post_training_tf_enhanced = 2
    training_range_learning_with_tf_init = 3
    training_range_learning_with_tf_enhanced_init = 4
    training_range_learning = 5
    post_training_percentile = 6
    # Not in AIMET: the least squared error, for weights searched on the values themselves.
    post_training_mse = 7

    @classmethod
    def from_str(cls, alias: str) -> QuantScheme:
        """Return the scheme of a name.

        Args:
            alias: ``"min_max"``, ``"tf"``, ``"tf_enhanced"``, ``"percentile"`` or ``"mse"``.

        Raises:
            ValueError: ``alias`` is none of these.
        """
        if alias in _QUANT_SCHEME_ALIASES:
            return _QUANT_SCHEME_ALIASES[alias]
        known = ", ".join(repr(name) for name in _QUANT_SCHEME_ALIASES)
        raise ValueError(f"QuantScheme.from_str: `alias` must be one of {known}, got {alias!r}")


_QUANT_SCHEME_ALIASES = {
    "min_max": QuantScheme.min_max,
    "tf": QuantScheme.min_max,
    "tf_enhanced": QuantScheme.post_training_tf_enhanced,
    "percentile": QuantScheme.post_training_percentile,
    "mse": QuantScheme.post_training_mse,
}

RANGE_LEARNING_SCHEMES = {
    QuantScheme.training_range_learning_with_tf_init,
    QuantScheme.training_range_learning_with_tf_enhanced_init,
}


class QuantizationDataType(Enum):
    """Kind of number a quantizer maps to."""

    undefined = 0
    int = 1
    float = 2


class EncodingType(Enum):
    """Granularity of an encoding, as written in encodings files of version 1.0.0."""

    PER_TENSOR = 0
    PER_CHANNEL = 1
    PER_BLOCK = 2
    LPBQ = 3
    VECTOR = 4


class SupportedKernelsAction(Enum):
    """What to do when a precision is not among the target's supported kernels."""

    allow_error = 1
    warn_on_error = 2
    assert_on_error = 3


class ActivationType(Enum):
    """Activation that follows a layer; decides the formula of the expected output."""

    no_activation = 0
    relu = 1
    relu6 = 2


class CostMetric(Enum):
    """Cost that compression reduces: multiply-accumulates, parameters, or measured time."""

    mac = 1
    memory = 2
    # Not in AIMET: seconds on the machine that compresses.
    latency = 3


class CompressionScheme(Enum):
    """Ways to make a model smaller."""

    weight_svd = 1
    spatial_svd = 2
    channel_pruning = 3
    # Not in AIMET: decompositions of convolutions by tensorly, and of every layer the better SVD.
    tucker = 4
    cp = 5
    low_rank = 6


class RankSelectScheme(Enum):
    """Ways to choose a rank for each layer."""

    greedy = 1


class AdaroundConstants:
    """Stretch of the rectified sigmoid (Nagel et al. 2020, arXiv 2004.10568, eq. 23)."""

    GAMMA = -0.1
    ZETA = 1.1


class GreedySelectionParameters:
    """Settings of the greedy choice of a compression ratio for each layer.

    Args:
        target_comp_ratio: cost of the compressed model over cost of the original, in (0, 1].
        num_comp_ratio_candidates: ratios tried for each layer, at least 2.
        use_monotonic_fit: fit the scores of a layer to a function that grows with the ratio.
        saved_eval_scores_dict: file with the scores of an earlier run; makes
            ``num_comp_ratio_candidates`` irrelevant.

    Raises:
        ValueError: fewer than 2 candidates.
    """

    def __init__(
        self,
        target_comp_ratio: float,
        num_comp_ratio_candidates: int = 10,
        use_monotonic_fit: bool = False,
        saved_eval_scores_dict: str | None = None,
    ) -> None:
        if num_comp_ratio_candidates < 2:
            raise ValueError(
                "GreedySelectionParameters: `num_comp_ratio_candidates` must be at least 2, "
                f"got {num_comp_ratio_candidates}"
            )
        self.target_comp_ratio = target_comp_ratio
        self.num_comp_ratio_candidates = num_comp_ratio_candidates
        self.use_monotonic_fit = use_monotonic_fit
        self.saved_eval_scores_dict = saved_eval_scores_dict


class CallbackFunc:
    """A function and its second argument: ``callback(model)`` is ``func(model, args)``."""

    def __init__(self, func: Callable[..., Any], func_callback_args: Any = None) -> None:
        self.func = func
        self.args = func_callback_args

    def __call__(self, arg: Any) -> Any:
        """Call the function with ``arg`` and the stored argument."""
        return self.func(arg, self.args)


@dataclass
class QuantDtypeBwInfo:
    """Data type and bitwidth of activations and parameters of one precision candidate.

    Raises:
        ValueError: a float type with a bitwidth other than 16 or 32.
    """

    act_dtype: QuantizationDataType
    act_bw: int
    param_dtype: QuantizationDataType = QuantizationDataType.undefined
    param_bw: int = 0

    def __post_init__(self) -> None:
        pairs = (("act", self.act_dtype, self.act_bw), ("param", self.param_dtype, self.param_bw))
        for name, dtype, bitwidth in pairs:
            if dtype == QuantizationDataType.float and bitwidth not in (16, 32):
                raise ValueError(
                    f"QuantDtypeBwInfo: `{name}_bw` must be 16 or 32 when `{name}_dtype` is float, "
                    f"got {bitwidth}"
                )

    def is_same_activation(self, dtype: QuantizationDataType, bw: int) -> bool:
        """Whether activations have this type and bitwidth."""
        return (self.act_dtype, self.act_bw) == (dtype, bw)

    def is_same_param(self, dtype: QuantizationDataType, bw: int) -> bool:
        """Whether parameters have this type and bitwidth."""
        return (self.param_dtype, self.param_bw) == (dtype, bw)

    def get_activation(self) -> tuple[QuantizationDataType, int]:
        """Type and bitwidth of activations."""
        return self.act_dtype, self.act_bw

    def get_param(self) -> tuple[QuantizationDataType, int]:
        """Type and bitwidth of parameters."""
        return self.param_dtype, self.param_bw


_Bits: TypeAlias = int  # inside qtype the names `int` and `float` are methods


class qtype:  # noqa: N801 - AIMET's name
    """A number format: ``qtype.int(8)``, ``qtype.float(4, 3, finite=True)``, ``"int8"``, ..."""

    @staticmethod
    def int(bits: _Bits) -> Int:
        """Integers of ``bits`` bits."""
        return Int(bits)

    @staticmethod
    def float(
        exponent_bits: _Bits,
        mantissa_bits: _Bits,
        finite: bool = False,
        unsigned_zero: bool = False,
    ) -> Float:
        """Floating-point; ``finite``: no infinities, ``unsigned_zero``: no negative zero."""
        return Float(exponent_bits, mantissa_bits, finite, unsigned_zero)

    @staticmethod
    def from_string(name: str) -> qtype:
        """Return the format for a name such as ``"int8"`` or ``"float16"``.

        Raises:
            ValueError: unknown name.
        """
        if name in QTYPE_ALIASES:
            return QTYPE_ALIASES[name]
        match = re.fullmatch(r"int([1-9]\d*)", name)
        if match:
            return Int(_Bits(match.group(1)))
        raise ValueError(
            f"qtype.from_string: `name` must be 'int<bits>' or one of {', '.join(QTYPE_ALIASES)}, "
            f"got {name!r}; use qtype.float(exponent_bits, mantissa_bits) for other formats"
        )

    @staticmethod
    def as_qtype(dtype: qtype | str) -> qtype:
        """Return ``dtype`` itself or the format it names.

        Raises:
            TypeError: neither a qtype nor a string.
        """
        if isinstance(dtype, qtype):
            return dtype
        if isinstance(dtype, str):
            return qtype.from_string(dtype)
        raise TypeError(f"qtype: expected a qtype or a str, got {type(dtype).__name__}")

    @staticmethod
    def from_legacy_repr(dtype: QuantizationDataType, bitwidth: _Bits) -> qtype:
        """Return the format for AIMET's pair (data type, bitwidth).

        Raises:
            ValueError: no format is known for the pair.
        """
        if dtype == QuantizationDataType.int:
            return Int(bitwidth)
        names = {8: "float8e4m3fn", 16: "float16", 32: "float32"}
        if dtype != QuantizationDataType.float or bitwidth not in names:
            raise ValueError(
                "qtype.from_legacy_repr: (`dtype`, `bitwidth`) must be int or float with 8, 16 or "
                f"32 bits, got ({dtype}, {bitwidth})"
            )
        return QTYPE_ALIASES[names[bitwidth]]

    def to_legacy_repr(self) -> tuple[QuantizationDataType, _Bits]:
        """AIMET's pair (data type, bitwidth)."""
        raise NotImplementedError(f"{type(self).__name__}.to_legacy_repr is not defined")


@dataclass(frozen=True, repr=False)
class Int(qtype):
    """Integers of ``bits`` bits."""

    bits: _Bits

    def __post_init__(self) -> None:
        if self.bits < 1:
            raise ValueError(f"qtype.int: `bits` must be positive, got {self.bits}")

    def __repr__(self) -> str:
        return f"int{self.bits}"

    def to_legacy_repr(self) -> tuple[QuantizationDataType, _Bits]:
        """AIMET's pair (data type, bitwidth)."""
        return QuantizationDataType.int, self.bits


@dataclass(frozen=True, repr=False)
class Float(qtype):
    """Floating-point numbers with one sign bit, ``exponent_bits`` and ``mantissa_bits``."""

    exponent_bits: _Bits
    mantissa_bits: _Bits
    finite: bool = False
    unsigned_zero: bool = False

    def __post_init__(self) -> None:
        for name in ("exponent_bits", "mantissa_bits"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"qtype.float: `{name}` must be positive, got {getattr(self, name)}"
                )

    @property
    def bits(self) -> _Bits:
        """Size of one number."""
        return 1 + self.exponent_bits + self.mantissa_bits

    def __repr__(self) -> str:
        for name, known in QTYPE_ALIASES.items():
            if known == self:
                return name
        suffix = "fn" * self.finite + "uz" * self.unsigned_zero
        return f"float{self.bits}e{self.exponent_bits}m{self.mantissa_bits}{suffix}"

    def to_legacy_repr(self) -> tuple[QuantizationDataType, _Bits]:
        """AIMET's pair (data type, bitwidth)."""
        return QuantizationDataType.float, self.bits


QTYPE_ALIASES: dict[str, qtype] = {
    "int2": Int(2),
    "int4": Int(4),
    "int8": Int(8),
    "int16": Int(16),
    "float16": Float(5, 10),
    "float32": Float(8, 23),
    "bfloat16": Float(8, 7),
    "float8e4m3fn": Float(4, 3, finite=True),
    "float8e5m2": Float(5, 2),
    "float4e2m1": Float(2, 1, finite=True),
}
