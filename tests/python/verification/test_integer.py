"""Integer-only targets: codes against arithmetic in Python's integers, and accumulators."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import aimet_torch
from aimet_torch.export import onnx_qdq
from aimet_torch.quantsim import QuantizationSimModel
from tests.python.export.side_by_side import behind, simulated_side_by_side
from tests.python.export.test_onnx_qdq import NEAR_LAYERS, SINGLE_LAYERS
from tests.python.verification.networks import exported
from tests.reference import requantization as reference


def simulated(build, shapes, path, **options):
    torch.manual_seed(0)
    model = nn.Sequential(build()) if len(shapes) == 1 else build()
    inputs = tuple(torch.randn(shape) for shape in shapes)
    sim = QuantizationSimModel(model.eval(), inputs, **options)
    sim.compute_encodings(lambda m: m(*inputs))
    onnx_qdq.export(sim, inputs, path)
    return sim, inputs


def predicted(sim, path, inputs, **options):
    options = {"integer": "half_even", **options}
    return aimet_torch.verify(
        sim, path, inputs, node_by_node=False, end_to_end=False, optimized=False, **options
    ).integer


INTEGER = [
    "add", "concat", "conv3d", "conv_batch_norm", "conv_transpose", "depthwise", "global_pool",
    "grouped_transpose", "hardswish", "linear_3d_relu", "matmul", "max_pool", "moves",
    "mul_scalar", "rsub_scalar",
]  # fmt: skip
IN_TABLES = {"hardswish"}
MOVING = {"max_pool"}


@pytest.fixture(scope="module")
def side_by_side(tmp_path_factory):
    """The rows and the output of each layer of `INTEGER`."""
    path = tmp_path_factory.mktemp("integer") / "net.onnx"
    layers = {**SINGLE_LAYERS, **NEAR_LAYERS}
    sim, inputs = simulated_side_by_side({name: layers[name] for name in INTEGER})
    onnx_qdq.export(sim, inputs, path)
    result = predicted(sim, path, inputs)
    assert not result.overflows
    found = {
        name: ([row for row in result.rows if f"{row.tensor}_quantized" in names], output)
        for name, output, names in zip(INTEGER, result.outputs, behind(path), strict=True)
    }
    assert sum(len(rows) for rows, _ in found.values()) == len(result.rows)
    return found


@pytest.mark.parametrize("name", INTEGER)
def test_layers_without_any_floating_point(name, side_by_side):
    rows, output = side_by_side[name]
    kinds = {row.kind for row in rows}
    wanted = "table" if name in IN_TABLES else "moved" if name in MOVING else "integer"
    assert wanted in kinds
    assert kinds <= {"input", "integer", "moved", "table"}
    # The codes of a simulation, but for sums of averages in floating point next to a half.
    assert max(row.steps for row in rows if row.steps is not None) <= (1 if "pool" in name else 0)
    assert output.equal >= 0.98


@pytest.mark.parametrize("name", ["layer_norm", "attention"])
def test_what_stays_in_floating_point_says_so(name, tmp_path):
    path = tmp_path / "net.onnx"
    sim, inputs = simulated(*NEAR_LAYERS[name], path)
    result = predicted(sim, path, inputs)
    reasons = [row.reason for row in result.float_rows]
    assert len(reasons) == 1
    assert ("LayerNormalization" if name == "layer_norm" else "Softmax") in reasons[0]
    assert "1 of" in result.headline


POOLS = {
    "padded_ceil": nn.AvgPool2d(3, 2, padding=1, ceil_mode=True),
    "padding_not_counted": nn.AvgPool2d(3, 2, padding=1, count_include_pad=False),
    "not_counted_ceil": nn.AvgPool2d((2, 3), 2, (0, 1), ceil_mode=True, count_include_pad=False),
}


@pytest.mark.parametrize("name", POOLS)
def test_average_pooling_counts_the_padding_as_the_model_does(name, tmp_path):
    path = tmp_path / "net.onnx"
    sim, inputs = simulated(lambda: POOLS[name], [(2, 3, 10, 8)], path)
    for rounding in ("gemmlowp", "single", "half_even"):
        row = predicted(sim, path, inputs, integer=rounding).rows[-1]
        assert row.kind == "integer"
        assert row.steps <= 1
        assert row.equal >= 0.98


def codes_by_hand(path, inputs, rounding):
    """A convolution with ReLU6 in Python's integers, from the numbers in the file."""
    model = onnx.load(path)
    values = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    nodes = {output: node for node in model.graph.node for output in node.output}
    conv = next(n for n in model.graph.node if n.op_type == "Conv")
    source, weight, bias = (nodes[name] for name in conv.input)
    quantize = next(
        n for n in model.graph.node if n.op_type == "QuantizeLinear" and n is not nodes[
            source.input[0]
        ] and n.input[0] not in values
    )  # fmt: skip
    s_x, z_x = float(values[source.input[1]]), int(values[source.input[2]])
    s_y, z_y = float(values[quantize.input[1]]), int(values[quantize.input[2]])
    s_w = values[weight.input[1]].astype(np.float64)
    x = np.clip(np.rint(inputs.numpy() / np.float32(s_x)) + z_x, 0, 255).astype(int) - z_x
    w = values[nodes[weight.input[0]].input[0]] / s_w.astype(np.float32).reshape(-1, 1, 1, 1)
    w, b = np.rint(w).astype(int), values[bias.input[0]].astype(int)
    x = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)])
    highest = min(255, round(6 / s_y) + z_y)
    result = np.zeros((x.shape[0], w.shape[0], x.shape[2] - 2, x.shape[3] - 2), int)
    for n, c, i, j in np.ndindex(*result.shape):
        total = int((x[n, :, i : i + 3, j : j + 3] * w[c]).sum() + b[c])
        point = reference.fixed_point(s_x * float(s_w[c]) / s_y)
        code = reference.requantized(total, *point, rounding) + z_y
        result[n, c, i, j] = min(max(code, z_y), highest)
    return (result - z_y).astype(np.float32) * np.float32(s_y)


