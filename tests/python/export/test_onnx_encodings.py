"""Plain ONNX with an encodings file: what is in the two files, and when they are written."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from aimet_torch import encodings as encodings_files
from aimet_torch.export import export_onnx_with_encodings
from aimet_torch.quantsim import QuantizationSimModel
from tests.python.export.agreement import run


class Branches(nn.Module):
    """A convolution, pooling, a reshape, a residual, a linear layer on three axes, two outputs."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.shortcut = nn.Conv2d(3, 4, 1)
        self.pool = nn.MaxPool2d(2)
        self.proj = nn.Linear(4, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, image, gain):
        x = torch.relu(self.conv(image)) + self.shortcut(image)
        x = self.pool(x).flatten(2).transpose(1, 2)  # (N, HW, C)
        tokens = self.proj(x) * gain
        return {"logits": self.head(tokens.mean(1)), "tokens": tokens}


def calibrated(model, *inputs, **options):
    torch.manual_seed(0)
    sim = QuantizationSimModel(model.eval(), inputs, **options)
    sim.compute_encodings(lambda m: m(*inputs))
    return sim


@pytest.fixture
def inputs():
    torch.manual_seed(1)
    return torch.randn(2, 3, 8, 8), torch.rand(2, 1, 1) + 0.5


@pytest.fixture
def sim(inputs):
    torch.manual_seed(2)
    return calibrated(Branches(), *inputs)


def entries(path):
    document = encodings_files.read(path)
    activations = {e["name"]: e for e in document["activation_encodings"]}
    params = {e["name"]: e for e in document["param_encodings"]}
    return activations, params


@pytest.mark.parametrize("version", ["0.6.1", "1.0.0"])
def test_every_quantizer_is_in_the_file_under_the_name_of_its_tensor(
    sim, inputs, tmp_path, version
):
    export_onnx_with_encodings(sim, inputs, tmp_path / "net.onnx", encoding_version=version)
    activations, params = entries(tmp_path / "net.encodings")
    model = onnx.load(tmp_path / "net.onnx")
    assert set(params) == {"conv.weight", "shortcut.weight", "proj.weight", "head.weight"}
    assert set(params) <= {i.name for i in model.graph.initializer}
    tensors = {i.name for i in model.graph.input} | {o for n in model.graph.node for o in n.output}
    assert set(activations) <= tensors
    assert {"image", "gain"} <= set(activations)
    scales = {round(float(e["scale"][0]), 7) for e in activations.values()}
    for name, quantizer in sim.named_quantizers():
        if "param_quantizers" in name:
            owner = name.replace(".param_quantizers", "")
            np.testing.assert_array_equal(
                np.float32(params[owner]["scale"]), quantizer.get_scale().detach().flatten().numpy()
            )
        else:
            assert round(float(quantizer.get_scale()), 7) in scales, name


def test_operators_that_move_numbers_have_the_encoding_of_what_they_move(sim, inputs, tmp_path):
    export_onnx_with_encodings(sim, inputs, tmp_path / "net.onnx")
    activations, _ = entries(tmp_path / "net.encodings")
    graph = onnx.load(tmp_path / "net.onnx").graph
    moved = [n for n in graph.node if n.op_type in ("MaxPool", "Reshape", "Transpose")]
    assert len(moved) >= 3
    for node in moved:
        before, after = activations[node.input[0]], activations[node.output[0]]
        assert (before["scale"], before["offset"]) == (after["scale"], after["offset"])


