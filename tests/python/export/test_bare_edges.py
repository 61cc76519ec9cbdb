"""The checker of QDQ graphs, and torchvision's architectures under it."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch

from aimet_torch.export import BareEdge, activation_edges, onnx_qdq
from aimet_torch.quantsim import QuantizationSimModel
from tests.python.export.agreement import output_steps, run
from tests.python.vision import small_architecture

GRAPH = """
<ir_version: 10, opset_import: ["" : 20]>
net (float[2,4] x, int64[2] shape) => (float[2,4] y)
<float scale = {0.5}, uint8 zero = {0}, float[4,4] w = {0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0}>
{
  q = QuantizeLinear (x, scale, zero)
  d = DequantizeLinear (q, scale, zero)
  two = Add (shape, shape)
  product = MatMul (d, w)
  bare = Relu (product)
  y = Add (bare, d)
}
"""


def test_the_checker_finds_what_is_not_dequantized():
    bare, count = activation_edges(ir.from_onnx_text(GRAPH))
    # MatMul reads d, Add reads bare and d; the sum of sizes and the weight are no activations.
    assert count == 3
    assert bare == [BareEdge("", "Add", "bare", "Relu")]


def test_the_checker_sees_a_bare_input_of_the_model():
    text = GRAPH.replace("MatMul (d, w)", "MatMul (x, w)")
    bare, _ = activation_edges(ir.from_onnx_text(text))
    assert bare[0] == BareEdge("", "MatMul", "x", None)


ARCHITECTURES = [
    "resnet18", "mobilenet_v3_small", "shufflenet_v2_x1_0", "vit_b_16", "swin_t", "convnext_tiny",
    "efficientnet_b0", "squeezenet1_1", "googlenet", "densenet121",
]  # fmt: skip


#: sqrt, erf and exp are approximated, each in its own way.
APPROXIMATED = {"swin_t", "vit_b_16", "convnext_tiny", "efficientnet_b0"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_torchvisions_blocks_have_no_float_island_and_compute_the_same(name, tmp_path):
    """Of whole networks `python -m benchmarks.export_sweep` tells: docs/export.md has its table."""
    torch.manual_seed(0)
    size = 32 if name == "vit_b_16" else 64
    x = torch.randn(2, 3, size, size)
    sim = QuantizationSimModel(small_architecture(name), x)
    sim.compute_encodings(lambda model: model(x))
    path = tmp_path / "net.onnx"
    onnx_qdq.export(sim, x, path)
    bare, count = activation_edges(path)
    assert count > 20
    assert bare == []
    with torch.no_grad():
        expected = sim.model(x).numpy()
    result = run(path, x)[0]
    (step,) = output_steps(path)
    # There, a code next to a boundary may flip, which all logits behind it see.
    assert np.abs(result - expected).mean() <= (step if name in APPROXIMATED else 0)
