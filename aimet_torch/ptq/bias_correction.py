"""Bias correction: takes the mean error of every output channel out of the biases.

Rounded weights and clipped inputs shift the mean of what a layer computes. Empirical: the shift is
measured on data, layer by layer, each with the layers before it quantized and corrected already.
Analytic: it follows from the rounding errors of the weights and the mean of the inputs, which a
batch normalization before the layer knows. Source: Nagel et al. 2019 (arXiv 1906.04721), sections
4.2 and appendices C, D. AIMET's names, which it dropped in 2.31.
"""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from aimet_torch.graph import OpNode
from aimet_torch.ops.algorithms import add_channel_sums_, correct_bias_analytically
from aimet_torch.ptq.conv_bn_info import (
    ConvBnInfoType,
    expected_input,
    find_all_conv_bn_with_activation,
)
from aimet_torch.ptq.layers import (
    LAYER_TYPES,
    ModuleUses,
    bias_or_zeros,
    is_transposed,
    set_bias,
)
from aimet_torch.ptq.replay import Replay, record_inputs
from aimet_torch.ptq.value_cache import ValueCache
from aimet_torch.quantsim import QuantizationSimModel, QuantParams

__all__ = [
    "BiasCorrectionReport",
    "ConvBnInfoType",
    "correct_bias",
    "correct_biases_of_sim",
    "find_all_conv_bn_with_activation",
]


@dataclass
class BiasCorrectionReport:
    """What became of the biases.

    Attributes:
        empirical: Name of each layer that was measured -> the largest shift of a channel's mean
            that was taken out.
        analytic: Likewise, of the layers whose shift was computed.
        skipped: Name of each other layer -> why its bias is as it was.
    """

    empirical: dict[str, float] = field(default_factory=dict)
    analytic: dict[str, float] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)


def correct_bias(
    model: nn.Module,
    quant_params: QuantParams,
    num_quant_samples: int,
    data_loader: Iterable[Any],
    num_bias_correct_samples: int,
    conv_bn_dict: Mapping[nn.Module, ConvBnInfoType] | None = None,
    perform_only_empirical_bias_corr: bool = True,
    layers_to_ignore: Iterable[nn.Module] | None = None,
    *,
    cache_budget: int | None = None,
) -> BiasCorrectionReport:
    """Correct the biases of ``model`` for a quantization to come, in place.

    Args:
        model: Trained model, its batch normalizations folded. Layers without bias get one.
        quant_params: Of the simulation that the biases are corrected for.
        num_quant_samples: Samples that calibrate the simulation.
        data_loader: Batches of inputs, or of inputs followed by labels; no label is read.
        num_bias_correct_samples: Samples that the shifts are measured on.
        conv_bn_dict: From :func:`find_all_conv_bn_with_activation`, called before folding; for
            the analytic correction.
        perform_only_empirical_bias_corr: False: layers whose input comes from a batch
            normalization in ``conv_bn_dict`` are corrected analytically.
        layers_to_ignore: Layers of ``model`` whose biases stay.
        cache_budget: Bytes of activations kept in memory, the others go to a temporary folder;
            None: a quarter of the memory that is free.

    Returns:
        A report; AIMET returns nothing.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: A number is not positive, ``data_loader`` is empty, or ``conv_bn_dict`` is
            missing.

    Measure rather than trust: it helps networks whose rounding errors have a mean, such as those
    with depthwise layers and one scale per tensor. Together with AdaRound, which corrects means
    itself, it has nothing to add.
    """
    _check("correct_bias", model, num_quant_samples, num_bias_correct_samples)
    if not perform_only_empirical_bias_corr and conv_bn_dict is None:
        raise ValueError(
            "correct_bias: `conv_bn_dict` is needed when `perform_only_empirical_bias_corr` is "
            "False; make it with find_all_conv_bn_with_activation before folding batch norms"
        )
    names = {module: name for name, module in model.named_modules()}
    ignored = _names_of(layers_to_ignore or (), names)
    batches = _samples(data_loader, max(num_quant_samples, num_bias_correct_samples))
    calls = record_inputs(model, batches, None, None)
    prepared = _with_biases(model)
    sim = QuantizationSimModel(
        prepared,
        calls[0][0] or calls[0][1],
        quant_scheme=quant_params.quant_scheme,
        default_output_bw=quant_params.act_bw,
        default_param_bw=quant_params.weight_bw,
        config_file=quant_params.config_file,
        in_place=True,
    )
    sim.compute_encodings(_samples(batches, num_quant_samples))
    infos = {} if perform_only_empirical_bias_corr else dict(conv_bn_dict or {})
    expected = {
        names[layer]: expected_input(info)
        for layer, info in infos.items()
        if layer in names and info.input_bn is not None
    }
    report = correct_biases_of_sim(
        sim,
        _samples(batches, num_bias_correct_samples),
        expected_inputs=expected,
        layers_to_ignore=ignored,
        cache_budget=cache_budget,
    )
    with torch.no_grad():
        for name in (*report.empirical, *report.analytic):
            layer: Any = model.get_submodule(name)
            corrected: Any = sim.model.get_submodule(name)
            set_bias(layer, corrected.bias.detach().to(layer.weight))
    return report


