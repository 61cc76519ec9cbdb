"""Training a quantized network to agree with the network it was made from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aimet_torch.quantsim.calibration import evaluation_mode

__all__ = ["DistillationLoss"]


class DistillationLoss(nn.Module):
    """Loss of a student against its FP32 teacher, and against labels where there are some.

    ``(1 - w) task(student, labels) + w T^2 KL(softmax(teacher / T) || softmax(student / T))``,
    averaged over the batch (Hinton et al., arXiv 1503.02531, section 2). Without labels the
    second term alone, without w.

        criterion = DistillationLoss(model)
        loss = criterion(sim.model(images), images, labels)

    The teacher runs in evaluation mode without gradients; it is no submodule, so an optimizer
    never sees it, and `to()` leaves it where it is.

    Args:
        teacher: the FP32 network; takes the student's inputs.
        weight: w, 0 to 1.
        temperature: T; 1 in the LSQ paper.
        task_loss: of (student's output, labels).
        kind: "kl" on class scores in the last dimension; "mse" compares outputs of any kind.

    Raises:
        TypeError: ``teacher`` is not a module.
        ValueError: weight, temperature or kind out of range.
    """

    def __init__(
        self,
        teacher: nn.Module,
        weight: float = 0.5,
        temperature: float = 1.0,
        task_loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
        kind: str = "kl",
    ) -> None:
        super().__init__()
        if not isinstance(teacher, nn.Module):
            raise TypeError(
                f"DistillationLoss: `teacher` must be an nn.Module, got {type(teacher).__name__}"
            )
        if not 0 <= weight <= 1:
            raise ValueError(f"DistillationLoss: `weight` must be from 0 to 1, got {weight}")
        if not temperature > 0:
            raise ValueError(f"DistillationLoss: `temperature` must be positive, got {temperature}")
        if kind not in ("kl", "mse"):
            raise ValueError(f'DistillationLoss: `kind` must be "kl" or "mse", got {kind!r}')
        self._teacher = (teacher,)
        self.weight = weight
        self.temperature = temperature
        self.task_loss = task_loss
        self.kind = kind

    def forward(self, output: Tensor, inputs: Any, labels: Tensor | None = None) -> Tensor:
        """The loss.

        Args:
            output: the student's, floating.
            inputs: what the student got: a tensor, a tuple of positional or a dict of keyword
                inputs.
            labels: for the task loss; None leaves it out.

        Returns:
            A scalar.
        """
        target = self._teach(inputs)
        if self.kind == "mse":
            distance = F.mse_loss(output, target)
        else:
            classes = output.shape[-1]
            distance = self.temperature**2 * F.kl_div(
                F.log_softmax(output.reshape(-1, classes) / self.temperature, -1),
                F.log_softmax(target.reshape(-1, classes) / self.temperature, -1),
                reduction="batchmean",
                log_target=True,
            )
        if labels is None:
            return distance
        return (1 - self.weight) * self.task_loss(output, labels) + self.weight * distance

    def _teach(self, inputs: Any) -> Tensor:
        (teacher,) = self._teacher
        with evaluation_mode(teacher), torch.no_grad():
            if isinstance(inputs, dict):
                return teacher(**inputs)
            return teacher(*inputs) if isinstance(inputs, (tuple, list)) else teacher(inputs)
