"""What the pages need to be a site."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

# Files beside docs/ are not part of the site: their names stay, the links go.
_OUTWARD = re.compile(r"\[`?([^\]`]+)`?\]\(\.\./[^)]*\)")
_FORMULA = re.compile(
    r'<(?:span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</(?:span|div)>', re.DOTALL
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page before it is rendered."""
    return _OUTWARD.sub(r"`\1`", markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Called by mkdocs for each page: formulas become MathML, which needs no script."""
    return _FORMULA.sub(_formula, content)


def _formula(match: re.Match[str]) -> str:
    display = "block" if match.group(1) == "[" else "inline"
    return convert(html.unescape(match.group(2)).strip(), display=display)
