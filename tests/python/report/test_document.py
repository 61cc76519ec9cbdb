"""The report's two files: what is in them, and that they need nothing else."""

from __future__ import annotations

import html.parser
import json
import math

import pytest

from aimet_torch.report import LayerRow, QuantizationReport, QuantizerRow, Step
from aimet_torch.report.pages import format_db, format_percent


@pytest.fixture
def report() -> QuantizationReport:
    return QuantizationReport(
        title="A <network> & its report",
        subject="W8A8",
        description="MobileNetV2 on photographs",
        steps=[
            Step("FP32", 1.25, 1.0, math.inf),
            Step("W8A8", 2.5, 0.875, 11.26, detail="per channel"),
            Step("export", 3.0),
        ],
        quantizers=[
            QuantizerRow(
                "conv1", "Conv2d", "weight", 4, "int4 symmetric", "8 channels", -1, 0.875, 0.1, 0.2
            ),
            QuantizerRow("conv1", "Conv2d", "output 0", 8, "uint8", "per tensor"),
        ],
        layers=[LayerRow("conv1", "Conv2d", 31.5), LayerRow("relu", "ReLU", math.inf)],
        unquantized=[("loop", "data-dependent control flow")],
        files=[("model.onnx", "FP32 weights")],
        environment={"torch": "2.13.0"},
    )


class Page(html.parser.HTMLParser):
    """Collects what the tests ask about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []
        self.unbalanced: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.tags.append(tag)
        self.links += [
            value for name, value in attrs if name in ("src", "href", "action") and value
        ]
        if tag not in ("meta", "input", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag) -> None:
        if not self.open or self.open.pop() != tag:
            self.unbalanced.append(tag)

    def handle_data(self, data) -> None:
        self.text += data


def test_json_holds_everything(report, tmp_path) -> None:
    document = json.loads(report.write_json(tmp_path / "new" / "report.json").read_text())
    assert document["steps"][1] == {
        "name": "W8A8",
        "seconds": 2.5,
        "top1_agreement": 0.875,
        "sqnr_db": 11.26,
        "detail": "per channel",
    }
    assert document["quantizers"][0]["max_scale"] == 0.2
    assert document["quantizers"][1]["min"] is None
    assert document["files"] == [["model.onnx", "FP32 weights"]]
    assert document["environment"] == {"torch": "2.13.0"}


def test_json_has_no_value_that_json_has_not(report, tmp_path) -> None:
    def reject(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    text = report.write_json(tmp_path / "report.json").read_text()
    document = json.loads(text, parse_constant=reject)
    assert document["steps"][0]["sqnr_db"] == "inf"
    assert document["layers"][1]["sqnr_db"] == "inf"


def test_page_refers_to_nothing_outside_itself(report) -> None:
    page = Page(report.to_html())
    assert page.links == []
    assert not {"link", "img", "iframe"} & set(page.tags)
    assert "http://" not in report.to_html()
    assert "https://" not in report.to_html()
    assert "@import" not in report.to_html()
    assert "url(" not in report.to_html()


def test_page_is_balanced_and_escapes_names(report) -> None:
    page = Page(report.to_html())
    assert page.unbalanced == []
    assert page.open == []
    assert "A <network> & its report" in page.text
    assert "network" not in page.tags


def test_page_shows_every_row(report) -> None:
    page = Page(report.to_html())
    for text in (
        "87.5 %",
        "11.3 dB",
        "exact",
        "int4 symmetric",
        "0.1 … 0.2",
        "model.onnx",
        "data-dependent control flow",
        "Layers of W8A8",
        "2.13.0",
    ):
        assert text in page.text, text
    assert page.tags.count("rect") == len(report.layers)
    assert page.tags.count("tr") == (1 + 3) + (1 + 2) + (1 + 1) + (1 + 1)


def test_empty_report_is_a_page() -> None:
    page = Page(QuantizationReport(title="nothing").to_html())
    assert page.unbalanced == []
    assert "table" not in page.tags


def test_environment_names_versions_and_no_machine() -> None:
    import platform

    import torch

    environment = QuantizationReport(title="").environment
    assert environment["torch"] == torch.__version__
    assert environment["CPU kernels"] in ("baseline", "avx2", "avx512")
    assert platform.node() not in environment.values()


def test_a_failed_write_leaves_the_last_report_whole(report, tmp_path) -> None:
    path = report.write_json(tmp_path / "report.json")
    before = path.read_text()
    report.files = [("model.onnx", object())]
    with pytest.raises(TypeError):
        report.write_json(path)
    assert path.read_text() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


def test_numbers_as_people_read_them() -> None:
    assert format_db(23.44) == "23.4 dB"
    assert format_db(math.inf) == "exact"
    assert format_percent(0.9204) == "92.0 %"
    assert format_db(None) == format_percent(None) == "\N{EN DASH}"
