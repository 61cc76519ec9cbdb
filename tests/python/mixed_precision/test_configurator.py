from __future__ import annotations

import io
import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aimet_torch.mixed_precision import MixedPrecisionConfigurator, PrecisionConflictError
from aimet_torch.quantization.affine import QuantizeDequantize
from aimet_torch.quantization.float import FloatQuantizeDequantize
from aimet_torch.quantsim import QuantizationSimModel

KERNELS = [
    {"activation": {"bitwidth": 8, "dtype": "int"}, "param": {"bitwidth": 8, "dtype": "int"}},
    {"activation": {"bitwidth": 16, "dtype": "int"}, "param": {"bitwidth": 8, "dtype": "int"}},
]


def config(kernels: list | None = None, op_type: dict | None = None) -> dict:
    defaults = {
        "ops": {"is_output_quantized": "True"},
        "params": {"is_quantized": "True", "is_symmetric": "True"},
        "per_channel_quantization": "True",
    }
    if kernels is not None:
        defaults["supported_kernels"] = kernels
    return {
        "defaults": defaults,
        "params": {"bias": {"is_quantized": "False"}},
        "op_type": op_type or {},
        "supergroups": [{"op_list": ["Conv", "Relu"]}, {"op_list": ["Gemm", "Relu"]}],
        "model_input": {"is_input_quantized": "True"},
        "model_output": {},
    }


