"""QuantizationSimModel: calibrating, running, saving, removing quantizers."""

from __future__ import annotations

import copy
import dataclasses
import io
import warnings

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from aimet_torch.common.defs import QuantizationDataType, QuantScheme
from aimet_torch.quantsim import QuantizationSimModel
from tests.python.models import FIXTURES, call_model
from tests.python.quantsim.conftest import sqnr

# Models whose output depends on what ran before, so that two runs cannot be compared.
STATEFUL = {"Stateful"}


def float_tensors(output):
    if dataclasses.is_dataclass(output):
        output = [getattr(output, field.name) for field in dataclasses.fields(output)]
    return [t for t in tree_leaves(output) if isinstance(t, torch.Tensor) and t.is_floating_point()]


@pytest.mark.parametrize("name", FIXTURES)
def test_every_fixture_is_simulated_as_it_is(name):
    fixture = FIXTURES[name]
    torch.manual_seed(0)
    model = fixture.build().eval()
    sim = QuantizationSimModel(model, fixture.inputs(2))
    sim.compute_encodings([fixture.inputs(2)])
    summary = sim.summary()
    assert summary.uncalibrated == []
    for row in summary.float_ops:
        assert "infinities" in row.outputs[0] or row.op_type == "Boundary", row
    assert [b["name"] for b in summary.boundaries] == list(fixture.boundaries)
    assert set(model.state_dict()) <= set(sim.model.state_dict())
    if name in STATEFUL:
        return
    with torch.no_grad():
        expected = float_tensors(call_model(model, fixture.inputs(2)))
        actual = float_tensors(call_model(sim.model, fixture.inputs(2)))
    assert len(expected) == len(actual) > 0
    for e, a in zip(expected, actual, strict=True):
        assert (
            sqnr(e, a) > 25
        )  # 8 bits on small random networks; below, something is quantized twice or wrongly


@pytest.mark.parametrize(("bits", "least"), [(4, 5), (8, 30), (16, 75)])
def test_more_bits_are_closer_to_the_original(net, data, bits, least):
    sim = QuantizationSimModel(net, data, default_output_bw=bits, default_param_bw=bits)
    sim.compute_encodings([data])
    assert sqnr(net(data), sim.model(data)) > least


@pytest.mark.parametrize(
    "scheme",
    [None, "tf", "tf_enhanced", "percentile", *QuantScheme],
    ids=lambda s: getattr(s, "name", str(s)),
)
def test_every_scheme_calibrates(net, data, scheme):
    sim = QuantizationSimModel(net, data, quant_scheme=scheme)
    sim.compute_encodings([data])
    assert all(q.is_initialized() for q in sim.quantizers())
    assert sqnr(net(data), sim.model(data)) > 20


def test_the_given_model_is_left_alone(net, data):
    before = copy.deepcopy(net.state_dict())
    kind = type(net)
    QuantizationSimModel(net, data).compute_encodings([data])
    assert type(net) is kind
    assert type(net.conv1) is nn.Conv2d
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_in_place_quantizes_the_given_model(net, data):
    sim = QuantizationSimModel(net, data, in_place=True)
    assert sim.model is net


def test_batch_size_stays_free(make_sim, data):
    sim = make_sim()
    assert sim.model(data[:3]).shape == (3, 5)


def test_float_simulation(net, data):
    sim = QuantizationSimModel(
        net,
        data,
        default_output_bw=16,
        default_param_bw=16,
        default_data_type=QuantizationDataType.float,
    )
    sim.compute_encodings([data])
    out = sim.model(data)
    assert torch.equal(out, out.half().float())
    assert sqnr(net(data), out) > 50


# -- calibration -----------------------------------------------------------------------------------


def test_forms_of_calibration_data_agree(net, data):
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(data, torch.zeros(len(data))), batch_size=4
    )
    calls = [
        (lambda model: [model(data[:4]), model(data[4:])],),
        (lambda model, batches: [model(b) for b in batches], data.split(4)),
        (loader,),
        (list(data.split(4)),),
        ([{"x": b, "label": torch.zeros(4)} for b in data.split(4)],),
        (((b, 0) for b in data.split(4)),),
    ]
    states = []
    for call in calls:
        sim = QuantizationSimModel(net, data)
        sim.compute_encodings(*call)
        states.append(sim.quantizer_state_dict())
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(torch.equal(state[k], states[0][k]) for k in state)


