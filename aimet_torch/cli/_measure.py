"""How well a model agrees with another on data without labels, and with labels where there are."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.common.progress import progress
from aimet_torch.graph import bind_inputs
from aimet_torch.graph.structure import leaves
from aimet_torch.quantsim.calibration import evaluation_mode
from aimet_torch.report import Step, sqnr_db, top1_agreement

__all__ = ["accuracy_of", "outputs_of", "step", "to_device"]


def outputs_of(model: nn.Module, batches: Sequence[Any], description: str) -> list[Tensor]:
    """First floating-point result of a model for each batch, on the CPU.

    Raises:
        ValueError: there is none.
    """
    outputs = []
    with evaluation_mode(model):
        for batch in progress(batches, description, unit="batch"):
            args, kwargs = bind_inputs(model, batch)
            found = [t for t in leaves(model(*args, **kwargs)) if t.is_floating_point()]
            if not found:
                raise ValueError("the model returns no floating-point tensor to measure")
            outputs.append(found[0].detach().cpu().float())
    return outputs


def accuracy_of(outputs: Sequence[Tensor], labels: Sequence[Tensor]) -> float | None:
    """Share of samples whose largest output is at their label; None without labels."""
    if not labels or any(output.dim() != 2 for output in outputs):
        return None
    hits = [
        (output.argmax(1) == label.cpu()).sum().item()
        for output, label in zip(outputs, labels, strict=True)
    ]
    return sum(hits) / max(sum(len(label) for label in labels), 1)


def step(
    name: str,
    start: float,
    reference: Sequence[Tensor],
    outputs: Sequence[Tensor],
    labels: Sequence[Tensor],
    detail: str = "",
) -> Step:
    """The row of a model in the table of a run.

    Args:
        name: As a person would say it.
        start: When work on it began, of `time.perf_counter`.
        reference: FP32's outputs, one tensor for each batch.
        outputs: Those of the model.
        labels: Of each batch; empty: there are none.
        detail: One sentence about it.
    """
    seconds = time.perf_counter() - start
    if not outputs:
        return Step(name, seconds, detail=detail)
    expected, actual = (torch.cat([o.flatten(1) for o in side]) for side in (reference, outputs))
    is_scores = outputs[0].dim() == 2 and outputs[0].shape[1] > 1
    accuracy = accuracy_of(outputs, labels)
    told = [f"accuracy {100 * accuracy:.2f} %"] if accuracy is not None else []
    return Step(
        name,
        seconds,
        top1_agreement(expected, actual) if is_scores else None,
        sqnr_db(expected, actual),
        "; ".join([*told, detail] if detail else told),
    )


def to_device(value: Any, device: str) -> Any:
    """Nested tensors on another device."""
    return torch.utils._pytree.tree_map(
        lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, value
    )