def test_onnx_file_is_that_of_the_unquantized_model(sim, inputs, tmp_path):
    export_onnx_with_encodings(sim, inputs, tmp_path / "net.onnx")
    model = onnx.load(tmp_path / "net.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 20)]
    text = str(model).lower()
    assert not any(word in text for word in ("quant", "aimet", "marker", "identity", ".py"))
    original = QuantizationSimModel.get_original_model(sim.model)
    with torch.no_grad():
        expected = original(*inputs)
    for result, name in zip(run(tmp_path / "net.onnx", *inputs), expected, strict=True):
        np.testing.assert_allclose(result, expected[name].numpy(), rtol=1e-4, atol=1e-5)


def test_nothing_is_printed_and_nothing_else_is_written(sim, inputs, tmp_path, capfd, recwarn):
    export_onnx_with_encodings(sim, inputs, tmp_path / "net.onnx")
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.encodings", "net.onnx"]


def test_the_simulation_stays_as_it_is(sim, inputs, tmp_path):
    sim.model.train()
    before = {k: v.clone() for k, v in sim.model.state_dict().items()}
    names = [name for name, _ in sim.model.named_modules()]
    export_onnx_with_encodings(sim, inputs, tmp_path / "net.onnx")
    assert sim.model.training
    assert names == [name for name, _ in sim.model.named_modules()]
    assert all(torch.equal(v, before[k]) for k, v in sim.model.state_dict().items())


def test_names_and_dynamic_sizes(sim, inputs, tmp_path):
    export_onnx_with_encodings(
        sim,
        inputs,
        tmp_path / "net.onnx",
        input_names=["picture", "gain"],
        output_names=["logits", "tokens"],
        dynamic_shapes={"image": {0: "batch"}, "gain": {0: "batch"}},
    )
    graph = onnx.load(tmp_path / "net.onnx").graph
    assert [i.name for i in graph.input] == ["picture", "gain"]
    assert [o.name for o in graph.output] == ["logits", "tokens"]
    activations, _ = entries(tmp_path / "net.encodings")
    assert {"picture", "gain", "logits", "tokens"} <= set(activations)
    larger = [torch.cat([x, x, x]) for x in inputs]
    assert run(tmp_path / "net.onnx", *larger)[0].shape == (6, 2)


def test_keyword_inputs(sim, inputs, tmp_path):
    image, gain = inputs
    export_onnx_with_encodings(sim, {"image": image, "gain": gain}, tmp_path / "net.onnx")
    assert [i.name for i in onnx.load(tmp_path / "net.onnx").graph.input] == ["image", "gain"]


def test_encodings_elsewhere_and_alone(sim, inputs, tmp_path):
    path = tmp_path / "deep" / "other.encodings"
    export_onnx_with_encodings(
        sim, inputs, tmp_path / "net.onnx", encodings_path=path, export_model=False
    )
    assert entries(path)[1]
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["other.encodings"]


def test_external_data_goes_into_one_file_beside_the_model(inputs, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 64))
    sim = calibrated(model, inputs[0])
    export_onnx_with_encodings(sim, inputs[:1], tmp_path / "net.onnx", external_data=True)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == ["net.encodings", "net.onnx", "net.onnx.data"]
    with torch.no_grad():
        expected = QuantizationSimModel.get_original_model(sim.model)(inputs[0]).numpy()
    np.testing.assert_allclose(
        run(tmp_path / "net.onnx", inputs[0])[0], expected, rtol=1e-4, atol=1e-5
    )


