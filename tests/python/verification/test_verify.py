"""Simulation and ONNX Runtime side by side: what is found, and what is refused."""

from __future__ import annotations

import html.parser
import json
import math
import platform
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

import aimet_torch
from aimet_torch import encodings
from aimet_torch.common import tables
from aimet_torch.export import onnx_qdq
from aimet_torch.export.onnx_encodings import verified
from aimet_torch.ptq import apply_gptq
from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.report import pages
from aimet_torch.verification import Limit, Limits, run, targets
from tests.python.verification.networks import exported, simulated


@pytest.fixture(scope="module")
def conv_net(tmp_path_factory):
    return exported("conv_net", tmp_path_factory.mktemp("conv_net"))


# -- what is found
# ------------------------------------------------------------------------------------------


def test_a_network_whose_sums_avoid_boundaries_is_equal_to_the_last_bit(conv_net):
    sim, path, inputs = conv_net
    result = aimet_torch.verify(sim, path, inputs)
    assert result.ok, result.problems
    assert result.samples == 4
    assert [row.operators for row in result.nodes] == [
        "input", "Conv+Clip", "Conv (depthwise)+Relu", "Conv", "Add+Relu", "MaxPool+ReduceMean",
        "Gemm",
    ]  # fmt: skip
    assert result.nodes[1].elements == 4 * 16 * 16 * 16
    assert min(row.equal for row in result.nodes) >= 0.999
    assert max(row.steps for row in result.nodes) <= 1
    assert [row.case for row in result.outputs] == ["end to end", "graph optimizations"]
    whole = result.outputs[0]
    assert whole.top1 == 1.0
    assert whole.sqnr_db >= whole.noise_db + 10
    assert 10 < whole.noise_db < 60


def test_rounded_weights_are_equal_to_the_last_bit_after_another_calibration(tmp_path):
    sim, inputs = simulated("conv_net", default_param_bw=4)
    apply_gptq(sim, inputs, search_scales=True)
    sim.compute_encodings([1.1 * x for x in inputs])
    path = tmp_path / "network.onnx"
    onnx_qdq.export(sim, inputs[0], path)
    result = aimet_torch.verify(sim, path, inputs)
    assert all(row.equal == 1.0 for row in result.nodes)
    assert math.isinf(result.outputs[0].sqnr_db)


def test_parameters_that_functions_read(tmp_path):
    sim, path, inputs = exported("scaled", tmp_path)
    result = aimet_torch.verify(sim, path, inputs)
    assert result.ok, result.problems
    assert result.outputs[0].steps <= 1


@pytest.mark.parametrize("name", ["block", "lstm"])
def test_attention_and_recurrent_layers_are_within_a_step(name, tmp_path):
    sim, path, inputs = exported(name, tmp_path)
    result = aimet_torch.verify(sim, path, inputs)
    assert result.ok, str(result)
    assert len(result.nodes) >= {"block": 14, "lstm": 3}[name]
    assert all(row.steps <= 1 and row.equal >= 0.999 for row in result.nodes)


def test_wide_activations(tmp_path):
    sim, path, inputs = exported("conv_net", tmp_path, default_output_bw=16)
    result = aimet_torch.verify(sim, path, inputs)
    assert {row.bitwidth for row in result.nodes} == {16}
    assert max(row.steps for row in result.nodes) <= 1
    assert result.outputs[0].sqnr_db >= result.outputs[0].noise_db + 10


def edited(path, target, change):
    """The file with a change of its graph."""
    model = ir.load(path)
    change(model)
    ir.save(model, target)
    return target


def test_the_first_difference_is_where_the_file_was_changed(conv_net, tmp_path):
    sim, path, inputs = conv_net

    def change(model):
        weight = model.graph.initializers["pointwise.weight"]
        array = weight.const_value.numpy().copy()
        array[3] = -array[3]
        weight.const_value = ir.tensor(array, name=weight.name)

    result = aimet_torch.verify(sim, edited(path, tmp_path / "changed.onnx", change), inputs)
    assert not result.ok
    first = result.first_difference
    assert first.operators == "Conv"
    assert first.quantizer.startswith("pointwise.")
    assert first.steps > 1
    assert 0.9 < first.equal < 0.95  # one channel of 16
    by_operators = {row.operators: row for row in result.nodes}
    assert by_operators["Conv+Clip"].chain_equal == 1.0
    # Fed with the simulation's values, what follows is right; end to end it is not.
    assert by_operators["Gemm"].equal == 1.0
    assert by_operators["Gemm"].chain_equal < 1.0
    assert "`Conv" not in result.problems[0]
    assert any(problem.startswith("Conv `") for problem in result.problems)


