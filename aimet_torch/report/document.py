"""The report of a quantization run, as JSON for programs and as one HTML file for people."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from aimet_torch import ops
from aimet_torch.report import pages
from aimet_torch.report.layers import LayerRow, QuantizerRow


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
        document: dict[str, Any] = pages.json_ready(asdict(self))
        return document

    def write_json(self, path: str | os.PathLike[str]) -> Path:
        """Write the report as JSON to ``path`` and return it."""
        return pages.write_json(path, self.to_dict())

    def to_html(self) -> str:
        """Return the report as one self-contained HTML page."""
        finite = [row.sqnr_db for row in self.layers if math.isfinite(row.sqnr_db)]
        top = math.ceil(max([10.0, *finite]) / 10) * 10
        return pages.render(
            "quantization.html",
            report=self,
            bars=[_bar(row, top) for row in self.layers],
            marks=[(db / top, str(db)) for db in range(0, top + 1, 10)],
            environment=self.environment,
        )

    def write_html(self, path: str | os.PathLike[str]) -> Path:
        """Write the report as one HTML file to ``path`` and return it."""
        return pages.write(path, self.to_html())


def _bar(row: LayerRow, top: int) -> pages.Bar:
    # A sliver stays visible, so that a layer with nothing but noise can be pointed at.
    height = 0.01 if math.isnan(row.sqnr_db) else min(max(row.sqnr_db / top, 0.01), 1.0)
    grade = "good" if row.sqnr_db >= 20 else "fair" if row.sqnr_db >= 10 else "poor"
    tip = f"{row.name} ({row.layer_type}): {pages.format_db(row.sqnr_db)}"
    return pages.Bar(row.name, height, grade, tip)
