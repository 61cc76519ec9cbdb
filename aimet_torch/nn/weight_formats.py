"""Weights that are stored in float4 blocks and computed with in int8, as Qualcomm's targets do.

The weights are rounded to MXFP4 or NVFP4 once; what is left to simulate is int8 for each channel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch import ops
from aimet_torch.quantization.affine import QuantizeDequantize

__all__ = ["round_weight_to_mxfp4", "round_weight_to_nvfp4"]

_FLOAT4 = (2, 1, True)  # exponent bits, mantissa bits, finite
_NVFP4_BLOCK = 16


def _has_weight_quantizer(module: Any, name: str) -> bool:
    if getattr(module, "weight", None) is None or "weight" not in module.param_quantizers:
        return False
    if not isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        raise TypeError(
            f"{name}: the module must be a Linear or a convolution, got {type(module).__name__}"
        )
    return True


@torch.no_grad()
def _store(module: Any, rounded: Tensor) -> None:
    module.weight = nn.Parameter(rounded, requires_grad=module.weight.requires_grad)
    shape = (rounded.shape[0], *[1] * (rounded.dim() - 1))
    module.param_quantizers["weight"] = QuantizeDequantize(
        shape, qmin=-128, qmax=127, symmetric=True
    )


def round_weight_to_mxfp4(module: Any, block_size: int = 32) -> None:
    """Round the weight to MXFP4, blocks along the input channels; quantize it to int8 from then on.

    Nothing happens to a module without a quantized weight.

    Raises:
        TypeError: neither a linear layer nor a convolution.
        ValueError: the blocks do not divide the input channels.
    """
    name = "set_weight_quantizer_to_mxfp4_int8"
    if not _has_weight_quantizer(module, name):
        return
    weight: Tensor = module.weight.detach()
    if weight.shape[1] % block_size:
        raise ValueError(
            f"{name}: `block_size` must divide the input channels, got {block_size} and a weight "
            f"of shape {list(weight.shape)}"
        )
    _store(module, ops.quantize_dequantize_mx(weight, "float4e2m1", 1, block_size)[0])


def round_weight_to_nvfp4(module: Any, scale_q: Tensor, meta_scale: Tensor | float) -> None:
    """Round the weight to float4 with the given NVFP4 scales; quantize it to int8 from then on.

    Nothing happens to a module without a quantized weight.

    Args:
        module: quantized Linear or convolution.
        scale_q: float8, one scale for 16 input channels: (out, in / 16, 1, ...).
        meta_scale: scale of the whole tensor.

    Raises:
        TypeError: neither a linear layer nor a convolution, or `scale_q` is not float8.
        ValueError: shapes do not fit.
    """
    name = "set_weight_quantizer_to_nvfp4_int8"
    if not _has_weight_quantizer(module, name):
        return
    weight: Tensor = module.weight.detach()
    if scale_q.dtype not in (torch.float8_e4m3fn, torch.float8_e4m3fnuz):
        raise TypeError(f"{name}: `scale_q` must be float8_e4m3, got {scale_q.dtype}")
    channels, inputs, *others = weight.shape
    expected = (channels, inputs // _NVFP4_BLOCK, *[1] * len(others))
    if inputs % _NVFP4_BLOCK or tuple(scale_q.shape) != expected:
        raise ValueError(
            f"{name}: `scale_q` must have one scale for each {_NVFP4_BLOCK} input channels, got "
            f"shape {list(scale_q.shape)} for a weight of shape {list(weight.shape)}"
        )
    tensor_scale = torch.as_tensor(meta_scale, dtype=torch.float32, device=weight.device)
    scale = tensor_scale.reshape(()) * scale_q.to(weight.device, torch.float32)
    blocks = [1, _NVFP4_BLOCK, *others]
    _store(module, ops.quantize_dequantize_float(weight, scale, *_FLOAT4, block_size=blocks))
