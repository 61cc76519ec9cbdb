"""The report of a quantization run, as JSON for programs and as one HTML file for people.

The page (``page.html``) refers to nothing outside itself: styles, script and chart are in it.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import onnx
import torch

from aimet_torch import ops
from aimet_torch.report.layers import LayerRow, QuantizerRow

_NOTHING = "\N{EN DASH}"


def environment() -> dict[str, str]:
    """Return the versions and the machine that a run's numbers belong to."""
    from aimet_torch import __version__

    return {
        "aimet_torch": __version__,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "numpy": np.__version__,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "CPU kernels": ops.cpu_capability(),
        "threads": str(torch.get_num_threads()),
    }


@dataclass(frozen=True)
class Step:
    """One row of the run's table.

    Attributes:
        name: what was measured, as a person would say it.
        seconds: wall-clock time that it took to make and measure it.
        top1_agreement: share of inputs with the same top-1 as FP32, 0 to 1.
        sqnr_db: signal-to-quantization-noise ratio of the outputs against FP32, in dB.
        detail: one sentence about the step.
    """

    name: str
    seconds: float
    top1_agreement: float | None = None
    sqnr_db: float | None = None
    detail: str = ""


@dataclass
class QuantizationReport:
    """Everything worth knowing about a quantization run.

    Attributes:
        title: heading of the page.
        description: what was run on what, a sentence or two.
        steps: the table of the run, in order.
        subject: the step that quantizers and layers belong to, where there are several.
        quantizers: one row for each quantizer, see :func:`aimet_torch.report.describe_quantizers`.
        layers: one row for each quantized layer, see :func:`aimet_torch.report.layer_sqnr`.
        unquantized: (operator, reason) of results that stay in floating point.
        files: (name, what it is) of the files that the run wrote.
        environment: versions and machine, see :func:`environment`.
    """

    title: str
    description: str = ""
    steps: Sequence[Step] = ()
    subject: str = ""
    quantizers: Sequence[QuantizerRow] = ()
    layers: Sequence[LayerRow] = ()
    unquantized: Sequence[tuple[str, str]] = ()
    files: Sequence[tuple[str, str]] = ()
    environment: dict[str, str] = field(default_factory=environment)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values; infinities and NaN, which JSON has not, become strings."""
        return _json_ready(asdict(self))

    def write_json(self, path: str | os.PathLike[str]) -> Path:
        """Write the report as JSON to ``path`` and return it."""
        return _write(path, json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n")

    def to_html(self) -> str:
        """Return the report as one self-contained HTML page."""
        template = resources.files("aimet_torch.report").joinpath("page.html").read_text("utf-8")
        jinja = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        jinja.filters.update(
            db=format_db, percent=format_percent, number=format_number, share=_bar_share
        )
        finite = [row.sqnr_db for row in self.layers if math.isfinite(row.sqnr_db)]
        top = max([10.0, *finite])
        return jinja.from_string(template).render(report=self, top_db=math.ceil(top / 10) * 10)

    def write_html(self, path: str | os.PathLike[str]) -> Path:
        """Write the report as one HTML file to ``path`` and return it."""
        return _write(path, self.to_html())


def format_db(value: float | None) -> str:
    """Return a ratio as people read it: ``23.4 dB``; ``exact`` for infinity, a dash for None."""
    if value is None:
        return _NOTHING
    return "exact" if value == math.inf else f"{value:.1f} dB"


def format_percent(value: float | None) -> str:
    """Return a share as a percentage, a dash for None."""
    return _NOTHING if value is None else f"{100 * value:.1f} %"


def format_number(value: float) -> str:
    """Return a real number with four significant digits."""
    return f"{value:.4g}"


def _bar_share(value: float, top: float) -> float:
    # A sliver stays visible, so that a layer with nothing but noise can be pointed at.
    return 0.01 if math.isnan(value) else min(max(value / top, 0.01), 1.0)


def _json_ready(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json_ready(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_ready(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _write(path: str | os.PathLike[str], text: str) -> Path:
    # Renamed into place: a reader never sees half a report, and a failed run leaves the last one
    # whole.
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    return path
