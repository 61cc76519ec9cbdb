"""What all reports share: HTML from a template, JSON, tables of text, and how numbers are written.

A page refers to nothing outside itself: style and script are in it.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2

NOTHING = "\N{EN DASH}"


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


def format_percent(value: float | None, digits: int = 1) -> str:
    """Return a share as a percentage, a dash for None; 100 only where it is all."""
    if value is None:
        return NOTHING
    text = f"{100 * value:.{digits}f}"
    if value < 1 and float(text) == 100:
        text = f"{100 - 10**-digits:.{digits}f}"
    return f"{text} %"


def format_number(value: float) -> str:
    """Return a real number with four significant digits."""
    return f"{value:.4g}"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for the terminal; drawn by ``rich`` where that is installed."""
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
    except ModuleNotFoundError:
        return _plain_table(header, rows)
    table = Table(*header, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    # As wide as it needs to be: names of tensors are for searching and must stay whole.
    console = Console(file=io.StringIO(), width=1000, color_system=None)
    console.print(table)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


def _plain_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def json_ready(value: Any) -> Any:
    """Return nested values with infinities and NaN, which JSON has not, as strings."""
    if isinstance(value, dict):
        return {key: json_ready(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_ready(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def write_json(path: str | os.PathLike[str], document: Any) -> Path:
    """Write what :func:`json_ready` returned to ``path`` and return it."""
    return write(path, json.dumps(document, indent=2, allow_nan=False) + "\n")


def write(path: str | os.PathLike[str], text: str) -> Path:
    """Write a report to ``path`` and return it.

    It is renamed into place: a reader never sees half of it, and a failed run leaves the last one
    whole.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return path


def _bar_share(value: float, top: float) -> float:
    # A sliver stays visible, so that a layer with nothing but noise can be pointed at.
    return 0.01 if math.isnan(value) else min(max(value / top, 0.01), 1.0)


def _share_of_decades(value: float) -> float:
    # 1 for all, 0 for one in a hundred thousand or fewer; a sliver where there is any.
    return 0.0 if value <= 0 else min(max(1 + math.log10(value) / 5, 0.01), 1.0)
