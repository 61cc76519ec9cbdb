"""Attention and gates in elementary operations, so that each of them can have quantizers.

The functions run under the tracer, on real tensors; they compute what PyTorch's fused functions
compute, within rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aimet_torch.graph.symbols import concrete


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scale: float,
    mask: Tensor | None,
    dropout: Callable[[Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """softmax(query key^T scale + mask) value; a boolean mask says where to look.

    Returns:
        The result and the attention weights.
    """
    scores = torch.matmul(query * scale, key.transpose(-2, -1))
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(mask.logical_not(), -math.inf)
    elif mask is not None:
        scores = scores + mask
    weights = dropout(torch.softmax(scores, dim=-1))
    return torch.matmul(weights, value), weights


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``torch.nn.functional.scaled_dot_product_attention`` in elementary operations."""
    if enable_gqa:
        groups = concrete(query.size(-3)) // concrete(key.size(-3))
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    if is_causal:
        attn_mask = torch.ones(
            query.size(-2), key.size(-2), dtype=torch.bool, device=query.device
        ).tril()
    factor = 1.0 / math.sqrt(concrete(query.size(-1))) if scale is None else scale

    def dropout(weights: Tensor) -> Tensor:
        return weights if dropout_p == 0.0 else F.dropout(weights, dropout_p, training=True)

    return attention(query, key, value, factor, attn_mask, dropout)[0]


def multi_head_attention_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """``torch.nn.functional.multi_head_attention_forward`` in elementary operations."""
    if is_causal and attn_mask is None:
        raise RuntimeError(
            "multi_head_attention_forward: `is_causal` is a hint about `attn_mask`, which is None"
        )
    heads, width = num_heads, concrete(embed_dim_to_check)
    separate = (q_proj_weight, k_proj_weight, v_proj_weight) if use_separate_proj_weight else None
    batched = query.dim() == 3
    q, k, v = _project(query, key, value, width, in_proj_weight, in_proj_bias, separate)
    if not batched:
        q, k, v = q.unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1)
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    length, batch = q.size(0), q.size(1)

    def split_heads(x: Tensor, static: Tensor | None) -> Tensor:
        if static is not None:
            return static.unflatten(0, (-1, heads))
        return x.reshape(x.size(0), batch, heads, -1).permute(1, 2, 0, 3)

    if bias_k is not None and bias_v is not None:
        k = torch.cat([k, bias_k.repeat(1, batch, 1)])
        v = torch.cat([v, bias_v.repeat(1, batch, 1)])
    q, k, v = split_heads(q, None), split_heads(k, static_k), split_heads(v, static_v)
    mask = _additive(attn_mask, q.dtype)
    if mask is not None and mask.dim() == 3:
        mask = mask.unflatten(0, (-1, heads))
    padding = _additive(key_padding_mask, q.dtype)
    if padding is not None:
        padding = padding.unsqueeze(1).unsqueeze(1)
    extra = int(bias_k is not None and bias_v is not None) + int(add_zero_attn)
    if add_zero_attn:
        k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
    if extra:  # the added keys are visible to every query
        mask = None if mask is None else F.pad(mask, (0, extra))
        padding = None if padding is None else F.pad(padding, (0, extra))
    if padding is not None:
        mask = padding if mask is None else mask + padding

    def dropout(weights: Tensor) -> Tensor:
        return weights if dropout_p == 0.0 else F.dropout(weights, dropout_p, training=training)

    result, weights = attention(q, k, v, math.sqrt(1.0 / (width // heads)), mask, dropout)
    result = result.permute(2, 0, 1, 3).reshape(length, batch, width)
    result = F.linear(result, out_proj_weight, out_proj_bias)
    shown = None
    if need_weights:
        shown = weights.mean(dim=1) if average_attn_weights else weights
    if not batched:
        result = result.squeeze(1)
        shown = None if shown is None else shown.squeeze(0)
    return result, shown


def _project(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    width: int,
    weight: Tensor | None,
    bias: Tensor | None,
    separate: tuple[Any, Any, Any] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    if separate is None and query is key and key is value:
        assert weight is not None
        q, k, v = F.linear(query, weight, bias).chunk(3, dim=-1)
        return q, k, v
    if separate is None:
        assert weight is not None
        separate = weight.split([width] * 3)
    biases = (None, None, None) if bias is None else bias.split([width] * 3)
    q, k, v = (
        F.linear(x, w, b) for x, w, b in zip((query, key, value), separate, biases, strict=True)
    )
    return q, k, v


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill(mask, -math.inf)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """``torch.nn.functional.silu`` as the two operators that ONNX and integer targets have."""
    gate = torch.sigmoid(input)
    return input.mul_(gate) if inplace else input * gate


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """``torch.nn.functional.glu`` in elementary operations."""
    value, gate = input.chunk(2, dim)
    return value * torch.sigmoid(gate)


DECOMPOSITIONS: dict[Any, Callable[..., Any]] = {
    F.scaled_dot_product_attention: scaled_dot_product_attention,
    F.multi_head_attention_forward: multi_head_attention_forward,
    F.silu: silu,
    F.glu: glu,
}
