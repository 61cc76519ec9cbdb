"""``aimet encodings``: show, check, convert and compare encodings files."""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from aimet_torch.cli._codes import NO, OK
from aimet_torch.common.tables import text_table

__all__ = ["register"]


def register(commands: Any) -> None:
    """Add the parsers of ``encodings`` and its actions."""
    parser = commands.add_parser(
        "encodings",
        help="show, check, convert and compare encodings files",
        description="Encodings files of versions 0.4.0 to 2.1.0.",
        epilog="example:\n  aimet encodings show net.encodings",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_show(actions)
    _add_check(actions)
    _add_convert(actions)
    _add_diff(actions)


def _add(actions: Any, name: str, help: str, description: str, example: str) -> Any:
    parser = actions.add_parser(
        name,
        help=help,
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _add_json(parser: Any) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _add_model(parser: Any) -> None:
    parser.add_argument("--model", metavar="ONNX", type=Path, help="the network of the file")


# -- show --------------------------------------------------------------------------------------


def _add_show(actions: Any) -> None:
    parser = _add(
        actions,
        "show",
        "print the entries of files",
        "Print what encodings files say: one line for each tensor.",
        "aimet encodings show net.encodings --name 'layer1.*'",
    )
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path)
    parser.add_argument(
        "--name", metavar="PATTERN", help="only tensors whose name matches, such as 'conv*'"
    )
    _add_json(parser)
    parser.set_defaults(run=_show)


def _show(options: argparse.Namespace) -> int:
    from aimet_torch import encodings

    documents = {str(path): encodings.read(path) for path in options.files}
    if options.name is not None:
        for document in documents.values():
            for section in ("encodings", "activation_encodings", "param_encodings"):
                if section in document:
                    document[section] = [
                        entry
                        for entry in document[section]
                        if fnmatch.fnmatchcase(entry["name"], options.name)
                    ]
    if options.json:
        _print_json(documents if len(documents) > 1 else next(iter(documents.values())))
        return OK
    for path, document in documents.items():
        entries = encodings.entries(document)
        print(_title(path, document, entries))
        headers = ("tensor", "role", "type", "granularity", "scale", "offset", "range")
        rows = [(_name(entry), role, *_columns(entry)) for role, entry in entries]
        print(text_table(headers, rows))
        for key in ("excluded_layers", "quantizer_args"):
            if document[key]:
                print(f"{key}: {_plain(document[key])}")
    return OK


def _title(path: str, document: dict[str, Any], entries: list[tuple[str, dict[str, Any]]]) -> str:
    producer = " ".join(document["producer"].get(key, "") for key in ("package", "version")).strip()
    counts = Counter(role or "tensor" for role, _ in entries)
    numbers = ", ".join(_count(count, role) for role, count in counts.items()) or "no entries"
    origin = f" by {producer}" if producer else ""
    return f"{path}: version {document['version'] or 'none'}{origin}, {numbers}"


def _count(count: int, role: str) -> str:
    plural = role[:-1] + "ies" if role.endswith("y") else role + "s"
    return f"{count} {role if count == 1 else plural}"


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return ", ".join(map(str, value))


def _name(entry: dict[str, Any]) -> str:
    slot = entry.get("module_slot")
    return entry["name"] if slot is None else f"{entry['name']} {slot['kind']} {slot['index']}"


def _columns(entry: dict[str, Any]) -> tuple[str, str, str, str, str]:
    """Type, granularity, scale, offset and range of an entry."""
    bits = entry["bitwidth"]
    if entry["dtype"] == "float":
        kind = entry.get("format", f"float{bits}")
    else:
        # Without a grid nothing is known about the sign.
        kind = f"int{bits}" if entry.get("signed", True) else f"uint{bits}"
    if "scale" not in entry:
        return kind, "", "", "", ""
    offsets = _span(entry["offset"], "d") if "offset" in entry else ""
    return kind, _granularity(entry), _span(entry["scale"], ".6g"), offsets, _range(entry)


def _granularity(entry: dict[str, Any]) -> str:
    count = len(entry["scale"])
    axis = entry["channel_axis"]
    if "decompressed_bitwidth" in entry:
        return f"LPBQ, {count} channels, blocks of {entry['block_size']}"
    if "per_block_float_scale" in entry:
        return f"{entry['block_scale_format']} scales, blocks of {entry['block_size']}"
    if entry["block_size"] is not None:
        return f"{count} blocks of {entry['block_size']}"
    if not entry["shape"]:
        return "per tensor"
    return f"{count} channels" + (f" on axis {axis}" if axis is not None else "")


def _span(values: list[Any], spec: str) -> str:
    low, high = min(values), max(values)
    return f"{low:{spec}}" if low == high else f"{low:{spec}} .. {high:{spec}}"


def _range(entry: dict[str, Any]) -> str:
    if entry["dtype"] == "float" or "per_block_float_scale" in entry:
        return ""
    levels = 2 ** entry["bitwidth"]
    lowest = -levels // 2 if entry["signed"] else 0
    highest = lowest + levels - 1
    lowest += int(entry.get("strict_symmetric", False))
    shift = entry.get("zero_point_shift", 0.0)
    largest = max(entry.get("per_block_int_scale", [1]))
    pairs = [
        (scale * largest, o + shift)
        for scale, o in zip(entry["scale"], entry["offset"], strict=True)
    ]
    low = min((lowest + offset) * scale for scale, offset in pairs)
    high = max((highest + offset) * scale for scale, offset in pairs)
    return f"[{low:.6g}, {high:.6g}]"


# -- check -------------------------------------------------------------------------------------


def _add_check(actions: Any) -> None:
    parser = _add(
        actions,
        "check",
        "find missing, surplus and impossible entries",
        "Find what is wrong with encodings files. Beside an ONNX model also: tensors that need an "
        "encoding and have none, entries of tensors that the model does not have, and entries that "
        "cannot fit. Exit code 0: no errors; 1: errors.",
        "aimet encodings check net.encodings net.onnx",
    )
    parser.add_argument(
        "files", metavar="FILE", nargs="+", type=Path, help="encodings files; one may be a *.onnx"
    )
    _add_model(parser)
    parser.add_argument("--strict", action="store_true", help="warnings count as errors")
    _add_json(parser)
    parser.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    from aimet_torch import encodings

    models = [path for path in options.files if path.suffix == ".onnx"]
    files = [path for path in options.files if path.suffix != ".onnx"]
    models += [options.model] if options.model is not None else []
    if len(models) > 1 or not files:
        raise ValueError("encodings check: give one or more encodings files and at most one model")
    facts = encodings.model_facts(models[0]) if models else None
    found = {str(path): encodings.check(encodings.read(path), facts) for path in files}
    every = [finding for findings in found.values() for finding in findings]
    if options.json:
        _print_json({path: [asdict(item) for item in items] for path, items in found.items()})
    else:
        for path, findings in found.items():
            counts = Counter(finding.severity for finding in findings)
            numbers = ", ".join(_count(counts[key], key) for key in ("error", "warning"))
            print(f"{path}{f' beside {models[0]}' if models else ''}: {numbers}")
            if findings:
                rows = [(f.severity, f.rule, f.name, f.message) for f in findings]
                print(text_table(("severity", "rule", "tensor", "message"), rows))
    is_bad = any(options.strict or finding.severity == "error" for finding in every)
    return NO if is_bad else OK


# -- convert -----------------------------------------------------------------------------------


def _add_convert(actions: Any) -> None:
    parser = _add(
        actions,
        "convert",
        "write a file in another version",
        "Write an encodings file in another version, if nothing is lost; otherwise the message "
        "names the entry. The file in place of OUT is replaced when the new one is complete.",
        "aimet encodings convert net.encodings new.encodings --to 2.0.0 --model net.onnx",
    )
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument(
        "out", metavar="OUT", nargs="?", type=Path, help="where to write; the terminal if left out"
    )
    parser.add_argument(
        "--to", required=True, metavar="VERSION", help="0.6.1, 1.0.0, 2.0.0 or 2.1.0"
    )
    _add_model(parser)
    parser.add_argument(
        "--params",
        nargs="+",
        metavar="NAME",
        help="instead of a model, from 2.x to older versions: the names of the parameters",
    )
    parser.add_argument(
        "--drop-unscaled",
        action="store_true",
        help="to 2.x: leave out 16-bit floats and entries without a scale, for which it has none",
    )
    parser.set_defaults(run=_convert)


def _convert(options: argparse.Namespace) -> int:
    from aimet_torch import encodings
    from aimet_torch.common.quantsim import has_one_list

    document = encodings.read(options.file)
    converted = encodings.convert(
        document,
        options.to,
        model=options.model,
        params=options.params,
        drop_unscaled=options.drop_unscaled,
    )
    if options.out is not None:
        encodings.write(options.out, converted, options.to)
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "out"
            encodings.write(path, converted, options.to)
            sys.stdout.write(path.read_text(encoding="utf-8"))
    lost = [key for key in ("excluded_layers", "quantizer_args") if document[key]]
    if lost and has_one_list(options.to):
        print(
            f"aimet: {options.file}: left out, as version {options.to} has no place for it: "
            f"{', '.join(lost)}",
            file=sys.stderr,
        )
    return OK


# -- diff --------------------------------------------------------------------------------------


def _add_diff(actions: Any) -> None:
    parser = _add(
        actions,
        "diff",
        "find where two files map numbers differently",
        "Compare two encodings files, of whatever versions. Exit code 0: they map all numbers "
        "alike; 1: they differ.",
        "aimet encodings diff before.encodings after.encodings --tolerance 1e-6",
    )
    parser.add_argument("left", metavar="FILE", type=Path)
    parser.add_argument("right", metavar="FILE", type=Path)
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.0,
        metavar="RATIO",
        help="relative difference of scales that counts as none (default: 0)",
    )
    _add_json(parser)
    parser.set_defaults(run=_diff)


def _diff(options: argparse.Namespace) -> int:
    from aimet_torch import encodings

    left, right = encodings.read(options.left), encodings.read(options.right)
    found = encodings.diff(left, right, options.tolerance)
    if options.json:
        _print_json([asdict(difference) for difference in found])
    elif found:
        rows = [(item.name, item.field, item.left or "-", item.right or "-") for item in found]
        print(text_table(("tensor", "field", str(options.left), str(options.right)), rows))
    return NO if found else OK
