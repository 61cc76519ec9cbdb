"""What the user's code is doing while a torch function runs: for messages, and to see checks."""

from __future__ import annotations

import dis
import sys
import types
from pathlib import Path

import torch

_HERE, _LIBRARY = Path(__file__).parent, Path(torch.__file__).parent


def user_location() -> str:
    """File and line of the user's code that is running."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        ours = _HERE in path.parents or _LIBRARY in path.parents or path.name == "contextlib.py"
        if not ours and not path.name.startswith("<"):
            return f"{path.name}:{frame.f_lineno}"
        frame = frame.f_back
    return "unknown"


def only_decides_to_raise() -> bool:
    """Whether the truth that is being asked for decides nothing but whether an exception is raised.

    That holds for ``assert condition`` and for ``if not condition: raise ...``.
    """
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and _HERE in Path(frame.f_code.co_filename).parents:
        frame = frame.f_back
    if frame is None:
        return False
    code = list(dis.get_instructions(frame.f_code))
    by_offset = {instruction.offset: n for n, instruction in enumerate(code)}
    here = by_offset.get(frame.f_lasti, len(code))
    # The branch asks for the truth itself, or follows the call of bool() within few instructions.
    for n in range(here, min(here + 4, len(code) - 1)):
        if "JUMP" in code[n].opname and "_IF_" in code[n].opname:
            return any(_raises(code, m) for m in (n + 1, by_offset.get(code[n].argval, n)))
    return False


def _raises(code: list[dis.Instruction], start: int) -> bool:
    """Whether straight-line code from ``start`` ends by raising."""
    for instruction in code[start:]:
        if instruction.opname == "RAISE_VARARGS":
            return True
        if instruction.opname.startswith(("RETURN", "STORE")) or "JUMP" in instruction.opname:
            return False
    return False
