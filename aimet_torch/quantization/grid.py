"""The integer grid of a quantizer: limits from a bitwidth, and the argument forms that name it.

AIMET's functions and classes take a grid either as a bitwidth (``bitwidth, ...``) or as its limits
(``qmin, qmax, ...``), positionally or by name. One parser serves them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["bind_grid_arguments", "bitwidth_of", "grid_limits", "limits_of_steps"]

MAX_BITWIDTH = 32


def limits_of_steps(num_steps: int, signed: bool) -> tuple[int, int]:
    """Return (qmin, qmax) of a grid of ``num_steps`` steps: centered on zero, or from zero up."""
    return (-((num_steps + 1) // 2), num_steps // 2) if signed else (0, num_steps)


def bitwidth_of(qmin: int, qmax: int) -> int:
    """Return the smallest number of bits that holds every value of the grid."""
    return (qmax - qmin).bit_length()


def bind_grid_arguments(
    operator: str,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    after_bitwidth: Sequence[str],
    after_limits: Sequence[str],
) -> dict[str, Any]:
    """Name the arguments of a call that starts with ``bitwidth`` or with ``qmin, qmax``.

    The second positional argument tells the forms apart: a bool is a flag, so the first is a
    bitwidth; an int is ``qmax``.

    Raises:
        TypeError: an argument is unknown, given twice, or there are too many.
    """
    is_limits = len(args) > 1 and isinstance(args[1], int) and not isinstance(args[1], bool)
    if "qmin" in kwargs or "qmax" in kwargs:
        is_limits = True
    names = ("qmin", "qmax", *after_limits) if is_limits else ("bitwidth", *after_bitwidth)
    if is_limits and args and "qmin" in kwargs:
        names = tuple(after_limits)
    if not is_limits and "num_steps" in kwargs:
        names = tuple(after_bitwidth)
    if len(args) > len(names):
        raise TypeError(
            f"{operator}: expected at most {len(names)} arguments ({', '.join(names)}) after the "
            f"tensors or the shape, got {len(args)}"
        )
    bound = dict(zip(names, args, strict=False))
    allowed = {*names, *(("qmin", "qmax") if is_limits else ("bitwidth", "num_steps"))}
    for name, value in kwargs.items():
        if name in bound:
            raise TypeError(f"{operator}: got two values for `{name}`")
        if name not in allowed:
            raise TypeError(
                f"{operator}: unknown argument `{name}`; expected {', '.join(sorted(allowed))}"
            )
        bound[name] = value
    return bound


def grid_limits(operator: str, bound: dict[str, Any], signed: bool) -> tuple[int, int]:
    """Take ``bitwidth``, ``num_steps`` or ``qmin``/``qmax`` out of ``bound``; return (qmin, qmax).

    Raises:
        TypeError: none or several of the three are there, or a value is not an integer.
        ValueError: the grid is empty or wider than 32 bits.
    """
    given = {n: bound.pop(n) for n in ("bitwidth", "num_steps", "qmin", "qmax") if n in bound}
    for name, value in given.items():
        if isinstance(value, bool) or value != int(value):
            raise TypeError(f"{operator}: `{name}` must be an integer, got {value!r}")
        given[name] = int(value)
    match sorted(given):
        case ["bitwidth"]:
            bitwidth = given["bitwidth"]
            if not 1 <= bitwidth <= MAX_BITWIDTH:
                raise ValueError(
                    f"{operator}: `bitwidth` must be between 1 and {MAX_BITWIDTH}, got {bitwidth}"
                )
            return limits_of_steps(2**bitwidth - 1, signed)
        case ["num_steps"]:
            limits = limits_of_steps(given["num_steps"], signed)
        case ["qmax", "qmin"]:
            limits = given["qmin"], given["qmax"]
        case names:
            raise TypeError(
                f"{operator}: give the grid as `bitwidth`, `num_steps`, or `qmin` and `qmax`; got "
                f"{', '.join(names) or 'none of them'}"
            )
    if not limits[0] < limits[1]:
        raise ValueError(
            f"{operator}: `qmin` must be below `qmax`, got {limits[0]} and {limits[1]}"
        )
    if bitwidth_of(*limits) > MAX_BITWIDTH:
        raise ValueError(
            f"{operator}: the grid must fit {MAX_BITWIDTH} bits, got {limits[0]} to {limits[1]}"
        )
    return limits
