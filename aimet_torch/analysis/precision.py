"""Number formats that analysis and mixed precision choose among."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from aimet_torch.common.defs import QuantizationDataType

__all__ = ["Candidate", "Precision"]


@dataclass(frozen=True, order=True)
class Precision:
    """A number format of quantizers.

    Attributes:
        bits: of one number.
        is_float: floating point instead of integers.

    Raises:
        ValueError: bits that no quantizer has.

    >>> str(Precision(8)), str(Precision(16, is_float=True)), Precision.of("int4").bits
    ('int8', 'float16', 4)
    """

    bits: int
    is_float: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 32:
            raise ValueError(f"Precision: `bits` must be between 2 and 32, got {self.bits}")

    @classmethod
    def of(cls, value: Precision | int | str | tuple[int, Any]) -> Precision:
        """Return the precision for ``8``, ``"int8"``, ``"fp16"`` or AIMET's ``(8, dtype)``.

        Raises:
            ValueError: none of these.
        """
        if isinstance(value, Precision):
            return value
        if isinstance(value, int):
            return cls(value)
        if isinstance(value, tuple) and len(value) == 2:
            return cls(int(value[0]), value[1] == QuantizationDataType.float)
        found = re.fullmatch(r"(int|float|fp)(\d+)", value) if isinstance(value, str) else None
        if found is None:
            raise ValueError(
                "Precision: expected bits, a name such as 'int8' or 'fp16', or (bits, "
                f"QuantizationDataType), got {value!r}"
            )
        return cls(int(found[2]), found[1] != "int")

    def to_aimet(self) -> tuple[int, QuantizationDataType]:
        """AIMET's form, ``(bits, QuantizationDataType)``."""
        kind = QuantizationDataType.float if self.is_float else QuantizationDataType.int
        return self.bits, kind

    def __str__(self) -> str:
        return f"{'float' if self.is_float else 'int'}{self.bits}"


@dataclass(frozen=True, order=True)
class Candidate:
    """Precisions of a group: of its activations and of its parameters.

    Attributes:
        activation: None leaves activations as they are.
        param: None leaves parameters as they are.

    >>> str(Candidate(Precision(16), Precision(8)))
    'W8A16'
    """

    activation: Precision | None = None
    param: Precision | None = None

    @classmethod
    def of(cls, value: Candidate | tuple[Any, ...]) -> Candidate:
        """Return the candidate for AIMET's ``((act_bits, dtype), (param_bits, dtype))``."""
        if isinstance(value, Candidate):
            return value
        return cls(*(None if part is None else Precision.of(part) for part in value))

    def __str__(self) -> str:
        parts = (("W", self.param), ("A", self.activation))
        return "".join(
            f"{letter}{'FP' if precision.is_float else ''}{precision.bits}"
            for letter, precision in parts
            if precision is not None
        )
