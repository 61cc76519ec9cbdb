"""The page of an analysis, in text and in a browser; AIMET's `QuantAnalyzer` and its files."""

import json
import shutil
import subprocess
import zlib

import pytest
import torch
from torch import nn

from aimet_torch.analysis import analyze
from aimet_torch.analysis.facts import GraphNode
from aimet_torch.analysis.histograms import TensorHistogram
from aimet_torch.common.defs import CallbackFunc, QuantScheme
from aimet_torch.quant_analyzer import QuantAnalyzer
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.report.drawings import draw_graph, draw_histogram
from tests.python.analysis.networks import Branches, data, simulation
from tests.python.report.test_document import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def score(model, scale=1.0):
    return scale * model(data()[0]).mean().item()


@pytest.fixture(scope="module")
def analysis():
    return analyze(
        simulation(default_param_bw=4), data()[0], data(), score, per_layer=True, title="Branches"
    )


@pytest.fixture(scope="module")
def page(analysis, tmp_path_factory):
    return analysis.write_html(tmp_path_factory.mktemp("page") / "analysis.html")


def test_an_analysis_has_all_of_its_parts(analysis, tmp_path):
    assert [row.name for row in analysis.layers][-1] == "fc"
    assert {t.quantizer for t in analysis.tensors} == {h.name for h in analysis.histograms}
    assert sum(t.share for t in analysis.tensors) == pytest.approx(1)
    assert "round" in [finding.kind for finding in analysis.findings]
    assert set(analysis.enabled) == set(analysis.disabled) == {t.layer for t in analysis.tensors}
    assert analysis.scores.fp32 != analysis.scores.quantized
    text = str(analysis)
    assert "round_weights_of_sim(sim, data_loader)" in text
    document = json.loads(analysis.write_json(tmp_path / "a.json").read_text())
    assert document["title"] == "Branches"
    assert len(document["nodes"]) == len(analysis.nodes)


def test_a_network_is_folded_simulated_and_calibrated_first():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    found = analyze(model, data()[0], data(), bitwidths=(8,), default_output_bw=6)
    assert not any(finding.kind == "fold" for finding in found.findings)
    assert isinstance(model[1], nn.BatchNorm2d)
    assert {t.bitwidth for t in found.tensors} == {6, 8}
    assert found.title == "Sequential"


def test_errors():
    with pytest.raises(TypeError, match=r"`model` must be a QuantizationSimModel or an nn.Module"):
        analyze(3, data()[0], data())
    with pytest.raises(ValueError, match="has no quantizer with a range"):
        analyze(QuantizationSimModel(Branches().eval(), data()[0]), data()[0], data())


def test_the_page_as_text(analysis, page):
    text = page.read_text()
    found = Page(text)
    assert found.unbalanced == []
    assert found.open == []
    assert found.links == []
    for tensor in analysis.tensors:
        assert text.count(f'data-layer="{tensor.layer}"') >= 2  # in the graph, as a histogram
    for finding in analysis.findings:
        assert finding.kind in text
    assert text.count('class="node"') == len(analysis.nodes)
    assert text.count('class="bars"') == len(analysis.histograms)


