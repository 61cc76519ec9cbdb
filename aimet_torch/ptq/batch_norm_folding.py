"""Batch-norm folding: batch normalizations become part of the layers beside them.

The graph tells which; the arithmetic is :func:`aimet_torch.ops.fold_batch_norm`. A fold changes no
output in evaluation mode beyond rounding. AIMET's names, under its path
``aimet_torch.batch_norm_fold`` too. Beyond AIMET: Conv3d, ConvTranspose1d/3d, every number of
groups, folds into a convolution behind when its padding does not consist of zeros, and a reason for
whatever stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from aimet_torch.graph import ModelGraph, OpNode, Value
from aimet_torch.ops.algorithms import fold_batch_norm, merge_batch_norm_statistics
from aimet_torch.ptq.layers import (
    LAYER_TYPES,
    LayerType,
    ModuleUses,
    channel_axis,
    has_zero_padding,
    is_transposed,
    layer_of,
    replace_modules,
    set_bias,
    single_reader,
    trace_model,
)

__all__ = [
    "FoldedBatchNorms",
    "find_all_batch_norms_to_fold",
    "find_standalone_batchnorm_ops",
    "fold_all_batch_norms",
    "fold_given_batch_norms",
]

_TRANSPARENT = ("Identity", "Dropout")


FoldedPair = tuple[LayerType, _BatchNorm]


class FoldedBatchNorms(list[FoldedPair]):
    """What :func:`fold_all_batch_norms` did: a list of (layer, batch normalization).

    Attributes:
        into_next: The pairs whose batch normalization came before its layer.
        standalone: Names of the batch normalizations that were turned into ``y = weight * x +
            bias`` in place, each with the reason why it could not be folded.
        unchanged: Names of batch normalizations that were left as they are, with the reason.
    """

    def __init__(self) -> None:
        super().__init__()
        self.into_next: list[FoldedPair] = []
        self.standalone: dict[str, str] = {}
        self.unchanged: dict[str, str] = {}


def fold_all_batch_norms(
    model: nn.Module, input_shapes: Any, dummy_input: Any = None
) -> FoldedBatchNorms:
    """Fold every batch normalization of ``model`` that stands beside a layer, in place.

    A folded batch normalization becomes ``nn.Identity``; a layer without bias gets one. A batch
    normalization that cannot be folded computes ``y = weight * x + bias`` afterwards (mean 0,
    variance 1, eps 0), which is what a target makes of it and what its weight quantizer should see.

    Args:
        model: Any module; folding is for evaluation mode.
        input_shapes: Shape of its input, or a list of shapes, for a random input to trace it with;
            None with ``dummy_input``.
        dummy_input: Input to trace the model with: a tensor, a tuple of arguments, or a dict.

    Returns:
        The folded (layer, batch normalization) pairs, with a report of the others as attributes.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: Neither shapes nor input are given.

    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
    >>> fold_all_batch_norms(model, (1, 3, 8, 8))
    [(Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1)), BatchNorm2d(8, eps=1e-05, momentum=0.1, \
affine=True, track_running_stats=True))]
    """
    return fold_traced(trace_model("fold_all_batch_norms", model, input_shapes, dummy_input))


def fold_traced(graph: ModelGraph) -> FoldedBatchNorms:
    """As `fold_all_batch_norms`, for a model that is traced already."""
    uses = ModuleUses(graph)
    pairs, left_over = _search(graph, uses)
    result = FoldedBatchNorms()
    with torch.no_grad():
        for first, second in pairs:
            layer, norm = _fold(first, second)
            result.append((layer, norm))
            if second is layer:
                result.into_next.append((layer, norm))
        replace_modules(graph.model, {norm: nn.Identity() for _, norm in result})
        for op, reason in left_over.items():
            obstacle = _affine_obstacle(op, uses)
            if obstacle is None:
                _make_affine(_norm_of(op))
                result.standalone[uses.name(_norm_of(op))] = reason
            else:
                result.unchanged[op.name] = obstacle
    for boundary in graph.boundaries:
        for op in boundary.ops:
            if isinstance(op.module, _BatchNorm):
                result.unchanged[op.name] = f"`{boundary.name}` cannot be traced: {boundary.reason}"
    return result


def fold_given_batch_norms(
    model: nn.Module, layer_pairs: Iterable[tuple[nn.Module, nn.Module]]
) -> None:
    """Fold the given batch normalizations of ``model`` into the given layers, in place.

    Args:
        model: Contains all the modules.
        layer_pairs: (layer, batch normalization behind it) or (batch normalization, layer behind
            it). That nothing else reads what lies between them is the caller's promise.

    Raises:
        TypeError: A pair is not one layer and one batch normalization.
        ValueError: A module is not part of ``model``, channel counts differ, the batch
            normalization has no running statistics, or the layer behind one pads with zeros.
        NotImplementedError: A transposed convolution behind a batch normalization.
    """
    members = set(model.modules())
    with torch.no_grad():
        for first, second in layer_pairs:
            layer, norm = _layer_and_norm(first, second)
            for module in (layer, norm):
                if module not in members:
                    raise ValueError(
                        f"fold_given_batch_norms: {module} in `layer_pairs` is not part of `model`"
                    )
            if norm.running_mean is None:
                raise ValueError(
                    f"fold_given_batch_norms: {norm} in `layer_pairs` has no running statistics "
                    "(track_running_stats=False), so it has no fixed scale to fold"
                )
            if layer is second and not is_transposed(layer) and has_zero_padding(layer):
                raise ValueError(
                    f"fold_given_batch_norms: {layer} in `layer_pairs` pads with zeros, which the "
                    "batch normalization before it does not see; the outputs at the border would "
                    "change. Leave the pair out"
                )
            _fold(first, second)
            replace_modules(model, {norm: nn.Identity()})


def find_all_batch_norms_to_fold(
    connected_graph: ModelGraph,
) -> list[tuple[nn.Module, nn.Module]]:
    """The pairs that :func:`fold_all_batch_norms` would fold.

    Args:
        connected_graph: A traced model, see :func:`aimet_torch.graph.trace`.

    Returns:
        (layer, batch normalization behind it) or (batch normalization, layer behind it), in
        execution order; the layer before a batch normalization has precedence.
    """
    return _search(connected_graph, ModuleUses(connected_graph))[0]


def find_standalone_batchnorm_ops(connected_graph: ModelGraph) -> list[OpNode]:
    """The batch normalizations that cannot be folded, in execution order.

    Args:
        connected_graph: A traced model, see :func:`aimet_torch.graph.trace`.
    """
    return list(_search(connected_graph, ModuleUses(connected_graph))[1])


def __getattr__(name: str) -> Any:
    if name == "fold_all_batch_norms_to_scale":  # AIMET has it here; it builds on this module
        from aimet_torch.ptq.batch_norm_to_scale import fold_all_batch_norms_to_scale

        return fold_all_batch_norms_to_scale
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# ---------------------------------------------------------------------------------------- search


def _search(
    graph: ModelGraph, uses: ModuleUses
) -> tuple[list[tuple[nn.Module, nn.Module]], dict[OpNode, str]]:
    """Pairs to fold, and the other batch normalizations with the reason for each."""
    pairs: list[tuple[nn.Module, nn.Module]] = []
    left_over: dict[OpNode, str] = {}
    folded: set[OpNode] = set()
    for op in graph.find_ops("BatchNormalization"):
        reason = _norm_obstacle(op, uses)
        if reason is None:
            before = _layer_before(op, folded, uses)
            behind = _layer_behind(op, uses)
            if isinstance(before, OpNode):
                pairs.append((layer_of(before), _norm_of(op)))
                folded.add(op)
                continue
            if isinstance(behind, OpNode):
                pairs.append((_norm_of(op), layer_of(behind)))
                continue
            reason = f"before it: {before}; behind it: {behind}"
        left_over[op] = reason
    return pairs, left_over


def _norm_of(op: OpNode) -> _BatchNorm:
    assert isinstance(op.module, _BatchNorm)
    return op.module


def _norm_obstacle(op: OpNode, uses: ModuleUses) -> str | None:
    if not isinstance(op.module, _BatchNorm):
        return "it is a function call, which no module can stand for"
    if op.module.running_mean is None:
        return "it has no running statistics (track_running_stats=False)"
    # Without affine parameters there is no weight that others could share.
    if op.module.weight is None and uses.call_count(op.module) == 1:
        return None
    return uses.obstacle(op.module)


def _layer_before(op: OpNode, folded: set[OpNode], uses: ModuleUses) -> OpNode | str:
    """The layer whose outputs ``op`` normalizes, or why there is none."""
    producer = op.inputs[0].producer
    while producer is not None:
        reader = single_reader(producer)
        if isinstance(reader, str):
            return f"`{producer.name}`: {reader}"
        if producer.op_type not in _TRANSPARENT and producer not in folded:
            return _fit(producer, producer.outputs[0], uses)
        producer = producer.inputs[0].producer
    return "the input of the model"


def _layer_behind(op: OpNode, uses: ModuleUses) -> OpNode | str:
    """The layer that reads nothing but the result of ``op``, or why there is none."""
    reader = single_reader(op)
    while not isinstance(reader, str) and reader[0].op_type in _TRANSPARENT:
        reader = single_reader(reader[0])
    if isinstance(reader, str):
        return reader
    layer, index = reader
    fit = _fit(layer, layer.inputs[index], uses)
    if isinstance(fit, str) or not has_zero_padding(layer_of(layer)):
        return fit
    if is_transposed(layer_of(layer)):
        return f"`{layer.name}` is a transposed convolution, whose borders see fewer elements"
    return f"`{layer.name}` pads with zeros"


def _fit(op: OpNode, value: Value, uses: ModuleUses) -> OpNode | str:
    """``op`` if it is a layer whose channels in ``value`` are those of a batch normalization."""
    if not isinstance(op.module, LAYER_TYPES):
        return f"`{op.name}` ({op.op_type})"
    if channel_axis(op.module, value) != 1:
        return f"`{op.name}` has its channels in another dimension"
    obstacle = uses.obstacle(op.module)
    return op if obstacle is None else f"`{op.name}`: {obstacle}"


# ------------------------------------------------------------------------------------ arithmetic


def _layer_and_norm(first: nn.Module, second: nn.Module) -> FoldedPair:
    if isinstance(first, LAYER_TYPES) and isinstance(second, _BatchNorm):
        return first, second
    if isinstance(first, _BatchNorm) and isinstance(second, LAYER_TYPES):
        return second, first
    raise TypeError(
        "fold_given_batch_norms: `layer_pairs` must hold pairs of one convolution or linear layer "
        f"and one batch normalization, got ({type(first).__name__}, {type(second).__name__})"
    )


def _fold(first: nn.Module, second: nn.Module) -> FoldedPair:
    layer, norm = _layer_and_norm(first, second)
    mean, var = _statistics(norm)
    weight, bias = fold_batch_norm(
        layer.weight,
        layer.bias,
        mean,
        var,
        norm.weight,
        norm.bias,
        norm.eps,
        groups=getattr(layer, "groups", 1),
        transposed=is_transposed(layer),
        fold_into_next=layer is second,
    )
    layer.weight.copy_(weight)
    set_bias(layer, bias)
    return layer, norm


def _affine_obstacle(op: OpNode, uses: ModuleUses) -> str | None:
    """Why a batch normalization cannot become affine in place; repeated calls are no reason."""
    if not isinstance(op.module, _BatchNorm) or op.module.running_mean is None:
        return _norm_obstacle(op, uses)
    return uses.sharing(op.module)


def _statistics(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


def _make_affine(norm: _BatchNorm) -> None:
    mean, var = _statistics(norm)
    scale, shift = merge_batch_norm_statistics(mean, var, norm.weight, norm.bias, norm.eps)
    if norm.weight is None:
        norm.weight, norm.bias = nn.Parameter(scale), nn.Parameter(shift)
        norm.affine = True
    else:
        norm.weight.copy_(scale)
        set_bias(norm, shift)
    mean.zero_()
    var.fill_(1.0)
    norm.eps = 0.0
