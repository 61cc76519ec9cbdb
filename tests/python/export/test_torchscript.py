"""TorchScript files: the simulation itself, and FP32 networks whose tensors have names.

That `aimet::QuantSim` makes the simulation of the latter is tested with the C++ programs
(tests/integration/test_cpp_examples.py).
"""

from __future__ import annotations

import copy
import json
import re

import pytest
import torch
from torch import Tensor, nn

from aimet_torch import encodings as encodings_files
from aimet_torch.export import export_torchscript, export_torchscript_with_encodings
from aimet_torch.graph import bind_inputs
from aimet_torch.graph.structure import leaves
from aimet_torch.quantization.affine import GroupedBlockQuantizeDequantize
from aimet_torch.quantization.float import FloatQuantizeDequantize
from aimet_torch.quantsim import QuantizationSimModel
from tests.python.models import FIXTURES, call_model, image

CHOSEN = (
    "ReusedModules", "SharedParameters", "NestedInputs", "KeywordInputs", "Starred",
    "DataclassOutput", "Convolutions", "FunctionalConv",
)  # fmt: skip


def simulation(name: str) -> QuantizationSimModel:
    fixture = FIXTURES[name]
    torch.manual_seed(0)
    sim = QuantizationSimModel(fixture.build().eval(), fixture.inputs(2))
    sim.compute_encodings(lambda model: fixture.call(model, 3))
    sim.model.eval()
    return sim


def tensors_of(sim: QuantizationSimModel, inputs: object) -> list[Tensor]:
    return leaves(bind_inputs(sim.model, inputs))


def assert_equal(results: object, expected: object) -> None:
    results, expected = leaves(results), leaves(expected)
    assert len(results) == len(expected) > 0
    for a, b in zip(results, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def names_in(path) -> set[str]:
    """Names of values in a saved graph, without the numbers that TorchScript appends."""
    graph = torch.jit.load(str(path)).inlined_graph
    values = [*graph.inputs(), *(v for node in graph.nodes() for v in node.outputs())]
    return {re.sub(r"\.\d+$", "", value.debugName()) for value in values}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [*((name, "quantized") for name in CHOSEN), ("ReusedModules", "simulated")],
)
def test_file_computes_what_the_simulation_computes(name, parameters, tmp_path) -> None:
    sim, make = simulation(name), FIXTURES[name].inputs
    before = {key: value.clone() for key, value in sim.model.state_dict().items()}
    sim.export_torchscript(tmp_path / "sim.pt", make(2), parameters=parameters)
    loaded = torch.jit.load(str(tmp_path / "sim.pt"))
    with torch.no_grad():
        for batch in (2, 5):
            for _ in range(2):  # the second call is the one that TorchScript has optimized
                results = loaded(*tensors_of(sim, make(batch)))
            assert_equal(results, call_model(sim.model, make(batch)))
    after = sim.model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())


def test_parameters_are_stored_quantized_or_as_they_are(tmp_path) -> None:
    sim = simulation("ReusedModules")
    (name, raw), *_ = [p for p in sim.model.named_parameters() if p[0].endswith(".weight")]
    quantizer = sim.model.get_submodule(name.removesuffix(".weight")).param_quantizers["weight"]
    stored = {}
    for parameters in ("quantized", "simulated"):
        sim.export_torchscript(tmp_path / "sim.pt", image(2), parameters=parameters)
        stored[parameters] = torch.jit.load(str(tmp_path / "sim.pt")).state_dict()[name]
    assert torch.equal(stored["simulated"], raw)
    assert torch.equal(stored["quantized"], quantizer.simulate(raw.detach()))
    assert not torch.equal(stored["quantized"], raw)


def test_any_quantizer_can_be_in_a_file(tmp_path) -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 4)), torch.randn(2, 32)
    sim = QuantizationSimModel(model, x)
    sim.model[0].param_quantizers["weight"] = GroupedBlockQuantizeDequantize(
        (8, 4), 4, True, 8, block_size=(1, 8), block_grouping=(1, -1)
    )
    sim.model[1].output_quantizers[0] = FloatQuantizeDequantize(dtype=torch.bfloat16)
    sim.compute_encodings([x])
    sim.export_torchscript(tmp_path / "sim.pt", x)
    with torch.no_grad():
        assert_equal(torch.jit.load(str(tmp_path / "sim.pt"))(x), sim.model(x))
    with pytest.raises(
        NotImplementedError, match=r"`1\.output_quantizers\.0` is Float.*any quantizer"
    ):
        export_torchscript_with_encodings(sim, x, tmp_path / "fp32.pth")


@pytest.mark.parametrize("name", CHOSEN)
def test_named_network_is_the_fp32_network(name, tmp_path) -> None:
    sim, make = simulation(name), FIXTURES[name].inputs
    export_torchscript_with_encodings(sim, make(2), tmp_path / "net.pth")
    loaded = torch.jit.load(str(tmp_path / "net.pth"))
    original = sim.get_original_model(sim.model)
    with torch.no_grad():
        results = leaves(loaded(*tensors_of(sim, make(5))))
        expected = leaves(call_model(original.eval(), make(5)))
    # A folded batch norm's bias is on the grid of its accumulator.
    for a, b in zip(results, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert "aimet::" not in str(loaded.inlined_graph)
    document = encodings_files.read(str(tmp_path / "net.encodings"))
    activations = [entry["name"] for entry in document["activation_encodings"]]
    known = names_in(tmp_path / "net.pth")
    assert set(activations) <= known
    parameters = {entry["name"] for entry in document["param_encodings"]}
    assert parameters <= known | set(loaded.state_dict())
    quantized = [
        quantizer
        for module in sim.qmodules()
        for quantizer in (*module.input_quantizers, *module.output_quantizers)
        if quantizer is not None and quantizer.is_initialized()
    ]
    assert len(activations) <= len(quantized)
    assert activations or not quantized


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)])
        self.relu = nn.ReLU()

    def forward(self, image: Tensor) -> Tensor:
        y = self.relu(self.block[0](image))
        return self.relu(self.block[1](y) + y)