def correct_biases_of_sim(
    sim: QuantizationSimModel,
    data_loader: Iterable[Any],
    *,
    expected_inputs: Mapping[str, Tensor] | None = None,
    layers_to_ignore: Iterable[str] = (),
    cache_budget: int | None = None,
) -> BiasCorrectionReport:
    """Correct the biases of a calibrated simulation, in place, for the quantizers it has.

    Args:
        sim: Calibrated. Layers without bias are left alone.
        data_loader: Batches of inputs, or of inputs followed by labels.
        expected_inputs: Name of a layer -> (in,), the means of its input channels: it is corrected
            analytically.
        layers_to_ignore: Names of layers whose biases stay.
        cache_budget: As for :func:`correct_bias`.

    Returns:
        A report.

    Raises:
        ValueError: ``data_loader`` is empty.
    """
    report = BiasCorrectionReport()
    graph = sim.graph
    uses = ModuleUses(graph)
    # What runs inside is replaced by quantized modules of the same names.
    inside = Counter(op.module_name for b in graph.boundaries for op in b.ops)
    wanted: dict[str, nn.Module] = {}
    for name, module in sim.named_qmodules():
        if not isinstance(module, LAYER_TYPES):
            continue
        obstacle = uses.obstacle(module)
        if inside[name] > 1:
            obstacle = f"it is called {inside[name]} times"
        if module.bias is None:
            obstacle = "it has no bias"
        if name in set(layers_to_ignore):
            obstacle = "it is to be ignored"
        if obstacle is None:
            wanted[name] = module
        else:
            report.skipped[name] = obstacle
    reference = QuantizationSimModel.get_original_model(sim.model)
    input_count = sim._positional_count()
    calls = record_inputs(sim.model, data_loader, None, None, input_count)
    modes = [(inner, inner.training) for inner in sim.model.modules()]
    sim.model.eval()
    reference.eval()
    try:
        with torch.no_grad():
            means = _output_means(reference, list(wanted), calls)
            corrector = _Corrector(wanted, means, dict(expected_inputs or {}), reference, report)
            if any(name in inside for name in wanted):
                for name in wanted:
                    corrector.correct_by_runs(name, sim.model, calls)
            else:
                with ValueCache(cache_budget) as cache:
                    corrector.correct_by_replay(Replay(graph, calls, cache))
    finally:
        for inner, training in modes:
            inner.training = training
    return report


class _Corrector:
    """Corrects one layer after the other."""

    def __init__(
        self,
        layers: Mapping[str, nn.Module],
        means: Mapping[str, Tensor],
        expected: Mapping[str, Tensor],
        reference: nn.Module,
        report: BiasCorrectionReport,
    ) -> None:
        self.layers, self.means, self.expected = layers, means, expected
        self.reference, self.report = reference, report
        for name in layers.keys() - means.keys():
            report.skipped[name] = "no batch reaches it"

    def correct_by_replay(self, replay: Replay) -> None:
        names = {id(module): name for name, module in self.layers.items() if name in self.means}

        def is_wanted(op: OpNode) -> bool:
            return id(op.module) in names

        for op in replay.layers(is_wanted, "Correcting biases"):
            module: Any = op.module

            def outputs(op: OpNode = op, module: Any = module) -> Iterator[Tensor]:
                for index in range(replay.batch_count):
                    yield module(*replay.operands(op, index, False))

            self._correct(names[id(module)], module, outputs)
            for index, output in enumerate(outputs()):
                replay.put_original(op, index, output)

    def correct_by_runs(self, name: str, model: nn.Module, calls: list[Any]) -> None:
        """Where layers are called by code that is not traced: the whole model once a layer."""
        if name not in self.means:
            return
        module: Any = self.layers[name]

        def outputs() -> Iterator[Tensor]:
            for args, kwargs in calls:
                seen: list[Tensor] = []
                hook = module.register_forward_hook(lambda m, i, output, s=seen: s.append(output))
                try:
                    model(*args, **kwargs)
                finally:
                    hook.remove()
                yield from seen

        self._correct(name, module, outputs)

    def _correct(self, name: str, module: Any, outputs: Callable[[], Iterable[Tensor]]) -> None:
        before = module.bias.detach().clone()
        if name in self.expected:
            original: Any = self.reference.get_submodule(name)
            quantizer = module.param_quantizers["weight"]
            weight = original.weight if quantizer is None else quantizer.simulate(original.weight)
            module.bias.copy_(
                correct_bias_analytically(
                    module.bias,
                    original.weight,
                    weight,
                    self.expected[name].to(module.bias.device),
                    groups=getattr(module, "groups", 1),
                    transposed=is_transposed(module),
                )
            )
            done = self.report.analytic
        else:
            with _before_rounding(module):
                error = _means(outputs(), module) - self.means[name].to(module.bias.device)
            module.bias.copy_((module.bias.double() - error).to(module.bias.dtype))
            done = self.report.empirical
        done[name] = float((module.bias - before).abs().max())


