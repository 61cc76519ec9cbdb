"""Layer outputs on disk: names, numbers, layout, what an interruption leaves."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from aimet_torch.layer_output_utils import LayerOutputUtil, NamingScheme
from aimet_torch.quantsim import QuantizationSimModel


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU(inplace=True)
        self.blocks = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True))
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        x = self.relu(self.conv(x))
        x = self.relu(self.blocks(x) - 0.1) + shift
        return self.fc(x.mean((2, 3)))


def inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 3, 6, 6), torch.randn(2, 4, 1, 1)


def read(folder: Path, index: int = 0) -> dict[str, np.ndarray]:
    facts = json.loads((folder / "layer_output_name_order.json").read_text())
    found = {}
    for name in facts["layer_output_names"]:
        raw = np.fromfile(
            folder / "outputs" / f"layer_outputs_{index}" / f"{name}.raw",
            facts["tensors"][name]["dtype"],
        )
        found[name] = raw.reshape(facts["tensors"][name]["shape"])
    return found


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def test_every_operation_of_a_model_and_of_its_simulation(model, tmp_path: Path) -> None:
    x = inputs()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    util = LayerOutputUtil(model, str(tmp_path / "fp32"))
    util.generate_layer_outputs(x)
    found = read(tmp_path / "fp32")
    assert list(found) == [
        *("conv", "relu", "blocks_0", "blocks_1", "sub", "relu_1", "add", "mean", "fc"),
    ]
    with torch.no_grad():
        conv = model.conv(x[0])
        assert np.array_equal(found["conv"], conv.numpy())  # before the ReLU in place
        assert np.array_equal(found["relu"], conv.relu().numpy())
        assert np.array_equal(found["fc"], model(*x).numpy())
    assert [type(m) for m in model.modules()] == [type(m) for m in Net().modules()]
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    folder = tmp_path / "fp32" / "inputs" / "input_0"
    assert np.array_equal(np.fromfile(folder / "1.raw", np.float32), x[1].numpy().ravel())

    sim = QuantizationSimModel(model, x)
    sim.compute_encodings([x])
    LayerOutputUtil(sim.model, str(tmp_path / "sim")).generate_layer_outputs(x)
    simulated = read(tmp_path / "sim")
    assert list(simulated) == list(found)
    assert np.array_equal(simulated["fc"], sim.model(*x).detach().numpy())
    assert 0 < np.abs(simulated["conv"] - found["conv"]).max() < 0.1


def test_batches_are_streamed(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    class Probe(nn.Module):
        """Looks what is on disk when it runs."""

        def forward(self, x: Tensor) -> Tensor:
            seen.append(sorted(file.name for file in (tmp_path / "outputs").glob(".part-*/*.raw")))
            return torch.relu(x)

    layers = [nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1)]
    model = nn.Sequential(*layers).eval()
    util = LayerOutputUtil(model, str(tmp_path))
    batches = list(torch.randn(12, 8).split(3))
    util.generate_layer_outputs(batches[0])
    util._runnable.add_module("3", Probe())
    assert util.generate_layer_outputs_of((batch, 0) for batch in batches[1:]) == 3
    # Layers before it are there already, of this batch only.
    assert seen == [["0.raw", "1.raw", "2.raw"]] * 3
    folders = sorted(path.name for path in (tmp_path / "outputs").iterdir())
    assert folders == [f"layer_outputs_{i}" for i in range(4)]
    for i, batch in enumerate(batches):
        expected = model(batch).detach().numpy()
        assert np.array_equal(list(read(tmp_path, i).values())[-1], expected)


def test_an_interrupted_call_leaves_nothing_half(model, tmp_path: Path) -> None:
    util = LayerOutputUtil(model, str(tmp_path))
    util.generate_layer_outputs(inputs())

    class Interrupting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise KeyboardInterrupt

    util._runnable.fc = Interrupting()
    with pytest.raises(KeyboardInterrupt):
        util.generate_layer_outputs(inputs())
    assert [p.name for p in (tmp_path / "outputs").iterdir()] == ["layer_outputs_0"]


def test_names_of_the_onnx_model(model, tmp_path: Path) -> None:
    x = inputs()
    sim = QuantizationSimModel(model, x)
    sim.compute_encodings([x])
    names = {"input_names": ["image", "shift"], "output_names": ["scores"]}
    sim.onnx.export(x, tmp_path / "net.onnx", **names)
    util = LayerOutputUtil(model, str(tmp_path / "out"), NamingScheme.ONNX, x, names)
    util.generate_layer_outputs(x)
    found = read(tmp_path / "out")
    assert "scores" in found

    # The tensors of that name in the file have these numbers.
    import onnx

    graph = onnx.load(tmp_path / "net.onnx")
    tensors = {re.sub(r"\W", "_", name): name for n in graph.graph.node for name in n.output}
    assert found.keys() <= tensors.keys()
    assert len(found) >= 7
    for name in found:
        if tensors[name] != "scores":
            graph.graph.output.append(onnx.ValueInfoProto(name=tensors[name]))
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    feeds = {"image": x[0].numpy(), "shift": x[1].numpy()}
    for name, expected in found.items():
        (actual,) = session.run([tensors[name]], feeds)
        np.testing.assert_allclose(actual, expected, atol=1e-5, err_msg=name)


def test_names_of_the_torchscript_model(model, tmp_path: Path) -> None:
    x = inputs()
    LayerOutputUtil(model, str(tmp_path), NamingScheme.TORCHSCRIPT, x).generate_layer_outputs(x)
    names = list(read(tmp_path))
    assert names[:2] == ["conv_output", "relu_output"]
    assert "relu_output_1" in names


def test_names_that_meet_stay_apart(tmp_path: Path) -> None:
    class Clash(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Sequential(nn.ReLU())
            self.a_0 = nn.Tanh()

        def forward(self, x: Tensor) -> Tensor:
            return self.a_0(self.a(x))

    x = torch.randn(3)
    LayerOutputUtil(Clash(), str(tmp_path)).generate_layer_outputs(x.bfloat16())
    found = read(tmp_path)
    assert list(found) == ["a_0", "a_0_1"]
    assert found["a_0"].dtype == np.float32
    assert np.array_equal(found["a_0"], x.bfloat16().relu().float().numpy())


def test_bad_arguments(model, tmp_path: Path) -> None:
    x = inputs()
    sim = QuantizationSimModel(model, x)
    with pytest.raises(TypeError, match=r"`model` must be an nn.Module.*pass sim\.model"):
        LayerOutputUtil(sim, str(tmp_path))
    with pytest.raises(ValueError, match=r"`dummy_input` is needed for NamingScheme\.ONNX"):
        LayerOutputUtil(model, str(tmp_path), NamingScheme.ONNX)
    with pytest.raises(TypeError, match="`naming_scheme` must be a NamingScheme, got 'onnx'"):
        LayerOutputUtil(model, str(tmp_path), "onnx")
    with pytest.raises(TypeError, match="`onnx_export_args` must be a dict"):
        LayerOutputUtil(model, str(tmp_path), NamingScheme.ONNX, x, ["image"])
