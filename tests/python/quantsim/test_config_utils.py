"""Changing the number format of chosen layers."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from aimet_torch.quantsim import QuantizationSimModel
from aimet_torch.quantsim.config_utils import (
    set_activation_quantizers_to_float,
    set_blockwise_quantization_for_weights,
    set_grouped_blockwise_quantization_for_weights,
)
from tests.python.quantsim.conftest import sqnr


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 6, 3)
        self.up = nn.ConvTranspose2d(6, 4, 2)
        self.fc = nn.Linear(4, 16)
        self.out = nn.Linear(16, 2)

    def forward(self, x):
        return self.out(self.fc(self.up(self.conv(x)).mean((2, 3))))


@pytest.fixture
def layers():
    torch.manual_seed(0)
    return Layers().eval()


@pytest.fixture
def x():
    return torch.randn(4, 8, 6, 6, generator=torch.Generator().manual_seed(1))


def test_blocks_on_the_input_channels(layers, x):
    sim = QuantizationSimModel(layers, x)
    kinds = [nn.Conv2d, nn.ConvTranspose2d, sim.model.fc]
    set_blockwise_quantization_for_weights(sim, kinds, bitwidth=4, symmetric=True, block_size=2)
    shapes = {
        n: m.param_quantizers["weight"].shape
        for n, m in sim.named_qmodules()
        if "weight" in m.param_quantizers
    }
    assert shapes == {"conv": (6, 4, 1, 1), "up": (3, 4, 1, 1), "fc": (16, 2), "out": (2, 1)}
    sim.compute_encodings([x])
    quantizer = sim.model.conv.param_quantizers["weight"]
    blocks = layers.conv.weight.reshape(6, 4, 2, 3, 3)
    steps = (blocks / quantizer.get_scale().reshape(6, 4, 1, 1, 1)).round().clamp(-8, 7)
    expected = (steps * quantizer.get_scale().reshape(6, 4, 1, 1, 1)).reshape(6, 8, 3, 3)
    torch.testing.assert_close(quantizer(layers.conv.weight), expected)


def test_smaller_blocks_are_more_accurate(layers, x):
    def quality(size):
        sim = QuantizationSimModel(layers, x, default_output_bw=16)
        set_blockwise_quantization_for_weights(sim, [nn.Conv2d], 4, True, size)
        sim.compute_encodings([x])
        return sqnr(
            layers.conv.weight, sim.model.conv.param_quantizers["weight"](layers.conv.weight)
        )

    assert quality(1) > quality(8)


def test_blocks_given_axis_by_axis(layers, x):
    sim = QuantizationSimModel(layers, x)
    set_blockwise_quantization_for_weights(
        sim, lambda m: isinstance(m, nn.Conv2d), 4, True, (1, 4, 3, -1)
    )
    assert sim.model.conv.param_quantizers["weight"].shape == (6, 2, 1, 1)


def test_two_level_blocks(layers, x):
    sim = QuantizationSimModel(layers, x)
    set_grouped_blockwise_quantization_for_weights(
        sim, [nn.Linear], 4, True, decompressed_bw=8, block_size=2
    )
    sim.compute_encodings([x])
    scale = sim.model.fc.param_quantizers["weight"].get_scale().detach()
    per_channel = scale.amax(1, keepdim=True) / 16
    multiples = scale / per_channel
    torch.testing.assert_close(multiples, multiples.round(), rtol=0, atol=1e-3)
    assert sim.model(x).shape == (4, 2)


def test_files_keep_the_two_levels(layers, x, tmp_path):
    sim = QuantizationSimModel(layers, x)
    set_grouped_blockwise_quantization_for_weights(
        sim, [sim.model.out], 4, True, decompressed_bw=8, block_size=2
    )
    sim.compute_encodings([x])
    quantizer = sim.model.out.param_quantizers["weight"]
    scale = quantizer.get_scale().detach()
    sim.onnx.export(x, tmp_path / "model.onnx", encoding_version="1.0.0")
    document = json.loads((tmp_path / "model.encodings").read_text())
    (entry,) = (e for e in document["param_encodings"] if e["enc_type"] == "LPBQ")
    assert (entry["bw"], entry["compressed_bw"], entry["block_size"]) == (8, 4, 2)
    assert entry["offset"] == [-128, -128]
    multiples = torch.tensor(entry["per_block_int_scale"]).reshape(2, -1)
    assert multiples.amax(1).tolist() == [16, 16]
    assert torch.equal(multiples * torch.tensor(entry["scale"])[:, None], scale)
    # What the file says is what the quantizer does, once it is read back.
    quantizer.set_range(-torch.ones_like(scale), torch.ones_like(scale))
    entry["name"] = "out.weight"
    sim.load_encodings({**document, "activation_encodings": [], "param_encodings": [entry]})
    torch.testing.assert_close(quantizer.get_scale().detach(), scale, rtol=1e-6, atol=0)
    # Version 0.6.1 has no such entries: each block is listed.
    sim.onnx.export(x, tmp_path / "old.onnx", encoding_version="0.6.1")
    old = json.loads((tmp_path / "old.encodings").read_text())["param_encodings"]
    assert scale.numel() in map(len, old.values())


def test_float_activations(layers, x):
    sim = QuantizationSimModel(layers, x)
    set_activation_quantizers_to_float(sim, [nn.Linear], dtype=torch.float16)
    sim.compute_encodings([x])
    out = sim.model(x)
    assert torch.equal(out, out.half().float())
    assert hasattr(sim.model.conv.input_quantizers[0], "get_scale")


@pytest.mark.parametrize("size", [3, 0, (1, 4)])
def test_block_sizes_that_do_not_fit(layers, x, size):
    sim = QuantizationSimModel(layers, x)
    with pytest.raises(
        ValueError, match=r"must divide the weight of `conv`, of shape \[6, 8, 3, 3\]"
    ):
        set_blockwise_quantization_for_weights(sim, [nn.Conv2d], 4, True, size)


def test_choosing_nothing(layers, x):
    sim = QuantizationSimModel(layers, x)
    with pytest.raises(ValueError, match="chooses no layer with a quantized weight"):
        set_blockwise_quantization_for_weights(sim, [nn.Conv3d], 4, True, 2)
    with pytest.raises(
        TypeError, match="must be a list of module classes and modules, or a predicate, got str"
    ):
        set_blockwise_quantization_for_weights(sim, "conv", 4, True, 2)


def test_layers_without_input_channels(x):
    sim = QuantizationSimModel(nn.Sequential(nn.LayerNorm(4)), torch.randn(2, 4))
    with pytest.raises(ValueError, match="chooses a QuantizedLayerNorm"):
        set_blockwise_quantization_for_weights(sim, [nn.LayerNorm], 4, True, 2)
