"""The documentation: it builds without a warning, and the blocks of its first pages run."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from tests.integration.commands import ROOT, run

DOCS = ROOT / "docs"
PAGES = ("getting_started.md", "migration.md", "faq.md")


def blocks(page: str) -> list[str]:
    return re.findall(
        r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE
    )


def test_the_blocks_of_a_page_run_one_after_the_other(tmp_path: Path) -> None:
    for page in PAGES:
        assert len(blocks(page)) >= 2
    # One process for all: importing takes longer than the blocks.
    program = "".join(f"exec({''.join(blocks(page))!r}, {{}})\n" for page in PAGES)
    command = [sys.executable, "-W", "ignore", "-c", program]
    output = run(command, cwd=tmp_path, environment={"PYTHONPATH": str(ROOT)})
    assert "same first choice: 100%" in output
    assert "onnxruntime: within the limits" in output
    assert re.search(r"^1 .*\['", output, re.MULTILINE)  # the boundary of the questions
    assert "times smaller" in output
    assert {"model.onnx", "model_qdq.onnx", "model.pt2", "net_torch.encodings"} <= {
        path.name for path in tmp_path.iterdir()
    }


def test_every_page_is_in_the_navigation() -> None:
    configuration = (DOCS / "site" / "mkdocs.yml").read_text()
    named = set(re.findall(r": (\w+\.md)$", configuration, re.MULTILINE))
    assert named == {path.name for path in DOCS.glob("*.md")}


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="pip install 'aimet-torch[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    run(
        [*command, "-f", str(DOCS / "site" / "mkdocs.yml"), "-d", str(tmp_path / "site")],
        cwd=ROOT,
        environment=environment,
    )
    pages = {path.stem for path in (tmp_path / "site").glob("*.html")}
    assert {path.stem for path in DOCS.glob("*.md")} <= pages
    reference = (tmp_path / "site" / "api.html").read_text()
    for name in ("QuantizationSimModel", "quantize_without_labels", "ModelCompressor", "verify"):
        assert f">{name}<" in reference
    assert ":func:" not in reference
    # It opens without a network.
    home = (tmp_path / "site" / "index.html").read_text()
    assert not re.search(r"<(script|link)[^>]+(src|href)=\"https?://[^\"]+\.(js|css)", home)
