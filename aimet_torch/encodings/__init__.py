"""Quantization encodings files: read and write them as plain dictionaries.

Formats, checks and atomic writing are the C++ library's (``csrc/aimet/encodings``); here its
document becomes a ``dict`` and back.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

from aimet_torch.ops.encodings import parse_encodings, read_encodings, write_encodings

__all__ = ["parse", "read", "write"]


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read an encodings file.

    Args:
        path: A file of version 0.4.0, 0.5.0, 0.6.1 or 1.0.0; also files without a version
            (parameter encodings of AdaRound) and those that file activations under modules
            (``*_torch.encodings``).

    Returns:
        One form for all versions:

        ``version``
            The file's, or None.
        ``producer``
            ``{"package": ..., "version": ...}`` as far as the file has it.
        ``activation_encodings``, ``param_encodings``
            A list of dictionaries, one per tensor, in the order of the file. Always ``name``,
            ``dtype`` ("int" or "float") and ``bitwidth``. Integer encodings also have

            - ``signed``, ``symmetric``: of the grid; ``strict_symmetric: True`` when it has no
              lowest level -2^(b-1);
            - ``scale``, ``offset``: lists of equal length; x = (q + offset) * scale with q on the
              grid of that signedness (an offset of 0 for signed symmetric grids);
            - ``shape``: of the scales: ``[]`` per tensor, ``[n]`` per channel. The files do not
              tell the channel axis or how blocks are arranged, so blocks are ``[n]`` as well;
            - ``block_size``: elements that share a scale on the block axis, or None;
            - ``channel_axis``: of the tensor, along which the scales vary; None after reading;
            - ``zero_point_shift``: only when it is 0.5: x = (q + offset + 0.5) * scale;
            - for LPBQ ``decompressed_bitwidth`` and ``per_block_int_scale``, of ``shape``
              (channels, blocks), while ``scale`` and ``offset`` have one value per channel; the
              scale of a block is the product.

            Integer entries without ``scale`` give the bitwidth of a tensor that was not
            calibrated. In the layout by modules ``name`` is a module and ``module_slot`` is
            ``{"kind": "input" | "output", "index": int}``.
        ``excluded_layers``, ``quantizer_args``
            As in the file; empty where it has none.

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
        version: "0.6.1" or "1.0.0"; None writes the entries of 0.6.1 without a version and
            without empty sections, which is AdaRound's parameter file.

    Raises:
        OSError: The file cannot be written; nothing is left behind.
        TypeError: ``document`` holds something that JSON cannot express.
        ValueError: ``document`` is malformed or contradicts itself.
        NotImplementedError: ``version`` cannot be written, or cannot express the document (LPBQ
            needs 1.0.0, inputs and outputs of modules need 0.6.1 or None).

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