#: Clicks what a reader would click; what happened goes into the document.
_READER = """<script>
addEventListener("load", () => {
  const rows = () => [...document.querySelectorAll("table[data-filter=filter] tr")].slice(1);
  document.querySelectorAll("table[data-filter=filter] th")[5].click();
  const shares = rows().map((row) => Number(row.cells[5].dataset.value));
  document.querySelector('.pick[data-layer="fc"]').dispatchEvent(new MouseEvent("click"));
  const shown = (all) => all.filter((one) => !one.hidden && one.offsetHeight > 0).length;
  document.body.dataset.result = JSON.stringify({
    sorted: shares.every((share, i) => i === 0 || shares[i - 1] <= share),
    rows: shown(rows()),
    plots: shown([...document.querySelectorAll(".plot")]),
    drawn: [...document.querySelectorAll("svg path, svg rect")]
      .filter((shape) => shape.getBBox().width > 0).length,
  });
});
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_the_page_in_a_browser(analysis, page, tmp_path):
    copy = tmp_path / "page.html"
    copy.write_text(page.read_text().replace("</body>", _READER))
    picture = tmp_path / "page.png"
    options = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr",
        "--window-size=1200,3000",
    ]  # fmt: skip
    run = subprocess.run(
        [*options, "--dump-dom", copy.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in run.stderr, run.stderr
    result = run.stdout.partition('data-result="')[2].partition('"')[0].replace("&quot;", '"')
    found = json.loads(result)
    of_fc = [t for t in analysis.tensors if t.layer == "fc"]
    assert found["sorted"]
    assert found["rows"] == len(of_fc)
    assert found["plots"] == len(of_fc)
    assert found["drawn"] > len(analysis.nodes) + len(analysis.layers) + len(analysis.histograms)
    subprocess.run(
        [*options, f"--screenshot={picture}", page.as_uri()],
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert _colors(picture.read_bytes()) > 20


def _colors(png):
    """How many different colors a picture of 8 bits a channel has, roughly: of unfiltered rows."""
    assert png.startswith(b"\x89PNG")
    width, height = (int.from_bytes(png[i : i + 4], "big") for i in (16, 20))
    channels = {2: 3, 6: 4}[png[25]]
    data, at = b"", 8
    while at < len(png):
        size, kind = int.from_bytes(png[at : at + 4], "big"), png[at + 4 : at + 8]
        if kind == b"IDAT":
            data += png[at + 8 : at + 8 + size]
        at += size + 12
    raw, stride = zlib.decompress(data), 1 + width * channels
    assert len(raw) == height * stride
    rows = [raw[y * stride + 1 : (y + 1) * stride] for y in range(height)]
    return len({row[x : x + channels] for row in rows for x in range(0, len(row), 7 * channels)})


# -- drawings --------------------------------------------------------------------------------------


def test_nodes_stand_below_what_they_read():
    nodes = [
        GraphNode("in", "Conv", (), "in"),
        GraphNode("left", "Conv", (0,), "left"),
        GraphNode("right", "Conv", (0,), "right"),
        GraphNode("add", "Add", (1, 2, 0), "add"),
    ]
    drawing = draw_graph(nodes, [("good", node.name) for node in nodes])
    boxes = {box.label: box for box in drawing.boxes}
    assert boxes["in"].y < boxes["left"].y == boxes["right"].y < boxes["add"].y
    assert boxes["right"].x - boxes["left"].x >= drawing.box_width
    assert len(drawing.paths) == 5
    assert all(0 <= box.x <= drawing.width - drawing.box_width for box in drawing.boxes)


def test_a_histogram_shares_its_axis_with_the_grid():
    histogram = TensorHistogram("x", [1, 9, 9, 1], -1.0, 1.0, -2.0, 1.75, 15)
    drawing = draw_histogram(histogram)
    assert (drawing.lower, drawing.upper) == (-2.0, 1.75)
    assert drawing.grid_left == 0
    assert drawing.step == pytest.approx(drawing.width / 15)
    fine = draw_histogram(TensorHistogram("x", [1], -1.0, 1.0, -1.0, 1.0, 65535))
    assert fine.step == 0  # a tint
    assert draw_histogram(TensorHistogram("x", [1], -1.0, 1.0)).grid_left is None


# -- QuantAnalyzer ---------------------------------------------------------------------------------


def run(model, batches):
    for x in batches:
        model(x)


def test_quant_analyzer_writes_aimets_files(tmp_path):
    torch.manual_seed(0)
    model = Branches().eval()
    analyzer = QuantAnalyzer(
        model,
        data()[0],
        CallbackFunc(run, data()),
        CallbackFunc(score, 2.0),
        modules_to_ignore=[model.right],
    )
    analyzer.enable_per_layer_mse_loss(data(), 2)
    found = analyzer.analyze(
        QuantScheme.post_training_tf_enhanced, default_param_bw=4, results_dir=str(tmp_path)
    )
    enabled, disabled, losses, weights, activations = (
        json.loads((tmp_path / name).read_text())
        for name in (
            "per_layer_quant_enabled.json",
            "per_layer_quant_disabled.json",
            "per_layer_mse_loss.json",
            "min_max_ranges/weights.json",
            "min_max_ranges/activations.json",
        )
    )
    assert list(enabled) == list(disabled)
    assert "right" not in enabled
    assert next(iter(enabled)) == "stem"
    assert losses["fc"] > 0
    assert len(weights["fc_weight"]) == 5
    assert activations["fc_output_0"][0] < activations["fc_output_0"][1]
    for name in (
        "per_layer_quant_enabled.html",
        "per_layer_quant_disabled.html",
        "per_layer_mse_loss.html",
        "min_max_ranges/activations.html",
        "min_max_ranges/fc_weight.html",
        "activations_pdf/stem_input_q0_0.html",
        "activations_pdf/fc_output_q0_0.html",
        "weights_pdf/fc/fc_weight_4.html",
        "analysis.html",
    ):
        parsed = Page((tmp_path / name).read_text())
        assert parsed.unbalanced == [], name
        assert "svg" in parsed.tags, name
    assert found.scores.fp32 == pytest.approx(2 * score(model))
    assert found.enabled == enabled


def test_the_methods_of_quant_analyzer_measure_what_they_say(tmp_path):
    sim = simulation(default_param_bw=4)
    model = sim.get_original_model(sim.model)
    analyzer = QuantAnalyzer(model, data()[0], data(), score)
    fp32, weights, activations = analyzer.check_model_sensitivity_to_quantization(sim)
    with torch.no_grad():
        assert fp32 == pytest.approx(score(model))
        assert abs(weights - fp32) > 0
        assert abs(activations - fp32) > 0
    enabled = analyzer.perform_per_layer_analysis_by_enabling_quant_wrappers(sim, str(tmp_path))
    with torch.no_grad():
        for name, module in sim.named_qmodules():
            if name != "fc":
                module._remove_all_quantizers()
        assert enabled["fc"] == pytest.approx(score(sim.model))


def test_quant_analyzer_errors(tmp_path):
    model = Branches()
    with pytest.raises(TypeError, match="`eval_callback` must be a CallbackFunc or a callable"):
        QuantAnalyzer(model, data()[0], run, 3)
    with pytest.raises(TypeError, match=r"`forward_pass_callback` must be a CallbackFunc"):
        QuantAnalyzer(model, data()[0], 3, score)
    with pytest.raises(TypeError, match=r"`model` must be an nn.Module"):
        QuantAnalyzer(3, data()[0], run, score)
    analyzer = QuantAnalyzer(model, data()[0], data(), score, [nn.ReLU()])
    with pytest.raises(ValueError, match="`num_batches` must be at most the number of batches, 3"):
        analyzer.enable_per_layer_mse_loss(data(), 4)
    with pytest.raises(ValueError, match="call enable_per_layer_mse_loss first"):
        analyzer.export_per_layer_mse_loss(simulation(), str(tmp_path))
    with pytest.raises(ValueError, match="`modules_to_ignore` must hold modules of `model`"):
        analyzer.analyze(results_dir=str(tmp_path))
