"""Optimizes the weights of a block's layers together, against what the block gave in FP32.

Source: Li et al. 2021 (BRECQ, arXiv 2102.05426), section 3.2; Wei et al. 2022 (QDrop, arXiv
2203.05740), section 3.3. What is learned, and how it starts: ``docs/rounding.md``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from aimet_torch.ops.adaround import (
    adaround_alpha,
    adaround_beta,
    adaround_quantize_dequantize,
    adaround_step_,
)
from aimet_torch.ptq.activation_sites import ActivationSites
from aimet_torch.ptq.blocks import Block
from aimet_torch.ptq.layer_rounding import LayerResult
from aimet_torch.ptq.layer_view import LayerView, WeightGrid, run_layer
from aimet_torch.ptq.replay import call_node

__all__ = [
    "BlockData",
    "BlockSettings",
    "SoftLayer",
    "block_error",
    "forward_block",
    "optimize_block",
]

#: How far from their code, in steps, soft weights start: on the side of the target, and much less
#: than half a step. Codes of error feedback are good together and not one by one: half way to the
#: target the error is several times that of the start.
_LEASH = (0.02, 0.1)
#: Of the iterations, at the end: codes are fixed, scales and biases follow them.
_SETTLING = 0.2


@dataclasses.dataclass
class BlockSettings:
    """How a block is optimized; see ``BlockReconstructionParameters``."""

    iterations: int
    learning_rate: float
    scale_learning_rate: float
    range_learning_rate: float
    reg_param: float
    beta_range: tuple[float, float]
    warm_start: float
    fixes_codes: bool = False


@dataclasses.dataclass
class BlockData:
    """What a block sees and should give, by batch.

    Attributes:
        inputs: Values of the block's inputs in the quantized network; of a training batch perhaps
            mixed with those of the original one.
        wanted: The block's result in the original network.
        importance: Weight of each element of the result, None: all alike.
        order: The batch of each iteration.
    """

    inputs: Callable[[int], dict[fx.Node, Any]]
    wanted: Callable[[int], Tensor]
    importance: Callable[[int], Tensor | None]
    order: list[int]


class SoftLayer:
    """A layer whose codes, scales and biases are optimized.

    Args:
        view: The layer.
        grid: Of its weight.
        result: Where it starts; with its target, unless codes shall stay.
        learns_scales: Scales move along.
    """

    def __init__(
        self, view: LayerView, grid: WeightGrid, result: LayerResult, learns_scales: bool
    ) -> None:
        quantizer = grid.quantizer
        self.view, self.grid, self.start = view, grid, result
        self.qmin, self.qmax = quantizer.qmin, quantizer.qmax
        like = view.layer.weight.detach()

        def of_weight(parameter: Tensor | None) -> Tensor:
            assert parameter is not None
            rows = view.spread(grid, parameter.detach().cpu().float())
            return view.weight_of(rows).contiguous().to(like.device)

        self.scale = of_weight(quantizer.get_scale())
        self.offset = of_weight(quantizer.get_offset())
        codes = view.weight_of(result.codes.float()).to(like.device)
        start = (codes + self.offset) * self.scale
        self.base = start
        if result.target is not None:
            target = view.weight_of(result.target.float()).to(like.device)
            distance = (target - start) / self.scale
            least, most = _LEASH
            self.base = start + self.scale * torch.copysign(
                distance.abs().clamp(least, most), distance
            )
        self.alpha = adaround_alpha(self.base, self.scale)
        self.exp_avg, self.exp_avg_sq = (torch.zeros_like(self.alpha) for _ in range(2))
        self.soft = torch.empty(0)
        self.log_factor = torch.zeros(quantizer.shape, requires_grad=learns_scales)
        self.has_bias = view.layer.bias is not None and result.bias is not None
        self.shift = torch.zeros(0)
        if self.has_bias:
            assert result.bias is not None
            self.bias = result.bias.to(like)
            self.shift = torch.zeros_like(self.bias, requires_grad=True)
        #: What a shift of one means: about the noise that rounding puts on an output.
        self.unit = float(self.scale.mean()) * math.sqrt(view.inputs / 12)

    def learned(self) -> list[Tensor]:
        """Scales and biases."""
        return [p for p in (self.log_factor, self.shift) if p.requires_grad]

    def prepare(self, hard: bool) -> tuple[Tensor, Tensor | None]:
        """Weight and bias for one pass; with soft codes the weight collects a gradient."""
        with torch.no_grad():
            self.soft = adaround_quantize_dequantize(
                self.base, self.alpha, self.scale, self.offset, self.qmin, self.qmax, hard
            )
        if not hard:
            self.soft.requires_grad_()
        weight = self.soft
        if self.log_factor.requires_grad:
            rows = self.view.spread(self.grid, self.log_factor.exp())
            weight = weight * self.view.weight_of(rows).to(weight)
        weight = weight.to(self.view.layer.weight.dtype)
        return weight, (self.bias + self.shift * self.unit if self.has_bias else None)

    def step(self, beta: float, reg_param: float, learning_rate: float, step: int) -> None:
        """Move alpha by the gradient that the last pass has left."""
        gradient = self.soft.grad
        if gradient is None:
            return
        adaround_step_(
            self.alpha, self.exp_avg, self.exp_avg_sq, gradient, self.base, self.scale,
            self.offset, self.qmin, self.qmax, beta, reg_param, learning_rate, step,
        )  # fmt: skip

    @torch.no_grad()
    def result(self) -> LayerResult:
        """What the layer has come to, with hard codes."""
        hard = adaround_quantize_dequantize(
            self.base, self.alpha, self.scale, self.offset, self.qmin, self.qmax, True
        )
        codes = (hard / self.scale - self.offset).round().clamp(self.qmin, self.qmax)
        factor = self.log_factor.detach().double().exp()
        bias = self.start.bias
        if self.has_bias:
            bias = (self.bias.double() + self.shift.double() * self.unit).cpu()
        return dataclasses.replace(
            self.start,
            codes=self.view.matrices(codes).double().cpu(),
            min=self.start.min.double() * factor,
            max=self.start.max.double() * factor,
            bias=bias,
            target=None,
        )


def forward_block(
    model: nn.Module,
    block: Block,
    inputs: Mapping[fx.Node, Any],
    weights: Mapping[fx.Node, tuple[Tensor, Tensor | None]],
    sites: ActivationSites | None,
) -> Tensor:
    """The result of a block with these weights and biases, activations quantized as ``sites`` say.

    Args:
        model: Holds the modules.
        block: The block.
        inputs: Value of each of its inputs.
        weights: Weight and bias by layer; layers without an entry keep theirs.
        sites: None: activations stay as they are.
    """
    values = dict(inputs)
    for node in block.nodes:
        args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        if sites is not None:
            args, kwargs = sites.inputs(node, args, kwargs)
        if node in weights:
            layer: Any = block.layers[node].module
            result = run_layer(layer, *weights[node], args)
        else:
            result = call_node(model, node, args, kwargs)
        values[node] = result if sites is None else sites.output(node, result)
    return values[block.exit]


def optimize_block(
    model: nn.Module,
    block: Block,
    layers: Mapping[fx.Node, SoftLayer],
    data: BlockData,
    start_error: float,
    settings: BlockSettings,
    sites: ActivationSites | None,
) -> None:
    """Optimize codes, scales and biases of a block's layers, and its ranges of activations.

    Args:
        model: Holds the modules.
        block: The block.
        layers: Changed in place.
        data: Batches in the order in which they are used.
        start_error: Mean (weighted) squared error of the start; it makes the loss a share.
        settings: Numbers.
        sites: None: activations stay as they are. Ranges of its quantizers are changed in place.
    """
    weight_count = sum(layer.base.numel() for layer in layers.values())
    # Per weight, so that regularizer and learning rates mean the same in every block.
    factor = weight_count / max(start_error, 1e-30)
    groups: list[dict[str, Any]] = []
    for layer in layers.values():
        groups.append({"params": layer.learned(), "lr": settings.scale_learning_rate})
    quantizers = [] if sites is None else sites.learnable(block.nodes)
    with _learning(quantizers):
        for quantizer in quantizers:
            width = float((quantizer.max - quantizer.min).detach().abs().max())
            rate = settings.range_learning_rate * width
            groups.append({"params": [quantizer.min, quantizer.max], "lr": rate})
        groups = [group for group in groups if group["params"]]
        adam = torch.optim.Adam(groups) if groups else None
        for group in groups:
            group["initial_lr"] = group["lr"]
        count = len(data.order)
        soft_count = 0 if settings.fixes_codes else count - round(_SETTLING * count)
        for iteration, batch in enumerate(data.order):
            is_hard = iteration >= soft_count
            if is_hard and adam is None:
                break
            weights = {node: layer.prepare(is_hard) for node, layer in layers.items()}
            output = forward_block(model, block, data.inputs(batch), weights, sites)
            loss = block_error(output, data.wanted(batch), data.importance(batch)) * factor
            if adam is not None:
                cosine = 0.5 * (1 + math.cos(math.pi * iteration / count))
                for group in adam.param_groups:
                    group["lr"] = group["initial_lr"] * cosine
                adam.zero_grad()
            loss.backward()
            if adam is not None:
                adam.step()
            if not is_hard:
                beta = adaround_beta(
                    iteration, soft_count, *settings.beta_range, settings.warm_start
                )
                for layer in layers.values():
                    layer.step(beta, settings.reg_param, settings.learning_rate, iteration + 1)


def block_error(output: Tensor, wanted: Tensor, importance: Tensor | None) -> Tensor:
    """Mean of the squared errors, weighted where there is an importance."""
    squares = (output - wanted).square()
    return (squares if importance is None else squares * importance).mean()


@contextlib.contextmanager
def _learning(quantizers: list[Any]) -> Iterator[None]:
    """Within it the ranges of quantizers collect gradients."""
    parameters = [p for q in quantizers for p in (q.min, q.max)]
    before = [p.requires_grad for p in parameters]
    try:
        for parameter in parameters:
            parameter.requires_grad_()
        yield
    finally:
        for parameter, needed in zip(parameters, before, strict=True):
            parameter.grad = None
            parameter.requires_grad_(needed)
