"""A model whose layers are replaced by low-rank factors."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from aimet_torch.common.defs import CostMetric
from aimet_torch.compression.cost import estimate_cost
from aimet_torch.compression.fitting import FittingWalk
from aimet_torch.compression.layers import (
    SCHEMES,
    Choice,
    choices_for,
    factor_modules,
    obstacle,
    truncated,
)
from aimet_torch.compression.results import CompressedModel, LayerFactorization
from aimet_torch.compression.tensor_factors import TENSOR_SCHEMES, decompose
from aimet_torch.graph import trace
from aimet_torch.ptq.layers import LAYER_TYPES, LayerType, ModuleUses
from aimet_torch.ptq.layers import replace_modules as _replace_modules
from aimet_torch.ptq.replay import count_inputs, record_inputs

__all__ = ["factorize"]


def factorize(
    model: nn.Module,
    dummy_input: Any,
    ratios: float | Mapping[str, float],
    *,
    scheme: str | Mapping[str, str] = "auto",
    metric: CostMetric = CostMetric.mac,
    multiplicity: int = 1,
    modules_to_ignore: Iterable[nn.Module] = (),
    data: Iterable[Any] | None = None,
    forward_fn: Callable[[nn.Module, Any], Any] | None = None,
    num_batches: int | None = None,
    refit: bool = True,
) -> CompressedModel:
    """Replace layers of a copy of ``model`` by two smaller ones each.

    Without data each weight is truncated (SVD). With data, the factors have the least error of the
    layer's outputs: layer by layer in the order of the graph, from the inputs that a layer gets in
    the compressed model to the outputs that it gave in the original one. A layer that is called
    several times, and parts that cannot be traced, are truncated all the same.

    Args:
        model: Left as it is. Its layers are convolutions (1 to 3 dimensions, transposed or not,
            with groups, stride, padding and dilation) and linear ones.
        dummy_input: A tensor, a tuple or list of positional arguments, or a dict: what the model is
            traced on and costs are counted for.
        ratios: Cost of the factors over that of the layer, in (0, 1], by dotted name; or one for
            all layers. 1 leaves a layer as it is.
        scheme: ``spatial`` (two one-dimensional kernels, AIMET's), ``weight`` (1 x 1 and the
            kernel, AIMET's), their mirror images ``spatial_horizontal`` and ``weight_output``, or
            ``auto``: for each layer the one of the four that loses least at the same cost; or one
            of these for each layer, by dotted name (others: ``auto``). ``tucker`` and ``cp``
            decompose convolutions into three layers and more; they need tensorly (``pip install
            aimet-torch[tensor]``) and no data.
        metric: What ``ratios`` compare: multiply-accumulates or weights.
        multiplicity: Ranks are rounded up to multiples of this.
        modules_to_ignore: Layers that keep their shape.
        data: Batches without labels: inputs, or tuples that begin with them; None: no data.
        forward_fn: ``forward_fn(model, batch)``, where a batch is something else.
        num_batches: How many batches; None: all.
        refit: With data, fit the weights of all other layers, too, so that they make up for what
            those before them lost.

    Returns:
        The copy and what became of each layer. New layers are modules of ``torch.nn``, in
        ``nn.Sequential`` under the layer's name; with data they have a bias.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: A ratio, name, scheme or number is not valid.
        ImportError: ``scheme`` needs tensorly, which is not installed.
    """
    op = "factorize"
    if not isinstance(model, nn.Module):
        raise TypeError(f"{op}: `model` must be an nn.Module, got {type(model).__name__}")
    schemes = scheme if isinstance(scheme, Mapping) else {}
    for given in schemes.values() if isinstance(scheme, Mapping) else (scheme,):
        known = (*SCHEMES, *TENSOR_SCHEMES)
        if given not in known:
            raise ValueError(f"{op}: `scheme` must be one of {', '.join(known)}, got {given!r}")
        if given in TENSOR_SCHEMES and data is not None:
            raise ValueError(
                f"{op}: `data` cannot be used with `scheme` {given!r}, whose factors are those "
                "next to the weight; leave it out, and fine-tune"
            )
    if multiplicity < 1:
        raise ValueError(f"{op}: `multiplicity` must be positive, got {multiplicity}")
    wanted = _wanted(op, model, ratios, {id(module) for module in modules_to_ignore})

    work = copy.deepcopy(model)  # what the trace runs on, so that the user's model stays as it is
    graph = trace(work, dummy_input)
    uses = ModuleUses(graph)
    choices: dict[str, list[Choice]] = {}
    rows: dict[str, LayerFactorization] = {}
    replacements: dict[str, nn.Module] = {}
    for name, ratio in wanted.items():
        layer: Any = work.get_submodule(name)
        kind = type(layer).__name__
        own = schemes.get(name, "auto") if isinstance(scheme, Mapping) else scheme
        found: list[Choice] | str | None = obstacle(graph, uses, name, layer)
        if found is None and ratio == 1:
            found = "nothing to save at a ratio of 1"
        if found is None and own in TENSOR_SCHEMES:
            rows[name], made = decompose(name, layer, own, ratio, metric, multiplicity)
            replacements.update({} if made is None else {name: made})
            continue
        if found is None:
            found = choices_for(layer, own, ratio, metric, multiplicity)
        if isinstance(found, str):
            rows[name] = LayerFactorization(name, kind, ratio, note=found)
        else:
            choices[name] = found
    walk = None if data is None else FittingWalk(graph, uses, choices, wanted, refit)
    for name, options in choices.items():
        reason = None if walk is None else walk.reason_against(name)
        if walk is None or reason is not None:
            layer = work.get_submodule(name)
            rows[name], replacements[name] = _truncate(name, layer, wanted[name], options, reason)
    if walk is not None and data is not None:
        count = count_inputs(work, dummy_input)
        walk.run(record_inputs(work, data, forward_fn, num_batches, count), replacements)
        replacements.update(walk.replacements)
        rows.update({name: _with_note(row, rows.get(name)) for name, row in walk.rows.items()})
    compressed = _with_modules(copy.deepcopy(model), replacements)
    order = [name for name, _ in model.named_modules() if name in rows]
    before, after = (estimate_cost(m, dummy_input) for m in (model, compressed))
    return CompressedModel(compressed, [rows[name] for name in order], before, after)


def _wanted(
    op: str, model: nn.Module, ratios: float | Mapping[str, float], ignored: set[int]
) -> dict[str, float]:
    layers = dict(model.named_modules())
    if isinstance(ratios, Mapping):
        unknown = [name for name in ratios if name not in layers]
        if unknown:
            raise ValueError(
                f"{op}: `ratios` names {unknown[0]!r}, which is no module of the model"
            )
        wanted = {name: float(ratio) for name, ratio in ratios.items()}
    else:
        wanted = {
            name: float(ratios)
            for name, module in layers.items()
            if isinstance(module, LAYER_TYPES)
        }
    for name, ratio in wanted.items():
        if not 0 < ratio <= 1:
            raise ValueError(f"{op}: `ratios` must be in (0, 1], got {ratio} for {name!r}")
    return {name: ratio for name, ratio in wanted.items() if id(layers[name]) not in ignored}


def _truncate(
    name: str, layer: LayerType, ratio: float, choices: list[Choice], reason: str | None
) -> tuple[LayerFactorization, nn.Module]:
    splits = [truncated(layer, choice) for choice in choices]
    index = min(range(len(splits)), key=lambda i: float(splits[i][2]))
    choice, (first, second, error) = choices[index], splits[index]
    row = LayerFactorization(
        name,
        type(layer).__name__,
        ratio,
        choice.ratio,
        choice.factorization,
        choice.rank,
        choice.cost.max_rank,
        float(error),
        note="" if reason is None else f"truncated without data: {reason}",
    )
    return row, factor_modules(layer, choice.factorization, first, second, layer.bias)


def _with_note(row: LayerFactorization, earlier: LayerFactorization | None) -> LayerFactorization:
    """A fitted layer that was asked for and keeps its shape also says why."""
    if earlier is None:
        return row
    return dataclasses.replace(row, asked=earlier.asked, note=f"{earlier.note}; {row.note}")


def _with_modules(model: nn.Module, replacements: Mapping[str, nn.Module]) -> nn.Module:
    modules = {model.get_submodule(name): module for name, module in replacements.items()}
    with torch.no_grad():
        _replace_modules(model, modules)
    return model