def test_none_is_passed_on_as_an_argument(net, data):
    seen = []
    sim = QuantizationSimModel(net, data)
    sim.compute_encodings(lambda model, argument: (seen.append(argument), model(data)), None)
    assert seen == [None]


def test_modes_are_restored(net, data):
    sim = QuantizationSimModel(net, data)
    sim.model.train()
    sim.model.bn1.eval()
    sim.compute_encodings([data])
    assert sim.model.training
    assert sim.model.conv1.training
    assert not sim.model.bn1.training


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3,), TypeError, "must be callable or an iterable of batches, got int"),
        (([],), ValueError, "iterable without batches"),
        (
            ([torch.zeros(1, 3, 6, 6)], 1),
            TypeError,
            "`forward_pass_callback_args` goes with a callable",
        ),
    ],
)
def test_wrong_calibration_data(net, data, arguments, error, message):
    with pytest.raises(error, match=message):
        QuantizationSimModel(net, data).compute_encodings(*arguments)


def test_a_failing_callback_leaves_the_ranges(make_sim, data):
    sim = make_sim()
    before = copy.deepcopy(sim.quantizer_state_dict())

    def fails(model):
        model(data * 100)
        raise RuntimeError("no more data")

    with pytest.raises(RuntimeError, match="no more data"):
        sim.compute_encodings(fails)
    after = sim.quantizer_state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    sim.model(data)  # and nothing is left in calibration mode


def test_running_uncalibrated_says_what_to_do(net, data):
    with pytest.raises(RuntimeError, match="compute_encodings"):
        QuantizationSimModel(net, data).model(data)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_data_without_finite_values_is_reported_and_passes(net, data, value):
    sim = QuantizationSimModel(net, data)
    with pytest.warns(UserWarning, match="conv1.input_quantizers.0"):
        sim.compute_encodings([torch.full_like(data, value)])
    assert "conv1.input_quantizers.0" in sim.summary().uncalibrated
    sim.model(data)


@pytest.mark.parametrize("fill", [0.0, 2.5, -1.0])
def test_constant_data(fill):
    model = nn.Sequential(nn.Identity(), nn.Hardtanh(-10, 10))
    x = torch.full((2, 3), fill)
    sim = QuantizationSimModel(model, x)
    sim.compute_encodings([x])
    torch.testing.assert_close(sim.model(x), x, rtol=1e-6, atol=0)
    assert (sim.model(torch.zeros(2, 3)) == 0).all()


def test_percentile(net, data):
    sim = QuantizationSimModel(net, data, quant_scheme="percentile")
    sim.compute_encodings([data])
    full = sim.model.conv1.input_quantizers[0].get_max().item()
    sim.set_percentile_value(90)
    sim.compute_encodings([data])
    assert sim.model.conv1.input_quantizers[0].get_max().item() < 0.7 * full
    with pytest.raises(ValueError, match="percentile"):
        sim.set_percentile_value(30)


# -- removing and folding --------------------------------------------------------------------------


def test_exclude_layers_by_module_of_either_model_or_by_name(net, data):
    for layer in (net.conv1, "conv1"):
        sim = QuantizationSimModel(net, data)
        sim.exclude_layers_from_quantization([layer])
        assert not any(name.startswith("conv1.") for name, _ in sim.named_quantizers())
        assert sim.excluded_layers == ["conv1"]
    sim = QuantizationSimModel(net, data)
    sim.exclude_layers_from_quantization([sim.model.fc])
    assert sim.model.fc.output_quantizers[0] is None
    with pytest.raises(ValueError, match="Linear, which is in neither"):
        sim.exclude_layers_from_quantization([nn.Linear(1, 1)])
    with pytest.raises(ValueError, match="'nope', which is in neither"):
        sim.exclude_layers_from_quantization(["nope"])


def test_folding_parameters_keeps_the_outputs(make_sim, data):
    sim = make_sim()
    before = sim.model(data)
    sim.fold_param_quantizers()
    assert sim.model.conv1.param_quantizers["weight"] is None
    assert torch.equal(sim.model(data), before)


def test_original_model_has_no_trace_of_quantizers(net, make_sim, data):
    sim = make_sim()
    original = QuantizationSimModel.get_original_model(sim.model)
    assert torch.equal(original(data), net(data))
    assert set(original.state_dict()) == set(net.state_dict())
    assert isinstance(original, type(net))
    assert type(original.conv1) is nn.Conv2d
    rounded = QuantizationSimModel.get_original_model(sim.model, qdq_weights=True)
    assert not torch.equal(rounded.conv1.weight, net.conv1.weight)
    assert sim.model.conv1.param_quantizers["weight"] is not None


