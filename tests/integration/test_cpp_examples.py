"""The programs of examples/cpp, against the installed wheel, beside the same in Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from aimet_torch import ops
from aimet_torch.export import (
    export_compiled,
    export_torchscript,
    export_torchscript_with_encodings,
)
from aimet_torch.quantization.affine import GroupedBlockQuantizeDequantize
from aimet_torch.quantization.float import FloatQuantizeDequantize
from aimet_torch.quantsim import QuantizationSimModel
from tests.integration.commands import ROOT, run
from tests.python.models import FIXTURES, call_model
from tests.python.vision import architecture

pytestmark = pytest.mark.slow


class Residual(nn.Module):
    """Convolutions with a batch norm, a residual sum, and modules that are called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.norm(self.first(x)))
        z = self.relu(self.again(y))
        z = self.relu(self.again(z) + y)
        return self.last(z.mean([2, 3]))


def image(batch: int, size: int = 8) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(batch))


def simulation(model: nn.Module, make, **options) -> QuantizationSimModel:
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    sim = QuantizationSimModel(model.eval(), make(2), **options)
    sim.compute_encodings(lambda m: call_model(m, make(4)))
    sim.model.eval()
    return sim


def blocks() -> QuantizationSimModel:
    """A linear layer in blocks with scales of two levels, and float8 behind it."""
    torch.manual_seed(0)
    sim = QuantizationSimModel(nn.Sequential(nn.Linear(32, 8), nn.ReLU()), torch.randn(2, 32))
    sim.model[0].param_quantizers["weight"] = GroupedBlockQuantizeDequantize(
        (8, 4), 4, True, 8, block_size=(1, 8), block_grouping=(1, -1)
    )
    sim.model[1].output_quantizers[0] = FloatQuantizeDequantize(dtype=torch.float8_e4m3fn)
    sim.compute_encodings([torch.randn(16, 32)])
    sim.model.eval()
    return sim


MODELS = {
    "blocks": blocks,
    "residual": lambda: simulation(Residual(), image),
    "residual_w4a16": lambda: simulation(
        Residual(), image, default_param_bw=4, default_output_bw=16
    ),
    "resnet18": lambda: simulation(architecture("resnet18"), lambda b: image(b, 32)),
    "transformer": lambda: simulation(FIXTURES["Encoder"].build(), FIXTURES["Encoder"].inputs),
    "transposed": lambda: simulation(
        FIXTURES["Convolutions"].build(), FIXTURES["Convolutions"].inputs
    ),
    "constants": lambda: simulation(
        FIXTURES["FunctionalConv"].build(), FIXTURES["FunctionalConv"].inputs
    ),
}
BATCHES = {
    "blocks": lambda b: torch.randn(b, 32, generator=torch.Generator().manual_seed(b)),
    "transformer": FIXTURES["Encoder"].inputs,
    "transposed": FIXTURES["Convolutions"].inputs,
    "constants": FIXTURES["FunctionalConv"].inputs,
    "resnet18": lambda b: image(b, 32),
}


# 1.0.0 tells no axes, 2.x does.
VERSIONS = {"blocks": "2.1.0", "transposed": "2.1.0", "transformer": "0.6.1", "resnet18": "2.0.0"}


def written(path: Path, inputs: object) -> Path:
    torch.save(inputs if isinstance(inputs, tuple) else (inputs,), path)
    return path


@pytest.mark.parametrize("name", MODELS)
def test_simulation_made_in_cpp_is_that_of_python(examples, tmp_path, name) -> None:
    sim = MODELS[name]()
    make = BATCHES.get(name, image)
    model, encodings = tmp_path / "fp32.pth", tmp_path / "fp32.encodings"
    export_torchscript_with_encodings(sim, make(2), model, VERSIONS.get(name, "1.0.0"))
    inputs = written(tmp_path / "inputs.pt", make(3))  # another batch size
    outputs, saved = tmp_path / "outputs.pt", tmp_path / "simulation.pt"
    examples.run("quant_sim", model, encodings, inputs, outputs, saved)
    with torch.no_grad():
        expected = call_model(sim.model, make(3))
        assert torch.equal(torch.load(outputs), expected)
        assert torch.equal(torch.jit.load(str(saved))(*torch.load(inputs)), expected)

    export_torchscript(sim, make(2), tmp_path / "simulated.pt")
    examples.run("torchscript", tmp_path / "simulated.pt", inputs, outputs)
    assert torch.equal(torch.load(outputs), expected)


