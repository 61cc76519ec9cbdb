"""What the pages need to be a site."""

from __future__ import annotations

import re
from typing import Any

# Files beside docs/ are not part of the site: their names stay, the links go.
_OUTWARD = re.compile(r"\[`?([^\]`]+)`?\]\(\.\./[^)]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page before it is rendered."""
    return _OUTWARD.sub(r"`\1`", markdown)