def test_uncalibrated_simulation_names_its_quantizers(inputs, tmp_path):
    sim = QuantizationSimModel(Branches().eval(), inputs)
    with pytest.raises(
        ValueError, match=r"no encoding yet: .*conv\.input_quantizers\.0.*compute_encodings"
    ):
        export_onnx_with_encodings(sim, inputs, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_one_uncalibrated_quantizer_is_named(sim, inputs, tmp_path):
    quantizer = sim.model.head.output_quantizers[0]
    with torch.no_grad():
        quantizer.min.fill_(torch.nan)
    fresh = type(quantizer)(quantizer.shape, quantizer.bitwidth, quantizer.symmetric)
    sim.model.head.output_quantizers[0] = fresh
    with pytest.raises(ValueError, match=r"1 quantizer.*: head\.output_quantizers\.0;"):
        export_onnx_with_encodings(sim, inputs, tmp_path / "net.onnx")


def test_older_files_stay_when_writing_fails(sim, inputs, tmp_path):
    (tmp_path / "net.onnx").write_text("old model")
    (tmp_path / "net.encodings").write_text("old encodings")
    with pytest.raises((ValueError, NotImplementedError), match="version"):
        export_onnx_with_encodings(sim, inputs, tmp_path / "net.onnx", encoding_version="9.9.9")
    assert (tmp_path / "net.onnx").read_text() == "old model"
    assert (tmp_path / "net.encodings").read_text() == "old encodings"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dynamo": False}, "`dynamo=False`"), ({"opset_version": 11}, r"`opset_version` .* got 11")],
)
def test_options_that_cannot_be_had(sim, inputs, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export_onnx_with_encodings(sim, inputs, tmp_path / "net.onnx", **options)


def test_something_that_is_no_simulation(tmp_path):
    with pytest.raises(TypeError, match=r"QuantizationSimModel or an nn\.Module, got str"):
        export_onnx_with_encodings("sim", (), tmp_path / "net.onnx")


class TwoReadings(nn.Module):
    """One tensor that two layers read on different grids."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)

    def forward(self, x):
        return self.a(x) + self.b(x)


def test_a_tensor_on_two_grids_has_two_names(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(3, 4)
    sim = calibrated(TwoReadings(), x)
    narrow = type(sim.model.b.input_quantizers[0])((), 4, False)
    narrow.set_range(-1.0, 1.0)
    sim.model.b.input_quantizers[0] = narrow
    export_onnx_with_encodings(sim, (x,), tmp_path / "net.onnx")
    activations, _ = entries(tmp_path / "net.encodings")
    graph = onnx.load(tmp_path / "net.onnx").graph
    copies = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Identity"}
    bitwidths = {activations[name]["bitwidth"] for name in copies}
    assert bitwidths == {4, 8}
    assert set(copies.values()) == {"x"}
    assert "x" not in activations


def test_biases_on_request(sim, inputs, tmp_path):
    export_onnx_with_encodings(sim, inputs, tmp_path / "net.onnx", export_int32_bias=True)
    activations, params = entries(tmp_path / "net.encodings")
    bias, weight = params["conv.bias"], params["conv.weight"]
    assert (bias["bitwidth"], bias["symmetric"]) == (32, True)
    steps = np.float32(weight["scale"]) * np.float32(activations["image"]["scale"][0])
    np.testing.assert_array_equal(np.float32(bias["scale"]), steps)


def test_folded_parameters_keep_their_encodings(sim, inputs, tmp_path):
    export_onnx_with_encodings(sim, inputs, tmp_path / "before.onnx")
    sim.fold_param_quantizers()
    export_onnx_with_encodings(sim, inputs, tmp_path / "after.onnx")
    before, after = (entries(tmp_path / f"{n}.encodings") for n in ("before", "after"))
    assert before == after


class Twins(nn.Module):
    """Two layers with equal numbers in different parameters."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)
        self.b.load_state_dict(self.a.state_dict())

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


def test_equal_parameters_keep_their_names(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(3, 4)
    export_onnx_with_encodings(calibrated(Twins(), x), (x,), tmp_path / "net.onnx")
    names = {i.name for i in onnx.load(tmp_path / "net.onnx").graph.initializer}
    assert names == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert set(entries(tmp_path / "net.encodings")[1]) == {"a.weight", "b.weight"}


def test_an_example_of_one_leaves_an_open_batch_open(sim, inputs, tmp_path):
    for options in (
        {"dynamic_shapes": {"image": {0: "batch"}, "gain": {0: "batch"}}},
        {"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC}, {0: torch.export.Dim.DYNAMIC})},
        {"dynamic_axes": {"picture": {0: "b"}, "gain": [0]}, "input_names": ["picture", "gain"]},
    ):
        one = tuple(x[:1] for x in inputs)
        export_onnx_with_encodings(sim, one, tmp_path / "net.onnx", **options)
        larger = [torch.cat([x, x, x]) for x in inputs]
        assert run(tmp_path / "net.onnx", *larger)[0].shape == (6, 2)


def test_float_quantizers_are_float_entries(inputs, tmp_path):
    from aimet_torch.common.defs import QuantizationDataType

    torch.manual_seed(0)
    sim = calibrated(
        Branches(), *inputs, default_output_bw=16, default_param_bw=16,
        default_data_type=QuantizationDataType.float,
    )  # fmt: skip
    export_onnx_with_encodings(sim, inputs, tmp_path / "net.onnx")
    activations, params = entries(tmp_path / "net.encodings")
    assert params["conv.weight"] == {"name": "conv.weight", "dtype": "float", "bitwidth": 16}
    assert {e["dtype"] for e in activations.values()} == {"float"}