def test_iteration(make_sim):
    sim = make_sim()
    names = [name for name, _ in sim.named_qmodules()]
    assert {"conv1", "bn1", "relu", "conv2", "fc", "adaptive_avg_pool2d"} <= set(names)
    assert len(list(sim.qmodules())) == len(names)
    assert len(list(sim.quantizer_parameters())) == 2 * len(list(sim.quantizers()))


# -- an ordinary nn.Module -------------------------------------------------------------------------


def test_quantizer_state_restores_another_simulation(net, make_sim, data):
    sim, other = make_sim(), QuantizationSimModel(net, data)
    buffer = io.BytesIO()
    torch.save(sim.quantizer_state_dict(), buffer)
    buffer.seek(0)
    other.model.load_state_dict(torch.load(buffer, weights_only=True), strict=False)
    assert torch.equal(other.model(data), sim.model(data))


def test_full_state_dict_is_strict(net, make_sim, data):
    sim, other = make_sim(), QuantizationSimModel(net, data)
    other.model.load_state_dict(sim.model.state_dict(), strict=True)
    assert torch.equal(other.model(data), sim.model(data))


def test_deepcopy(make_sim, data):
    sim = make_sim()
    clone = copy.deepcopy(sim.model)
    assert torch.equal(clone(data), sim.model(data))
    clone.conv1.input_quantizers[0].set_range(-0.1, 0.1)
    assert not torch.equal(clone(data), sim.model(data))


def test_training_reaches_weights_and_ranges(make_sim, data):
    sim = make_sim()
    sim.model.train()
    loss = sim.model(data).pow(2).sum()
    loss.backward()
    assert sim.model.conv1.weight.grad.abs().sum() > 0
    reached = [p.grad is not None for p in sim.quantizer_parameters()]
    assert all(reached)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiles_without_graph_break(make_sim, data, backend):
    sim = make_sim()
    torch._dynamo.reset()
    compiled = torch.compile(sim.model, backend=backend, fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(data), sim.model(data))


def test_jit_trace(make_sim, data):
    sim = make_sim()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(sim.model, data)
        assert torch.equal(traced(data), sim.model(data))


def test_torch_export(make_sim, data):
    sim = make_sim()
    program = torch.export.export(sim.model, (data,))
    assert torch.equal(program.module()(data), sim.model(data))


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"default_output_bw": 3}, "`default_output_bw` must be an integer from 4 to 32, got 3"),
        ({"default_param_bw": 1}, "`default_param_bw` must be an integer from 2 to 32, got 1"),
        ({"default_param_bw": 8.0}, "`default_param_bw` must be an integer"),
        ({"quant_scheme": "best"}, "`quant_scheme` must be a QuantScheme or one of min_max"),
        ({"default_data_type": QuantizationDataType.float}, "must be 16 or 32 with floating-point"),
    ],
)
def test_wrong_options(net, data, options, message):
    with pytest.raises(ValueError, match=message):
        QuantizationSimModel(net, data, **options)


def test_quantizing_twice_is_refused(make_sim, data):
    with pytest.raises(ValueError, match="already holds quantized modules"):
        QuantizationSimModel(make_sim().model, data)


def test_not_a_module(data):
    with pytest.raises(TypeError, match=r"`model` must be an nn\.Module, got function"):
        QuantizationSimModel(lambda x: x, data)


def test_the_models_own_error_reaches_the_user(net):
    with pytest.raises(RuntimeError, match="expected input"):
        QuantizationSimModel(net, torch.randn(1, 4, 6, 6))


def test_summary_prints_every_operator(make_sim):
    sim = make_sim()
    text = str(sim)
    assert all(op.name in text for op in sim.graph.ops)
    assert "0 operators with a floating-point result" in text
    assert sim.summary().to_dict()["quantizer_count"] == 9


def test_the_table_has_a_line_for_each_quantizer_of_an_operator():
    model = torch.nn.Sequential(torch.nn.LSTM(4, 3, num_layers=2))
    sim = QuantizationSimModel(model, torch.randn(5, 1, 4))
    table = str(sim.summary()).splitlines()
    lines = [line for line in table if "weight_ih_l" in line]
    assert [line.split("weight_ih_l")[1][0] for line in lines] == ["0", "1"]
    assert max(map(len, table)) < 160
