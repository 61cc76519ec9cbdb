"""Folding the batch norms of a simulation into the scales of the weights, as the end of training.

Training keeps batch norms, whose statistics follow the data; a target has none. Folded naively,
the weights would get new ranges and round anew. Here weight and scale are multiplied alike, so
every weight keeps its integer. AIMET's name and semantics.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from aimet_torch.graph import OpNode
from aimet_torch.nn import QuantizationMixin
from aimet_torch.nn.bias_grid import folded_scale
from aimet_torch.ops.algorithms import merge_batch_norm_statistics
from aimet_torch.ptq.batch_norm_folding import FoldedBatchNorms, _fold, _search
from aimet_torch.ptq.layers import ModuleUses, is_transposed, replace_modules
from aimet_torch.quantization.affine import AffineQuantizerBase
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.quantsim.accumulators import attach_bias_grids

__all__ = ["fold_all_batch_norms_to_scale"]


@torch.no_grad()
def fold_all_batch_norms_to_scale(sim: QuantizationSimModel) -> FoldedBatchNorms:
    """Fold each batch norm behind a layer into weight, scale and bias of that layer, in place.

    With ``f = gamma / sqrt(var + eps)`` of each channel: ``W' = f W``, ``s' = |f| s``, ``b' = f (b
    - mean) + beta``. The integers stay; those of channels with negative f change their sign (the
    lowest code of the grid has no negative and becomes the highest one). The output quantizer of
    a batch norm moves to its layer.

    Args:
        sim: calibrated or trained, with batch norms; in evaluation mode the same numbers come out
            before and after, up to the rounding above.

    Returns:
        The folded (layer, batch norm) pairs; in ``unchanged`` the batch norms that stay, each with
        the reason.

    Raises:
        TypeError: ``sim`` is not a QuantizationSimModel.
        ValueError: a layer to be folded has a weight quantizer that is not symmetric with one
            scale for each output channel; nothing is folded then.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    >>> sim = QuantizationSimModel(model, torch.randn(1, 3, 8, 8))
    >>> sim.compute_encodings([torch.randn(4, 3, 8, 8)])
    >>> len(fold_all_batch_norms_to_scale(sim)), type(sim.model[1]).__name__
    (1, 'QuantizedIdentity')
    """
    if not isinstance(sim, QuantizationSimModel):
        raise TypeError(
            "fold_all_batch_norms_to_scale: `sim` must be a QuantizationSimModel, got "
            f"{type(sim).__name__}"
        )
    uses = ModuleUses(sim.graph)
    pairs, left_over = _search(sim.graph, uses)
    result = FoldedBatchNorms()
    result.unchanged.update({op.name: reason for op, reason in left_over.items()})
    behind: list[tuple[Any, Any]] = []
    for first, second in pairs:
        if isinstance(first, nn.modules.batchnorm._BatchNorm):
            result.unchanged[uses.name(first)] = "its layer comes behind it, and has other channels"
        else:
            _check_scale(uses.name(first), first)
            behind.append((first, second))
    operators: dict[nn.Module, OpNode] = {
        op.module: op for op in sim.graph.ops if op.module is not None
    }
    for layer, norm in behind:
        _fold_one(layer, norm)
        identity = QuantizationMixin.from_module(nn.Identity())
        replace_modules(sim.model, {norm: identity})
        operators[norm].module, operators[norm].op_type = identity, "Identity"
        result.append((layer, norm))
    attach_bias_grids(sim.graph)
    return result


def _check_scale(name: str, layer: Any) -> None:
    quantizer = layer.param_quantizers["weight"]
    if quantizer is None or not quantizer.is_initialized():
        return
    axis = 1 if is_transposed(layer) else 0
    is_fit = (
        isinstance(quantizer, AffineQuantizerBase)
        and quantizer.symmetric
        and len(quantizer.shape) == layer.weight.dim()
        and quantizer.shape[axis] == layer.weight.shape[axis]
    )
    if not is_fit:
        raise ValueError(
            f"fold_all_batch_norms_to_scale: the weight quantizer of `{name}` must be symmetric "
            f"with one scale for each output channel, got {quantizer}. Use a configuration with "
            "`per_channel_quantization`, or fold the batch norms before quantizing"
        )


def _fold_one(layer: Any, norm: Any) -> None:
    quantizer = layer.param_quantizers["weight"]
    groups = getattr(layer, "groups", 1)
    if quantizer is not None and quantizer.is_initialized():
        factor, _ = merge_batch_norm_statistics(
            norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps
        )
        axis = 1 if is_transposed(layer) else 0
        if is_transposed(layer) and groups > 1:  # output channels of all groups share a scale
            factor = factor.reshape(groups, -1).abs().amax(0)
        shape = [1] * layer.weight.dim()
        shape[axis] = -1
        scale = folded_scale(quantizer.get_scale(), factor.reshape(shape))
        quantizer.set_range(scale * quantizer.qmin, scale * quantizer.qmax)
    _fold(layer, norm)
    if "bias" not in layer.param_quantizers:
        layer.param_quantizers["bias"] = None
    layer.bias_grids = norm.bias_grids = None
    for index, moved in enumerate(norm.output_quantizers):
        if moved is not None:
            layer.output_quantizers[index] = moved
            norm.output_quantizers[index] = None
