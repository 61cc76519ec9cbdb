"""Cases on floating-point formats and blocks with shared scales."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks import agreement
from benchmarks.harness import Case, aimet, bound, pytorch
from benchmarks.subjects import sample
from benchmarks.timing import Subject

LARGE = (16, 1024, 1024)


def clone(*, shape: tuple[int, ...], dtype: str = "float32", **_: Any) -> Subject:
    """Copy the same bytes."""
    x = sample(shape).to(getattr(torch, dtype))
    return Subject(x.clone)


def copy(*, shape: tuple[int, ...], dtype: str = "float32", **_: Any) -> Subject:
    """Copy into memory that is there already: what is left when no page is fresh."""
    x = sample(shape).to(getattr(torch, dtype))
    out = torch.empty_like(x)
    return Subject(lambda: out.copy_(x), compute=tuple)


def cast(*, shape: tuple[int, ...], format: str, dtype: str = "float32") -> Subject:
    """Cast with torch, there and back: rounds alike, without a scale."""
    x = sample(shape).to(getattr(torch, dtype))
    small = getattr(torch, format)
    return Subject(lambda: x.to(small).to(x.dtype))


def _float_case(format: str, dtype: str = "float32") -> Case:
    arguments = {"shape": LARGE, "format": format, "dtype": dtype}
    label = format if dtype == "float32" else f"{format}_{dtype}"
    rivals = (
        bound("clone", clone, 1.25 if dtype == "float32" else 2.0),
        bound("y.copy_(x)", copy),
        pytorch(".to(format).to(dtype)", cast, agreement.equal()),
        aimet(agreement.equal(), 1 / 5),
    )
    return Case(f"formats/{label}", f"16M {dtype} to {format}", "float_format", arguments, rivals)


def _block_case(element: str, title: str, block: int, *, has_rival: bool) -> Case:
    arguments = {"shape": LARGE, "element": element, "block": block}
    rivals = (bound("clone", clone, 1.5), bound("y.copy_(x)", copy))
    if has_rival:
        rivals = (*rivals, aimet(agreement.equal(), 1 / 10))
    name = f"formats/{title.lower().replace(' ', '_')}"
    return Case(name, f"16M float32 to {title}, scales included", "microscaling", arguments, rivals)


def cases() -> list[Case]:
    """Return all cases of this file."""
    return [
        *(
            _float_case(format)
            for format in ("float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
        ),
        _float_case("float8_e4m3fn", "bfloat16"),
        _block_case("float8e4m3fn", "MX float8", 32, has_rival=False),
        _block_case("float4e2m1", "MX float4", 32, has_rival=True),
        _block_case("int8", "MX int8", 32, has_rival=False),
        _block_case("nvfp4", "NVFP4", 16, has_rival=False),
    ]
