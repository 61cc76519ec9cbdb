"""QDQ files: ONNX Runtime without optimizations against the simulation; what the graph holds."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import nn
from torch.utils._pytree import tree_leaves

from aimet_torch.export import activation_edges, onnx_qdq
from aimet_torch.graph import bind_inputs
from aimet_torch.quantsim import QuantizationSimModel
from tests.python.export.agreement import output_steps, run
from tests.python.export.side_by_side import behind, simulated_side_by_side
from tests.python.export.test_onnx_encodings import calibrated
from tests.python.models import FIXTURES, call_model


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def _negative_gamma():
    torch.manual_seed(3)
    norm = nn.BatchNorm2d(6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    assert (norm.weight < 0).any()
    return norm


IMAGE, ROWS, TOKENS = (2, 3, 9, 7), (5, 6), (2, 5, 6)
SINGLE_LAYERS = {
    "conv": (lambda: nn.Conv2d(3, 8, 3, padding=1, stride=2), [IMAGE]),
    "conv1d": (lambda: nn.Conv1d(6, 4, 3, bias=False), [(2, 6, 11)]),
    "conv3d": (lambda: nn.Conv3d(2, 4, 2), [(1, 2, 4, 5, 6)]),
    "depthwise": (lambda: nn.Conv2d(3, 6, 3, groups=3, dilation=2), [IMAGE]),
    "conv_transpose": (lambda: nn.ConvTranspose2d(3, 4, 3, stride=2), [IMAGE]),
    "grouped_transpose": (lambda: nn.ConvTranspose1d(6, 4, 3, groups=2), [(2, 6, 7)]),
    "linear": (lambda: nn.Linear(6, 5), [ROWS]),
    "linear_3d": (lambda: nn.Linear(6, 5), [TOKENS]),
    "linear_3d_relu": (lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU()), [TOKENS]),
    "conv_relu6": (lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU6()), [IMAGE]),
    "matmul": (lambda: Function(torch.matmul), [TOKENS, (2, 6, 3)]),
    "add": (lambda: Function(torch.add), [TOKENS, (5, 6)]),
    "mul": (lambda: Function(torch.mul), [TOKENS, TOKENS]),
    "mul_scalar": (lambda: Function(lambda x: x * -0.3), [TOKENS]),
    "rsub_scalar": (lambda: Function(lambda x: 1.5 - x), [TOKENS]),
    "concat": (lambda: Function(lambda a, b: torch.cat([a, b], 1)), [TOKENS, (2, 2, 6)]),
    "max_pool": (lambda: nn.MaxPool2d(3, 2, padding=1), [IMAGE]),
    "relu": (nn.ReLU, [TOKENS]),
    "hardswish": (nn.Hardswish, [TOKENS]),
    "leaky_relu": (lambda: nn.LeakyReLU(0.1), [TOKENS]),
    "moves": (
        lambda: Function(lambda x: F.pad(x.transpose(1, 2).flip(1)[:, 1:], (1, 2))),
        [TOKENS],
    ),
    "pixel_shuffle": (lambda: nn.PixelShuffle(2), [(2, 8, 3, 3)]),
    "nearest": (lambda: nn.Upsample(scale_factor=2), [IMAGE]),
}


def steps(simulated, result, smallest_step):
    return np.abs(simulated - result).max(initial=0) / smallest_step


def simulate(build, shapes, **options):
    torch.manual_seed(0)
    model = nn.Sequential(build()) if len(shapes) == 1 else build()
    inputs = tuple(torch.randn(shape) for shape in shapes)
    return calibrated(model, *inputs, **options), inputs


def exported_side_by_side(layers, folder, **options):
    """The file, and what the simulation and ONNX Runtime compute for each layer."""
    sim, inputs = simulated_side_by_side(layers)
    path = folder / "net.onnx"
    onnx_qdq.export(sim, inputs, path, **options)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    assert activation_edges(path)[0] == []
    with torch.no_grad():
        expected = [output.numpy() for output in sim.model(*inputs)]
    return path, dict(zip(layers, zip(expected, run(path, *inputs), strict=True), strict=True))


@pytest.fixture(scope="module", params=[False, True], ids=["floats", "integers"])
def single_layers(request, tmp_path_factory):
    """Of weights stored as floats, and as integers."""
    folder = tmp_path_factory.mktemp("single_layers")
    return exported_side_by_side(SINGLE_LAYERS, folder, prequantize_constants=request.param)


@pytest.mark.parametrize("name", SINGLE_LAYERS)
def test_single_layers_are_bit_equal(name, single_layers):
    expected, result = single_layers[1][name]
    np.testing.assert_array_equal(result, expected)


# Sums in another order (pooling) or other approximations (exp, erf, 1/sqrt): one step at a
# boundary.
NEAR_LAYERS = {
    "average_pool": (lambda: nn.AvgPool2d(3, 2), [IMAGE]),
    "global_pool": (lambda: nn.AdaptiveAvgPool2d(1), [IMAGE]),
    "softmax": (lambda: nn.Softmax(-1), [TOKENS]),
    "layer_norm": (lambda: nn.LayerNorm(6), [TOKENS]),
    "gelu": (nn.GELU, [TOKENS]),
    "sigmoid": (nn.Sigmoid, [TOKENS]),
    "conv_batch_norm": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3), _negative_gamma(), nn.ReLU()),
        [IMAGE],
    ),
    "attention": (lambda: Function(F.scaled_dot_product_attention), [(1, 2, 5, 4)] * 3),
}


def test_other_layers_are_within_one_step(tmp_path):
    path, layers = exported_side_by_side(NEAR_LAYERS, tmp_path)
    for (name, (expected, result)), step in zip(layers.items(), output_steps(path), strict=True):
        assert steps(expected, result, step) <= 1.01, name
        assert (result == expected).mean() >= 0.98, name


def smallest_output_step(sim):
    found = [float(q.get_scale()) for n, q in sim.named_quantizers() if ".output_quantizers." in n]
    return found[-1]


# Python code that depends on the data has no ONNX form; the others hold what torch.export lacks.
NOT_EXPORTED = {"DataDependentRoot", "DataDependentPart", "PackedRecurrent", "Outsiders"}


@pytest.mark.parametrize("name", sorted(set(FIXTURES) - NOT_EXPORTED))
def test_fixtures_agree_with_onnx_runtime(name, tmp_path):
    fixture = FIXTURES[name]
    torch.manual_seed(0)
    model = fixture.build().eval()
    inputs = fixture.inputs(2)
    sim = QuantizationSimModel(model, inputs)
    sim.compute_encodings(lambda m: call_model(m, inputs))
    path = tmp_path / "net.onnx"
    onnx_qdq.export(sim, inputs, path)
    with torch.no_grad():
        outputs = tensors(call_model(sim.model, inputs))
    results = run(path, *tensors(bind_inputs(model, inputs)))
    largest = max(float(q.get_scale()) for n, q in sim.named_quantizers() if ".output_q" in n)
    for expected, result in zip(outputs, results, strict=True):
        assert np.abs(expected.numpy() - result).max(initial=0) <= 1.01 * largest


def tensors(value):
    from aimet_torch.graph.structure import leaves

    return [leaf for leaf in leaves(value) if isinstance(leaf, torch.Tensor)] or [
        leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)
    ]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("DataDependentRoot", "depend"),
        ("DataDependentPart", "depend"),
        ("Outsiders", r"no scripted module, and \['scripted'\]"),
    ],
)
def test_what_has_no_onnx_form_is_refused_with_the_reason(name, reason, tmp_path):
    fixture = FIXTURES[name]
    sim = QuantizationSimModel(fixture.build().eval(), fixture.inputs(2))
    sim.compute_encodings(lambda m: call_model(m, fixture.inputs(2)))
    with pytest.raises(NotImplementedError, match=reason):
        onnx_qdq.export(sim, fixture.inputs(2), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


# -- biases
# ------------------------------------------------------------------------------------------


def initializers(path):
    return {i.name: numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}


def producers(path):
    return {output: node for node in onnx.load(path).graph.node for output in node.output}


@pytest.mark.parametrize(
    "name", ["conv", "conv_transpose", "grouped_transpose", "linear", "linear_3d"]
)
def test_bias_scale_is_exactly_input_times_weight(name, single_layers):
    path, _ = single_layers
    values, nodes = initializers(path), producers(path)
    names = behind(path)[list(SINGLE_LAYERS).index(name)]
    (layer,) = (
        node
        for tensor, node in nodes.items()
        if tensor in names and node.op_type in ("Conv", "ConvTranspose", "Gemm")
    )
    source, weight, bias = (nodes[tensor] for tensor in layer.input)
    assert bias.op_type == "DequantizeLinear"
    assert values[bias.input[0]].dtype == np.int32
    assert len(bias.input) == 2  # zero point 0
    wanted = values[source.input[1]] * values[weight.input[1]]
    stored = values[bias.input[1]]
    assert stored.dtype == np.float32
    np.testing.assert_array_equal(stored, np.resize(wanted, stored.shape))


def test_float_biases_on_request(tmp_path):
    sim, inputs = simulate(*SINGLE_LAYERS["conv"])
    onnx_qdq.export(sim, inputs, tmp_path / "net.onnx", export_int32_bias=False)
    conv = next(n for n in producers(tmp_path / "net.onnx").values() if n.op_type == "Conv")
    np.testing.assert_array_equal(
        initializers(tmp_path / "net.onnx")[conv.input[2]], sim.model[0].bias.detach().numpy()
    )


def test_bias_of_a_dead_channel_fits(tmp_path):
    def build():
        conv = nn.Conv2d(3, 4, 3)
        with torch.no_grad():
            conv.weight[1] = 0.0
            conv.bias[1] = 50.0
        return conv

    sim, inputs = simulate(build, [IMAGE])
    onnx_qdq.export(sim, inputs, tmp_path / "net.onnx")
    with torch.no_grad():
        expected = sim.model(*inputs).numpy()
    result = run(tmp_path / "net.onnx", *inputs)[0]
    np.testing.assert_array_equal(result, expected)
    assert abs(result[0, 1].mean() - 50.0) < 0.5


# -- types
# -------------------------------------------------------------------------------------------


def types(path):
    model = onnx.load(path)
    found = {i.name: i.data_type for i in model.graph.initializer}
    return {
        node.output[0]: onnx.TensorProto.DataType.Name(found[node.input[2]])
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and len(node.input) == 3
    }


@pytest.mark.parametrize(
    ("forced", "expected"), [("unsigned", "UINT8"), ("signed", "INT8"), (None, "INT8")]
)
def test_symmetric_activations_in_the_wanted_type(forced, expected, tmp_path):
    sim, inputs = simulate(*SINGLE_LAYERS["conv"])
    quantizer = sim.model[0].output_quantizers[0]
    symmetric = type(quantizer)((), 8, True)
    symmetric.set_range(-2.0, 2.0)
    sim.model[0].output_quantizers[0] = symmetric
    path = tmp_path / "net.onnx"
    onnx_qdq.export(sim, inputs, path, force_activation_as=forced)
    found = types(path)
    assert found[onnx.load(path).graph.output[0].name] == expected
    assert found["0.weight_dequantized"] == "INT8"
    with torch.no_grad():
        expected_values = sim.model(*inputs).numpy()
    np.testing.assert_array_equal(run(path, *inputs)[0], expected_values)


@pytest.mark.parametrize(
    ("options", "opset", "activation", "weight"),
    [
        ({"default_param_bw": 4}, 20, "UINT8", "INT8"),
        ({"default_output_bw": 16}, 21, "UINT16", "INT8"),
        ({"default_param_bw": 4, "default_output_bw": 16}, 21, "UINT16", "INT4"),
        ({"default_param_bw": 6, "default_output_bw": 5}, 20, "UINT8", "INT8"),
    ],
)
def test_bit_widths(options, opset, activation, weight, tmp_path):
    sim, inputs = simulate(*SINGLE_LAYERS["conv"], **options)
    path = tmp_path / "net.onnx"
    onnx_qdq.export(sim, inputs, path)
    assert onnx.load(path).opset_import[0].version == opset
    found = types(path)
    assert (found["input_dequantized"], found["0.weight_dequantized"]) == (activation, weight)
    with torch.no_grad():
        expected = sim.model(*inputs).numpy()
    step = float(sim.model[0].output_quantizers[0].get_scale())
    result = run(path, *inputs)[0]
    # A 16-bit step is near float32's own error of the sums.
    assert steps(expected, result, step) <= (2.01 if activation == "UINT16" else 0.0)


def test_an_opset_that_lacks_the_type_is_refused(tmp_path):
    sim, inputs = simulate(*SINGLE_LAYERS["conv"], default_output_bw=16)
    with pytest.raises(
        NotImplementedError, match=r"`0\.input_quantizers\.0` \(16 bits\) needs .* 21 .* got 20"
    ):
        onnx_qdq.export(sim, inputs, tmp_path / "net.onnx", opset_version=20)


def test_more_than_sixteen_bits_are_refused(tmp_path):
    sim, inputs = simulate(*SINGLE_LAYERS["conv"], default_output_bw=24)
    with pytest.raises(NotImplementedError, match=r"has 24 bits; .* at most 16 bits"):
        onnx_qdq.export(sim, inputs, tmp_path / "net.onnx")


def test_force_activation_as_is_checked(tmp_path):
    sim, inputs = simulate(*SINGLE_LAYERS["conv"])
    with pytest.raises(ValueError, match=r"`force_activation_as` .* got 'uint'"):
        onnx_qdq.export(sim, inputs, tmp_path / "net.onnx", force_activation_as="uint")


def test_blocks(tmp_path):
    sim, inputs = simulate(lambda: nn.Linear(8, 4), [(5, 8)])
    quantizer = sim.model[0].param_quantizers["weight"]
    blocks = type(quantizer)((4, 2), 4, True, block_size=(1, 4))
    sim.model[0].param_quantizers["weight"] = blocks
    sim.compute_encodings(lambda m: m(*inputs))
    path = tmp_path / "net.onnx"
    onnx_qdq.export(sim, inputs, path, prequantize_constants=True)
    node = producers(path)["0.weight_dequantized"]
    assert {a.name: a.i for a in node.attribute} == {"axis": 1, "block_size": 4}
    with torch.no_grad():
        expected = sim.model(*inputs).numpy()
    assert (
        steps(expected, run(path, *inputs)[0], float(sim.model[0].output_quantizers[0].get_scale()))
        <= 1
    )


@pytest.mark.parametrize(("forced", "expected"), [("unsigned", "UINT8"), ("signed", "INT8")])
def test_the_weight_of_a_normalization_has_the_type_of_the_activations(forced, expected, tmp_path):
    sim, inputs = simulate(lambda: nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 4)), [TOKENS])
    path = tmp_path / "net.onnx"
    onnx_qdq.export(sim, inputs, path, force_activation_as=forced)
    found = types(path)
    assert found["0.0.weight_dequantized"] == expected
    assert found["0.1.weight_dequantized"] == "INT8"


def test_a_wide_second_factor_of_a_product_is_signed(tmp_path):
    sim, inputs = simulate(
        lambda: Function(torch.matmul),
        [TOKENS, (2, 6, 3)],
        config_file="htp_v73",
        default_output_bw=16,
    )
    path = tmp_path / "net.onnx"
    onnx_qdq.export(sim, inputs, path)
    nodes = producers(path)
    product = next(node for node in nodes.values() if node.op_type == "MatMul")
    first, second = (types(path)[name] for name in product.input)
    assert (first, second) == ("UINT16", "INT16")
    # The pair of the tensor itself stays what its maker and other readers have.
    unsigned = nodes[nodes[product.input[1]].input[0]].input[0]
    assert types(path)[unsigned] == "UINT16"
    with torch.no_grad():
        expected = sim.model(*inputs).numpy()
    step = smallest_output_step(sim)
    assert steps(expected, run(path, *inputs)[0], step) <= 1.01


def test_sixteen_bit_floats_leave_no_trace(tmp_path):
    from aimet_torch.common.defs import QuantizationDataType

    sim, inputs = simulate(
        *SINGLE_LAYERS["conv"], default_output_bw=16, default_param_bw=16,
        default_data_type=QuantizationDataType.float,
    )  # fmt: skip
    onnx_qdq.export(sim, inputs, tmp_path / "net.onnx")
    assert [n.op_type for n in onnx.load(tmp_path / "net.onnx").graph.node] == ["Conv"]


# -- the whole file
# ----------------------------------------------------------------------------------


def test_names_sizes_and_silence(tmp_path, capfd, recwarn):
    sim, inputs = simulate(*SINGLE_LAYERS["linear_3d_relu"])
    path = tmp_path / "net.onnx"
    onnx_qdq.export(
        sim, inputs, path, input_names=["tokens"], output_names=["hidden"],
        dynamic_shapes=({0: "batch", 1: "length"},),
    )  # fmt: skip
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    model = onnx.load(path)
    assert [i.name for i in model.graph.input] == ["tokens"]
    assert [o.name for o in model.graph.output] == ["hidden"]
    assert {p.key: p.value for p in model.metadata_props} == {"producer": "aimet_torch"}
    larger = torch.randn(3, 8, 6)
    with torch.no_grad():
        expected = sim.model(larger).numpy()
    np.testing.assert_array_equal(run(path, larger)[0], expected)
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


def test_the_old_file_stays_when_the_new_one_fails(tmp_path):
    sim, inputs = simulate(*SINGLE_LAYERS["conv"], default_output_bw=24)
    (tmp_path / "net.onnx").write_text("old")
    with pytest.raises(NotImplementedError):
        onnx_qdq.export(sim, inputs, tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_weights_of_recurrent_layers_are_one_constant_each(kind, tmp_path):
    class Cells(nn.Module):
        def __init__(self):
            super().__init__()
            self.cells = kind(6, 4, batch_first=True)

        def forward(self, x):
            return self.cells(x)[0]

    sim, inputs = simulate(Cells, [TOKENS])
    path = tmp_path / "net.onnx"
    onnx_qdq.export(sim, inputs, path)
    nodes = producers(path)
    cell = next(n for n in nodes.values() if n.op_type in ("LSTM", "GRU"))
    values = initializers(path)
    for name, shape in (("W", 6), ("R", 4)):
        weight = nodes[cell.input[1 if name == "W" else 2]]
        assert weight.op_type == "DequantizeLinear"
        stored = values[nodes[weight.input[0]].input[0]]
        assert stored.shape[0] == 1
        assert stored.shape[2] == shape
    assert cell.input[3] in values
    with torch.no_grad():
        expected = sim.model(*inputs).numpy()
    assert steps(expected, run(path, *inputs)[0], smallest_output_step(sim)) <= 1.01


def test_weights_beyond_the_limit_of_one_file_lie_beside_it(tmp_path, monkeypatch):
    from aimet_torch.export import files

    monkeypatch.setattr(files, "SINGLE_FILE_LIMIT_BYTES", 100)
    sim, inputs = simulate(lambda: nn.Linear(64, 32), [(3, 64)])
    path = tmp_path / "net.onnx"
    onnx_qdq.export(sim, inputs, path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net.onnx", "net.onnx.data"]
    assert path.stat().st_size < 64 * 32 * 4 <= (tmp_path / "net.onnx.data").stat().st_size
    onnx.checker.check_model(str(path), full_check=True)
    with torch.no_grad():
        expected = sim.model(*inputs).numpy()
    np.testing.assert_array_equal(run(path, *inputs)[0], expected)


def test_aimets_name():
    import aimet_torch

    assert aimet_torch.onnx.export is onnx_qdq.export
