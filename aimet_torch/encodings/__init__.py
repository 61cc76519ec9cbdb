"""Quantization encodings files: read, write, check, compare and convert them.

Formats, checks and atomic writing are the C++ library's (``csrc/aimet/encodings``); here its
document becomes a ``dict`` and back. What each version holds: docs/encodings.md.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aimet_torch.encodings.model_facts import TensorFacts, facts_json, model_facts
from aimet_torch.ops.encodings import (
    check_encodings,
    convert_encodings,
    diff_encodings,
    parse_encodings,
    read_encodings,
    write_encodings,
)

__all__ = [
    "Difference",
    "Finding",
    "TensorFacts",
    "check",
    "convert",
    "diff",
    "entries",
    "model_facts",
    "parse",
    "read",
    "write",
]

#: A model: the path of an ONNX file, or what is known about its tensors.
Model = str | os.PathLike[str] | Mapping[str, TensorFacts]


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with an encodings file, or doubtful.

    Attributes:
        severity: ``"error"`` or ``"warning"``.
        rule: ``"missing"``, ``"surplus"``, ``"impossible"``, ``"role"``, ``"range"`` or ``"bias"``.
        name: of the tensor.
        message: what and why.
    """

    severity: Literal["error", "warning"]
    rule: str
    name: str
    message: str


