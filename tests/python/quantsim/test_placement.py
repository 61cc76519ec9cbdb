"""Where quantizers go."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aimet_torch.quantsim import QuantizationSimModel


def quantizer_places(sim: QuantizationSimModel) -> set[str]:
    return {name for name, _ in sim.named_quantizers()}


def test_default_placement(make_sim):
    """conv1+bn1+relu and add+relu are fused; pooling and flattening as AIMET's default rules
    say."""
    assert quantizer_places(make_sim()) == {
        "conv1.input_quantizers.0",
        "conv1.param_quantizers.weight",
        "conv2.param_quantizers.weight",
        "conv2.output_quantizers.0",
        "relu.output_quantizers.0",
        "relu.output_quantizers.1",
        "adaptive_avg_pool2d.output_quantizers.0",
        "fc.param_quantizers.weight",
        "fc.output_quantizers.0",
    }


def test_each_call_of_a_module_has_its_own_range(make_sim):
    first, second = make_sim().model.relu.output_quantizers
    assert first.get_max() != second.get_max()


def test_weights_are_per_channel_by_default_and_per_tensor_on_request(make_sim):
    assert make_sim().model.conv1.param_quantizers["weight"].shape == (8, 1, 1, 1)
    assert (
        make_sim(config_file="default_per_tensor").model.conv1.param_quantizers["weight"].shape
        == ()
    )


def test_transposed_convolution_has_its_channels_on_axis_one():
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 3))
    sim = QuantizationSimModel(model, torch.randn(1, 4, 5, 5))
    assert sim.model[0].param_quantizers["weight"].shape == (1, 6, 1, 1)


def test_a_model_input_with_two_readers_has_one_quantizer():
    class TwoReaders(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.a(x) * self.b(x)

    sim = QuantizationSimModel(TwoReaders(), torch.randn(2, 3))
    assert sim.model.a.input_quantizers[0] is sim.model.b.input_quantizers[0]
    assert sum("input" in name for name in quantizer_places(sim)) == 1


def test_parameters_and_buffers_as_operands_are_quantized():
    class Operands(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3))
            self.position = nn.Parameter(torch.randn(4))
            self.register_buffer("shift", torch.randn(4))

        def forward(self, x):
            return F.linear(x, self.weight) + self.position - self.shift

    sim = QuantizationSimModel(Operands(), torch.randn(2, 3), default_param_bw=4)
    linear = sim.model.linear.input_quantizers
    assert linear[1].bitwidth == 4
    assert linear[1].shape == (4, 1)
    assert linear[1].symmetric
    assert sim.model.add.input_quantizers[1].bitwidth == 8
    assert sim.model.sub.input_quantizers[1] is not None


def test_integer_tensors_have_no_quantizer():
    class Lookup(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.fc = nn.Embedding(10, 4), nn.Linear(4, 2)

        def forward(self, ids):
            return self.fc(self.table(ids + 1).mean(1))

    sim = QuantizationSimModel(Lookup(), torch.tensor([[1, 2, 3]]))
    assert all(".input_quantizers" not in name for name in quantizer_places(sim))
    sim.compute_encodings([torch.tensor([[1, 2, 3]])])
    assert sim.summary().uncalibrated == []


def test_masks_with_infinities_stay_in_floating_point_and_are_reported():
    class Masked(nn.Module):
        def forward(self, x, mask):
            return torch.softmax(x.masked_fill(mask, float("-inf")), -1)

    inputs = (torch.randn(2, 4), torch.tensor([[False, True, False, False]]))
    sim = QuantizationSimModel(Masked(), inputs)
    sim.compute_encodings([inputs])
    assert (sim.model(*inputs)[:, 1] == 0).all()
    (row,) = sim.summary().float_ops
    assert row.op_type == "MaskedFill"
    assert "infinities" in row.outputs[0]


def test_data_movement_keeps_its_producers_grid(net, data, make_sim):
    sim = make_sim()
    row = next(row for row in sim.summary() if row.op_type == "Flatten")
    assert row.outputs == ["same grid as its input"]


def test_htp_rules(tmp_path):
    class Head(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(4)

        def forward(self, x):
            return torch.tanh(torch.softmax(self.norm(x), -1))

    x = torch.randn(3, 4)
    sim = QuantizationSimModel(Head(), x, config_file="htp_v73")
    sim.compute_encodings([x])
    softmax, tanh = sim.model.softmax.output_quantizers[0], sim.model.tanh.output_quantizers[0]
    assert softmax.get_min() == 0
    assert softmax.get_max() == 1
    assert tanh.symmetric
    assert tanh.get_max().item() == pytest.approx(1.0, abs=1 / 255)
    assert not sim.model.norm.param_quantizers["weight"].symmetric


def test_rules_of_a_configuration_file(net, data, tmp_path):
    rules = {
        "defaults": {
            "ops": {"is_output_quantized": "True", "is_symmetric": "True"},
            "params": {"is_quantized": "True"},
        },
        "params": {},
        "op_type": {
            "Conv": {"is_output_quantized": "False", "params": {"weight": {"is_symmetric": "True"}}}
        },
        "supergroups": [],
        "model_input": {},
        "model_output": {},
    }
    path = tmp_path / "rules.json"
    path.write_text(json.dumps(rules))
    sim = QuantizationSimModel(net, data, config_file=path)
    assert sim.model.conv1.output_quantizers[0] is None
    assert sim.model.conv1.input_quantizers[0] is None
    assert sim.model.conv1.param_quantizers["bias"] is not None
    assert sim.model.conv1.param_quantizers["weight"].symmetric
    assert not sim.model.fc.param_quantizers["weight"].symmetric
    assert sim.model.add.output_quantizers[0].symmetric


def test_standalone_batch_norm_keeps_its_quantizers():
    sim = QuantizationSimModel(nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()), torch.randn(4, 3))
    assert sim.model[0].param_quantizers["weight"] is not None
    assert sim.model[0].output_quantizers[0] is not None


def test_a_convolution_with_two_readers_is_not_fused():
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = nn.Conv2d(1, 1, 1), nn.ReLU()

        def forward(self, x):
            y = self.conv(x)
            return self.relu(y) + y

    sim = QuantizationSimModel(Branch(), torch.randn(1, 1, 2, 2))
    assert sim.model.conv.output_quantizers[0] is not None


@pytest.mark.parametrize("shape", [(2, 3), (5, 3)])
def test_untraceable_root_has_quantized_leaves(shape):
    class Choice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            y = self.a(x)
            return self.b(y) if y.sum() > 0 else self.b(-y)

    x = torch.randn(shape)
    sim = QuantizationSimModel(Choice(), x)
    sim.compute_encodings([x, -x])
    assert sim.model.a.input_quantizers[0] is not None  # the model's input
    assert sim.model.a.output_quantizers[0] is not None
    assert sim.model.b.param_quantizers["weight"] is not None
    (boundary,) = sim.summary().boundaries
    assert boundary["name"] == ""
    assert "untraceable: the whole model" in str(sim)


class HandWrittenNorms(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(4))

    def layer_norm(self, x):
        centered = x - x.mean(-1, keepdim=True)
        variance = centered.pow(2).mean(-1, keepdim=True)
        return centered / torch.sqrt(variance + 1e-5) * self.weight + self.bias

    def rms_norm(self, x):
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6) * self.weight

    def forward(self, x):
        return self.rms_norm(torch.tanh(self.layer_norm(x)))


def test_normalizations_written_by_hand_are_one_operator_on_htp():
    x = torch.randn(3, 4)
    htp = QuantizationSimModel(HandWrittenNorms(), x, config_file="htp_v75")
    outputs = {name for name in quantizer_places(htp) if "output" in name}
    assert len(outputs) == 3  # layer norm, tanh, RMS norm
    everywhere = QuantizationSimModel(HandWrittenNorms(), x)
    assert len({name for name in quantizer_places(everywhere) if "output" in name}) > 10


def test_bias_added_to_a_matrix_product():
    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(4, 2)), nn.Parameter(torch.randn(2))

        def forward(self, x):
            return x @ self.weight + self.bias

    sim = QuantizationSimModel(Product(), torch.randn(3, 4))
    assert {name for name in quantizer_places(sim) if "output" in name} == {
        "add.output_quantizers.0"
    }
    assert sim.model.matmul.input_quantizers[1].shape == (1, 2)


class Attention(nn.Module):
    """Products of two activations, the second of which is made far away and moved."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x):
        scores = self.query(x) @ self.key(x).transpose(1, 2)
        return scores.softmax(-1) @ self.value(x)


@pytest.mark.parametrize(
    ("options", "symmetric"),
    [
        ({"config_file": "htp_v73", "default_output_bw": 16}, {"key", "value"}),
        ({"config_file": "htp_v68", "default_output_bw": 16}, set()),
        ({"config_file": "htp_v73"}, set()),
        ({"default_output_bw": 16}, set()),
    ],
)
def test_second_factors_of_wide_products_are_symmetric_where_the_target_needs_it(
    options, symmetric
):
    sim = QuantizationSimModel(Attention(), torch.randn(2, 5, 8), **options)
    found = {
        name
        for name in ("query", "key", "value")
        if sim.model.get_submodule(name).output_quantizers[0].symmetric
    }
    assert found == symmetric


def test_an_input_of_the_model_as_the_second_factor():
    class Product(nn.Module):
        def forward(self, a, b):
            return a @ b

    inputs = (torch.randn(2, 3), torch.randn(3, 4))
    sim = QuantizationSimModel(Product(), inputs, config_file="htp_v73", default_output_bw=16)
    assert [q.symmetric for n, q in sim.named_quantizers() if "input" in n] == [False, True]
