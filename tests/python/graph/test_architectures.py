"""torchvision's architectures as they are, with random weights."""

from __future__ import annotations

import copy

import pytest
import torch

from aimet_torch.graph import trace
from tests.python.vision import architecture, torchvision

stochastic_depth = torchvision().ops.StochasticDepth

# name -> (input size, operations that must be in the graph)
ARCHITECTURES = {
    "mobilenet_v2": (64, {"Conv": 52, "Clip": 35, "Add": 10, "Gemm": 1, "GlobalAveragePool": 1}),
    "resnet18": (
        64,
        {"Conv": 20, "Relu": 17, "Add": 8, "Gemm": 1, "MaxPool": 1, "BatchNormalization": 20},
    ),
    "mobilenet_v3_small": (64, {"Conv": 52, "HardSwish": 19, "HardSigmoid": 9, "Mul": 9, "Add": 6}),
    "shufflenet_v2_x1_0": (64, {"Conv": 56, "Split": 13, "Concat": 16, "ReduceMean": 1}),
    "vit_b_16": (
        224,
        {"Conv": 1, "Gemm": 49, "MatMul": 24, "Softmax": 12, "LayerNormalization": 25, "Add": 25},
    ),
    "swin_t": (64, {"Gemm": 52, "MatMul": 24, "Softmax": 12, "Roll": 4, "Dropout": 72}),
    "convnext_tiny": (64, {"Conv": 22, "Gemm": 37, "LayerNormalization": 23, "Mul": 18, "Add": 18}),
    "efficientnet_b0": (64, {"Conv": 81, "Sigmoid": 65, "Mul": 65, "Add": 9}),
    "squeezenet1_1": (64, {"Conv": 26, "Relu": 26, "Concat": 8, "MaxPool": 3}),
    "googlenet": (64, {"Conv": 57, "Relu": 57, "Concat": 9}),
    "densenet121": (64, {"Conv": 120, "Relu": 121, "Concat": 62, "AveragePool": 3}),
}


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_architecture(name):
    size, expected_ops = ARCHITECTURES[name]
    model = architecture(name)
    keys = list(model.state_dict())
    first, second = torch.randn(1, 3, size, size), torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = model(first), model(second)
    graph = trace(model, first)
    assert graph.boundaries == []
    found = {kind: len(graph.find_ops(kind)) for kind in expected_ops}
    rewritten = graph.to_module()
    assert list(rewritten.state_dict()) == keys
    with torch.no_grad():
        for x, y in zip((first, second), expected, strict=True):
            if name in ("vit_b_16", "efficientnet_b0"):  # attention and SiLU are decomposed
                torch.testing.assert_close(rewritten(x), y, rtol=1e-5, atol=1e-5)
            else:
                assert torch.equal(rewritten(x), y)
    assert found == expected_ops
    assert all(op.module is not None for op in graph.ops if op.touches_floats)


@pytest.mark.parametrize("name", ["efficientnet_b0", "swin_t"])
def test_stochastic_depth_acts_in_training(name):
    model = architecture(name)
    for module in model.modules():
        if isinstance(module, stochastic_depth):
            module.p = 1.0
    x = torch.randn(2, 3, 64, 64)
    rewritten = trace(copy.deepcopy(model), x).to_module()
    for module in (*model.modules(), *rewritten.modules()):
        if not isinstance(module, stochastic_depth):
            module.eval()
        else:
            module.train()
    with torch.no_grad():
        torch.testing.assert_close(rewritten(x), model(x))
        assert not torch.allclose(rewritten(x), rewritten.eval()(x))


def test_training_mode_of_a_network_equals_the_original():
    model = architecture("mobilenet_v2")
    x = torch.randn(4, 3, 32, 32)
    rewritten = trace(copy.deepcopy(model), x).to_module()
    results = []
    for network in (model.train(), rewritten.train()):
        torch.manual_seed(3)
        out = network(x)
        out.square().mean().backward()
        results.append([out, *(p.grad for p in network.parameters()), *network.buffers()])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_swin_says_which_shapes_it_was_traced_for():
    graph = trace(architecture("swin_t"), torch.randn(1, 3, 64, 64))
    model = graph.to_module()
    assert any("swin_transformer.py" in note for note in graph.specializations)
    # Another size takes other branches of shifted_window_attention: refused, not computed wrongly.
    with (
        pytest.raises(ValueError, match=r"forward: the graph was traced where .*shape\["),
        torch.no_grad(),
    ):
        model(torch.randn(1, 3, 224, 224))


def test_dynamic_batch_survives_export():
    model = trace(architecture("resnet18"), torch.randn(2, 3, 32, 32)).to_module()
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(
        model, (torch.randn(2, 3, 32, 32),), dynamic_shapes={"x": {0: batch}}
    )
    x = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(exported.module()(x), model(x))


def test_tracing_runs_every_layer_once(monkeypatch):
    model, x = architecture("mobilenet_v2"), torch.randn(1, 3, 64, 64)
    calls = []
    convolve = torch.nn.Conv2d._conv_forward
    monkeypatch.setattr(
        torch.nn.Conv2d, "_conv_forward", lambda self, *a: calls.append(self) or convolve(self, *a)
    )
    trace(model, x)
    assert calls == [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
