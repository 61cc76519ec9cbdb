"""Saving and loading encodings by the names of torch modules."""

from __future__ import annotations

import json
import re

import pytest
import torch

from aimet_torch import encodings
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
    for given in (path, str(path), json.loads(path.read_text())):
        other = QuantizationSimModel(net, data)
        other.load_encodings(given)
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


def test_names_of_onnx_tensors_are_reported(net, data):
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
    sim = QuantizationSimModel(net, data)
    message = "in the simulation: input; those that name tensors of an ONNX graph"
    with pytest.raises(ValueError, match=message):
        sim.load_encodings(document)
    with pytest.warns(UserWarning, match=message):
        assert sim.load_encodings(document, strict=False).unexpected == ["input"]


@pytest.mark.parametrize("version", ["0.6.1", "1.0.0", "2.0.0", "2.1.0"])
def test_every_version_is_saved_and_loaded(net, data, make_sim, tmp_path, version):
    sim = make_sim()
    sim.save_encodings_to_json(tmp_path, "net", version)
    assert json.loads((tmp_path / "net.json").read_text())["version"] == version
    other = QuantizationSimModel(net, data)
    loaded = other.load_encodings(tmp_path / "net.json")
    assert set(loaded.loaded) >= {"conv1.weight", "conv1 input 0", "relu output 1"}
    assert (loaded.unexpected, loaded.missing, loaded.kept) == ([], [], [])
    for a, b in zip(other.quantizers(), sim.quantizers(), strict=True):
        torch.testing.assert_close(a.get_scale(), b.get_scale(), rtol=1.2e-7, atol=0)
        assert torch.equal(a.get_offset(), b.get_offset())
        assert (a.qmin, a.qmax) == (b.qmin, b.qmax)
    torch.testing.assert_close(other.model(data), sim.model(data), rtol=0, atol=1e-6)


def test_versions_2_name_quantizers(saved, tmp_path):
    saved[0].save_encodings_to_json(tmp_path, "new", "2.0.0")
    names = {e["name"] for e in json.loads((tmp_path / "new.json").read_text())["encodings"]}
    assert {"conv1.weight", "conv1.input_quantizers.0", "relu.output_quantizers.1"} <= names
    with pytest.raises(ValueError, match=r"`encoding_version` must be one of .* got '0\.5\.0'"):
        saved[0].save_encodings_to_json(tmp_path, "new", "0.5.0")


def test_every_name_that_does_not_match_is_reported(net, data, saved):
    document = json.loads(saved[1].read_text())
    params = document["param_encodings"]
    ghosts = [f"ghost{i}.weight" for i in range(30)]
    params |= dict.fromkeys(ghosts, params["fc.weight"])
    params["fc1.weight"] = params.pop("fc.weight")
    sim = QuantizationSimModel(net, data)
    with pytest.raises(ValueError, match="31 entries without a quantizer") as caught:
        sim.load_encodings(document)
    assert all(name in str(caught.value) for name in ghosts)
    assert "fc1.weight (the simulation has fc.weight)" in str(caught.value)
    with pytest.warns(UserWarning, match="ghost29.weight"):
        result = sim.load_encodings(document, strict=False)
    assert set(result.unexpected) == {*ghosts, "fc1.weight"}
    assert result.missing == ["fc.weight"]
    assert "conv1.weight" in result.loaded


def test_frozen_quantizers_stay_and_are_reported(net, data, saved):
    _, path = saved
    other = QuantizationSimModel(net, data)
    quantizer = other.model.conv1.param_quantizers["weight"]
    quantizer.set_range(-1.0, 1.0)
    quantizer.allow_overwrite(False)
    with pytest.warns(UserWarning, match="frozen quantizers stayed as they were: conv1.weight"):
        result = other.load_encodings(path)
    assert result.kept == ["conv1.weight"]
    assert torch.equal(quantizer.min, torch.full_like(quantizer.min, -1.0))
    document = json.loads(path.read_text())
    del document["param_encodings"]["conv1.weight"]
    other.load_encodings(document, partial=False)
    assert other.model.conv1.param_quantizers["weight"] is quantizer


def test_options_of_training_and_overwriting(net, data, saved):
    _, path = saved
    sim = QuantizationSimModel(net, data)
    sim.load_encodings(path, requires_grad=False, allow_overwrite=None)
    quantizer = sim.model.conv1.param_quantizers["weight"]
    assert not any(parameter.requires_grad for parameter in quantizer.parameters())
    assert quantizer.is_overwrite_allowed()
    sim.load_encodings(path, allow_overwrite=False)
    assert not quantizer.is_overwrite_allowed()


def test_biases_of_32_bits_need_no_quantizer(net, data, saved):
    document = encodings.read(saved[1])
    bias = dict(document["param_encodings"][0], name="conv1.bias", bitwidth=32)
    path = saved[1].with_name("bias.json")
    encodings.write(path, {**document, "param_encodings": [bias]}, "0.6.1")
    assert QuantizationSimModel(net, data).load_encodings(path).derived == ["conv1.bias"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "float", "bitwidth": 16}, "conv1.weight is of float16, its quantizer is a Quan"),
        ({"axis": 1}, r"has scales along axis 1, its quantizer has shape \[8, 1, 1, 1\]"),
        ({"y_zero_point": [0.5] * 8}, "`zero_point_shift` 0.5, its quantizer 0.0"),
        ({"output_dtype": "float8e4m3fn"}, "conv1.weight is of float8e4m3fn, its quantizer is a"),
    ],
)
def test_an_entry_that_does_not_fit_its_quantizer(net, data, saved, tmp_path, change, message):
    saved[0].save_encodings_to_json(tmp_path, "new", "2.0.0")
    document = json.loads((tmp_path / "new.json").read_text())
    (entry,) = (e for e in document["encodings"] if e["name"] == "conv1.weight")
    if "dtype" in change:
        document = {"activation_encodings": {}, "param_encodings": {"conv1.weight": [change]}}
    else:
        entry |= change
        if "output_dtype" in change:
            entry.pop("y_zero_point", None)
    sim = QuantizationSimModel(net, data)
    with pytest.raises(ValueError, match=message):
        sim.load_encodings(document)
    assert not sim.model.conv1.input_quantizers[0].is_initialized()  # nothing was changed


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