def test_a_simulation_that_was_calibrated_after_the_export(conv_net):
    sim, path, inputs = conv_net
    quantizer = sim.model.pointwise.output_quantizers[0]
    limits = quantizer.get_min(), quantizer.get_max()
    try:
        quantizer.set_range(*(1.5 * limit for limit in limits))
        result = aimet_torch.verify(sim, path, inputs, end_to_end=False, optimized=False)
    finally:
        quantizer.set_range(*limits)
    assert not result.ok
    expected = "1 tensor(s) have another grid in the file than in the simulation"
    assert expected in result.problems[0]
    assert [row.operators for row in result.nodes if row.off_grid] == ["Conv"]


def test_limits_of_the_caller(conv_net):
    sim, path, inputs = conv_net
    strict = Limits(node=Limit(0, 1.0), by_operator={"Gemm": Limit(-1, 1.0)})
    result = aimet_torch.verify(sim, path, inputs[:1], limits=strict)
    assert [row.operators for row in result.nodes if not row.is_within] == ["Gemm"]
    assert "Gemm `linear`" in result.problems[-1] or "Gemm" in result.problems[-1]


def test_parts_on_request(conv_net):
    sim, path, inputs = conv_net
    result = aimet_torch.verify(sim, path, inputs[0], end_to_end=False, optimized=False)
    assert result.nodes
    assert not result.outputs
    assert result.nodes[0].chain_equal is None
    result = aimet_torch.verify(sim, path, inputs[0], node_by_node=False, optimized=False)
    assert not result.nodes
    assert len(result.outputs) == 1


