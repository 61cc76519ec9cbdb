"""Simulation and Qualcomm's HTP, emulated, side by side; runs where onnxruntime-qnn installs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

import aimet_torch
from aimet_torch.export import onnx_qdq
from aimet_torch.verification import groups, htp
from aimet_torch.verification.targets import Job
from tests.python.verification.networks import exported, simulated

REASON = htp.unavailable()
needs_htp = pytest.mark.skipif(REASON is not None, reason=str(REASON))


def verified(name, folder, **options):
    sim, path, inputs = exported(name, folder, **options)
    return aimet_torch.verify(sim, path, inputs, target="htp")


@needs_htp
@pytest.mark.parametrize(
    ("name", "options", "sqnr_db"),
    [
        ("conv_net", {}, 30),
        ("conv_net", {"default_param_bw": 4}, 30),
        ("conv_net", {"default_output_bw": 16}, 50),
        ("block", {"config_file": "htp_v73"}, 30),
        ("block", {"config_file": "htp_v73", "default_output_bw": 16}, 65),
    ],
    ids=["conv_w8a8", "conv_w4a8", "conv_w8a16", "block_w8a8", "block_w8a16"],
)
def test_the_whole_graph_runs_on_the_htp_and_agrees(name, options, sqnr_db, tmp_path):
    result = verified(name, tmp_path, **options)
    assert result.ok, str(result)  # no operator on the CPU, all within the limits
    assert len(result.nodes) >= 7
    narrow = [row for row in result.nodes if row.bitwidth == 8]
    for row in narrow:
        is_norm = "LayerNormalization" in row.operators
        assert row.steps <= (2 if "depthwise" in row.operators else 1), row
        assert row.equal >= (0.7 if is_norm else 0.9), row
    (output,) = result.outputs
    assert output.sqnr_db >= sqnr_db
    assert "onnxruntime-qnn" in result.environment


@needs_htp
def test_an_operator_on_the_cpu_is_a_problem(tmp_path):
    sim, inputs = simulated("conv_net")
    # The classifier then reads a float: its weights are no part of an integer operator any more.
    sim.model.adaptive_avg_pool2d.output_quantizers[0] = None
    path = tmp_path / "net.onnx"
    onnx_qdq.export(sim, inputs[0], path)
    result = aimet_torch.verify(sim, path, inputs[:1], target="htp")
    assert not result.ok
    found = [problem for problem in result.problems if "on the CPU instead of the htp" in problem]
    assert "DequantizeLinear node_head.weight_dequantized" in found[0], str(result)


@needs_htp
def test_what_the_htp_refuses_comes_with_its_reason(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    (outcome,) = htp.Htp().run([Job(broken, [])])
    assert "Protobuf parsing failed" in outcome.error


def test_calls_of_several_shapes_are_refused():
    text = '<ir_version: 10, opset_import: ["" : 20]> n (float[n, 2] x) => (float[n, 2] y)'
    model = ir.from_onnx_text(f"{text} {{ y = Relu (x) }}")
    calls = [{"x": np.zeros((size, 2), np.float32)} for size in (1, 3)]
    with pytest.raises(ValueError, match=r"several for `x`: \[1, 2\], \[3, 2\]; verify"):
        groups.without_open_sizes(model, calls)
    groups.without_open_sizes(model, calls[:1])
    assert list(model.graph.inputs[0].shape) == [1, 2]
    assert next(iter(model.graph)).outputs[0].shape is None


def test_a_missing_package_is_named_with_the_command(monkeypatch, tmp_path):
    monkeypatch.delenv("AIMET_HTP_PYTHON", raising=False)
    monkeypatch.setattr(htp, "PACKAGE", "onnxruntime_qnn_that_is_not_there")
    with pytest.raises(ModuleNotFoundError, match="pip install onnxruntime-qnn"):
        aimet_torch.verify(None, tmp_path / "net.onnx", torch.zeros(1), target="htp")


def test_another_environment_must_have_the_package(monkeypatch, tmp_path):
    monkeypatch.setenv("AIMET_HTP_PYTHON", str(tmp_path / "python"))
    with pytest.raises(ModuleNotFoundError, match="does not run"):
        aimet_torch.verify(None, tmp_path / "net.onnx", torch.zeros(1), target="htp")
    script = tmp_path / "python"
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    with pytest.raises(ModuleNotFoundError, match="has no package onnxruntime-qnn"):
        aimet_torch.verify(None, tmp_path / "net.onnx", torch.zeros(1), target="htp")