class Scripted(nn.Module):
    """Somebody's own TorchScript, with control flow; its variables are the names."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.layer(x)
        if bool(hidden.sum() > 0):
            hidden = hidden * 2
        result = hidden.relu()
        return result + 1


def test_names_of_a_scripted_network_are_its_variables(examples, tmp_path) -> None:
    torch.manual_seed(0)
    network, x = Scripted().eval(), torch.randn(3, 4)
    torch.jit.script(network).save(str(tmp_path / "net.pth"))

    def entry(name: str, scale: float, **more) -> dict:
        grid = {"enc_type": "PER_TENSOR", "dtype": "INT", "bw": 4, "is_sym": True}
        return {"name": name, **grid, "scale": [scale], "offset": [-8], **more}

    document = {
        "version": "1.0.0",
        "activation_encodings": [entry("x", 0.25), entry("result", 0.5)],
        "param_encodings": [entry("layer.weight", 0.125)],
    }
    (tmp_path / "net.encodings").write_text(json.dumps(document))
    inputs = written(tmp_path / "inputs.pt", x)
    examples.run(
        "quant_sim", tmp_path / "net.pth", tmp_path / "net.encodings", inputs, tmp_path / "y.pt"
    )

    def rounded(tensor: Tensor, scale: float) -> Tensor:
        return ops.quantize_dequantize(tensor, torch.tensor(scale), torch.tensor(0.0), -8, 7)

    with torch.no_grad():
        hidden = nn.functional.linear(
            rounded(x, 0.25), rounded(network.layer.weight, 0.125), network.layer.bias
        )
        hidden = hidden * 2 if hidden.sum() > 0 else hidden
        assert torch.equal(torch.load(tmp_path / "y.pt"), rounded(hidden.relu(), 0.5) + 1)


def edited(path: Path, change) -> Path:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return path


def test_entries_that_fit_nothing_are_all_named(examples, tmp_path) -> None:
    sim = simulation(Residual(), image)
    export_torchscript_with_encodings(sim, image(2), tmp_path / "net.pth", "1.0.0")
    inputs = written(tmp_path / "inputs.pt", image(2))

    def refused(change) -> str:
        file = tmp_path / "changed.encodings"
        shutil.copy(tmp_path / "net.encodings", file)
        edited(file, change)
        command = [str(examples.folder / "quant_sim"), str(tmp_path / "net.pth"), str(file)]
        with pytest.raises(AssertionError) as error:
            run([*command, str(inputs), str(tmp_path / "outputs.pt")], tmp_path)
        assert not (tmp_path / "outputs.pt").exists()
        return str(error.value)

    def rename(document) -> None:
        document["activation_encodings"][1]["name"] = "no_such_output"
        document["param_encodings"][0]["name"] = "no.such.weight"

    message = refused(rename)
    assert "2 entries of the encodings do not fit the model" in message
    assert "param_encodings `no.such.weight` names no tensor of the model" in message
    assert "activation_encodings `no_such_output` names no tensor of the model" in message

    def shorten(document) -> None:
        entry = document["param_encodings"][0]
        entry["scale"], entry["offset"] = entry["scale"][:3], entry["offset"][:3]

    message = refused(shorten)
    assert "`first.weight` has 3 scales" in message
    assert "[8, 3, 3, 3]" in message

    def forget(document) -> None:
        entry = document["activation_encodings"][0]
        for key in ("scale", "offset", "is_sym"):
            del entry[key]

    assert "`x` has no scale: the tensor was not calibrated" in refused(forget)


def test_operators(examples) -> None:
    *errors, gradient, codes, message = examples.run("operators").splitlines()
    torch.manual_seed(0)
    x = torch.randn(64, 32)
    scale = torch.full((32,), 1.0, requires_grad=True)
    optimizer = torch.optim.SGD([scale], 0.002)
    expected = []
    for step in range(201):
        error = (ops.quantize_dequantize(x, scale, torch.zeros(32), -8, 7) - x).square().sum()
        if step % 100 == 0:
            expected.append(error.item() / x.numel())
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    printed = [float(line.split(": ")[1]) for line in errors]
    assert printed == pytest.approx(expected, rel=1e-5)
    assert printed[-1] < printed[0] / 3
    assert gradient.split() == ["0", "1", "0"]
    rounded = ops.quantize(x, torch.tensor(0.25), torch.tensor(0.0), -8, 7)
    total = float(codes.rpartition(" ")[2])
    assert codes.startswith("codes: -8 to 7")
    assert total == pytest.approx(rounded.sum().item() * 0.25, rel=1e-5)
    assert message.startswith("quantize: `scale` must be positive and finite, got -1")


def test_calibration_by_every_scheme(examples) -> None:
    printed = {}
    for line in examples.run("calibration").splitlines():
        name, _, numbers = line.partition(": ")
        printed[name] = [float(number) for number in numbers.split()]
    torch.manual_seed(0)
    batches = [torch.randn(1000).abs().pow(1.5) for _ in range(4)]
    low, high = torch.tensor(torch.inf), torch.tensor(-torch.inf)
    histogram = torch.zeros(512, dtype=torch.int64)
    for batch in batches:
        least, greatest = ops.min_max(batch, ())
        wider = torch.minimum(low, least), torch.maximum(high, greatest)
        histogram = ops.rebin_histogram(histogram, low, high, *wider)
        low, high = wider
        ops.update_histogram_(histogram, batch, low, high)
    statistics, grid, data = (histogram, low, high), (0, 15, False), torch.cat(batches)
    expected = {
        "min_max": ops.range_from_min_max(low, high, *grid),
        "percentile": ops.range_from_percentile(*statistics, 99.5, *grid),
        "sqnr": ops.range_from_sqnr(*statistics, *grid),
        "mse": ops.range_from_mse(*statistics, *grid),
        "entropy": ops.range_from_entropy(*statistics, *grid),
        "values": ops.range_from_values(data, (), *grid),
    }
    assert printed.keys() == expected.keys()
    for name, (least, greatest) in expected.items():
        assert printed[name][:2] == pytest.approx([least.item(), greatest.item()], rel=1e-6)
    assert printed["values"][2] <= printed["mse"][2] < printed["min_max"][2]


def test_rounding_and_equalization(examples) -> None:
    lines = examples.run("rounding").splitlines()
    noise = {name: float(value) for name, value in (line.split(": ") for line in lines)}
    assert noise["equalized, not rounded"] < 1e-10
    assert noise["equalized"] < noise["nearest"] / 1.5
    assert noise["first layer, AdaRound"] < noise["first layer, nearest"] / 2


def test_encodings(examples, tmp_path) -> None:
    sim = simulation(Residual(), image)
    export_torchscript_with_encodings(sim, image(2), tmp_path / "net.pth", "1.0.0")
    converted = tmp_path / "converted.encodings"
    output = examples.run("encodings", tmp_path / "net.encodings", "0.6.1", converted)
    assert "version 1.0.0" in output
    assert "  first.weight: 8 bits, symmetric, 8 scale(s), first " in output
    assert output.splitlines()[-1] == "converted to 0.6.1"
    assert json.loads(converted.read_text())["version"] == "0.6.1"
    (tmp_path / "broken.encodings").write_text('{"version": "1.0.0", "activation_encodings": [3]}')
    with pytest.raises(AssertionError, match=r"broken\.encodings: \$\.activation_encodings\[0\]"):
        examples.run("encodings", tmp_path / "broken.encodings")


def test_compiled_package(examples, tmp_path) -> None:
    sim = simulation(Residual(), image)
    export_compiled(sim, image(2), tmp_path / "net.pt2")
    outputs = tmp_path / "outputs.pt"
    for batch in (2, 5):
        inputs = written(tmp_path / "inputs.pt", image(batch))
        examples.run("compiled", tmp_path / "net.pt2", inputs, outputs)
        (result,) = torch.load(outputs)
        with torch.no_grad():
            expected = sim.model(image(batch))
        step = sim.model.last.output_quantizers[0].get_scale()
        # Fused operations may round the other way next to a rounding boundary.
        assert (result - expected).abs().max() <= step * 1.001
        assert (result == expected).float().mean() > 0.9


def test_every_program_is_short() -> None:
    programs = list((ROOT / "examples" / "cpp").glob("*.cpp"))
    assert len(programs) == 8
    for program in programs:
        assert len(program.read_text().splitlines()) < 80, program.name


def test_cmake_package_is_where_the_module_says(installed_wheel, tmp_path) -> None:
    folder = Path(installed_wheel.run("-m", "aimet_torch", "--cmake-dir", cwd=tmp_path).strip())
    assert (folder / "aimetConfig.cmake").is_file()
    assert folder.is_relative_to(installed_wheel.python.parents[1])
