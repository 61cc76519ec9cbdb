"""Progress bars: tqdm where it is installed, otherwise one plain line a step of ten percent.

Silent where no person watches (standard error is neither a terminal nor a notebook), and always
when the environment variable ``AIMET_PROGRESS`` is ``0``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["progress"]

Item = TypeVar("Item")
_VARIABLE = "AIMET_PROGRESS"


def progress(
    items: Iterable[Item], description: str, total: int | None = None, unit: str = "it"
) -> Iterator[Item]:
    """Yield ``items`` and show how far along they are on standard error.

    Args:
        items: what to walk through; may be endless when ``total`` is None.
        description: what is being done, shown in front of the bar.
        total: number of items; taken from ``len(items)`` when it has one.
        unit: name of one item, such as ``"batch"``.
    """
    is_watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    if os.environ.get(_VARIABLE, "1") == "0" or not is_watched:
        yield from items
        return
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    try:
        from tqdm.auto import tqdm
    except ImportError:
        yield from _plain(items, description, total, unit)
    else:
        yield from tqdm(items, desc=description, total=total, unit=unit, leave=False)


def _plain(items: Iterable[Item], description: str, total: int | None, unit: str) -> Iterator[Item]:
    """Print a line whenever another tenth is done; nothing if there is no knowing."""
    if not total:
        yield from items
        return
    start, shown = time.monotonic(), 0
    for done, item in enumerate(items, start=1):
        yield item
        tenth = done * 10 // total
        if tenth > shown:
            shown = tenth
            seconds = time.monotonic() - start
            print(f"{description}: {done}/{total} {unit}, {seconds:.0f} s", file=sys.stderr)
