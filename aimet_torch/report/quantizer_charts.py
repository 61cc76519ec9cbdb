"""Ranges of all quantizers of a simulation in one interactive page."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from aimet_torch.graph import bind_inputs
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.report.charts import COLORS, require_bokeh, save_charts
from aimet_torch.report.layers import QuantizerRow, describe_quantizers, layer_sqnr

__all__ = ["visualize_stats"]

_TABLE = ("layer", "tensor", "grid", "low", "high", "step", "sqnr")


def visualize_stats(
    sim: QuantizationSimModel,
    dummy_input: Any,
    save_path: str | os.PathLike[str] = "./quant_stats_visualization.html",
) -> None:
    """Draw the range of each calibrated quantizer, and list those beyond limits set in the page.

    Args:
        sim: Calibrated simulation.
        dummy_input: Input on which the SQNR of each layer is measured, which stands in the table: a
            tensor, a tuple of arguments, or a dict.
        save_path: Of the page; ends in ``.html``.

    Raises:
        ValueError: ``save_path`` has another ending, or no quantizer has a range.
        ModuleNotFoundError: bokeh is not installed.
    """
    require_bokeh("visualize_stats")
    path = Path(save_path)
    if path.suffix != ".html":
        raise ValueError(f"visualize_stats: `save_path` must end in .html, got {str(save_path)!r}")
    rows = [row for row in describe_quantizers(sim) if row.min is not None]
    if not rows:
        raise ValueError(
            "visualize_stats: no quantizer of `sim` has a range; call sim.compute_encodings first"
        )
    save_charts(path, "Ranges of the quantizers", _parts(_columns(sim, rows, dummy_input)))


def _columns(
    sim: QuantizationSimModel, rows: list[QuantizerRow], dummy_input: Any
) -> dict[str, list[Any]]:
    args, kwargs = bind_inputs(sim.model, dummy_input)
    sqnr = {row.name: row.sqnr_db for row in layer_sqnr(sim, *args)} if not kwargs else {}
    return {
        "place": list(range(len(rows))),
        "layer": [row.layer for row in rows],
        "tensor": [row.tensor for row in rows],
        "grid": [f"{row.grid}, {row.granularity}" for row in rows],
        "low": [row.min for row in rows],
        "high": [row.max for row in rows],
        "step": [row.max_scale for row in rows],
        "sqnr": [_finite(sqnr.get(row.layer)) for row in rows],
        "color": [COLORS[0 if "put " in row.tensor else 1] for row in rows],
        "kind": ["activation" if "put " in row.tensor else "parameter" for row in rows],
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 1)


def _parts(data: dict[str, list[Any]]) -> list[Any]:
    from bokeh.layouts import row
    from bokeh.models import (
        CDSView,
        ColumnDataSource,
        CustomJS,
        CustomJSFilter,
        DataTable,
        Div,
        HoverTool,
        NumberFormatter,
        Span,
        Spinner,
        TableColumn,
    )
    from bokeh.plotting import figure

    source = ColumnDataSource(data)
    chart = figure(
        title="Range of each quantizer, in the order of the model",
        x_axis_label="quantizer",
        y_axis_label="range",
        height=420,
        sizing_mode="stretch_width",
        tools="xpan,xwheel_zoom,ywheel_zoom,box_zoom,reset,save",
    )
    bars = chart.segment(
        "place", "low", "place", "high", source=source, color="color", line_width=4,
        legend_group="kind",
    )  # fmt: skip
    tips = [("layer", "@layer"), ("tensor", "@tensor"), ("grid", "@grid")]
    tips += [("range", "@low{0.0000} to @high{0.0000}"), ("step", "@step{0.000000}")]
    chart.add_tools(HoverTool(renderers=[bars], tooltips=tips))

    # All are within the limits that the page opens with.
    lowest = math.floor(min(data["low"]) * 1000) / 1000
    highest = math.ceil(max(data["high"]) * 1000) / 1000
    low = Spinner(title="flag below", value=lowest, width=160)
    high = Spinner(title="flag above", value=highest, width=160)
    spans = [Span(location=s.value, dimension="width", line_dash="dashed") for s in (low, high)]
    for span in spans:
        chart.add_layout(span)
    beyond = CustomJSFilter(
        args={"low": low, "high": high},
        code="""
        const l = source.data.low, h = source.data.high;
        return Array.from(l, (_, i) => l[i] < low.value || h[i] > high.value);
        """,
    )
    flagged = CDSView(filter=beyond)
    number = NumberFormatter(format="0.0000")
    columns = [
        TableColumn(
            field=name,
            title="SQNR of the layer, dB" if name == "sqnr" else name,
            **({"formatter": number} if name in ("low", "high", "step") else {}),
        )
        for name in _TABLE
    ]
    size = {"sizing_mode": "stretch_width", "index_position": None}
    tables = [
        DataTable(source=source, columns=columns, view=view, height=height, **size)
        for view, height in ((flagged, 160), (CDSView(), 420))
    ]
    update = CustomJS(
        args={"view": flagged, "low": low, "high": high, "spans": spans, "source": source},
        code="""
        spans[0].location = low.value;
        spans[1].location = high.value;
        view.filter.change.emit();
        source.change.emit();
        """,
    )
    for spinner in (low, high):
        spinner.js_on_change("value", update)
    return [
        chart,
        row(low, high),
        Div(text="<h2>Beyond the limits</h2>"),
        tables[0],
        Div(text="<h2>All quantizers</h2>"),
        tables[1],
    ]