def _output_means(model: nn.Module, names: list[str], calls: list[Any]) -> dict[str, Tensor]:
    """Mean of each output channel of the named layers, float64; of those that are called."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = dict.fromkeys(names, 0)
    hooks = []

    def add(name: str, layer: Any, output: Tensor) -> None:
        axis = _output_axis(layer, output)
        if name not in sums:
            sums[name] = output.new_zeros(output.shape[axis], dtype=torch.float64)
        counts[name] += add_channel_sums_(sums[name], output, axis)

    for name in names:
        layer = model.get_submodule(name)
        hooks.append(
            layer.register_forward_hook(lambda m, _, output, name=name: add(name, m, output))
        )
    try:
        for args, kwargs in calls:
            model(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: total / counts[name] for name, total in sums.items() if counts[name]}


def _means(outputs: Iterable[Tensor], layer: Any) -> Tensor:
    total, count = layer.bias.new_zeros(layer.bias.shape, dtype=torch.float64), 0
    for output in outputs:
        count += add_channel_sums_(total, output, _output_axis(layer, output))
    return total / max(count, 1)


def _output_axis(layer: Any, output: Tensor) -> int:
    return output.dim() - layer.weight.dim() + 1


@contextlib.contextmanager
def _before_rounding(module: Any) -> Iterator[None]:
    """The outputs of a layer as its accumulator holds them: not rounded, with an exact bias."""
    quantizers, grids = list(module.output_quantizers), module.bias_grids
    try:
        for index in range(len(quantizers)):
            module.output_quantizers[index] = None
        module.bias_grids = None
        yield
    finally:
        for index, quantizer in enumerate(quantizers):
            module.output_quantizers[index] = quantizer
        module.bias_grids = grids


# --------------------------------------------------------------------------------------- arguments


def _check(function: str, model: nn.Module, *counts: int) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{function}: `model` must be an nn.Module, got {type(model).__name__}")
    for name, count in zip(("num_quant_samples", "num_bias_correct_samples"), counts, strict=True):
        if count < 1:
            raise ValueError(f"{function}: `{name}` must be positive, got {count}")


def _names_of(layers: Iterable[nn.Module], names: Mapping[nn.Module, str]) -> set[str]:
    result = set()
    for layer in layers:
        if layer not in names:
            raise ValueError(
                f"correct_bias: `layers_to_ignore` has a {type(layer).__name__} that is no module "
                "of `model`"
            )
        result.add(names[layer])
    return result


def _samples(batches: Iterable[Any], count: int) -> list[Any]:
    """The first batches, as many as hold ``count`` samples; the last is not cut."""
    taken, seen = [], 0
    for batch in batches:
        if seen >= count:
            break
        taken.append(batch)
        leaves = torch.utils._pytree.tree_leaves(batch)
        first = next((leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()), None)
        seen += 1 if first is None else len(first)
    return taken


def _with_biases(model: nn.Module) -> nn.Module:
    """A copy in which every layer has a bias."""
    result = copy.deepcopy(model)
    with torch.no_grad():
        for module in result.modules():
            if isinstance(module, LAYER_TYPES) and module.bias is None:
                set_bias(module, bias_or_zeros(module))
    return result
