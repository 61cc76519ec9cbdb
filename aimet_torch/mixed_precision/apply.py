"""Giving a simulation the precisions that were chosen, for good."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from aimet_torch.mixed_precision.precision import Precision
from aimet_torch.mixed_precision.sites import SiteMap
from aimet_torch.quantsim import QuantizationSimModel

__all__ = ["apply_choice", "require_repeatable"]


def apply_choice(
    sim: QuantizationSimModel,
    setting: Mapping[str, Precision | None],
    data: Callable[..., Any] | Iterable[Any] | None,
) -> None:
    """Change quantizers to these precisions and calibrate.

    Args:
        sim: the simulation.
        setting: precision by name of the quantizer; None leaves it.
        data: calibration data; None: the caller calibrates.
    """
    sites = SiteMap(sim)
    for name, precision in setting.items():
        if precision is not None:
            sites.set_precision(sites.by_name[name], precision)
    sites.finish()
    if data is not None:
        sim.compute_encodings(data)


def require_repeatable(data: object, argument: str) -> None:
    """Refuse data that can be walked through once only: a generator, an iterator.

    Args:
        data: calibration data, or a callback.
        argument: function and argument, for the message.

    Raises:
        TypeError: it is an iterator.
    """
    if isinstance(data, Iterator):
        raise TypeError(
            f"{argument} is walked through several times and must be a data loader, a list of "
            f"batches or a callback, got an iterator ({type(data).__name__}); pass list(...) of it"
        )