@dataclass(frozen=True)
class Difference:
    """Where two encodings files map one tensor differently.

    Attributes:
        name: of the tensor; of a module with its input or output where files name modules.
        field: what differs; ``"entry"`` when one side has none.
        left: in the first file; "" when it has no entry.
        right: in the second one.
    """

    name: str
    field: str
    left: str
    right: str


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read an encodings file.

    Args:
        path: A file of version 0.4.0, 0.5.0, 0.6.1, 1.0.0, 2.0.0 or 2.1.0; also files without a
            version (parameter encodings of AdaRound) and those that file activations under modules
            (``*_torch.encodings``).

    Returns:
        One form for all versions: ``version`` and ``producer`` (None, or as much as the file has of
        ``{"package": ..., "version": ...}``), ``activation_encodings``, ``param_encodings``; of
        versions 2.x, which do not tell one from the other, ``encodings``; ``excluded_layers``,
        ``quantizer_args`` (empty where the file has none).

    Encodings are lists of dictionaries, one per tensor, in the order of the file. Always there are
    ``name``, ``dtype`` ("int" or "float") and ``bitwidth``. Integer encodings also have

    - ``signed``, ``symmetric``: of the grid; ``strict_symmetric: True`` when it has no lowest level
      -2^(b-1);
    - ``scale``, ``offset``: lists of equal length; x = (q + offset) * scale with q on the grid of
      that signedness (an offset of 0 for signed symmetric grids);
    - ``shape``: of the scales: ``[]`` per tensor, ``[n]`` per channel. Versions before 2 do not
      tell the channel axis or how blocks are arranged, so blocks are ``[n]`` as well there;
    - ``block_size``: elements that share a scale on the block axis, or None; ``block_axis``: only
      where it is known;
    - ``channel_axis``: of the tensor, along which the scales vary, or None;
    - ``zero_point_shift``: only when it is 0.5: x = (q + offset + 0.5) * scale;
    - for LPBQ ``decompressed_bitwidth`` and ``per_block_int_scale``, of ``shape`` (channels,
      blocks), while ``scale`` and ``offset`` have one value per channel; the scale of a block is
      the product. Likewise ``per_block_float_scale``, numbers of ``block_scale_format``.

    8-bit and 4-bit floats have ``format``, ONNX's name, and ``scale``, ``shape`` and axes as above,
    but no ``offset``: x = number * scale. Entries without ``scale`` give the bitwidth of a tensor
    that was not calibrated, or of 16-bit floats. In the layout by modules ``name`` is a module and
    ``module_slot`` is ``{"kind": "input" | "output", "index": int}``.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is malformed; the message has file, JSON path and reason.
        NotImplementedError: Its version, or a kind of encoding in it, is not supported.
    """
    document: dict[str, Any] = json.loads(read_encodings(path))
    return document


def parse(content: Mapping[str, Any] | str, source: str = "encodings") -> dict[str, Any]:
    """Read the content of an encodings file, given as text or as what ``json`` makes of it.

    Args:
        content: In the form of a file of any version that :func:`read` takes.
        source: Names the content in errors.

    Returns:
        As :func:`read`.

    Raises:
        TypeError: ``content`` holds something that JSON cannot express.
        ValueError: It is malformed; the message has source, JSON path and reason.
        NotImplementedError: Its version, or a kind of encoding in it, is not supported.
    """
    text = content if isinstance(content, str) else _to_json(content, source)
    document: dict[str, Any] = json.loads(parse_encodings(text, source))
    return document


def write(
    path: str | os.PathLike[str], document: Mapping[str, Any], version: str | None = "1.0.0"
) -> None:
    """Write an encodings file; another process sees the old file or the complete new one.

    Args:
        path: Where to write; a symbolic link is followed.
        document: In the form of :func:`read`; its own ``version`` does not matter. ``shape`` may
            have one size per dimension of the tensor, such as (C, 1, 1, 1), with ``channel_axis``
            0. Numbers are written so that they read back exactly.
        version: "0.6.1", "1.0.0", "2.0.0" or "2.1.0"; None writes the entries of 0.6.1 without a
            version and without empty sections, which is AdaRound's parameter file. Versions 2.x
            have no place for ``excluded_layers`` and ``quantizer_args``.

    Raises:
        OSError: The file cannot be written; nothing is left behind.
        TypeError: ``document`` holds something that JSON cannot express.
        ValueError: ``document`` is malformed or contradicts itself.
        NotImplementedError: ``version`` cannot be written, or cannot express an entry, which the
            message names (LPBQ needs 1.0.0, 8-bit floats need 2.0.0, inputs and outputs of modules
            need 0.6.1 or None).

    >>> document = {
    ...     "activation_encodings": [{"name": "x", "dtype": "float", "bitwidth": 16}],
    ...     "param_encodings": [],
    ... }
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.encodings"
    >>> write(path, document, "1.0.0")
    >>> read(path)["activation_encodings"]
    [{'name': 'x', 'dtype': 'float', 'bitwidth': 16}]
    """
    text = _to_json(document, "write_encodings: encodings document")
    write_encodings(path, text, "" if version is None else version)


def entries(document: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """All entries of a document, each with its role.

    Returns:
        Pairs of ``"activation"``, ``"parameter"`` or, of versions 2.x, ``""``, and the entry.
    """
    sections = (
        ("", "encodings"),
        ("activation", "activation_encodings"),
        ("parameter", "param_encodings"),
    )
    return [(role, entry) for role, section in sections for entry in document.get(section, ())]


def check(document: Mapping[str, Any], model: Model | None = None) -> list[Finding]:
    """Find what is wrong with an encodings file.

    Args:
        document: In the form of :func:`read`.
        model: The network that it belongs to. With it, the result has the tensors that need an
            entry and have none, the entries of tensors that are not in the model, and those that
            cannot be right: more scales than channels, blocks that do not cover the tensor,
            integers, a bias whose scale is not that of its accumulator.

    Returns:
        Errors and warnings; none when all is well.

    Raises:
        OSError: The model cannot be read.
        ValueError: ``document`` or the model is malformed.
        NotImplementedError: ``document`` names modules, and a model is given.
    """
    facts = "" if model is None else facts_json(model)
    found = check_encodings(_to_json(document, "check_encodings: encodings document"), facts)
    return [Finding(**finding) for finding in json.loads(found)]


def diff(
    left: Mapping[str, Any], right: Mapping[str, Any], tolerance: float = 0.0
) -> list[Difference]:
    """Find where two encodings files map numbers differently, whatever their versions.

    Args:
        left: In the form of :func:`read`.
        right: Likewise.
        tolerance: Relative difference of scales that counts as none.

    Returns:
        One item for each field that differs. What a version does not hold (axes, symmetry, whether
        a tensor is a parameter) is compared where both files have it.

    Raises:
        ValueError: A document is malformed.
    """
    first, second = (_to_json(item, "diff_encodings: document") for item in (left, right))
    return [Difference(**item) for item in json.loads(diff_encodings(first, second, tolerance))]


def convert(
    document: Mapping[str, Any],
    version: str | None,
    *,
    model: Model | None = None,
    params: Iterable[str] | None = None,
    drop_unscaled: bool = False,
) -> dict[str, Any]:
    """Bring a document into the form of another version, if nothing is lost.

    Args:
        document: In the form of :func:`read`.
        version: As in :func:`write`.
        model: The network: axes for versions 2.x, which older ones do not hold, and which tensors
            are parameters for older ones, which 2.x does not tell.
        params: Instead of a model: the names of the parameters.
        drop_unscaled: To 2.x: leave out entries without a scale (16-bit floats), for which it has
            no form.

    Returns:
        A document for :func:`write` with ``version``. Its text, read again, has been compared with
        ``document``. ``excluded_layers`` and ``quantizer_args`` stay in the result, but have no
        place in files of 2.x.

    Raises:
        OSError: The model cannot be read.
        ValueError: ``document`` or the model is malformed.
        NotImplementedError: Something would be lost or is not known; the message names the entry
            and the way out.
    """
    options = {
        "model": {} if model is None else json.loads(facts_json(model)),
        "param_names": None if params is None else list(params),
        "drops_unscaled": drop_unscaled,
    }
    text = _to_json(document, "convert_encodings: encodings document")
    converted: dict[str, Any] = json.loads(
        convert_encodings(text, version or "", json.dumps(options))
    )
    return converted


def _to_json(document: Mapping[str, Any], source: str) -> str:
    try:
        return json.dumps(dict(document), allow_nan=False)
    except ValueError as error:
        # NaN is what an uninitialised quantizer holds: say where.
        raise ValueError(f"{source}: {_path_of_non_finite(document)}: {error}") from error


def _path_of_non_finite(value: object, path: str = "$") -> str | None:
    """JSON path of the first number in ``value`` that JSON cannot express."""
    if isinstance(value, float):
        return None if math.isfinite(value) else path
    children: Iterable[tuple[str, object]] = ()
    if isinstance(value, Mapping):
        children = ((f".{key}", child) for key, child in value.items())
    elif isinstance(value, (list, tuple)):
        children = ((f"[{index}]", child) for index, child in enumerate(value))
    found = (_path_of_non_finite(child, path + step) for step, child in children)
    return next((place for place in found if place is not None), None)
