"""Exit codes of all commands."""

from __future__ import annotations

#: All is well; the answer is no; it could not be told.
OK, NO, TROUBLE = 0, 1, 2
