"""What all reports share: HTML from a template, JSON, tables of text, and how numbers are written.

A page refers to nothing outside itself: style and script are in it. Its template extends
``base.html`` (heading, style, environment) and takes from ``parts.html`` what several pages have.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import jinja2

from aimet_torch.common.tables import (
    NOTHING,
    format_percent,
    json_ready,
    text_table,
    write,
    write_json,
)

__all__ = [
    "NOTHING",
    "Bar",
    "format_bytes",
    "format_count",
    "format_db",
    "format_number",
    "format_percent",
    "json_ready",
    "render",
    "text_table",
    "write",
    "write_json",
]


@dataclass(frozen=True)
class Bar:
    """One bar of ``bar_chart`` in ``parts.html``.

    Attributes:
        name: stands below the first and the last bar.
        height: share of the chart's height, 0 to 1.
        grade: ``good``, ``fair`` or ``poor``: the bar's color.
        tip: what a reader sees who points at the bar.
    """

    name: str
    height: float
    grade: str
    tip: str


def render(template: str, **context: Any) -> str:
    """Return a page of this package as text.

    Args:
        template: file name of the template, beside this file.
        **context: what the template shows. ``environment``, a dict of texts, becomes the end of
            the page.
    """
    return _jinja().get_template(template).render(**context)


@functools.cache
def _jinja() -> jinja2.Environment:
    jinja = jinja2.Environment(
        loader=jinja2.PackageLoader("aimet_torch.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,  # a misspelled name is an error, not a gap in the page
    )
    jinja.filters.update(
        db=format_db,
        percent=format_percent,
        number=format_number,
        bytes=format_bytes,
        short_count=format_count,
    )
    return jinja


def format_db(value: float | None) -> str:
    """Return a ratio as people read it: ``23.4 dB``; ``exact`` for infinity, a dash for None."""
    if value is None:
        return NOTHING
    return "exact" if value == math.inf else f"{value:.1f} dB"


def format_number(value: float) -> str:
    """Return a real number with four significant digits."""
    return f"{value:.4g}"


def format_bytes(count: int) -> str:
    """Return a number of bytes in its unit: ``3.38 MiB``."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} B"


def format_count(count: int) -> str:
    """Return a number of things in thousands, millions or billions: ``300.77 M``."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return str(count)
