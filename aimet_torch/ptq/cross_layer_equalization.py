"""Cross-layer equalization: neighboring layers are rescaled so that their weights quantize well.

The graph tells which layers (cls_sets.py); the arithmetic is
:func:`aimet_torch.ops.equalize_cross_layers_`. AIMET's names, under its path
``aimet_torch.cross_layer_equalization`` too. Source: Nagel et al. 2019 (arXiv 1906.04721).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from aimet_torch.nn.modules.channelwise_clip import ChannelwiseClip
from aimet_torch.ops.algorithms import absorb_high_bias, equalize_cross_layers_
from aimet_torch.ptq.batch_norm_folding import FoldedBatchNorms, FoldedPair, fold_traced
from aimet_torch.ptq.cls_sets import ClsSetInfo, ClsSetLayerPairInfo, GraphSearchUtils, Link
from aimet_torch.ptq.layers import (
    LAYER_TYPES,
    LayerType,
    bias_or_zeros,
    has_zero_padding,
    is_transposed,
    layer_of,
    replace_modules,
    set_bias,
    trace_model,
)

__all__ = [
    "ClsSetInfo",
    "CrossLayerScaling",
    "EqualizationReport",
    "GraphSearchUtils",
    "HighBiasFold",
    "equalize_bn_folded_model",
    "equalize_model",
]

ClippingTreatment = Literal["scale", "relu", "keep"]
AbsorptionMode = Literal["exact", "approximate", "off"]


@dataclass
class EqualizationReport:
    """What equalization did. ``print`` it for a summary.

    Attributes:
        batch_norms: What was folded, and what not and why.
        cls_sets: The equalized chains with their scales.
        layers: Names of the layers of each chain.
        sweep_count: Sweeps over all chains until the scales stopped moving.
        replaced_activations: Name of each activation that was replaced -> what it is now.
        absorbed: Name of each layer that gave up bias -> the number of channels.
        skipped: Name of each layer without an equalizable successor -> why.
        statistics: Name of each layer with a folded batch normalization -> mean and standard
            deviation (channels,) of its outputs now, as the batch normalization tells them.
    """

    batch_norms: FoldedBatchNorms = field(default_factory=FoldedBatchNorms)
    cls_sets: list[ClsSetInfo] = field(default_factory=list)
    layers: list[list[str]] = field(default_factory=list)
    sweep_count: int = 0
    replaced_activations: dict[str, str] = field(default_factory=dict)
    absorbed: dict[str, int] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    statistics: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def __str__(self) -> str:
        left = {**self.batch_norms.standalone, **self.batch_norms.unchanged}
        lines = [
            f"{len(self.batch_norms)} batch normalizations folded, {len(left)} left",
            f"{len(self.layers)} chains of layers equalized in {self.sweep_count} sweeps",
            *(f"  {' - '.join(names)}" for names in self.layers),
            f"{len(self.replaced_activations)} activations replaced",
            f"bias of {sum(self.absorbed.values())} channels absorbed",
        ]
        reasons = {**left, **self.skipped}
        lines += ["left alone:"] if reasons else []
        lines += [f"  {name}: {reason}" for name, reason in reasons.items()]
        return "\n".join(lines)


def equalize_model(
    model: nn.Module,
    input_shapes: Any = None,
    dummy_input: Any = None,
    *,
    relu6: ClippingTreatment = "scale",
    high_bias: AbsorptionMode = "exact",
) -> EqualizationReport:
    """Fold batch normalizations, equalize the weights across layers, absorb high biases; in place.

    With the defaults the network computes what it did before, to rounding. Measured on MobileNetV2
    (W8A8, weights per tensor, top-1 agreement with FP32 on 236 photographs and SQNR of the logits;
    docs/equalization.md has more): folded only 67.4 %, 8.4 dB; ``relu6="keep"`` 71.6 %, 8.3 dB;
    ``relu6="relu"`` 75.0 %, 10.8 dB, and in FP32 93.2 % instead of 100 %; ``relu6="scale"`` 77.1 %,
    12.0 dB, and with absorption (the default) 76.3 %, 11.8 dB.

    Args:
        model: Any module; treated as in evaluation mode.
        input_shapes: Shape of its input, or a list of shapes, for a random input to trace it with.
        dummy_input: Input to trace the model with: a tensor, a tuple of arguments, or a dict.
        relu6: What becomes of a clipping activation (ReLU6, Hardtanh) between two layers:

            - ``"scale"``: its limits are divided along with its channels; it becomes a
              :class:`~aimet_torch.nn.modules.channelwise_clip.ChannelwiseClip`. Exact.
            - ``"relu"``: ReLU6 becomes ReLU, as AIMET did until 2.3: the cheapest on a target, but
              it changes what the network computes.
            - ``"keep"``: it stays, and the layers beside it are not equalized, as AIMET since 2.4.
        high_bias: Which biases move on into the next layer:

            - ``"exact"``: where the network computes the same afterwards: through clips with limits
              per channel, which move along, and where there is no activation.
            - ``"approximate"``: also through ReLU, as in AIMET; wrong for the 0.1 % of values that
              are more than three deviations below their mean.
            - ``"off"``: none.

    Returns:
        A report; AIMET returns nothing.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: Neither shapes nor input are given, or an option is none of the above.
    """
    _check_options("equalize_model", relu6, high_bias)
    graph = trace_model("equalize_model", model, input_shapes, dummy_input)
    folded = fold_traced(graph)
    search = _search(graph, relu6, [norm for _, norm in folded])
    report = _equalize(search, relu6)
    report.batch_norms = folded
    _absorb_all(search, report, folded, high_bias)
    return report


def equalize_bn_folded_model(
    model: nn.Module,
    input_shapes: Any,
    folded_pairs: Sequence[FoldedPair],
    dummy_input: Any = None,
    *,
    relu6: ClippingTreatment = "scale",
    high_bias: AbsorptionMode = "exact",
) -> EqualizationReport:
    """As :func:`equalize_model`, for a model whose batch normalizations are folded already.

    Args:
        model: As in :func:`equalize_model`.
        input_shapes: As in :func:`equalize_model`; None with ``dummy_input``.
        folded_pairs: What :func:`~aimet_torch.ptq.batch_norm_folding.fold_all_batch_norms` gave
            back: high-bias absorption needs the statistics.
        dummy_input: As in :func:`equalize_model`.
        relu6: As in :func:`equalize_model`.
        high_bias: As in :func:`equalize_model`.

    Returns:
        A report.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: Neither shapes nor input are given, or an option is not a known one.
    """
    _check_options("equalize_bn_folded_model", relu6, high_bias)
    graph = trace_model("equalize_bn_folded_model", model, input_shapes, dummy_input)
    search = _search(graph, relu6)
    report = _equalize(search, relu6)
    _absorb_all(search, report, folded_pairs, high_bias)
    return report


class CrossLayerScaling:
    """The scaling alone, without batch normalizations and biases."""

    @staticmethod
    def scale_model(
        model: nn.Module,
        input_shapes: Any = None,
        dummy_input: Any = None,
        *,
        relu6: ClippingTreatment = "scale",
    ) -> list[ClsSetInfo]:
        """Equalize all layers of a model whose batch normalizations are folded, in place.

        Args:
            model: As in :func:`equalize_model`.
            input_shapes: As in :func:`equalize_model`.
            dummy_input: As in :func:`equalize_model`.
            relu6: As in :func:`equalize_model`.

        Returns:
            The equalized chains with their scales.

        Raises:
            TypeError: ``model`` is not a module.
            ValueError: Neither shapes nor input are given, or ``relu6`` is not a known option.
        """
        _check_options("CrossLayerScaling.scale_model", relu6, "off")
        graph = trace_model("CrossLayerScaling.scale_model", model, input_shapes, dummy_input)
        return _equalize(_search(graph, relu6), relu6).cls_sets

    @staticmethod
    def scale_cls_sets(
        cls_sets: Sequence[Sequence[nn.Module]],
    ) -> list[Tensor | tuple[Tensor, ...]]:
        """Equalize the given chains of layers until they are in balance, in place.

        Args:
            cls_sets: Chains of two or more layers; all but the first and last of each are
                depthwise. That nothing but ReLU-like activations lies between them is the caller's
                promise.

        Returns:
            For each chain the scale (channels,) by which the outputs of its first layer were
            divided; for chains of more than two layers a tuple, one for each layer but the last.

        Raises:
            TypeError: A chain holds something that is neither a convolution nor Linear.
            ValueError: The layers do not fit together.
        """
        scales, _ = _equalize_chains(cls_sets)
        return [chain[0] if len(chain) == 1 else tuple(chain) for chain in scales]

    @staticmethod
    def scale_cls_set(cls_set: Sequence[nn.Module]) -> Tensor | tuple[Tensor, ...]:
        """Equalize one chain of layers, in place; see :meth:`scale_cls_sets`."""
        return CrossLayerScaling.scale_cls_sets([cls_set])[0]


class HighBiasFold:
    """High-bias absorption alone."""

    @staticmethod
    def bias_fold(
        cls_set_info_list: Sequence[ClsSetInfo], bn_layers: Mapping[nn.Module, _BatchNorm]
    ) -> None:
        """Move high biases of equalized layers into the layers behind them, in place.

        Through a ReLU it is approximate (see :func:`equalize_model`); pairs whose second layer pads
        with zeros are left out, since what was absorbed would be missing at the border.

        Args:
            cls_set_info_list: From :meth:`CrossLayerScaling.scale_model`.
            bn_layers: Layer -> the batch normalization that was folded into it. Layers without one
                are left out.
        """
        for info in cls_set_info_list:
            for pair in info.cls_pair_info_list:
                norm = bn_layers.get(pair.layer1)
            if norm is not None:
                mean, deviation = (x / pair.scale_factor for x in _moments_of(norm))
                _absorb(pair, mean, deviation, "approximate")


# ---------------------------------------------------------------------------------------- scaling


def _check_options(function: str, relu6: str, high_bias: str) -> None:
    options = {
        "relu6": (relu6, ("scale", "relu", "keep")),
        "high_bias": (high_bias, ("exact", "approximate", "off")),
    }
    for name, (value, known) in options.items():
        if value not in known:
            raise ValueError(f"{function}: `{name}` must be one of {known}, got {value!r}")


def _search(graph: Any, relu6: str, folded: Sequence[nn.Module] = ()) -> GraphSearchUtils:
    return GraphSearchUtils(
        graph,
        folded=folded,
        keeps_clips=relu6 == "keep",
        keeps_negative_limits=relu6 == "relu",
    )


def _equalize_chains(
    chains: Sequence[Sequence[nn.Module]],
) -> tuple[list[list[Tensor]], int]:
    index: dict[nn.Module, int] = {}
    layers: list[LayerType] = []
    for layer in (layer for chain in chains for layer in chain):
        if not isinstance(layer, LAYER_TYPES):
            raise TypeError(
                "CrossLayerScaling: `cls_sets` must hold convolutions and linear layers, got "
                f"{type(layer).__name__}"
            )
        if layer not in index:
            index[layer] = len(layers)
            layers.append(layer)
    return equalize_cross_layers_(
        [layer.weight.detach() for layer in layers],
        [None if layer.bias is None else layer.bias.detach() for layer in layers],
        [getattr(layer, "groups", 1) for layer in layers],
        [is_transposed(layer) for layer in layers],
        [[index[layer] for layer in chain] for chain in chains],
    )


def _equalize(search: GraphSearchUtils, relu6: str) -> EqualizationReport:
    chains = search.find_cls_sets()
    scales, sweep_count = _equalize_chains([[layer_of(op) for op in chain] for chain in chains])
    report = EqualizationReport(
        layers=[[op.name for op in chain] for chain in chains],
        sweep_count=sweep_count,
        skipped=search.skipped,
    )
    replacements: dict[nn.Module, nn.Module] = {}
    for chain, chain_scales in zip(chains, scales, strict=True):
        pairs = []
        for op, scale in zip(chain[:-1], chain_scales, strict=True):
            link = search.links[op]
            activation = _rescale_activations(link, scale, relu6, replacements)
            pairs.append(
                ClsSetLayerPairInfo(
                    layer_of(link.first),
                    layer_of(link.second),
                    scale,
                    bool(link.activations),
                    activation,
                    link.can_absorb,
                )
            )
        report.cls_sets.append(ClsSetInfo(*pairs))
    replace_modules(search.graph.model, replacements)
    report.replaced_activations = {
        search.uses.name(old): type(new).__name__ for old, new in replacements.items()
    }
    return report


def _rescale_activations(
    link: Link, scale: Tensor, relu6: str, replacements: dict[nn.Module, nn.Module]
) -> ChannelwiseClip | None:
    """Give the clips of a link limits for the new scale; returns the last of them."""
    rescaled: ChannelwiseClip | None = None
    for op in link.activations:
        if isinstance(op.module, ChannelwiseClip):
            op.module.divide_limits(scale)
            rescaled = op.module
        elif isinstance(op.module, nn.Hardtanh):
            rescaled = None if relu6 == "relu" else _channelwise_clip(op.module, link, scale)
            replacements[op.module] = nn.ReLU() if rescaled is None else rescaled
    return rescaled


def _channelwise_clip(clip: nn.Hardtanh, link: Link, scale: Tensor) -> ChannelwiseClip:
    layer = layer_of(link.first)
    low, high = ((limit / scale).to(layer.weight.dtype) for limit in (clip.min_val, clip.max_val))
    return ChannelwiseClip(low, high, len(link.first.outputs[0].shape) - link.axis - 1)


# ------------------------------------------------------------------------------------- absorption


def _absorb_all(
    search: GraphSearchUtils,
    report: EqualizationReport,
    folded_pairs: Sequence[FoldedPair],
    mode: str,
) -> None:
    into_next = getattr(folded_pairs, "into_next", [])
    norms = {layer: norm for layer, norm in folded_pairs if (layer, norm) not in into_next}
    for layer, norm in norms.items():
        report.statistics[search.uses.name(layer)] = _moments_of(norm)
    for info in report.cls_sets:
        for pair in info.cls_pair_info_list:
            norm_before, name = norms.get(pair.layer1), search.uses.name(pair.layer1)
            if norm_before is None:
                continue
            mean, deviation = (x / pair.scale_factor for x in report.statistics[name])
            absorbed = None if mode == "off" else _absorb(pair, mean, deviation, mode)
            if absorbed is not None:
                report.absorbed[name] = int((absorbed != 0).sum())
                mean = mean - absorbed
            report.statistics[name] = mean, deviation


def _moments_of(norm: _BatchNorm) -> tuple[Tensor, Tensor]:
    """Mean and deviation of what a batch normalization gives, float64."""
    ones = torch.ones(norm.num_features, dtype=torch.float64)
    beta = 0 * ones if norm.bias is None else norm.bias.detach().double()
    gamma = ones if norm.weight is None else norm.weight.detach().double()
    return beta, gamma.abs()


def _absorb(pair: ClsSetLayerPairInfo, mean: Tensor, deviation: Tensor, mode: str) -> Tensor | None:
    """Absorb what can be absorbed between two layers; returns it, None where there is nothing."""
    first, second, clip = pair.layer1, pair.layer2, pair.activation
    is_exact = clip is not None or not pair.relu_activation_between_layers
    if not pair.can_absorb or has_zero_padding(second) or first.bias is None:
        return None
    if not is_exact and mode == "exact":
        return None
    with torch.no_grad():
        bias, next_bias, absorbed = absorb_high_bias(
            first.bias,
            deviation,
            mean,
            None if clip is None else clip.max.flatten(),
            second.weight,
            bias_or_zeros(second),
            groups=getattr(second, "groups", 1),
            transposed=is_transposed(second),
            rectified=pair.relu_activation_between_layers,
        )
        if not bool((absorbed != 0).any()):
            return None
        first.bias.copy_(bias)
        set_bias(second, next_bias)
        if clip is not None:
            clip.shift_limits(-absorbed)
    return absorbed
