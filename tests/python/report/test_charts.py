"""Charts of weights and quantizers: numbers, one file that needs nothing, drawn by a browser."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from aimet_torch.cross_layer_equalization import equalize_model
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.report.weight_charts import channel_ranges
from aimet_torch.visualization_tools import visualize_stats
from aimet_torch.visualize_model import (
    visualize_changes_after_optimization,
    visualize_relative_weight_ranges_to_identify_problematic_layers,
    visualize_weight_ranges,
)

RELATIVE = "visualize_relative_weight_ranges_to_identify_problematic_layers"


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2, groups=2), nn.Flatten(),
        nn.Linear(6 * 25, 4),
    ).eval()  # fmt: skip
    with torch.no_grad():
        network[0].weight[2] *= 100
    return network


def test_ranges_of_output_channels(model) -> None:
    for layer, rows in (
        (model[0], model[0].weight.flatten(1)),
        (model[4], model[4].weight),
    ):
        found = channel_ranges(layer)
        assert torch.equal(found.low, rows.amin(1))
        assert torch.equal(found.high, rows.amax(1))
        torch.testing.assert_close(found.mean, rows.mean(1))
    found = channel_ranges(model[2])
    assert found.low.shape == (6,)
    # Output channel 4 is the second one of the second group, which reads inputs 4 to 7.
    weight = model[2].weight
    assert found.high[4] == weight[4:, 1].max()
    assert found.high[0] == weight[:4, 0].max()
    relative = channel_ranges(model[0]).relative
    assert relative.min() == 1
    assert relative.argmax() == 2
    assert torch.equal(channel_ranges(nn.PReLU(3)).low, torch.full((3,), 0.25))
    zeros = nn.Linear(2, 2)
    nn.init.zeros_(zeros.weight)
    assert torch.equal(channel_ranges(zeros).relative, torch.zeros(2))


def titles(figures: list[object]) -> list[str]:
    parts = [getattr(f, "children", [f])[0] for f in figures]
    return [part.title.text for part in parts]


def test_charts_of_weights(model, tmp_path: Path) -> None:
    figures = visualize_weight_ranges(model, str(tmp_path))
    assert titles(figures) == ["0 (Conv2d)", "2 (ConvTranspose2d)", "4 (Linear)"]
    drawn = {
        r.glyph.line_color: r.data_source.data["y"] for r in figures[0].renderers
    }  # fmt: skip
    assert channel_ranges(model[0]).high.tolist() in drawn.values()
    assert_self_contained(tmp_path / "visualize_weight_ranges.html")
    figures = visualize_weight_ranges(model, tmp_path / "some", ["4"])
    assert titles(figures) == ["4 (Linear)"]

    figures = visualize_relative_weight_ranges_to_identify_problematic_layers(model, str(tmp_path))
    assert "use one scale per channel, or equalize_model" in titles(figures)[0]
    assert "use one scale per channel" not in titles(figures)[2]
    assert_self_contained(tmp_path / f"{RELATIVE}.html")

    other = copy.deepcopy(model)
    equalize_model(other, dummy_input=torch.randn(1, 3, 6, 6))
    other.add_module("5", nn.Linear(4, 4))
    figures = visualize_changes_after_optimization(model, other, str(tmp_path))
    assert len(figures) == 3  # the new layer has no before
    before, after = figures[0].children
    assert before.y_range is after.y_range
    assert before.title.text.startswith("0, before: widest over narrowest")
    assert_self_contained(tmp_path / "visualize_changes_after_optimization.html")
    with pytest.raises(ValueError, match="`selected_layers` has '1', which is no layer with a we"):
        visualize_weight_ranges(model, tmp_path, ["1"])


def assert_self_contained(path: Path) -> None:
    page = path.read_text()
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=[\"']?http", page)
    assert "cdn.bokeh" not in re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.DOTALL)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))


def test_chart_of_quantizers(tmp_path: Path, monkeypatch) -> None:
    x = torch.randn(4, 3, 6, 6)
    sim = QuantizationSimModel(Named().eval(), x)
    page = tmp_path / "ranges.html"
    with pytest.raises(ValueError, match="no quantizer of `sim` has a range"):
        visualize_stats(sim, x, page)
    sim.compute_encodings([x])
    with pytest.raises(ValueError, match=r"must end in \.html, got 'ranges\.png'"):
        visualize_stats(sim, x, "ranges.png")
    visualize_stats(sim, x, str(page))
    assert_self_contained(page)
    monkeypatch.chdir(tmp_path)
    visualize_stats(sim, x)
    assert (tmp_path / "quant_stats_visualization.html").is_file()
    assert not sim.model.training
    dom = drawn(page)
    seen = dom[dom.index("<pre>") :].split("|")
    for text in ("conv", "fc", "flag below", "Beyond the limits", "a canvas"):
        assert text in seen
    assert seen.count("a row") == len(list(sim.quantizers()))  # none is beyond the limits yet


def drawn(page: Path) -> str:
    """What a browser makes of a page; skips where there is none."""
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no browser")
    # bokeh draws into shadow roots, which a dump leaves out.
    other = page.with_name("walked.html")
    head, end, tail = page.read_text().rpartition("</body>")
    other.write_text(f"{head}<script>{_WALK}</script>{end}{tail}")
    run = subprocess.run(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            *("--virtual-time-budget=5000", "--window-size=1200,1600", "--dump-dom"),
            other.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    errors = [line for line in run.stderr.splitlines() if "CONSOLE" in line and "rror" in line]
    assert not errors
    return run.stdout


_WALK = """
setTimeout(() => {
  const texts = [];
  const walk = (node) => {
    if (node.nodeType === 3) texts.push(node.textContent.trim());
    if (node.tagName === "CANVAS") texts.push("a canvas");
    if (node.className && String(node.className).includes("slick-row")) texts.push("a row");
    if (node.shadowRoot) walk(node.shadowRoot);
    if (node.tagName !== "SCRIPT" && node.tagName !== "STYLE") node.childNodes.forEach(walk);
  };
  walk(document.body);
  const seen = document.createElement("pre");
  seen.textContent = texts.filter(Boolean).join("|");
  document.body.replaceChildren(seen);
}, 2500);
"""


def test_without_bokeh(model, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "bokeh", None)
    with pytest.raises(ModuleNotFoundError, match=r"need bokeh: pip install 'aimet-torch\[viz\]'"):
        visualize_weight_ranges(model, tmp_path)
    assert not list(tmp_path.iterdir())
