"""Interactive charts (bokeh) in one HTML file that needs nothing from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aimet_torch.report import pages

__all__ = ["COLORS", "line_chart", "require_bokeh", "save_charts"]

#: Of what is drawn first, second, third.
COLORS = ("#3564d8", "#d1495b", "#1a9c6b")


def require_bokeh(function: str) -> None:
    """Say what to install where bokeh is missing.

    Raises:
        ModuleNotFoundError: it is.
    """
    try:
        import bokeh  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{function}: the charts need bokeh: pip install 'aimet-torch[viz]'", name="bokeh"
        ) from error


def line_chart(
    title: str, across: str, along: str, lines: Sequence[tuple[str, Sequence[float], str]]
) -> Any:
    """A chart of lines over 0, 1, 2, ..., with the numbers under the pointer.

    Args:
        title: Above the chart.
        across: What the horizontal axis is.
        along: What the vertical axis is.
        lines: (name, values, color); a line is hidden by a click on its name.

    Returns:
        A bokeh figure.
    """
    from bokeh.models import ColumnDataSource, HoverTool
    from bokeh.plotting import figure

    chart = figure(
        title=title,
        x_axis_label=across,
        y_axis_label=along,
        height=280,
        sizing_mode="stretch_width",
        tools="xpan,xwheel_zoom,box_zoom,reset,save",
    )
    for name, values, color in lines:
        source = ColumnDataSource({"x": list(range(len(values))), "y": list(values)})
        line = chart.line("x", "y", source=source, color=color, legend_label=name)
        tips = [(across, "@x"), (name, "@y{0.0000}")]
        chart.add_tools(HoverTool(renderers=[line], tooltips=tips, mode="vline"))
    chart.legend.click_policy = "hide"
    chart.legend.location = "top_right"
    return chart


def save_charts(path: str | os.PathLike[str], title: str, parts: Sequence[Any]) -> Path:
    """Write charts and tables, one below the other, as one HTML file.

    Args:
        path: Of the file; an older one stays until the new one is complete.
        title: Of the page.
        parts: Bokeh figures and layouts.
    """
    from bokeh.embed import file_html
    from bokeh.layouts import column
    from bokeh.models import Div
    from bokeh.resources import INLINE

    heading = Div(text="", sizing_mode="stretch_width")
    heading.text = f"<h1>{_escaped(title)}</h1>"
    page = column(heading, *parts, sizing_mode="stretch_width")
    # bokeh's scripts stand in the page: it opens without a network.
    return pages.write(path, file_html(page, INLINE, title))


def _escaped(text: str) -> str:
    import html

    return html.escape(text)
