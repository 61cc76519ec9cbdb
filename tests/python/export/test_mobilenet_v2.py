"""torchvision's trained MobileNetV2 on photographs: simulation and ONNX Runtime, bit by bit.

A fragile network: one step of difference in an early layer ends in another logit. Needs the files
that `python examples/assets.py` fetches.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import aimet_torch
from aimet_torch.batch_norm_fold import fold_all_batch_norms
from aimet_torch.export import activation_edges, onnx_qdq
from aimet_torch.quantsim import QuantizationSimModel

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
    result = aimet_torch.verify(sim, path, list(images.split(8)), optimized=False)
    # One step, 99.9 % of equal values, 10 dB above the quantization noise, 95 % equal top-1.
    assert result.ok, str(result)
    assert len(result.nodes) >= 65
    assert np.mean([row.equal for row in result.nodes]) >= 0.99999
    (output,) = result.outputs
    assert output.top1 == 1.0
    assert output.equal >= 0.99
