"""What is exported in each version is read by an independent reader and gives the simulation's
numbers, bit by bit."""

from __future__ import annotations

import json
import re

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from aimet_torch import encodings
from aimet_torch.common import quantsim as default
from aimet_torch.quantization import affine
from aimet_torch.quantization.float import FloatQuantizeDequantize
from aimet_torch.quantization.float.microscaling import (
    MXQuantizeDequantize,
    NVFP4QuantizeDequantize,
)
from aimet_torch.quantsim import QuantizationSimModel
from tests.reference import encodings_reader

VERSIONS = ["0.6.1", "1.0.0", "2.0.0", "2.1.0"]


class Net(nn.Module):
    """A weight for each kind of entry."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.blocks = nn.Linear(4, 32)
        self.lpbq = nn.Linear(32, 64)
        self.head = nn.Linear(64, 5)

    def forward(self, x):
        y = self.up(torch.relu(self.conv(x))).mean((2, 3))
        return self.head(torch.relu(self.lpbq(torch.relu(self.blocks(y)))))


@pytest.fixture
def x():
    return torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def set_quantizer(sim, name, quantizer):
    sim.model.get_submodule(name).param_quantizers["weight"] = quantizer


@pytest.fixture
def sim(x):
    torch.manual_seed(0)
    sim = QuantizationSimModel(Net().eval(), x)
    set_quantizer(sim, "blocks", affine.QuantizeDequantize((32, 2), 4, True, block_size=(1, 2)))
    grouped = affine.GroupedBlockQuantizeDequantize(
        (64, 4), 4, True, decompressed_bw=8, block_size=(1, 8), block_grouping=(1, -1)
    )
    set_quantizer(sim, "lpbq", grouped)
    sim.compute_encodings([x])
    return sim


def assert_reads_alike(sim, path, name, quantizer, values):
    """The reader rounds `values` as the quantizer does."""
    with torch.no_grad():
        expected = quantizer.simulate(values).numpy()
    actual = encodings_reader.rounding(path, name, tuple(values.shape))(values.numpy())
    np.testing.assert_array_equal(actual, expected, err_msg=f"{path.name} {name}")
    assert len(np.unique(expected)) > 3


def weights(sim):
    for name, module in sim.named_qmodules():
        quantizer = dict(module.param_quantizers).get("weight")
        if quantizer is not None:
            yield f"{name}.weight", quantizer, module.weight.detach()


def skipped(version, name):
    # Before 2.0.0 a list of scales has no axis, and the reader takes it for the first, which a
    # transposed convolution's is not. 0.6.1 lists blocks as if they were channels.
    if version == "0.6.1" and name in ("blocks.weight", "lpbq.weight"):
        return True
    return version < "2" and name == "up.weight"


@pytest.mark.parametrize("version", VERSIONS)
def test_an_independent_reader_gives_the_simulations_numbers(sim, x, tmp_path, version):
    sim.onnx.export(x, tmp_path / "net.onnx", encoding_version=version)
    path = tmp_path / "net.encodings"
    found = encodings.read(path)
    assert found["version"] == version
    count = 0
    for name, quantizer, weight in weights(sim):
        if not skipped(version, name):
            assert_reads_alike(sim, path, name, quantizer, weight)
            # Beyond the range, too, and on ties.
            grid = quantizer.get_scale().detach().max() * torch.arange(-300, 300) / 2
            wide = grid[: weight[0].numel() * (600 // weight[0].numel())]
            wide = wide.reshape(-1, *weight.shape[1:])[: len(weight)]
            if len(wide) == len(weight):
                assert_reads_alike(sim, path, name, quantizer, wide)
            count += 1
    assert count == {"0.6.1": 2, "1.0.0": 4}.get(version, 5)
    # The graph's input, and the only tensor with the range of the classifier's output.
    model = onnx.load(tmp_path / "net.onnx")
    conv, head = sim.model.conv.input_quantizers[0], sim.model.head.output_quantizers[0]
    ties = conv.get_scale().detach() * torch.arange(-300, 300) / 2
    assert_reads_alike(sim, path, model.graph.input[0].name, conv, ties)
    if version >= "2":
        types = {e.get("output_dtype") for e in json.loads(path.read_text())["encodings"]}
        assert types == {"uint8", "int8", "int4", "int32"}
    assert_reads_alike(sim, path, model.graph.output[0].name, head, torch.linspace(-3, 3, 601))
    errors = {
        f.name for f in encodings.check(found, tmp_path / "net.onnx") if f.severity == "error"
    }
    assert errors == ({"blocks.weight", "lpbq.weight"} if version == "0.6.1" else set())
    names = encodings_reader.names(path)
    biases = {name for name in names if name.endswith(".bias")}
    expected = {"conv.bias", "up.bias", "blocks.bias", "lpbq.bias", "head.bias"}
    assert biases == (expected if version >= "2" else set())
    # And back into a simulation: parameters have the same names there.
    with pytest.warns(UserWarning, match="without a quantizer"):
        loaded = sim.load_encodings(path, strict=False)
    assert set(loaded.loaded) == {name for name, _, _ in weights(sim)}
    assert set(loaded.derived) == biases


def test_versions_2_have_biases_on_the_accumulators_grid(sim, x, tmp_path):
    sim.onnx.export(x, tmp_path / "net.onnx", encoding_version="2.0.0")
    entries = {
        e["name"]: e for e in json.loads((tmp_path / "net.encodings").read_text())["encodings"]
    }
    graph = onnx.load(tmp_path / "net.onnx").graph
    (conv,) = (node for node in graph.node if node.op_type == "Conv")
    source, weight, bias = (entries[name] for name in conv.input)
    assert bias["output_dtype"] == "int32"
    np.testing.assert_array_equal(
        np.float32(bias["y_scale"]), np.float32(source["y_scale"]) * np.float32(weight["y_scale"])
    )
    assert entries["up.weight"]["axis"] == 1
    assert (entries["lpbq.weight"]["axis"], entries["lpbq.weight"]["block_size"]) == (1, 8)


def test_activations_keep_their_integers_on_request(sim, x, tmp_path):
    quantizer = sim.model.head.output_quantizers[0]
    quantizer.symmetric = quantizer.signed = True
    sim.onnx.export(
        x,
        tmp_path / "n.onnx",
        encoding_version="2.0.0",
        export_int32_bias=False,
        force_activation_as=None,
        input_names=["x"],
        output_names=["y"],
    )
    path = tmp_path / "n.encodings"
    entries = {e["name"]: e for e in json.loads(path.read_text())["encodings"]}
    assert entries["x"]["output_dtype"] == "uint8"
    assert entries["y"]["output_dtype"] == "int8"  # unsigned by default: see above
    assert_reads_alike(sim, path, "y", quantizer, torch.linspace(-3, 3, 601))
    assert not any(name.endswith("bias") for name in entries)
    with pytest.raises(ValueError, match="force_activation_as"):
        sim.onnx.export(x, tmp_path / "n.onnx", force_activation_as="both")


def test_the_default_version_can_be_set(sim, x, tmp_path, monkeypatch):
    from aimet_common import quantsim as alias

    assert alias is default
    monkeypatch.setattr(alias, "encoding_version", "2.0.0")
    sim.onnx.export(x, tmp_path / "net.onnx")
    assert json.loads((tmp_path / "net.encodings").read_text())["version"] == "2.0.0"
    monkeypatch.setattr(alias, "encoding_version", "3")
    with pytest.raises(ValueError, match=r"AIMET_ENCODING_VERSION\) must be .* got '3'"):
        sim.onnx.export(x, tmp_path / "net.onnx")


def float_sim(x):
    torch.manual_seed(0)
    sim = QuantizationSimModel(Net().eval(), x)
    fp8 = FloatQuantizeDequantize(dtype=torch.float8_e4m3fn)
    sim.model.conv.input_quantizers[0] = fp8
    set_quantizer(sim, "conv", FloatQuantizeDequantize(dtype=torch.float8_e5m2, shape=(8, 1, 1, 1)))
    set_quantizer(sim, "lpbq", NVFP4QuantizeDequantize(axis=1))
    set_quantizer(sim, "head", MXQuantizeDequantize("float4e2m1", axis=1))
    sim.model.head.output_quantizers[0] = FloatQuantizeDequantize(dtype=torch.float16)
    sim.compute_encodings([x])
    return sim


def test_small_floats(x, tmp_path):
    sim = float_sim(x)
    sim.onnx.export(x, tmp_path / "net.onnx", encoding_version="2.1.0", input_names=["x"])
    path = tmp_path / "net.encodings"
    entries = {e["name"]: e for e in json.loads(path.read_text())["encodings"]}
    assert entries["x"]["output_dtype"] == "float8e4m3fn"
    assert entries["conv.weight"]["output_dtype"] == "float8e5m2"
    assert entries["lpbq.weight"]["y_scale"]["input_dtype"] == "float8e4m3fn"
    assert (entries["head.weight"]["block_size"], entries["head.weight"]["axis"]) == (32, 1)
    assert_reads_alike(sim, path, "x", sim.model.conv.input_quantizers[0], x)
    for name, quantizer, weight in weights(sim):
        if name != "up.weight":
            assert_reads_alike(sim, path, name, quantizer, weight)
    # 16-bit floats have no entry.
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert graph.output[0].name not in entries
    with pytest.warns(UserWarning, match="without a quantizer"):
        sim.load_encodings(path, strict=False)
    for name, quantizer, weight in weights(sim):
        if name not in ("up.weight", "blocks.weight"):
            assert_reads_alike(sim, path, name, quantizer, weight)


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("0.6.1", r"activation_encodings\.conv1?: version 0\.6\.1 has no float8e4m3fn entries"),
        ("1.0.0", r"conv\.input_quantizers\.0\"\]: version 1\.0\.0 has no float8e4m3fn entries"),
        ("2.0.0", r"lpbq\.weight\"\]: version 2\.0\.0 has no scales of blocks in floating point"),
    ],
)
def test_a_version_that_cannot_hold_an_entry_names_it(x, tmp_path, version, message):
    sim = float_sim(x)
    (tmp_path / "net.json").write_text("old")
    with pytest.raises(NotImplementedError, match=message):
        sim.save_encodings_to_json(tmp_path, "net", version)
    assert [p.name for p in tmp_path.iterdir()] == ["net.json"]
    assert (tmp_path / "net.json").read_text() == "old"


def test_scales_that_follow_from_each_tensor_are_refused(x, tmp_path):
    torch.manual_seed(0)
    sim = QuantizationSimModel(Net().eval(), x)
    sim.model.head.output_quantizers[0] = MXQuantizeDequantize()
    sim.compute_encodings([x])
    message = "head output 0` has float8e4m3fn with scales that follow from each tensor"
    with pytest.raises(NotImplementedError, match=re.escape(message)):
        sim.save_encodings_to_json(tmp_path, "net", "2.1.0")
