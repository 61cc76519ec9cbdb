"""The command line: ``python -m aimet_torch`` or ``aimet``.

Each module of this package whose name has no underscore in front is one subcommand: it has a
function ``register(commands)`` that adds its parser, and sets ``run`` on it, a function from the
parsed arguments to the exit code. Importing it is cheap; what costs time is imported by ``run``.

Exit codes: 0 all is well; 1 the answer is no (findings, differences); 2 it could not be told (a
file that cannot be read or is malformed, a conversion that would lose something, wrong arguments);
130 Ctrl-C.

An error is one line on standard error; ``--debug``, or ``AIMET_DEBUG=1`` in the environment, shows
where it comes from.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import sys
import traceback
from collections.abc import Sequence

from aimet_torch.cli._codes import INTERRUPTED, NO, OK, TROUBLE

__all__ = ["INTERRUPTED", "NO", "OK", "TROUBLE", "main"]


class _CMakeAction(argparse.Action):
    """Prints one of the paths that build systems ask for, and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from aimet_torch._native import CMAKE_DIR

        paths = [str(CMAKE_DIR / "aimet")]
        if self.dest == "cmake_prefix_path":
            import torch

            paths = [str(CMAKE_DIR), torch.utils.cmake_prefix_path]
        print(*paths, sep=";")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    from aimet_torch.common.version import __version__

    parser = argparse.ArgumentParser(
        prog="aimet",
        description="Neural-network quantization and compression for PyTorch.",
        epilog="example:\n  aimet quantize my_model:load --data photographs",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"aimet_torch {__version__}")
    parser.add_argument(
        "--cmake-prefix-path",
        action=_CMakeAction,
        nargs=0,
        help="print the CMAKE_PREFIX_PATH with which find_package(aimet) finds this package and "
        "the LibTorch that it was built with",
    )
    parser.add_argument(
        "--cmake-dir",
        action=_CMakeAction,
        nargs=0,
        help="print the folder of aimetConfig.cmake: the value of aimet_DIR",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        if not module.name.startswith("_"):
            importlib.import_module(f"{__name__}.{module.name}").register(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: words of the command line; those of this process when None.

    Returns:
        The exit code.
    """
    options = _parser().parse_args(arguments)
    is_debugging = getattr(options, "debug", False) or os.environ.get("AIMET_DEBUG", "0") != "0"
    try:
        code: int = options.run(options)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `aimet ... | head`: who reads has seen enough
        sys.stderr.close()
        return OK
    except KeyboardInterrupt:
        print("aimet: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if is_debugging:
            traceback.print_exc()
        print(f"aimet: {_text(error)}", file=sys.stderr)
        return TROUBLE


_PLAIN = (OSError, ValueError, NotImplementedError, ImportError)


def _text(error: Exception) -> str:
    """One line; of errors that nobody has foreseen, also their kind and how to see more."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {(error.strerror or str(error)).rpartition(': ')[2]}"
    # Operators put their own name in front.
    text = str(error).split("\nException raised from")[0].strip()
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    shown = " ".join(lines[:4]) + (" ..." if len(lines) > 4 else "")
    if isinstance(error, _PLAIN) and shown:
        return shown
    return f"{type(error).__name__}: {shown or 'no message'} (--debug shows where)"
