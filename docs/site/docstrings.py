"""Docstrings as Markdown: doctests become blocks of code, roles of Sphinx plain code."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|class|meth|attr|mod|data):`~?(?:[\w.]*\.)?(\w+)`")
# What is returned, by its names: griffe would take them for a type.
_RETURNED = re.compile(r"(\b(?:Returns|Yields):\n +``[^`]+``[^:\n]*):")
# From a prompt to the next empty line.
_DOCTEST = re.compile(r"^( *)>>> .*?(?=\n\s*\n|\Z)", re.DOTALL | re.MULTILINE)


class Docstrings(griffe.Extension):
    """Runs over every object that is documented."""

    def on_instance(self, *, obj: Any, **_: Any) -> None:
        """Called by griffe for each object."""
        if obj.docstring is not None:
            text = _RETURNED.sub(r"\1,", _ROLE.sub(r"`\1`", obj.docstring.value))
            obj.docstring.value = _DOCTEST.sub(_fenced, text)


def _fenced(match: re.Match[str]) -> str:
    indent = match.group(1)
    return f"{indent}```pycon\n{match.group()}\n{indent}```"
