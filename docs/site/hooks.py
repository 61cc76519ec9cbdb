"""What the pages need to be a site."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

# Files beside docs/ are not part of the site: their names stay, the links go.
_OUTWARD = re.compile(r"\[`?([^\]`]+)`?\]\(\.\./[^)]*\)")
# Links that show the name of a file show the title of its page.
_PAGE = re.compile(r"\[(\w+)\.md\]\(\1\.md(#[\w-]+)?\)")
_PAGES = Path(__file__).resolve().parents[1]
_FORMULA = re.compile(
    r'<(?:span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</(?:span|div)>', re.DOTALL
)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Called by mkdocs for each page before it is rendered."""
    return _PAGE.sub(_title, _OUTWARD.sub(r"`\1`", markdown))


def _title(match: re.Match[str]) -> str:
    heading = (_PAGES / f"{match.group(1)}.md").read_text().partition("\n")[0]
    return f"[{heading.removeprefix('# ')}]({match.group(1)}.md{match.group(2) or ''})"


def on_page_content(content: str, **_: Any) -> str:
    """Called by mkdocs for each page: formulas become MathML, which needs no script."""
    return _FORMULA.sub(_formula, content)


def _formula(match: re.Match[str]) -> str:
    display = "block" if match.group(1) == "[" else "inline"
    formula = convert(html.unescape(match.group(2)).strip(), display=display)
    if "\\" in formula:
        raise ValueError(f"latex2mathml does not know all of {match.group(2)}")
    return formula
