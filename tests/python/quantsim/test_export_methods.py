"""The export methods of the simulation; what is in the files is tested with the export layer."""

from __future__ import annotations

import json
from functools import partial

import pytest
import torch

import aimet_torch.onnx
from aimet_torch.quantsim import QuantizationSimModel


def test_export_writes_aimets_files(make_sim, net, data, tmp_path):
    sim = make_sim()
    sim.export(tmp_path / "out", "net", data)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"net.pth", "net.onnx", "net.encodings", "net_torch.encodings"}
    restored = torch.load(tmp_path / "out" / "net.pth", weights_only=False)
    assert torch.equal(restored(data), net(data))
    document = json.loads((tmp_path / "out" / "net.encodings").read_text())
    assert document["version"] == "1.0.0"
    assert document["quantizer_args"]["param_bitwidth"] == 8
    other = QuantizationSimModel(net, data)
    other.load_encodings(tmp_path / "out" / "net_torch.encodings")
    torch.testing.assert_close(other.model(data), sim.model(data), rtol=0, atol=1e-6)


def test_encodings_alone_under_another_name(make_sim, data, tmp_path):
    make_sim().export(tmp_path, "net", data, export_model=False, filename_prefix_encodings="enc")
    assert {path.name for path in tmp_path.iterdir()} == {"enc.encodings", "enc_torch.encodings"}


def test_parameters_can_be_written_as_their_quantized_values(make_sim, net, data, tmp_path):
    sim = make_sim(default_param_bw=4)
    sim.export(tmp_path, "net", data, apply_param_qdq=True)
    restored = torch.load(tmp_path / "net.pth", weights_only=False)
    quantizer = sim.model.conv1.param_quantizers["weight"]
    assert torch.equal(restored.conv1.weight, quantizer(net.conv1.weight))
    assert torch.equal(sim.model.conv1.weight, net.conv1.weight)


def test_option_that_is_not_supported_says_what_is(make_sim, data, tmp_path):
    with pytest.raises(NotImplementedError, match="`use_embedded_encodings`=True is not supported"):
        make_sim().export(tmp_path, "net", data, use_embedded_encodings=True)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten_unless_all_is_complete(make_sim, data, tmp_path, monkeypatch):
    sim, names = make_sim(), ("net.onnx", "net.encodings", "net_torch.encodings", "net.pth")
    for name in names:
        (tmp_path / name).write_text("before")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        sim.export(tmp_path, "net", data)
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    assert all((tmp_path / name).read_text() == "before" for name in names)


@pytest.mark.parametrize("format", ["encodings", "qdq"])
def test_wrong_example_names_the_argument(make_sim, data, tmp_path, format):
    sim, wrong = make_sim(), data[:, :1]
    export = sim.onnx.export if format == "encodings" else partial(aimet_torch.onnx.export, sim)
    with pytest.raises(ValueError, match=rf"`x` is float32\{list(wrong.shape)}, the simulation"):
        export(wrong, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_onnx_export(make_sim, data, tmp_path):
    make_sim().onnx.export(data, tmp_path / "net.onnx", encoding_version="1.0.0")
    document = json.loads((tmp_path / "net.encodings").read_text())
    assert document["version"] == "1.0.0"
    assert {e["name"] for e in document["param_encodings"]} >= {"conv1.weight", "fc.weight"}


def test_exporting_uncalibrated_names_the_quantizers(net, data, tmp_path):
    sim = QuantizationSimModel(net, data)
    with pytest.raises(ValueError, match=r"conv1\.input_quantizers\.0"):
        sim.onnx.export(data, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())
