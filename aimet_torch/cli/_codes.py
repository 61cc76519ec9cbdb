"""Exit codes of all commands."""

from __future__ import annotations

#: All is well; the answer is no; it could not be told; Ctrl-C, as shells number it.
OK, NO, TROUBLE, INTERRUPTED = 0, 1, 2, 130
