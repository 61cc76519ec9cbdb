"""What a layer should give, and what of it counts, when the layers before it have changed."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from aimet_torch.graph import OpNode, skip_identity
from aimet_torch.ptq.layer_view import LayerView
from aimet_torch.ptq.replay import Replay

__all__ = ["clamp_of", "importance_of", "residual_of"]

_CLIPPED_IMPORTANCE = 0.1


def importance_of(view: LayerView, output: Tensor, clamp: tuple[float, float]) -> Tensor | None:
    """What the positions of a depthwise layer count: little where the activation cuts them off.

    Other layers share one Gram matrix among their outputs, which are cut off at different
    positions.
    """
    low, high = clamp
    if view.outputs != 1 or view.groups == 1 or (low == -torch.inf and high == torch.inf):
        return None
    return torch.where((output > low) & (output < high), 1.0, _CLIPPED_IMPORTANCE)


def clamp_of(op: OpNode | None) -> tuple[float, float]:
    """What an operation clamps to; infinite where it does something else."""
    if op is not None and isinstance(op.module, nn.Hardtanh):  # ReLU6 too
        return float(op.module.min_val), float(op.module.max_val)
    is_rectifier = op is not None and op.op_type == "Relu"
    return (0.0 if is_rectifier else float("-inf")), float("inf")


def residual_of(replay: Replay, op: OpNode) -> fx.Node | None:
    """What is added to the output of ``op`` and to nothing else, if it has an error by now."""
    following = skip_identity(op.next_op())
    if following is None or following.op_type != "Add" or len(following.inputs) != 2:
        return None
    shape = op.outputs[0].shape
    for value in following.inputs:
        is_other = value.producer is not None and value.producer is not op
        node = value.fx_node
        if is_other and node is not None and value.shape == shape and replay.is_known(node):
            return node if replay.is_changed(node) else None
    return None
