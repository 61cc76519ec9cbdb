"""The documentation as a site: it builds without a warning and lacks nothing."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import render_costs, render_figures
from tests.docs.blocks import PAGES, blocks
from tests.integration.commands import ROOT, run

DOCS = ROOT / "docs"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
#: Whose public names the reference has.
PACKAGES = (
    "analysis", "compression", "encodings", "export", "mixed_precision", "nn", "ops", "ptq",
    "qat", "quantization", "quantization.affine", "quantization.float", "quantsim", "report",
    "verification",
)  # fmt: skip
#: Constants, modules, second names, and classes of torch.nn, which come from one table.
NOT_DESCRIBED = {
    "FakeQuantizationMixin", "MinMaxQuantizer", "OFF", "SupportedDType", "affine",
    "encoding_analyzer", "float",
}  # fmt: skip
TECHNIQUES = (
    "activation_equalization.md",
    "analysis.md",
    "auto_quant.md",
    "bias_correction.md",
    "bn_reestimation.md",
    "equalization.md",
    "low_rank.md",
    "mixed_precision.md",
    "pruning.md",
    "qat.md",
    "quantizers.md",
    "ranges.md",
    "ratio_selection.md",
    "rounding.md",
    "verification.md",
)


def test_the_way_of_five_minutes_shows_what_it_says(tmp_path: Path) -> None:
    """The first page outside of the source tree, and what it prints."""
    program = "\n".join(block.text for block in blocks("getting_started.md", "python"))
    command = [sys.executable, "-W", "ignore", "-c", program]
    output = run(command, cwd=tmp_path, environment={"PYTHONPATH": str(ROOT)})
    assert "same first choice: 100%" in output
    assert "onnxruntime: within the limits" in output
    assert {
        "model.onnx",
        "model.encodings",
        "model_qdq.onnx",
        "model.torchscript.pt",
        "model.pt2",
    } <= {path.name for path in tmp_path.iterdir()}


def test_every_page_is_in_the_navigation() -> None:
    configuration = (DOCS / "site" / "mkdocs.yml").read_text()
    named = set(re.findall(r": (\w+\.md)$", configuration, re.MULTILINE))
    assert named == {path.name for path in DOCS.glob("*.md")}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, built without a warning."""
    pytest.importorskip("mkdocs", reason="pip install 'aimet-torch[docs]'")
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    command += ["-f", str(DOCS / "site" / "mkdocs.yml"), "-d", str(folder)]
    run(command, cwd=ROOT, environment={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    return folder


def test_every_page_is_there(site: Path) -> None:
    assert {path.stem for path in DOCS.glob("*.md")} <= {path.stem for path in site.glob("*.html")}


def test_the_reference_has_all_public_names(site: Path) -> None:
    reference = "".join(path.read_text() for path in site.glob("api*.html"))
    described = {
        name.rpartition(".")[2] for name in re.findall(r'id="(aimet_torch[\w.]+)"', reference)
    }
    for package in PACKAGES:
        names = set(importlib.import_module(f"aimet_torch.{package}").__all__)
        wanted = {n for n in names if not re.match("(Fake)?Quantized", n)} - NOT_DESCRIBED
        assert wanted <= described, f"{package}: {sorted(wanted - described)}"
    assert not re.findall(r'<details class="(?!quote)', reference)  # text taken for a section
    assert ":func:" not in reference
    assert "<code>``" not in reference  # names taken for a type


def test_formulas_are_mathml(site: Path) -> None:
    for page in TECHNIQUES:
        text = (site / page.replace(".md", ".html")).read_text()
        assert "<math" in text
        assert "arithmatex" not in text
        assert not re.search(r"\$\$|\\mathbb|\\frac", text)


def test_the_site_needs_no_network(site: Path) -> None:
    for page in site.glob("*.html"):
        text = page.read_text()
        assert not re.search(r"<(script|link)[^>]+(src|href)=\"https?://[^\"]+\.(js|css)", text)
        assert 'class="mermaid"' not in text  # drawn by a script from elsewhere
        for picture in re.findall(r'<img[^>]+src="([^"]+)"', text):
            assert (page.parent / picture).exists(), f"{page.stem}: {picture}"


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("page", ["index", "rounding", "architecture"])
def test_a_browser_has_nothing_to_complain_about(site: Path, page: str, tmp_path: Path) -> None:
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--enable-logging=stderr", f"--user-data-dir={tmp_path}"]
    result = subprocess.run(
        [*command, f"file://{site}/{page}.html"], capture_output=True, text=True, check=True
    )
    assert "CONSOLE" not in result.stderr
    assert "</html>" in result.stdout


def test_pictures_and_costs_are_those_of_the_committed_results() -> None:
    assert {path.stem for path in render_figures.FOLDER.iterdir()} == set(render_figures.FIGURES)
    for name, draw in render_figures.FIGURES.items():
        assert (render_figures.FOLDER / f"{name}.svg").read_text() == draw(), name
    used = {}
    for page, path in PAGES.items():
        assert path.read_text() == render_costs.renewed(path.read_text()), page
        used |= dict.fromkeys(re.findall(r"\]\(figures/(\w+)\.svg\)", path.read_text()), page)
    assert set(used) == set(render_figures.FIGURES)


@pytest.mark.parametrize("page", TECHNIQUES)
def test_a_page_of_a_technique_has_all_that_belongs_to_it(page: str) -> None:
    text = PAGES[page].read_text()
    assert re.search(r"^## When to use", text, re.MULTILINE)
    assert re.search(r"^\$\$$", text, re.MULTILINE)  # a formula
    assert "<!-- cost " in text
    assert "](figures/" in text
    assert blocks(page, "python")
