"""The version of encodings files that exports write unless told otherwise.

`aimet_common.quantsim.encoding_version`, which AIMET's scripts assign to, is the variable below.
"""

from __future__ import annotations

import os

__all__ = ["VALID_ENCODING_VERSIONS", "chosen_version", "encoding_version", "has_one_list"]

#: Versions that can be written.
VALID_ENCODING_VERSIONS = ("0.6.1", "1.0.0", "2.0.0", "2.1.0")

#: Assign to it, or set AIMET_ENCODING_VERSION before the first import.
encoding_version = os.environ.get("AIMET_ENCODING_VERSION", "1.0.0")


def chosen_version(name: str, version: str | None) -> str:
    """The version to write: `version`, or the default when it is None.

    Args:
        name: the calling function, for the message.
        version: what the user asked for.

    Raises:
        ValueError: not one of `VALID_ENCODING_VERSIONS`.
    """
    chosen = encoding_version if version is None else version
    if chosen not in VALID_ENCODING_VERSIONS:
        source = (
            "`encoding_version`"
            if version is not None
            else ("`aimet_torch.common.quantsim.encoding_version` (AIMET_ENCODING_VERSION)")
        )
        raise ValueError(
            f"{name}: {source} must be one of the versions {', '.join(VALID_ENCODING_VERSIONS)}, "
            f"got {chosen!r}"
        )
    return chosen


def has_one_list(version: str) -> bool:
    """Whether files of a version have one list of entries, ONNX's zero points and int32 biases."""
    return version.startswith("2.")
