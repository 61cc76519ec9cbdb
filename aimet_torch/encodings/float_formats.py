"""ONNX's names of floating-point formats, and block-scaled encodings as arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from aimet_torch.common.defs import Float
from aimet_torch.quantization.float.format import ONNX_NAMES, round_to_format

_NAMES = {Float(5, 10): "float16", Float(8, 7): "bfloat16", **ONNX_NAMES}
_FORMATS = {name: format for format, name in _NAMES.items()}
_NVFP4_SCALES = "float8e4m3fn"


def format_name(format: Float) -> str:
    """ONNX's name of a format; a description in parentheses when ONNX has none."""
    return _NAMES.get(format, f"({format})")


def format_named(name: str) -> Float:
    """The format that ONNX calls `name`, one of those above."""
    return _FORMATS[name]


def microscaling_fields(source: str, encoding: Any, tensor: Tensor | None) -> dict[str, Any]:
    """What a MicroscalingEncoding says about one tensor, as fields of a TensorEncoding.

    Args:
        source: name of the quantizer, for messages.
        encoding: MX or NVFP4; its scales follow from `tensor`.
        tensor: the parameter; None for an activation, whose scales no file can hold.

    Returns:
        `scale` and `block_size`, and for NVFP4 `block_scale` and `block_scale_format`; none of them
        without `tensor`.

    Raises:
        NotImplementedError: the last block of a row is shorter than the others.
    """
    fields: dict[str, Any] = {"float_format": encoding.element}
    if tensor is None:
        return {**fields, "is_dynamic": True}
    axis = encoding.axis % tensor.dim()
    if tensor.shape[axis] % encoding.block_length:
        raise NotImplementedError(
            f"export: quantizer `{source}` has blocks of {encoding.block_length} on an axis of "
            f"{tensor.shape[axis]}; files hold whole blocks only; choose a block size that divides "
            "the axis"
        )
    sizes = [1] * tensor.dim()
    sizes[axis] = encoding.block_length
    scale = encoding.apply(tensor.detach().float())[1]
    fields |= {"block_size": tuple(sizes), "scale": scale.cpu().numpy().astype(np.float32)}
    if encoding.tensor_scale is not None:
        # The quotient of the two is a number of the format but for the rounding of their product.
        numbers = round_to_format(scale / encoding.tensor_scale, _FORMATS[_NVFP4_SCALES])
        fields["block_scale"] = numbers.cpu().numpy().astype(np.float32)
        fields["block_scale_format"] = _NVFP4_SCALES
        fields["group_scale"] = encoding.tensor_scale.detach().float().cpu().numpy().reshape(())
    return fields
