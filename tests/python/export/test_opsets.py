"""Files for opsets 13 to 23: what older ones say differently, and what they cannot say."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from aimet_torch.export import export_onnx_with_encodings, onnx_qdq
from tests.python.export.agreement import output_steps, run
from tests.python.export.test_onnx_encodings import calibrated, entries
from tests.python.export.test_onnx_qdq import Function
from tests.python.vision import small_architecture

IMAGE, TOKENS = (2, 4, 9, 7), (2, 5, 6)


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.LayerNorm(6)
        self.two = nn.LayerNorm((5, 6), bias=False)

    def forward(self, x):
        return self.two(self.last(x))


class Cells(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.cells = kind(6, 4, batch_first=True, bidirectional=True)

    def forward(self, x):
        return self.cells(x)[0]


# Model, shape of its input, the opset before the one that changed the operator, and what must not
# be in the file (operators, or attributes).
RESTATED = {
    "means": (Function(lambda x: x.mean((2, 3)) + x.amax((2, 3))), IMAGE, 17, ""),
    "mean_of_all": (Function(lambda x: x * x.mean()), TOKENS, 17, "noop_with_empty_axes"),
    "unequal_parts": (
        Function(lambda x: torch.cat([p + 1 for p in x.chunk(3, 1)], 1)),
        TOKENS,
        17,
        "num_outputs",
    ),
    "pad": (Function(lambda x: F.pad(x, (1, 2, 0, 1), value=0.5)), IMAGE, 17, ""),
    "reflect": (Function(lambda x: F.pad(x, (1, 2), mode="reflect")), TOKENS, 17, ""),
    "nearest": (nn.Upsample(scale_factor=2), IMAGE, 17, "antialias"),
    "bilinear": (nn.Upsample(scale_factor=1.5, mode="bilinear"), IMAGE, 17, "antialias"),
    "mish": (nn.Mish(), TOKENS, 17, "Mish"),
    "truth": (Function(lambda x: torch.where((x > 0) & (x < 1), x, -x)), TOKENS, 17, "BitwiseAnd"),
    "layer_norm": (Norms(), TOKENS, 16, "LayerNormalization"),
    "hard_swish": (nn.Hardswish(), IMAGE, 13, "HardSwish"),
    "relu_and_sums": (Function(lambda x: F.relu(x - 0.1) * x + x), IMAGE, 13, ""),
    "leaky": (nn.Sequential(nn.LeakyReLU(0.2), nn.PReLU(4)), IMAGE, 13, ""),
    "lstm": (Cells(nn.LSTM), TOKENS, 13, ""),
    "gru": (Cells(nn.GRU), TOKENS, 13, ""),
    "batch_norm": (
        nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU()),
        IMAGE,
        13,
        "training_mode",
    ),
    "reshape": (Function(lambda x: x.reshape(x.shape[0], -1, 2)), IMAGE, 13, "allowzero"),
    "cumsum": (Function(lambda x: x.cumsum(1)), TOKENS, 13, ""),
}


class Several(nn.Module):
    """Models that read one input; one export tells of all."""

    def __init__(self, models):
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, x):
        return tuple(model(x) for model in self.models)


TOGETHER = sorted({(shape, opset) for _, shape, opset, _ in RESTATED.values()})


@pytest.mark.parametrize(("shape", "opset"), TOGETHER)
def test_older_words_for_the_same_numbers(shape, opset, tmp_path):
    chosen = {n: row for n, row in RESTATED.items() if row[1:3] == (shape, opset)}
    torch.manual_seed(0)
    x = torch.randn(shape)
    sim = calibrated(Several(row[0] for row in chosen.values()), x)
    path = tmp_path / "net.onnx"
    onnx_qdq.export(sim, x, path, opset_version=opset)
    file = onnx.load(path)
    onnx.checker.check_model(file, full_check=True)
    assert [(o.domain, o.version) for o in file.opset_import] == [("", opset)]
    assert file.ir_version <= 8
    words = {n.op_type for n in file.graph.node} | {
        a.name for n in file.graph.node for a in n.attribute
    }
    with torch.no_grad():
        outputs = sim.model(x)
    for name, expected, result, step in zip(
        chosen, outputs, run(path, x), output_steps(path), strict=True
    ):
        assert chosen[name][3] not in words, name
        # Other sums and approximations: a step at a boundary.
        assert np.abs(result - expected.numpy()).max() <= 1.01 * step, name
        assert (result == expected.numpy()).mean() >= 0.98, name


def test_a_batch_norm_of_quantized_statistics(tmp_path):
    x = torch.randn(IMAGE)
    sim = calibrated(nn.BatchNorm2d(4), x)  # traced into: all five inputs are quantized
    path = tmp_path / "net.onnx"
    onnx_qdq.export(sim, x, path)
    with torch.no_grad():
        expected = sim.model(x).numpy()
    result = run(path, x)[0]
    assert np.abs(result - expected).max() <= 1.01 * output_steps(path)[0]


def test_names_and_encodings_stay(tmp_path):
    torch.manual_seed(0)
    x = torch.randn(TOKENS)
    sim = calibrated(nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Hardswish()), x)
    found = {}
    for opset in (13, 20):
        path = tmp_path / f"{opset}.onnx"
        export_onnx_with_encodings(sim, x, path, opset_version=opset)
        onnx.checker.check_model(onnx.load(path), full_check=True)
        graph = onnx.load(path).graph
        names = {o for n in graph.node for o in n.output}
        activations, params = entries(path.with_suffix(".encodings"))
        assert set(activations) <= names | {i.name for i in graph.input}
        found[opset] = (activations, params, [o.name for o in graph.output])
        with torch.no_grad():
            original = sim.get_original_model(sim.model)(x).numpy()
        np.testing.assert_allclose(run(path, x)[0], original, rtol=1e-4, atol=1e-5)
    assert found[13] == found[20]


@pytest.mark.parametrize(("name", "opset"), [("mobilenet_v3_small", 13), ("resnet18", 17)])
def test_architectures(name, opset, tmp_path):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 64, 64)
    sim = calibrated(small_architecture(name), x)
    path = tmp_path / "net.onnx"
    onnx_qdq.export(sim, x, path, opset_version=opset, dynamic_shapes=({0: "batch"},))
    onnx.checker.check_model(onnx.load(path), full_check=True)
    other = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        expected = sim.model(other).numpy()
    result = run(path, other)[0]
    assert np.abs(result - expected).max() <= 1.01 * output_steps(path)[0]


@pytest.mark.parametrize(
    ("function", "opset", "message"),
    [
        (lambda x: torch.tril(x) + x, 13, "Trilu `.*` has no form in opset 13, which does not hav"),
        (lambda x: F.pad(x, (1, 1), mode="circular"), 13, "Pad `.*` has .* opset 13: mode `wrap`"),
        (
            lambda x: F.interpolate(x[None], scale_factor=0.5, mode="bilinear", antialias=True),
            17,
            "Resize `.*` has no form in opset 17: antialiasing",
        ),
    ],
)
def test_what_an_older_opset_lacks_is_refused_by_name(function, opset, message, tmp_path):
    x = torch.randn(2, 5, 6)
    sim = calibrated(Function(function), x)
    with pytest.raises(NotImplementedError, match=message):
        onnx_qdq.export(sim, x, tmp_path / "net.onnx", opset_version=opset)
    assert not list(tmp_path.iterdir())


def test_wide_integers_need_their_opset(tmp_path):
    x = torch.randn(2, 6)
    sim = calibrated(nn.Sequential(nn.Linear(6, 4)), x, default_output_bw=16)
    with pytest.raises(
        NotImplementedError, match=r"\(16 bits\) needs `opset_version` 21 .* got 13"
    ):
        onnx_qdq.export(sim, x, tmp_path / "net.onnx", opset_version=13)


@pytest.mark.parametrize("opset", [12, 24, "20"])
def test_opsets_that_cannot_be_had(opset, tmp_path):
    x = torch.randn(2, 6)
    sim = calibrated(nn.Sequential(nn.Linear(6, 4)), x)
    with pytest.raises(ValueError, match=f"from 13, .* to 23, .* got {opset!r}"):
        onnx_qdq.export(sim, x, tmp_path / "net.onnx", opset_version=opset)
