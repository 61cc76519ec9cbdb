"""A second reader of encodings files, from the formats' descriptions: `json` and NumPy only.

It knows nothing of `aimet_torch`. For one tensor it gives a function that rounds an array as the
file says, computed in float32.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

_FLOATS = {
    "float8e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8e5m2": ml_dtypes.float8_e5m2,
    "float4e2m1": ml_dtypes.float4_e2m1fn,
}


def names(path: Path) -> set[str]:
    """All tensors that a file has entries for."""
    document = json.loads(path.read_text())
    sections = (
        document.get(k, []) for k in ("encodings", "activation_encodings", "param_encodings")
    )
    return {e if isinstance(e, str) else e["name"] for section in sections for e in section}


def rounding(path: Path, name: str, shape: tuple[int, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """What the file at `path` does to the tensor `name` of `shape`."""
    document = json.loads(path.read_text())
    if document["version"].startswith("2."):
        return _from_2(_named(document["encodings"], name), shape)
    section = (
        "param_encodings" if _has(document["param_encodings"], name) else "activation_encodings"
    )
    if document["version"] == "0.6.1":
        return _from_0(document[section][name], shape)
    return _from_1(_named(document[section], name), shape)


def _has(section: Any, name: str) -> bool:
    return name in section if isinstance(section, dict) else any(e["name"] == name for e in section)


def _named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    (entry,) = (e for e in entries if e["name"] == name)
    return entry


def _from_0(entries: list[dict[str, Any]], shape: tuple[int, ...]) -> Callable:
    """real = (q + offset) * scale on the unsigned grid; one entry for each output channel."""
    bits = entries[0]["bitwidth"]
    axes = [-1 if len(entries) > 1 else 1] + [1] * (len(shape) - 1)
    scale = np.array([e["scale"] for e in entries], np.float32).reshape(axes if shape else ())
    offset = np.array([e["offset"] for e in entries], np.float32).reshape(axes if shape else ())
    return _affine(scale, -offset, 0, 2**bits - 1)


def _from_1(entry: dict[str, Any], shape: tuple[int, ...]) -> Callable:
    """As 0.6.1; blocks lie along the input channels, axis 1."""
    bits = entry.get("compressed_bw", entry["bw"])
    scale = np.array(entry["scale"], np.float32)
    offset = np.array(entry["offset"], np.float32)
    ones = [1] * (len(shape) - 2)
    match entry["enc_type"]:
        case "PER_TENSOR":
            scale, offset = scale.reshape(()), offset.reshape(())
        case "PER_CHANNEL":
            scale, offset = (v.reshape(-1, 1, *ones) for v in (scale, offset))
        case "PER_BLOCK":
            spread = (v.reshape(shape[0], -1, *ones) for v in (scale, offset))
            scale, offset = (v.repeat(entry["block_size"], 1) for v in spread)
        case "LPBQ":
            ints = np.array(entry["per_block_int_scale"], np.float32).reshape(shape[0], -1, *ones)
            scale = (ints * scale.reshape(-1, 1, *ones)).repeat(entry["block_size"], 1)
            offset = np.float32(-(2 ** (bits - 1)))
    return _affine(scale, -offset, 0, 2**bits - 1)


def _from_2(entry: dict[str, Any], shape: tuple[int, ...]) -> Callable:
    """ONNX's QuantizeLinear: real = (q - zero_point) * scale."""
    zero_point = np.array(entry.get("y_zero_point", 0), np.float32)
    if "per_block_int_scale" in entry:
        channels = np.array(entry["per_channel_float_scale"], np.float32)
        scale = np.array(entry["per_block_int_scale"], np.float32) * channels
    elif isinstance(entry["y_scale"], dict):
        table = entry["y_scale"]
        blocks, outer = np.array(table["x"], np.float32), np.array(table["x_scale"], np.float32)
        if outer.ndim:
            outer = outer.reshape([-1 if i == table["axis"] else 1 for i in range(blocks.ndim)])
        scale = blocks * outer
    else:
        scale = np.array(entry["y_scale"], np.float32)
    if "block_size" in entry:
        axis = entry["axis"]
        scale = scale.repeat(entry["block_size"], axis)
        zero_point = zero_point.repeat(entry["block_size"], axis) if zero_point.ndim else zero_point
    elif scale.ndim:
        axes = [1] * len(shape)
        axes[entry["axis"]] = -1
        scale = scale.reshape(axes)
        zero_point = zero_point.reshape(axes) if zero_point.ndim else zero_point
    dtype = entry["output_dtype"]
    if dtype in _FLOATS:
        largest = float(ml_dtypes.finfo(_FLOATS[dtype]).max)
        return lambda x: (
            np.clip(np.float32(x) / scale, -largest, largest)
            .astype(_FLOATS[dtype])
            .astype(np.float32)
            * scale
        )
    bits = int(dtype.lstrip("uint"))
    low = 0 if dtype.startswith("u") else -(2 ** (bits - 1))
    return _affine(scale, zero_point, low, low + 2**bits - 1)


def _affine(scale: np.ndarray, zero_point: np.ndarray, low: int, high: int) -> Callable:
    def rounded(x: np.ndarray) -> np.ndarray:
        q = np.clip(np.rint(np.float32(x) / scale) + zero_point, low, high)
        return ((q - zero_point) * scale).astype(np.float32)

    return rounded