def test_a_convolution_by_hand(tmp_path):
    from aimet_torch.verification.integer.graph import IntegerGraph
    from aimet_torch.verification.node_runner import node_evaluator
    from aimet_torch.verification.qdq_file import QdqFile

    path = tmp_path / "net.onnx"

    def build():
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU6())

    _, (inputs,) = simulated(build, [(2, 3, 6, 5)], path)
    model = QdqFile.load(path).model
    for rounding in ("gemmlowp", "single", "half_even"):
        graph = IntegerGraph(model, node_evaluator(model), rounding)
        (result,) = graph.run({model.graph.inputs[0].name: inputs.numpy()})
        np.testing.assert_array_equal(result, codes_by_hand(path, inputs, rounding))


class Deep(nn.Module):
    """A linear layer that sums up 2,000 products."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2000, 3)
        with torch.no_grad():
            self.layer.weight.fill_(1.0)

    def forward(self, x):
        return self.layer(x)


def test_accumulators_that_overflow_are_flagged_and_wrap(tmp_path):
    torch.manual_seed(0)
    x, path = torch.rand(4, 2000), tmp_path / "net.onnx"
    sim = QuantizationSimModel(Deep().eval(), x, default_output_bw=16)
    sim.compute_encodings(lambda m: m(torch.ones(1, 2000)))
    onnx_qdq.export(sim, x, path)

    # 2,000 products of 16 and 6 bits (the bias widened the weight's step), and the sign.
    calm = predicted(sim, path, x / 50)
    (row,) = calm.overflows
    assert (row.needed_bits, row.accumulator) == (34, "may overflow")
    assert row.used_bits <= 32
    assert row.equal >= 0.9
    assert not calm.problems
    assert "could overflow: the worst input needs 34 bits" in calm.notes[0]

    wild = predicted(sim, path, x)
    assert wild.rows[-1].accumulator == "overflows"
    assert wild.rows[-1].equal < 0.1
    assert "use 8-bit activations there" in wild.problems[0]
    result = aimet_torch.verify(sim, path, x, integer=True)
    assert not result.ok
    assert result.problems[-1].startswith("integer-only: the accumulator of Gemm")

    wide = predicted(sim, path, x, accumulator_bits=64)
    assert not wide.overflows
    assert wide.rows[-1].steps <= 1


def test_a_whole_network_in_a_report(tmp_path):
    sim, path, inputs = exported("conv_net", tmp_path)
    result = aimet_torch.verify(sim, path, inputs, integer="half_even")
    assert result.ok, result.problems
    assert {row.kind for row in result.integer.rows} == {"input", "integer", "moved"}
    assert result.integer.outputs[0].equal == 1.0
    assert result.integer.samples == 4
    assert "half_even rounding, 32-bit accumulators" in str(result)
    document = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert len(document["integer"]["rows"]) == len(result.integer.rows)
    assert "With integers only" in result.to_html()

    # Rounding once upwards is the same where no sum falls on a half; rounding twice is not.
    by_rule = {rule: predicted(sim, path, inputs, integer=rule) for rule in ("gemmlowp", "single")}
    assert by_rule["single"].outputs[0].equal == 1.0
    worst = min(row.equal for row in by_rule["gemmlowp"].rows if row.equal is not None)
    assert 0.9 < worst < 1.0
    assert all(row.steps <= 1 for row in by_rule["gemmlowp"].rows if row.steps is not None)


@pytest.mark.parametrize("name", ["block", pytest.param("lstm", marks=pytest.mark.slow)])
def test_transformers_and_recurrent_layers_run(name, tmp_path):
    sim, path, inputs = exported(name, tmp_path)
    result = predicted(sim, path, inputs)
    assert max(row.steps for row in result.rows if row.steps is not None) <= 1
    assert any(row.operators == "Gemm" and row.kind == "integer" for row in result.rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"integer": "up"}, "`integer` must be True, False, 'gemmlowp', .* got 'up'"),
        ({"integer": True, "accumulator_bits": 16}, "`accumulator_bits` must be 32 or 64, got 16"),
    ],
)
def test_errors(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        aimet_torch.verify(None, tmp_path / "none.onnx", None, **options)
