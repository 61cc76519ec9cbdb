"""What all reports share: HTML from a template, JSON, tables of text, and how numbers are written.

A page refers to nothing outside itself: style and script are in it.
"""

from __future__ import annotations

import math
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
    "format_db",
    "format_number",
    "format_percent",
    "json_ready",
    "render",
    "text_table",
    "write",
    "write_json",
]


def render(template: str, **context: Any) -> str:
    """Return a page of this package as text.

    Args:
        template: file name of the template, beside this file.
        **context: what the template shows.
    """
    jinja = jinja2.Environment(
        loader=jinja2.PackageLoader("aimet_torch.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    jinja.filters.update(
        db=format_db,
        percent=format_percent,
        number=format_number,
        share=_bar_share,
        decades=_share_of_decades,
    )
    return jinja.get_template(template).render(**context)


def format_db(value: float | None) -> str:
    """Return a ratio as people read it: ``23.4 dB``; ``exact`` for infinity, a dash for None."""
    if value is None:
        return NOTHING
    return "exact" if value == math.inf else f"{value:.1f} dB"


def format_number(value: float) -> str:
    """Return a real number with four significant digits."""
    return f"{value:.4g}"


def _bar_share(value: float, top: float) -> float:
    # A sliver stays visible, so that a layer with nothing but noise can be pointed at.
    return 0.01 if math.isnan(value) else min(max(value / top, 0.01), 1.0)


def _share_of_decades(value: float) -> float:
    # 1 for all, 0 for one in a hundred thousand or fewer; a sliver where there is any.
    return 0.0 if value <= 0 else min(max(1 + math.log10(value) / 5, 0.01), 1.0)
