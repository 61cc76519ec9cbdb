"""Sequential MSE: ranges of weights with the least error of each layer's output.

AIMET's technique under AIMET's names; the error comes from the Gram matrix of the layer's inputs
and is exact. See ``docs/rounding.md``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from aimet_torch.ops.reconstruction import seq_mse_range
from aimet_torch.ptq.layer_rounding import LayerResult
from aimet_torch.ptq.layerwise import LayerTask, LayerwiseReport
from aimet_torch.ptq.sim_weights import layers_of, solve_simulation
from aimet_torch.quantsim import QuantizationSimModel

__all__ = ["SeqMseParams", "apply_seq_mse"]


@dataclasses.dataclass
class SeqMseParams:
    """Settings in the form of AIMET 2.0.

    Args:
        num_batches: Batches that are used; None: all.
        num_candidates: Ranges tried for each channel or block.
        inp_symmetry: Which inputs both sides of the error are computed on: "symqt", those of the
            quantized network, or "symfp", those of the original one.
        loss_fn: "mse"; the others have no Gram form.
        forward_fn: ``forward_fn(model, batch)`` runs the model.
    """

    num_batches: int | None = None
    num_candidates: int = 20
    inp_symmetry: str = "symqt"
    loss_fn: str = "mse"
    forward_fn: Callable[[nn.Module, Any], Any] | None = None

    def __post_init__(self) -> None:
        if self.inp_symmetry not in ("symqt", "symfp"):
            raise NotImplementedError(
                "SeqMseParams: `inp_symmetry` must be 'symqt' or 'symfp', got "
                f"{self.inp_symmetry!r}; for different inputs on both sides use apply_gptq or "
                "Adaround"
            )
        if self.loss_fn != "mse":
            raise NotImplementedError(
                f"SeqMseParams: `loss_fn` must be 'mse', got {self.loss_fn!r}: only a squared "
                "error follows from second moments"
            )


def apply_seq_mse(
    sim: QuantizationSimModel,
    data_loader: Iterable[Any],
    num_candidates: int = 20,
    forward_fn: Callable[[nn.Module, Any], Any] | None = None,
    modules_to_exclude: Iterable[nn.Module | str] | None = None,
    checkpoints_config: str | None = None,
    cache_dir: str | None = None,
    *,
    num_batches: int | None = None,
    inp_symmetry: str = "symqt",
    max_bitwidth: int = 4,
    cache_budget: int | None = None,
    process_group: Any = None,
) -> LayerwiseReport:
    """Choose the ranges of a simulation's weights one layer after the other; freeze them.

    Args:
        sim: Its weight quantizers get ranges; weights stay as they are.
        data_loader: Unlabeled batches.
        num_candidates: ``k / num_candidates`` of each channel's or block's min-max range are tried.
        forward_fn: ``forward_fn(model, batch)`` runs the model; None: a batch is an input, a
            mapping, or a tuple or list of inputs and labels.
        modules_to_exclude: Modules, or their names, that are left out.
        checkpoints_config: Of AIMET, which runs blocks of a model from files; needless here, where
            the network is walked once, and ignored.
        cache_dir: Likewise; ``cache_budget`` limits the memory.
        num_batches: How many batches; None: all.
        inp_symmetry: See :class:`SeqMseParams`.
        max_bitwidth: Weights with more bits are left out, as AIMET does.
        cache_budget: Bytes of activations in memory; None: a quarter of what is free.
        process_group: A ``torch.distributed.ProcessGroup`` whose ranks all call this, each with its
            part of the data, and share the work; all get the same result. None: this process alone.

    Returns:
        What became of each layer.

    The form of AIMET 2.0, ``apply_seq_mse(model, sim, data_loader, params)``, works too.

    Raises:
        TypeError, ValueError: Arguments that make no sense; the message says which and why.
    """
    if isinstance(sim, nn.Module):
        return _apply_in_old_form(data_loader, num_candidates, forward_fn)
    params = SeqMseParams(num_batches, num_candidates, inp_symmetry, "mse", forward_fn)
    quantizers = {
        name: quantizer
        for name, quantizer in layers_of("apply_seq_mse", sim, modules_to_exclude).items()
        if getattr(quantizer, "bitwidth", 32) <= max_bitwidth
    }
    return solve_simulation(
        sim,
        data_loader,
        quantizers,
        lambda task: _solve(task, params.num_candidates),
        num_batches=params.num_batches,
        forward_fn=params.forward_fn,
        cache_budget=cache_budget,
        process_group=process_group,
        description="SeqMSE",
        keeps_weights=True,
        on_original_inputs=inp_symmetry == "symfp",
    )


def _apply_in_old_form(sim: Any, data_loader: Any, params: Any) -> LayerwiseReport:
    if not isinstance(params, SeqMseParams):
        raise TypeError(
            "apply_seq_mse: with a model as first argument it is called as (model, sim, "
            f"data_loader, params) with SeqMseParams, got {type(params).__name__}"
        )
    return apply_seq_mse(
        sim,
        data_loader,
        params.num_candidates,
        params.forward_fn,
        num_batches=params.num_batches,
        inp_symmetry=params.inp_symmetry,
    )


def _solve(task: LayerTask, num_candidates: int) -> LayerResult:
    view, grid = task.view, task.grid
    quantizer = grid.quantizer
    weight = view.matrices(view.layer.weight.detach()).double().cpu()
    split = weight.reshape(view.groups, view.outputs, grid.blocks, -1)
    low, high = split.amin(3).clamp(max=0), split.amax(3).clamp(min=0)
    gram = task.sums.gram
    limits = (quantizer.qmin, quantizer.qmax, quantizer.symmetric)
    if grid.is_shared:
        raise NotImplementedError(
            f"apply_seq_mse: the grid of `{task.name}` is shared by its output channels; use "
            "per-channel quantization, or leave the layer out with `modules_to_exclude`"
        )
    minimum, maximum, loss = seq_mse_range(
        weight, gram, low, high, grid.blocks, *limits, num_candidates
    )
    _, _, widest = seq_mse_range(weight, gram, low, high, grid.blocks, *limits, 1)
    quantizer.set_range(view.parameter_of(grid, minimum), view.parameter_of(grid, maximum))
    scale, offset = quantizer.get_scale(), quantizer.get_offset()
    assert scale is not None
    assert offset is not None
    repeat = view.inputs // grid.blocks
    scale, offset = (
        view.rows_of(grid, t.detach().double()).repeat_interleave(repeat, dim=2)
        for t in (scale, offset)
    )
    codes = ((weight / scale).round() - offset).clamp(quantizer.qmin, quantizer.qmax)
    bias = None if view.layer.bias is None else view.layer.bias.detach()
    total = float(task.sums.total.sum()) / view.groups
    return LayerResult(
        codes,
        view.parameter_of(grid, minimum),
        view.parameter_of(grid, maximum),
        bias if bias is None else torch.as_tensor(bias),
        float(loss.sum()) / max(total, 1.0),
        float(widest.sum()) / max(total, 1.0),
    )
