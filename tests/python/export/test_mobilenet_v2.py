"""torchvision's trained MobileNetV2 on photographs: simulation and ONNX Runtime, bit by bit.

A fragile network: one step of difference in an early layer ends in another logit. Needs the files
that `python examples/assets.py` fetches.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from aimet_torch.batch_norm_fold import fold_all_batch_norms
from aimet_torch.export import activation_edges, onnx_qdq
from aimet_torch.quantsim import QuantizationSimModel
from tests.python.export.agreement import node_by_node, run, sqnr_db

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[3]
PHOTOGRAPHS = 24
CALIBRATION = 8


@pytest.fixture(scope="module")
def assets():
    spec = importlib.util.spec_from_file_location("assets", ROOT / "examples" / "assets.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        return module.load_mobilenet_v2(), module.load_photographs(PHOTOGRAPHS + CALIBRATION)
    except FileNotFoundError as error:
        pytest.skip(str(error))


def simulate(assets, folded):
    model, images = assets
    sim_input = images[:1]
    if folded:
        import copy

        model = copy.deepcopy(model)
        fold_all_batch_norms(model, (1, 3, 224, 224), dummy_input=sim_input)
    sim = QuantizationSimModel(model, sim_input)
    sim.compute_encodings(images[:CALIBRATION].split(4))
    return sim, images[CALIBRATION:]


@pytest.mark.parametrize("folded", [True, False], ids=["folded", "as_it_is"])
def test_onnx_runtime_computes_the_simulations_numbers(assets, folded, tmp_path):
    sim, images = simulate(assets, folded)
    path = tmp_path / "mobilenet_v2.onnx"
    onnx_qdq.export(sim, images[:1], path, dynamic_shapes=({0: "batch"},))
    assert activation_edges(path)[0] == []
    with torch.no_grad():
        float32 = assets[0](images).numpy()
        simulated = sim.model(images).numpy()
    result = run(path, images)[0]
    # The issue asks for 10 dB above the quantization noise and 95 % equal top-1.
    assert sqnr_db(simulated, result) >= sqnr_db(float32, simulated) + 10
    assert (simulated.argmax(1) == result.argmax(1)).all()
    assert (simulated == result).mean() >= 0.99


@pytest.mark.parametrize("folded", [True, False], ids=["folded", "as_it_is"])
def test_each_operator_agrees_on_the_simulations_values(assets, folded):
    sim, images = simulate(assets, folded)
    graph = onnx_qdq.to_qdq(
        sim,
        images[:1],
        export_int32_bias=True,
        prequantize_constants=False,
        force_activation_as="unsigned",
    )
    found = node_by_node(graph, sim.model, (images[:1],))
    assert len(found) >= 65
    assert max(a.steps for a in found) <= 1.01
    assert min(a.equal for a in found) >= 0.999
    assert np.mean([a.equal for a in found]) >= 0.99999
