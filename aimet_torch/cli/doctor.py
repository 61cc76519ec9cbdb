"""``aimet doctor``: whether this installation is all right, and what to do where it is not."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from aimet_torch.cli._checks import BAD, GOOD, checks
from aimet_torch.cli._codes import NO, OK
from aimet_torch.cli._options import add_command
from aimet_torch.cli._session import print_json
from aimet_torch.common.tables import text_table

__all__ = ["register"]


def register(commands: Any) -> None:
    """Add the parser of ``doctor``."""
    parser = add_command(
        commands,
        "doctor",
        "check the installation and say what to do",
        "Check torch, the C++ library, the processor's instruction set, CUDA and optional "
        "packages.\nExit code 0: it works; 1: something does not.",
        "aimet doctor --json",
        (),
        has_recipe=False,
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    found = list(checks())
    if getattr(options, "json", False):
        print_json([dataclasses.asdict(check) for check in found])
    else:
        rows = [(check.name, check.status, check.found) for check in found]
        print(text_table(("checked", "", "found"), rows))
        advice = [check for check in found if check.status != GOOD]
        print()
        for check in advice:
            print(f"{check.name}: {check.advice or check.found}")
        if not advice:
            print("All is well.")
    return NO if any(check.status == BAD for check in found) else OK
