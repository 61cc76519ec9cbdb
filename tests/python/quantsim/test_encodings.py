"""Saving and loading encodings by the names of torch modules."""

from __future__ import annotations

import json
import re

import pytest
import torch

from aimet_torch.quantsim import QuantizationSimModel, load_encodings_to_sim


@pytest.fixture
def saved(make_sim, tmp_path):
    sim = make_sim()
    sim.save_encodings_to_json(tmp_path, "net")
    return sim, tmp_path / "net.json"


def test_file_names_modules(saved):
    document = json.loads(saved[1].read_text())
    assert set(document["param_encodings"]) == {"conv1.weight", "conv2.weight", "fc.weight"}
    assert len(document["param_encodings"]["conv1.weight"]) == 8
    assert set(document["activation_encodings"]["relu"]["output"]) == {"0", "1"}
    assert document["activation_encodings"]["conv1"]["input"]["0"]["bitwidth"] == 8
    assert document["quantizer_args"]["quant_scheme"] == "min_max"


def test_round_trip_gives_the_same_numbers(net, data, saved):
    sim, path = saved
    for encodings in (path, str(path), json.loads(path.read_text())):
        other = QuantizationSimModel(net, data)
        other.load_encodings(encodings)
        torch.testing.assert_close(other.model(data), sim.model(data), rtol=0, atol=1e-6)


def test_frozen_encodings_stay(net, data, saved):
    sim, path = saved
    other = QuantizationSimModel(net, data)
    other.load_and_freeze_encodings(path)
    other.compute_encodings([data * 3])
    for a, b in zip(other.quantizers(), sim.quantizers(), strict=True):
        torch.testing.assert_close(a.get_max(), b.get_max())
        assert not any(p.requires_grad for p in a.parameters())


def test_only_parameters_are_frozen(net, data, saved):
    _, path = saved
    other = QuantizationSimModel(net, data)
    other.set_and_freeze_param_encodings(path)
    before = other.model.conv1.param_quantizers["weight"].get_max().clone()
    with torch.no_grad():
        other.model.conv1.weight.mul_(2)
    other.compute_encodings([data * 3])
    assert torch.equal(other.model.conv1.param_quantizers["weight"].get_max(), before)
    assert other.model.conv1.input_quantizers[0].get_max() > 2 * data.max()


def test_surplus_entries(net, data, saved):
    document = json.loads(saved[1].read_text())
    document["param_encodings"]["ghost.weight"] = document["param_encodings"]["fc.weight"]
    sim = QuantizationSimModel(net, data)
    with pytest.raises(ValueError, match=r"without a quantizer in the simulation: ghost\.weight"):
        sim.load_encodings(document)
    assert not sim.model.conv1.input_quantizers[0].is_initialized()  # nothing was changed
    with pytest.warns(UserWarning, match="ghost.weight"):
        sim.load_encodings(document, strict=False)
    assert sim.model.conv1.input_quantizers[0].is_initialized()


def test_missing_entries_remove_quantizers_only_on_request(net, data, saved):
    document = json.loads(saved[1].read_text())
    del document["param_encodings"]["fc.weight"]
    del document["activation_encodings"]["relu"]
    sim = QuantizationSimModel(net, data)
    sim.load_encodings(document)
    assert sim.model.fc.param_quantizers["weight"] is not None
    with pytest.warns(
        UserWarning, match=re.escape("fc.weight, relu output 0, relu output 1") + "|relu output 0"
    ):
        sim.load_encodings(document, partial=False)
    assert sim.model.fc.param_quantizers["weight"] is None
    assert sim.model.relu.output_quantizers[1] is None


def test_load_encodings_to_sim(net, data, saved):
    sim = QuantizationSimModel(net, data)
    load_encodings_to_sim(sim, saved[1])
    torch.testing.assert_close(sim.model(data), saved[0].model(data), rtol=0, atol=1e-6)


def test_wrong_number_of_scales(net, data, saved):
    document = json.loads(saved[1].read_text())
    document["param_encodings"]["conv1.weight"] = document["param_encodings"]["conv1.weight"][:3]
    with pytest.raises(
        ValueError, match=r"conv1.weight has 3 scales, its quantizer has shape \[8, 1, 1, 1\]"
    ):
        QuantizationSimModel(net, data).load_encodings(document)


def test_names_of_onnx_tensors_are_refused(net, data):
    entry = {
        "bitwidth": 8,
        "dtype": "int",
        "is_symmetric": "False",
        "min": -1.0,
        "max": 1.0,
        "scale": 2 / 255,
        "offset": -128,
    }
    document = {
        "version": "0.6.1",
        "activation_encodings": {"input": [entry]},
        "param_encodings": {},
    }
    with pytest.raises(ValueError, match="names the tensor 'input' of an ONNX graph"):
        QuantizationSimModel(net, data).load_encodings(document)


def test_malformed_file(net, data, tmp_path):
    path = tmp_path / "broken.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json"):
        QuantizationSimModel(net, data).load_encodings(path)


def test_other_bitwidths_are_taken_over(net, data, saved):
    sim = QuantizationSimModel(net, data, default_param_bw=4, default_output_bw=16)
    sim.load_encodings(saved[1])
    assert sim.model.conv1.param_quantizers["weight"].bitwidth == 8
    assert sim.model.conv1.input_quantizers[0].bitwidth == 8
    torch.testing.assert_close(sim.model(data), saved[0].model(data), rtol=0, atol=1e-6)