def test_open_sizes_keyword_inputs_and_several_outputs(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(6, 4), nn.Linear(6, 4)

        def forward(self, a, b):
            return self.left(a), (self.right(b) * 2).sum(1)

    torch.manual_seed(0)
    call = {"a": torch.randn(2, 6), "b": torch.randn(2, 3, 6)}
    sim = QuantizationSimModel(Two(), call)
    sim.compute_encodings([call])
    path = tmp_path / "two.onnx"
    onnx_qdq.export(sim, call, path, dynamic_shapes={"a": {0: "n"}, "b": {0: "n"}})
    other = {"a": torch.randn(5, 6), "b": torch.randn(5, 3, 6)}
    result = aimet_torch.verify(sim, path, [call, other])
    assert len(result.outputs) == 4
    assert max(row.steps for row in result.nodes) <= 1


# -- what a person sees
# ------------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.bars, self.rows = [], 0, 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.links += [v for n, v in attrs if n in ("src", "href", "action")]
        self.bars += tag == "rect"
        self.rows += tag == "tr"


def test_table_json_and_html(conv_net, tmp_path, monkeypatch):
    sim, path, inputs = conv_net
    result = aimet_torch.verify(
        sim, path, inputs, limits=Limits(by_operator={"Gemm": Limit(-1, 1)})
    )
    text = str(result)
    assert "simulation to target" in text
    assert "problem: Gemm" in text
    monkeypatch.setattr(pages, "text_table", tables._plain_table)
    assert "simulation to target" in str(result)  # without rich
    document = json.loads(result.write_json(tmp_path / "out" / "result.json").read_text())
    assert document["ok"] is False
    assert document["target"] == "onnxruntime"
    assert len(document["nodes"]) == len(result.nodes)
    assert document["environment"]["onnxruntime"]
    page = Page(result.write_html(tmp_path / "result.html").read_text())
    assert page.links == []
    assert page.bars == len(result.nodes)
    assert page.rows > len(result.nodes) + len(result.outputs)


def test_shares_are_never_rounded_up_to_all():
    assert pages.format_percent(0.999999, 3) == "99.999 %"
    assert pages.format_percent(1.0, 3) == "100.000 %"


def test_export_verifies_by_itself(tmp_path):
    sim, inputs = simulated("conv_net")
    result = onnx_qdq.export(sim, inputs[0], tmp_path / "net.onnx", verify=True)
    assert result.ok
    assert len(result.nodes) == 7


def test_problems_after_an_export_become_warnings(conv_net, monkeypatch):
    sim, path, inputs = conv_net
    monkeypatch.setattr(run, "Limits", lambda: Limits(by_operator={"Gemm": Limit(-1, 1)}))
    with pytest.warns(UserWarning, match=r"conv_net\.onnx on onnxruntime: Gemm .* differs by"):
        assert not verified(sim, path, [inputs[0]], True).ok


def test_an_encodings_file_is_verified_with_its_model(tmp_path):
    sim, inputs = simulated("conv_net")
    path = tmp_path / "net.onnx"
    options = {"input_names": ["image"], "output_names": ["scores"]}
    result = sim.onnx.export(inputs[0], path, verify=True, **options)
    assert result.ok, str(result)
    assert len(result.nodes) == 7
    assert all(row.equal == 1 for row in result.nodes)
    document = encodings.read(path.with_suffix(".encodings"))
    (entry,) = (e for e in document["activation_encodings"] if e["name"] == "scores")
    entry["scale"][0] *= 2
    encodings.write(path.with_suffix(".encodings"), document)
    result = aimet_torch.verify(sim, path, inputs, export_options=options)
    assert result.first_difference.tensor == "scores"
    entry["name"] = "points"
    encodings.write(path.with_suffix(".encodings"), document)
    with pytest.raises(ValueError, match=r"points; the file is of another.*`export_options`"):
        aimet_torch.verify(sim, path, inputs, export_options=options)


# -- processors whose products saturate
# ------------------------------------------------------------------------------------------


def test_saturation_is_found_out_by_multiplying():
    flags = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not flags.exists():
        pytest.skip("flags of the processor are read on Linux x86-64")
    words = set(flags.read_text().split())
    has_32_bit_sums = bool(words & {"avx512_vnni", "avx_vnni"}) or "avx2" not in words
    assert targets.saturates() is not has_32_bit_sums


def test_saturated_products_are_recognized(monkeypatch):
    class Saturating:
        def run(self, _names, inputs):
            pairs = np.full(16, min(2 * 255 * 127, 2**15 - 1) * (inputs["left"].size // 2))
            return [pairs[None].astype(np.int32)]

    monkeypatch.setattr(targets, "_session", lambda *args, **kwargs: Saturating())
    assert targets.saturates()


def test_a_note_tells_of_saturation(conv_net, monkeypatch):
    sim, path, inputs = conv_net
    monkeypatch.setattr(run, "saturates", lambda: True)
    result = aimet_torch.verify(sim, path, inputs[0])
    assert "saturates products of uint8 and int8 on this CPU" in result.notes[-1]
    monkeypatch.setattr(run, "saturates", lambda: False)
    assert not aimet_torch.verify(sim, path, inputs[0]).notes


# -- what is refused
# ------------------------------------------------------------------------------------------


def test_other_targets_are_refused(conv_net):
    sim, path, inputs = conv_net
    with pytest.raises(ValueError, match=r"`target` must be 'onnxruntime' or 'htp', got 'npu'"):
        aimet_torch.verify(sim, path, inputs, target="npu")


def test_inputs_that_do_not_fit_are_refused(conv_net):
    sim, path, inputs = conv_net
    verify = aimet_torch.verify
    with pytest.raises(ValueError, match=r"shape \[1, 3, 16, 16\] for `x`.*\[1, 3, 32, 32\]"):
        verify(sim, path, torch.randn(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"has 2 tensor\(s\), .* 1 input\(s\): x"):
        verify(sim, path, (inputs[0], inputs[0]))
    with pytest.raises(ValueError, match=r"type float64 for `x`, .* float32"):
        verify(sim, path, inputs[0].double())
    with pytest.raises(ValueError, match=r"one call at least"):
        verify(sim, path, [])
    broken = inputs[0].clone()
    broken[0, 0, 0, :2] = math.nan
    with pytest.raises(ValueError, match=r"must be finite, 2 value\(s\) for `x` are NaN"):
        verify(sim, path, [inputs[0], broken])


def test_files_that_do_not_fit_are_refused(conv_net, tmp_path):
    sim, path, inputs = conv_net
    verify = aimet_torch.verify
    with pytest.raises(FileNotFoundError, match=r"there is no file `onnx_path`"):
        verify(sim, tmp_path / "none.onnx", inputs)
    text = tmp_path / "text.onnx"
    text.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"is no ONNX file"):
        verify(sim, text, inputs)
    plain = tmp_path / "plain.onnx"
    graph = "net (float[1] x) => (float[1] y) { y = Relu (x) }"
    ir.save(ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : 20]> {graph}'), plain)
    with pytest.raises(FileNotFoundError, match=r"no QuantizeLinear, and there is no encodings"):
        verify(sim, plain, inputs)
    other, _ = simulated("block")
    with pytest.raises(ValueError, match=r"another model: it names \d+ quantizer.* stem"):
        verify(other, path, torch.randn(1, 12, 32))


def test_a_lost_pair_is_named(conv_net, tmp_path):
    sim, path, inputs = conv_net

    def drop_pair(model):
        reader = next(
            n for n in model.graph
            if n.metadata_props.get("aimet_torch.quantizer", "").startswith("pointwise.output")
        )  # fmt: skip
        reader.outputs[0].replace_all_uses_with(reader.inputs[0].producer().inputs[0])

    lost = edited(path, tmp_path / "lost.onnx", drop_pair)
    model = ir.load(lost)
    ir.passes.common.RemoveUnusedNodesPass()(model)
    ir.save(model, lost)
    with pytest.raises(ValueError, match=r"has no QuantizeLinear for them: pointwise\.output"):
        aimet_torch.verify(sim, lost, inputs)


def test_a_file_that_does_not_name_quantizers_is_refused(conv_net, tmp_path):
    sim, path, inputs = conv_net
    model = onnx.load(path)
    for node in model.graph.node:
        del node.metadata_props[:]
    onnx.save(model, tmp_path / "nameless.onnx")
    with pytest.raises(ValueError, match=r"does not tell which quantizer"):
        aimet_torch.verify(sim, tmp_path / "nameless.onnx", inputs)
