"""Charts of the weights of layers: their ranges, and how a technique has changed them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aimet_torch.ptq.layers import LAYER_TYPES, is_transposed
from aimet_torch.report.charts import COLORS, line_chart, require_bokeh, save_charts

__all__ = [
    "ChannelRanges",
    "channel_ranges",
    "visualize_changes_after_optimization",
    "visualize_relative_weight_ranges_to_identify_problematic_layers",
    "visualize_weight_ranges",
]

# A channel whose range is this many times smaller than the widest has a bit or two left of eight.
_SUSPICIOUS = 50.0
_BINS = 40


@dataclass(frozen=True)
class ChannelRanges:
    """What the weights of each output channel are like.

    Attributes:
        low: Smallest weight of each output channel, float32, shape (channels,).
        high: Largest one.
        mean: Mean.
    """

    low: Tensor
    high: Tensor
    mean: Tensor

    @property
    def relative(self) -> Tensor:
        """Range of each channel over the smallest range that is not zero; 0 for channels of zeros.

        One scale for all channels leaves a channel at 1 as many times fewer steps as this says for
        the widest one.
        """
        ranges = torch.maximum(self.low.abs(), self.high.abs())
        positive = ranges[ranges > 0]
        return ranges / positive.min() if positive.numel() else ranges


def channel_ranges(layer: nn.Module) -> ChannelRanges:
    """The ranges of a layer's output channels.

    Args:
        layer: A convolution, linear layer, or other module with a ``weight``.

    Raises:
        ValueError: its weight has no axis, or no numbers.
    """
    module: Any = layer
    weight: Tensor = module.weight.detach().float().cpu()
    if weight.dim() == 0 or weight.numel() == 0:
        raise ValueError(f"channel_ranges: `layer` has a weight of shape {tuple(weight.shape)}")
    if is_transposed(module):  # (inputs, outputs of a group, kernel)
        weight = weight.unflatten(0, (module.groups, -1)).transpose(1, 2).flatten(0, 1)
    rows = weight.reshape(len(weight), -1)
    return ChannelRanges(rows.amin(1), rows.amax(1), rows.mean(1))


def visualize_weight_ranges(
    model: nn.Module, results_dir: str | os.PathLike[str], selected_layers: list[str] | None = None
) -> list[Any]:
    """Draw smallest, largest and mean weight of each output channel.

    Writes ``visualize_weight_ranges.html`` into ``results_dir``.

    Args:
        model: Its convolutions and linear layers are drawn.
        results_dir: Folder; made when missing.
        selected_layers: Names of the layers to draw instead.

    Returns:
        One bokeh figure for each layer.

    Raises:
        ValueError: a name is no layer with a weight.
        ModuleNotFoundError: bokeh is not installed.
    """

    def draw(name: str, layer: nn.Module) -> Any:
        found = channel_ranges(layer)
        lines = [("largest", found.high), ("smallest", found.low), ("mean", found.mean)]
        return _chart(f"{name} ({type(layer).__name__})", lines)

    return _draw("visualize_weight_ranges", model, results_dir, selected_layers, draw)


def visualize_relative_weight_ranges_to_identify_problematic_layers(
    model: nn.Module, results_dir: str | os.PathLike[str], selected_layers: list[str] | None = None
) -> list[Any]:
    """Draw the range of each output channel over the smallest one of its layer, and a histogram.

    A layer whose widest channel is many times its narrowest loses most with one scale for all
    channels; its title says so. Writes
    ``visualize_relative_weight_ranges_to_identify_problematic_layers.html`` into ``results_dir``.

    Args:
        model: As for :func:`visualize_weight_ranges`.
        results_dir: Likewise.
        selected_layers: Likewise.

    Returns:
        One bokeh layout (line chart and histogram) for each layer.

    Raises:
        ValueError, ModuleNotFoundError: as :func:`visualize_weight_ranges`.
    """

    def draw(name: str, layer: nn.Module) -> Any:
        from bokeh.layouts import row

        relative = channel_ranges(layer).relative
        ratio = relative.max().item()
        kind = type(layer).__name__
        text = f"{name} ({kind}): the widest channel is {ratio:.1f} times the narrowest"
        if ratio > _SUSPICIOUS:
            text += ": use one scale per channel, or equalize_model"
        line = _chart(text, [("relative range", relative)], "range over the smallest")
        return row(line, _histogram(relative), sizing_mode="stretch_width")

    title = "visualize_relative_weight_ranges_to_identify_problematic_layers"
    return _draw(title, model, results_dir, selected_layers, draw)


def visualize_changes_after_optimization(
    old_model: nn.Module,
    new_model: nn.Module,
    results_dir: str | os.PathLike[str],
    selected_layers: list[str] | None = None,
) -> list[Any]:
    """Draw the ranges of weights before and after a technique such as equalization.

    Writes ``visualize_changes_after_optimization.html`` into ``results_dir``.

    Args:
        old_model: Before.
        new_model: After, with layers of the same names; layers that ``old_model`` does not have are
            left out.
        results_dir: As for :func:`visualize_weight_ranges`.
        selected_layers: Likewise.

    Returns:
        One bokeh layout (before, after) for each layer.

    Raises:
        ValueError, ModuleNotFoundError: as :func:`visualize_weight_ranges`.
    """
    before = dict(old_model.named_modules())

    def draw(name: str, layer: nn.Module) -> Any:
        from bokeh.layouts import row

        if not hasattr(before.get(name), "weight"):
            return None
        charts = []
        for when, module in (("before", before[name]), ("after", layer)):
            found = channel_ranges(module)
            lines = [("largest", found.high), ("smallest", found.low), ("mean", found.mean)]
            ratio = found.relative.max().item()
            charts.append(_chart(f"{name}, {when}: widest over narrowest {ratio:.1f}", lines))
        # The same scale tells what has changed.
        charts[1].y_range = charts[0].y_range
        return row(*charts, sizing_mode="stretch_width")

    title = "visualize_changes_after_optimization"
    return _draw(title, new_model, results_dir, selected_layers, draw)


def _draw(
    function: str,
    model: nn.Module,
    results_dir: str | os.PathLike[str],
    selected: list[str] | None,
    draw: Callable[[str, nn.Module], Any],
) -> list[Any]:
    require_bokeh(function)
    parts = [draw(name, layer) for name, layer in _layers(function, model, selected)]
    parts = [part for part in parts if part is not None]
    title = function.removeprefix("visualize_").replace("_", " ").capitalize()
    save_charts(Path(results_dir) / f"{function}.html", title, parts)
    return parts


def _layers(
    function: str, model: nn.Module, selected: Iterable[str] | None
) -> list[tuple[str, nn.Module]]:
    modules = dict(model.named_modules())
    if selected is None:
        return [(name, m) for name, m in modules.items() if isinstance(m, LAYER_TYPES)]
    names = list(selected)
    for name in names:
        if not isinstance(getattr(modules.get(name), "weight", None), Tensor):
            raise ValueError(
                f"{function}: `selected_layers` has {name!r}, which is no layer with a weight"
            )
    return [(name, modules[name]) for name in names]


def _chart(title: str, lines: Sequence[tuple[str, Tensor]], along: str = "weight") -> Any:
    drawn = [(n, v.tolist(), color) for (n, v), color in zip(lines, COLORS, strict=False)]
    return line_chart(title, "output channel", along, drawn)


def _histogram(values: Tensor) -> Any:
    from bokeh.plotting import figure

    counts, edges = np.histogram(values.numpy(), bins=_BINS)
    chart = figure(
        title="How many channels have which range",
        x_axis_label="range over the smallest",
        y_axis_label="channels",
        height=280,
        sizing_mode="stretch_width",
        tools="xpan,xwheel_zoom,reset,save",
    )
    chart.quad(top=counts, bottom=0, left=edges[:-1], right=edges[1:], color=COLORS[0])
    return chart