def test_names_say_where_a_tensor_comes_from(tmp_path) -> None:
    sim = QuantizationSimModel(Blocks().eval(), image(2))
    sim.compute_encodings([image(4)])
    sim.export(tmp_path, "net", image(2), export_to_torchscript=True, encoding_version="1.0.0")
    files = {"net.torchscript.pth", "net.encodings", "net_torch.encodings", "net.pth"}
    assert {path.name for path in tmp_path.iterdir()} == files
    document = json.loads((tmp_path / "net.encodings").read_text())
    names = [entry["name"] for entry in document["activation_encodings"]]
    assert names == ["image", "relu_output", "block_1_output", "relu_output_1"]
    weights = [entry["name"] for entry in document["param_encodings"] if entry["bw"] == 8]
    assert weights == ["block.0.weight", "block.1.weight"]
    biases = {entry["name"]: entry for entry in document["param_encodings"] if entry["bw"] == 32}
    assert list(biases) == ["block.0.bias", "block.1.bias"]
    x, w = (
        quantizer.get_scale()
        for quantizer in (
            sim.model.block[0].input_quantizers[0],
            sim.model.block[0].param_quantizers["weight"],
        )
    )
    assert biases["block.0.bias"]["scale"] == pytest.approx((x * w).flatten().tolist(), rel=1e-6)


def test_two_grids_of_one_tensor_have_two_names(tmp_path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = x.relu()
            return self.first(y) - self.second(y) + y

    sim = QuantizationSimModel(Net(), torch.randn(2, 4))
    sim.model.relu.output_quantizers[0] = None
    for name, bits in (("first", 8), ("second", 4)):
        quantizer = copy.deepcopy(sim.model.first.output_quantizers[0])
        quantizer.bitwidth = bits
        getattr(sim.model, name).input_quantizers[0] = quantizer
    sim.compute_encodings([torch.randn(64, 4)])
    export_torchscript_with_encodings(sim, torch.randn(2, 4), tmp_path / "net.pth", "1.0.0")
    document = json.loads((tmp_path / "net.encodings").read_text())
    bits = {entry["name"]: entry["bw"] for entry in document["activation_encodings"]}
    assert bits["first_input_requantized"] == 8
    assert bits["second_input_requantized"] == 4
    assert {"first_input_requantized", "second_input_requantized"} <= names_in(tmp_path / "net.pth")


def test_uncalibrated_simulation_names_its_quantizers(tmp_path) -> None:
    sim = QuantizationSimModel(FIXTURES["ReusedModules"].build(), image(2))
    for export in (export_torchscript, export_torchscript_with_encodings):
        with pytest.raises(ValueError, match=r"quantizer\(s\) have no encoding yet: .*_quantizers"):
            export(sim, image(2), tmp_path / "sim.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("example", "error", "message"),
    [
        (
            image(2, channels=4),
            ValueError,
            r"`x` is float32\[2, 4, 8, 8\], the simulation was built with float32\[2, 3, 8, 8\]",
        ),
        (image(2).int(), ValueError, r"`x` is int32\[2, 3, 8, 8\], .* float32\[2, 3, 8, 8\]"),
        ((image(2), image(2)), TypeError, r"forward\(x.*too many positional arguments"),
        ({}, TypeError, r"missing a required argument: 'x'"),
    ],
)
def test_wrong_example_names_the_argument_and_keeps_the_file(
    example, error, message, tmp_path
) -> None:
    sim, file = simulation("ReusedModules"), tmp_path / "sim.pt"
    file.write_text("the file before")
    for export in (export_torchscript, export_torchscript_with_encodings):
        with pytest.raises(error, match=f"{export.__name__}: .*{message}"):
            export(sim, example, file)
    assert file.read_text() == "the file before"
    assert list(tmp_path.iterdir()) == [file]


def test_failed_write_keeps_the_file(tmp_path, monkeypatch) -> None:
    sim, file = simulation("ReusedModules"), tmp_path / "sim.pt"
    file.write_text("the file before")

    def fail(self, path) -> None:
        (tmp_path / path).write_text("half")
        raise OSError("disk full")

    monkeypatch.setattr(torch.jit.ScriptModule, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        sim.export_torchscript(file, image(2))
    assert file.read_text() == "the file before"
    assert list(tmp_path.iterdir()) == [file]


def test_unknown_way_to_store_parameters(tmp_path) -> None:
    with pytest.raises(ValueError, match="`parameters` must be one of quantized, simulated"):
        simulation("ReusedModules").export_torchscript(tmp_path / "a.pt", image(2), parameters="x")


def test_python_functions_have_no_form_in_torchscript(tmp_path) -> None:
    sim = simulation("Outsiders")
    with pytest.raises(NotImplementedError, match=r"_Double.*sim\.export_program"):
        sim.export_torchscript(tmp_path / "sim.pt", image(2))
    assert not list(tmp_path.iterdir())
