"""Encodings files as JSON text: typed functions over the operators of the C++ library."""

from __future__ import annotations

import os
import re

import torch

_ERROR_NUMBER = re.compile(r"^(?P<text>.*) \[errno (?P<number>\d+)\]", re.DOTALL)


def read_encodings(path: str | os.PathLike[str]) -> str:
    """Read an encodings file of any supported version.

    Args:
        path: A file of version 0.4.0 to 2.1.0, or one without a version.

    Returns:
        The document as JSON text in the form of :func:`aimet_torch.encodings.read`.

    Raises:
        OSError: The file cannot be read (``FileNotFoundError``, ``PermissionError``, ...).
        ValueError: It is malformed; the message has the JSON path and the reason.
        NotImplementedError: Its version, or a kind of encoding in it, is not supported.
    """
    filename = os.fspath(path)
    try:
        return torch.ops.aimet.read_encodings(filename)
    except RuntimeError as error:
        raise _os_error(error, filename) from error


def parse_encodings(text: str, source: str) -> str:
    """Read the text of an encodings file.

    Args:
        text: What such a file holds.
        source: Names the text in errors.

    Returns:
        As :func:`read_encodings`.

    Raises:
        ValueError: It is malformed; the message has the JSON path and the reason.
        NotImplementedError: Its version, or a kind of encoding in it, is not supported.
    """
    return torch.ops.aimet.parse_encodings(text, source)


def write_encodings(path: str | os.PathLike[str], document: str, version: str) -> None:
    """Write an encodings file: the old file stays untouched until the new one is complete.

    Args:
        path: Where to write; a symbolic link is followed.
        document: JSON text in the form of :func:`aimet_torch.encodings.read`.
        version: "0.6.1", "1.0.0", "2.0.0", "2.1.0", or "" for version 0.6.1's entries without a
            version.

    Raises:
        OSError: The file cannot be written; nothing is left behind.
        ValueError: The document is malformed or contradicts itself.
        NotImplementedError: ``version`` cannot be written or cannot express the document.
    """
    filename = os.fspath(path)
    try:
        torch.ops.aimet.write_encodings(filename, document, version)
    except RuntimeError as error:
        raise _os_error(error, filename) from error


def check_encodings(document: str, model: str = "") -> str:
    """Find what is wrong with a document, by itself and beside a model.

    Args:
        document: JSON text in the form of :func:`aimet_torch.encodings.read`.
        model: JSON text of what a model says about its tensors
            (:func:`aimet_torch.encodings.model_facts`), or "".

    Returns:
        JSON text: a list of {"severity", "rule", "name", "message"}.

    Raises:
        ValueError: The document is malformed or contradicts itself.
        NotImplementedError: It names modules, and a model is given.
    """
    return torch.ops.aimet.check_encodings(document, model)


def diff_encodings(left: str, right: str, tolerance: float = 0.0) -> str:
    """Find where two documents map numbers differently.

    Args:
        left: JSON text in the form of :func:`aimet_torch.encodings.read`.
        right: Likewise.
        tolerance: Relative difference of scales that counts as none.

    Returns:
        JSON text: a list of {"name", "field", "left", "right"}.

    Raises:
        ValueError: A document is malformed or contradicts itself.
    """
    return torch.ops.aimet.diff_encodings(left, right, tolerance)


def convert_encodings(document: str, version: str, options: str) -> str:
    """Bring a document into the form of another version.

    Args:
        document: JSON text in the form of :func:`aimet_torch.encodings.read`.
        version: As in :func:`write_encodings`.
        options: JSON text: {"model", "param_names", "drops_unscaled"}.

    Returns:
        The document as JSON text, complete for that version.

    Raises:
        ValueError: The document is malformed or contradicts itself.
        NotImplementedError: Something would be lost, or is not known; the message names the entry.
    """
    return torch.ops.aimet.convert_encodings(document, version, options)


def _os_error(error: RuntimeError, filename: str) -> Exception:
    """``error`` as the ``OSError`` it reports, or ``error`` itself when it reports none."""
    if isinstance(error, NotImplementedError):  # a subclass of RuntimeError
        return error
    match = _ERROR_NUMBER.match(str(error))
    if match is None:
        return error
    return OSError(int(match["number"]), match["text"], filename)
