"""Tables of text and JSON files: how results of every layer are shown and kept."""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["NOTHING", "format_percent", "json_ready", "text_table", "write", "write_json"]

NOTHING = "\N{EN DASH}"


def format_percent(value: float | None, digits: int = 1) -> str:
    """Return a share as a percentage, a dash for None; 100 only where it is all."""
    if value is None:
        return NOTHING
    text = f"{100 * value:.{digits}f}"
    if value < 1 and float(text) == 100:
        text = f"{100 - 10**-digits:.{digits}f}"
    return f"{text} %"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for the terminal; drawn by ``rich`` where that is installed."""
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ModuleNotFoundError:
        return _plain_table(header, rows)
    table = Table(*header, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))  # brackets in names are no markup
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
