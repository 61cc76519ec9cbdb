"""AIMET's bundle of the settings that a simulation is made with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aimet_torch.common.defs import QuantScheme

__all__ = ["QuantParams"]


@dataclass
class QuantParams:
    """How a technique that simulates quantization by itself shall do it.

    Attributes:
        weight_bw: bits of parameters.
        act_bw: bits of activations.
        round_mode: "nearest"; AIMET 1.x had "stochastic" too, which no target has.
        quant_scheme: how ranges are found.
        config_file: placement rules, as for `QuantizationSimModel`.

    Raises:
        ValueError: ``round_mode`` is not "nearest".
    """

    weight_bw: int = 8
    act_bw: int = 8
    round_mode: str = "nearest"
    quant_scheme: QuantScheme | str = QuantScheme.post_training_tf_enhanced
    config_file: str | Path | dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.round_mode != "nearest":
            raise ValueError(
                f"QuantParams: `round_mode` must be 'nearest', got {self.round_mode!r}; targets "
                "round to the nearest step"
            )
