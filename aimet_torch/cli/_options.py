"""Options of a command in one table: for its parser, its recipe file and its defaults.

A recipe is a TOML file that holds the options of one run. Every run writes one, with all options
as they were, and ``--recipe`` takes them from there; what stands on the command line wins.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aimet_torch.common.tables import write

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["MODEL_OPTION", "Option", "add_command", "read_recipe", "resolve", "write_recipe"]

_KINDS = {str: "a string", int: "an integer", float: "a number", bool: "true or false"}


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        name: Key in recipes; on the command line ``--like-this``, or a positional argument.
        help: What it does, without its default.
        default: Its value where neither command line nor recipe have it; None: it has none.
        kind: str, int, float or bool.
        choices: The values there are; empty: any.
        metavar: Shown in place of a value.
        is_list: Whether it takes several values.
        is_positional: Whether it has no dashes.
        is_required: Whether there must be one, from command line or recipe.
        group: Heading under which the help shows it.
    """

    name: str
    help: str
    default: Any = None
    kind: type = str
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    is_list: bool = False
    is_positional: bool = False
    is_required: bool = False
    group: str = "options"

    @property
    def flag(self) -> str:
        """How it is written on the command line."""
        if self.is_positional:
            return self.metavar or self.name.upper()
        return "--" + self.name.replace("_", "-")


#: The model that a command begins with.
MODEL_OPTION = Option(
    "model",
    "package.module:function of a function that returns the model, or the path of a .pt2 or "
    "TorchScript file",
    metavar="MODEL",
    is_positional=True,
    is_required=True,
)


def add_command(
    commands: Any,
    name: str,
    help: str,
    description: str,
    example: str,
    options: Iterable[Option],
    *,
    has_recipe: bool = True,
) -> argparse.ArgumentParser:
    """Add the parser of a subcommand; its help ends with an example.

    Options that are not given leave no trace in the namespace: :func:`resolve` fills them in.
    """
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    groups: dict[str, Any] = {"options": parser}
    for option in options:
        if option.group not in groups:
            groups[option.group] = parser.add_argument_group(option.group)
        _add(groups[option.group], option)
    if has_recipe:
        parser.add_argument(
            "--recipe",
            metavar="TOML",
            type=Path,
            help="take options from this file, such as the recipe.toml of an earlier run",
        )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--debug", action="store_true", help="show where an error comes from")
    return parser


def _add(parser: Any, option: Option) -> None:
    """Add an option to a parser or to a group of it."""
    text = option.help.replace("%", "%%")
    if option.default is not None:
        shown = " ".join(map(str, option.default)) if option.is_list else option.default
        if option.kind is bool:
            shown = "yes" if option.default else "no"
        text += f" (default: {shown})"
    if option.kind is bool:
        parser.add_argument(option.flag, help=text, action=argparse.BooleanOptionalAction)
        return
    extra: dict[str, Any] = {"help": text, "type": option.kind, "metavar": option.metavar}
    if option.choices:
        extra["choices"] = option.choices
    if option.is_positional:
        parser.add_argument(option.name, nargs="?", **extra)
    else:
        extra["nargs"] = "+" if option.is_list else None
        parser.add_argument(option.flag, dest=option.name, **extra)


def resolve(
    namespace: argparse.Namespace, command: str, options: Sequence[Option]
) -> argparse.Namespace:
    """Defaults, then those of the recipe, then those of the command line.

    Raises:
        ValueError: the recipe is of another command or has values that do not fit; or an option is
            missing that must be there.
        OSError: the recipe cannot be read.
    """
    values = {option.name: option.default for option in options}
    given = vars(namespace)
    recipe = given.get("recipe")
    if recipe is not None:
        values.update(read_recipe(recipe, command, options))
    values.update({k: v for k, v in given.items() if k in values and v is not None})
    for option in options:
        if option.is_required and values[option.name] is None:
            raise ValueError(
                f"{command}: {option.flag} is missing: {option.help}; "
                f"`aimet {command} --help` has an example"
            )
    switches = {key: given.get(key, False) for key in ("json", "debug")}
    return argparse.Namespace(**values, **switches)


def read_recipe(path: Path, command: str, options: Sequence[Option]) -> dict[str, Any]:
    """The options in a recipe file.

    Raises:
        ValueError: it is no TOML, of another command, or has an option that does not fit.
        OSError: it cannot be read.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file: {error}") from error
    of = document.get("command", command)
    if of != command:
        raise ValueError(
            f"{path}: a recipe of `aimet {of}`, not of `aimet {command}`; run `aimet {of} --recipe "
            f"{path}`"
        )
    found = document.get("options", {})
    if not isinstance(found, dict):
        raise ValueError(f"{path}: `options` must be a table, got {found!r}")
    known = {option.name: option for option in options}
    for key in document.keys() - {"command", "aimet_torch", "options"}:
        raise ValueError(f"{path}: unknown key `{key}`; options stand under [options]")
    for key, value in found.items():
        if key not in known:
            raise ValueError(f"{path}: unknown option `{key}`; known are {', '.join(known)}")
        _check(path, known[key], value)
        if known[key].kind is float:
            found[key] = [float(v) for v in value] if known[key].is_list else float(value)
    return found


def _check(path: Path, option: Option, value: Any) -> None:
    if option.is_list and not isinstance(value, list):
        raise ValueError(f"{path}: `{option.name}` must be a list, got {value!r}")
    for item in value if option.is_list else [value]:
        is_number = isinstance(item, (int, float)) and not isinstance(item, bool)
        fits = is_number if option.kind is float else type(item) is option.kind
        if not fits:
            raise ValueError(f"{path}: `{option.name}` must be {_KINDS[option.kind]}, got {item!r}")
        if option.choices and item not in option.choices:
            raise ValueError(
                f"{path}: `{option.name}` must be one of {', '.join(option.choices)}, got {item!r}"
            )


def write_recipe(
    path: Path, command: str, values: Mapping[str, Any], options: Iterable[Option]
) -> Path:
    """Write a recipe that repeats a run; options without a value are left out."""
    from aimet_torch.common.version import __version__

    lines = [
        f"# aimet {command} --recipe {path.name} repeats this run.",
        f"command = {_toml(command)}",
        f"aimet_torch = {_toml(__version__)}",
        "",
        "[options]",
    ]
    for option in options:
        value = values[option.name]
        if value is not None:
            lines.append(f"{option.name} = {_toml(value)}")
    return write(path, "\n".join(lines) + "\n")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, (int, float)):
        return repr(value)
    # What JSON escapes, TOML escapes alike, but for DEL.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