class Net(nn.Module):
    """conv1-relu1 feeds conv2-relu2 and, through a pooling, an addition; then a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1, stride=2)
        self.relu2 = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.conv1(x))
        z = self.relu2(self.conv2(y)) + self.pool(y)
        return self.fc(z.mean((2, 3)))


DATA = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(2))


def make(bits: int = 8, **options: object) -> QuantizationSimModel:
    torch.manual_seed(1)
    options = {"config_file": config(), **options}
    sim = QuantizationSimModel(
        Net().eval(), DATA, default_output_bw=bits, default_param_bw=8, **options
    )
    sim.compute_encodings([DATA])
    return sim


def bits(sim: QuantizationSimModel) -> dict[str, object]:
    return {
        name: "fp16" if isinstance(q, FloatQuantizeDequantize) else q.bitwidth
        for name, q in sim.named_quantizers()
    }


def changed(sim: QuantizationSimModel, before: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in bits(sim).items() if before.get(name) != value}


def test_a_finer_layer_gets_finer_inputs_not_outputs() -> None:
    sim = make()
    before = bits(sim)
    configurator = MixedPrecisionConfigurator(sim)
    configurator.set_precision(sim.model.fc, "int16", {"weight": "int4"})
    configurator.apply(log_file=None)
    # The mean is where the input of fc is made; its output leaves the model.
    assert changed(sim, before) == {
        "mean.output_quantizers.0": 16,
        "fc.output_quantizers.0": 16,
        "fc.param_quantizers.weight": 4,
    }


def test_a_coarser_layer_gets_coarser_outputs_unless_a_reader_objects() -> None:
    sim = make(bits=16)
    before = bits(sim)
    configurator = MixedPrecisionConfigurator(sim)
    configurator.set_precision(sim.model.conv1, "int8")
    configurator.apply(log_file=None)
    assert changed(sim, before) == {
        "conv1.input_quantizers.0": 8,
        "relu1.output_quantizers.0": 8,
    }

    sim = make(bits=16)
    configurator = MixedPrecisionConfigurator(sim)
    configurator.set_precision(sim.model.conv1, "int8")
    configurator.set_precision(sim.model.conv2, "int16")
    configurator.apply(log_file=None)
    assert changed(sim, before) == {"conv1.input_quantizers.0": 8}


def test_fused_operators_are_one_layer() -> None:
    by_conv, by_relu = make(), make()
    for sim, layer in ((by_conv, by_conv.model.conv1), (by_relu, by_relu.model.relu1)):
        configurator = MixedPrecisionConfigurator(sim)
        configurator.set_precision(layer, "int16")
        configurator.apply(log_file=None)
    assert bits(by_conv) == bits(by_relu)
    assert by_conv.model.conv1.input_quantizers[0].bitwidth == 16


def test_a_wish_travels_through_operators_that_only_move_numbers() -> None:
    sim = make()
    before = bits(sim)
    configurator = MixedPrecisionConfigurator(sim)
    configurator.set_precision("pool", "int16")
    configurator.apply(log_file=None)
    assert changed(sim, before) == {"relu1.output_quantizers.0": 16}


def test_a_list_has_one_entry_for_each_input() -> None:
    sim = make()
    before = bits(sim)
    configurator = MixedPrecisionConfigurator(sim)
    configurator.set_precision("add", ["int16", None])
    configurator.apply(log_file=None)
    assert changed(sim, before) == {"relu2.output_quantizers.0": 16}
    with pytest.raises(ValueError, match="has 3 entries, but add takes 2 tensors"):
        configurator.set_precision("add", ["int16", None, None])


def test_by_class_by_name_and_by_module_of_the_original_model() -> None:
    torch.manual_seed(1)
    model = Net().eval()
    sims = []
    for arg in (nn.Conv2d, ("conv1", "conv2"), (model.conv1, model.conv2)):
        sim = QuantizationSimModel(model, DATA, config_file=config())
        configurator = MixedPrecisionConfigurator(sim)
        for one in arg if isinstance(arg, tuple) else (arg,):
            configurator.set_precision(one, "int16", {"weight": "int4"})
        configurator.apply(log_file=None)
        sims.append(bits(sim))
    assert sims[0] == sims[1] == sims[2]
    assert sims[0]["conv2.param_quantizers.weight"] == 4


def test_a_tensor_with_two_readers_that_disagree_is_a_conflict() -> None:
    sim = make()
    before = bits(sim)

    def wish() -> MixedPrecisionConfigurator:
        configurator = MixedPrecisionConfigurator(sim)
        configurator.set_precision(sim.model.conv2, "int16")
        configurator.set_precision("add", "int4")
        return configurator

    for kind in (ValueError, RuntimeError):
        configurator = wish()
        with pytest.raises(kind, match=r"relu1.output_quantizers.0: int4 for add \(wish 1.*int16"):
            configurator.apply(log_file=None)
        assert bits(sim) == before
    with pytest.warns(UserWarning, match="cannot be granted"):
        wish().apply(log_file=None, strict=False)
    assert bits(sim)["relu1.output_quantizers.0"] == 4


def test_the_latest_wish_for_a_layer_replaces_earlier_ones() -> None:
    sim = make()
    configurator = MixedPrecisionConfigurator(sim)
    configurator.set_precision(sim.model, "int4", {"weight": "int4"})
    configurator.set_precision(sim.model.fc, "int16", {"weight": "int16"})
    configurator.apply(log_file=None)
    found = bits(sim)
    assert found["fc.param_quantizers.weight"] == 16
    assert found["mean.output_quantizers.0"] == 16
    assert found["conv2.param_quantizers.weight"] == 4
    assert found["relu1.output_quantizers.0"] == 4


def test_inputs_and_outputs_of_the_model() -> None:
    sim = make()
    before = bits(sim)
    configurator = MixedPrecisionConfigurator(sim)
    configurator.set_model_input_precision("int16")
    configurator.set_model_output_precision(["fp16"])
    configurator.apply(log_file=None)
    assert changed(sim, before) == {
        "conv1.input_quantizers.0": 16,
        "fc.output_quantizers.0": "fp16",
    }
    with pytest.raises(ValueError, match="has 2 entries, but the model has 1"):
        configurator.set_model_output_precision(["int8", "int16"])


def test_float_and_back_calibrates_and_runs() -> None:
    sim = make()
    twin = make()
    expected = twin.model(DATA)
    for dtype in ("fp16", "int8"):
        configurator = MixedPrecisionConfigurator(sim)
        configurator.set_precision(sim.model, dtype, {"weight": dtype})
        configurator.apply(log_file=None)
        sim.compute_encodings([DATA])
        if dtype == "fp16":
            assert all(isinstance(q, FloatQuantizeDequantize) for q in sim.quantizers())
            assert torch.isfinite(sim.model(DATA)).all()
    assert all(isinstance(q, QuantizeDequantize) for q in sim.quantizers())
    assert torch.equal(sim.model(DATA), expected)


def test_supported_kernels_are_respected() -> None:
    sim = make(config_file=config(KERNELS))
    before = bits(sim)
    configurator = MixedPrecisionConfigurator(sim)
    configurator.set_precision(sim.model.fc, "int16", {"weight": "int4"})
    with pytest.raises(PrecisionConflictError, match=r"no kernel of Gemm takes .*int16.*int4"):
        configurator.apply(log_file=None)
    assert bits(sim) == before
    configurator = MixedPrecisionConfigurator(sim)
    configurator.set_precision(sim.model.fc, "int16", {"weight": "int8"})
    configurator.apply(log_file=None)
    assert changed(sim, before)["mean.output_quantizers.0"] == 16

    # An operator's own list takes precedence over that of the defaults.
    sim = make(config_file=config(KERNELS, {"Gemm": {"supported_kernels": KERNELS[:1]}}))
    configurator = MixedPrecisionConfigurator(sim)
    configurator.set_precision(sim.model.fc, "int16", {"weight": "int8"})
    with pytest.warns(UserWarning, match="no kernel of Gemm"):
        configurator.apply(log_file=None, strict=False)
    assert bits(sim)["mean.output_quantizers.0"] == 16


def test_frozen_ranges_keep_their_bits() -> None:
    sim = make()
    sim.model.fc.param_quantizers["weight"].allow_overwrite(False)
    configurator = MixedPrecisionConfigurator(sim)
    configurator.set_precision(sim.model.fc, "int16", {"weight": "int4"})
    with pytest.raises(PrecisionConflictError, match="frozen at int8"):
        configurator.apply(log_file=None)


def test_the_log_says_what_was_asked_for_and_what_happened(tmp_path) -> None:
    sim = make()
    configurator = MixedPrecisionConfigurator(sim)
    configurator.set_precision(sim.model.fc, "int16", {"weight": "int4"})
    stream = io.StringIO()
    configurator.apply(log_file=stream)
    assert "weight: int4" in stream.getvalue()
    assert "fc.param_quantizers.weight" in stream.getvalue()
    configurator.set_precision(sim.model.fc, "int8")
    configurator.apply(log_file=str(tmp_path / "log.txt"))
    assert "mean.output_quantizers.0" in (tmp_path / "log.txt").read_text()


def test_wrong_arguments_are_named() -> None:
    sim = make()
    configurator = MixedPrecisionConfigurator(sim)
    with pytest.raises(ValueError, match=r"`activation` must be one of 'int16'.*got 'int7'"):
        configurator.set_precision(sim.model.fc, "int7")
    with pytest.raises(ValueError, match=r"`param\['weight'\]` must be one of"):
        configurator.set_precision(sim.model.fc, "int8", {"weight": 8})
    with pytest.raises(ValueError, match="'wieght', which 'fc' has not; it has 'bias', 'weight'"):
        configurator.set_precision(sim.model.fc, "int8", {"wieght": "int8"})
    with pytest.raises(ValueError, match="is in neither"):
        configurator.set_precision(nn.Linear(1, 1), "int8")
    with pytest.raises(ValueError, match="'fc1' is in neither"):
        configurator.set_precision("fc1", "int8")
    with pytest.raises(ValueError, match="no layer is one"):
        configurator.set_precision(nn.Conv3d, "int8")
    with pytest.raises(TypeError, match="must be a module"):
        configurator.set_precision(8, "int8")


def test_layers_that_could_not_be_traced_get_their_bits_too() -> None:
    from tests.python.models import FIXTURES

    fixture = FIXTURES["DataDependentPart"]
    x = fixture.inputs(2)
    sim = QuantizationSimModel(fixture.build().eval(), x)
    configurator = MixedPrecisionConfigurator(sim)
    configurator.set_precision(sim.model, "int16", {"weight": "int4"})
    configurator.apply(log_file=None)
    found = bits(sim)
    assert found["router.right.input_quantizers.0"] == 16
    assert found["router.right.output_quantizers.0"] == 8  # nobody is known to read it
    assert {found[name] for name in found if "param_quantizers" in name} == {4}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(8, 8) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(-1, -2)
        return F.softmax(scores, -1) @ self.v(x)


def test_sixteen_bit_products_are_symmetric_where_the_target_wants_it() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8)
    sim = QuantizationSimModel(Attention().eval(), x, config_file="htp_v73")
    for dtype, symmetric in (("int16", True), ("int8", False)):
        configurator = MixedPrecisionConfigurator(sim)
        configurator.set_precision("matmul", dtype)
        configurator.apply(log_file=None)
        second = sim.model.k.output_quantizers[0]
        assert (second.symmetric, second.signed) == (symmetric, symmetric)
        assert not sim.model.q.output_quantizers[0].symmetric
    sim.compute_encodings([x])
    assert torch.isfinite(sim.model(x)).all()


def test_mixed_bits_survive_state_dict_training_and_both_exports(tmp_path) -> None:
    import onnx

    torch.manual_seed(0)
    model, x = Attention().eval(), torch.randn(2, 5, 8)
    sim = QuantizationSimModel(model, x)
    configurator = MixedPrecisionConfigurator(sim)
    configurator.set_precision(nn.Linear, "int16", {"weight": "int8"})
    configurator.set_precision(sim.model.q, "int16", {"weight": "int4"})
    configurator.apply(log_file=None)
    sim.compute_encodings([x])
    expected = sim.model(x)

    again = QuantizationSimModel(model, x)
    other = MixedPrecisionConfigurator(again)
    other.set_precision(nn.Linear, "int16", {"weight": "int8"})
    other.set_precision(again.model.q, "int16", {"weight": "int4"})
    other.apply(log_file=None)
    again.model.load_state_dict(sim.model.state_dict())
    assert torch.equal(again.model(x), expected)

    sim.onnx.export((x,), str(tmp_path / "m.onnx"))
    document = json.loads((tmp_path / "m.encodings").read_text())
    entries = {
        e["name"]: e["bw"]
        for part in ("activation_encodings", "param_encodings")
        for e in document[part]
    }
    assert entries["q.weight"] == 4
    assert entries["k.weight"] == 8
    assert 16 in entries.values()

    from aimet_torch.onnx import export

    export(sim, (x,), str(tmp_path / "qdq.onnx"))
    types = {i.data_type for i in onnx.load(tmp_path / "qdq.onnx").graph.initializer}
    for wanted in (onnx.TensorProto.UINT16, onnx.TensorProto.UINT8):
        assert wanted in types

    sim.model.train()
    optimizer = torch.optim.SGD(sim.model.parameters(), 1e-3)
    sim.model(x).square().mean().backward()
    assert sim.model.q.weight.grad is not None
    optimizer.step()
    assert not torch.equal(sim.model.eval()(x), expected)
