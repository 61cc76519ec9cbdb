"""What the graph says about a model: names, types, edges, values."""

from __future__ import annotations

import copy
import math
from types import MethodType

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from aimet_torch.graph import GRID_PRESERVING_OPS, skip_identity, trace
from aimet_torch.graph.structure import leaves
from tests.python.graph.helpers import graph_of, module, types
from tests.python.models import FIXTURES, call_model, image, rows


def test_functional_operations_have_types_and_names():
    graph = graph_of("FunctionalOps")
    assert [(op.name, op.op_type) for op in graph.ops] == [
        ("conv1", "Conv"), ("relu", "Relu"), ("conv2", "Conv"), ("relu_1", "Relu"), ("add", "Add"),
        ("mul", "Mul"), ("sub", "Sub"), ("max_pool2d", "MaxPool"), ("div", "Div"),
        ("sigmoid", "Sigmoid"),
        ("tanh", "Tanh"), ("pow", "Pow"), ("mul_1", "Mul"), ("sub_1", "Sub"),
        ("adaptive_avg_pool2d", "GlobalAveragePool"), ("flatten", "Flatten"), ("fc", "Gemm"),
        ("softmax", "Softmax"),
    ]  # fmt: skip


def test_reused_modules_have_one_operation_per_call():
    graph = graph_of("ReusedModules")
    assert [op.name for op in graph.ops] == [
        "conv",
        "bn",
        "relu",
        "conv.1",
        "bn.1",
        "relu.1",
        "sub",
        "relu.2",
    ]
    assert [op.call_index for op in graph.calls_of(graph.model.relu)] == [0, 1, 2]
    assert graph.op_for_module("relu").name == "relu"
    # The input is read by the first convolution and by the subtraction.
    assert [(op.name, index) for op, index in graph.inputs[0].consumers] == [
        ("conv", 0),
        ("sub", 1),
    ]


def test_in_place_relu_is_a_value():
    graph = graph_of("ReusedModules")
    model = graph.to_module()
    assert not model.relu.inplace
    x = image(2)
    before = x.clone()
    model(x)
    assert torch.equal(x, before)


def test_single_path_helpers():
    graph = graph_of("Dropouts")
    conv = graph.op_for_module("conv")
    assert conv.next_op() is None  # two consumers
    assert [op.op_type for op in conv.consumers()] == ["Dropout", "Add"]
    path = graph.op_for_module("path")
    assert path.next_op().name == "add"
    assert skip_identity(path).name == "add"
    graph = graph_of("Convolutions")
    assert graph.op_for_module("0").next_op().op_type == "BatchNormalization"
    assert graph.ops[-1].next_op() is None
    assert graph.ops[-1].producers() == [graph.ops[-2]]


def test_values_know_their_kind():
    graph = graph_of("TokenModel")
    kinds = {v.name: v.kind for v in graph.values() if v.kind != "activation"}
    assert kinds == {"ids": "input", "mask": "input", "gain": "parameter", "shift": "buffer"}
    add = next(op for op in graph.ops if any(v.name == "shift" for v in op.inputs))
    assert [v.kind for v in add.inputs] == ["activation", "buffer"]
    assert not graph.value("ids").is_float
    with pytest.raises(KeyError, match="no value is called 'nothing'"):
        graph.value("nothing")
    graph = graph_of("FunctionalConv")
    assert graph.find_ops("Conv")[1].inputs[1].parameter_name == "pool.kernel"
    assert graph.value("pool.table").kind == "constant"
    assert [op.op_type for op in graph.ops][-2:] == ["ReduceMean", "Gemm"]


def test_split_has_one_value_per_output():
    graph = graph_of("SplitCat")
    chunk = graph.find_ops("Split")[0]
    assert [v.name for v in chunk.outputs] == ["chunk", "chunk.1"]
    assert [op.name for op, _ in chunk.outputs[1].consumers] == ["branch"]
    assert [v.shape for v in chunk.outputs] == [(2, 4, 8, 8)] * 2


def test_nested_inputs_are_flattened_in_order():
    graph = graph_of("NestedInputs")
    assert [v.name for v in graph.inputs] == ["images.0", "images.1", "extra.gain", "extra.bias.0"]
    model = graph.to_module()
    with pytest.raises(ValueError, match="`images` had 2 entries"):
        model((image(2),), {"gain": 1, "bias": []})


def test_attention_is_decomposed():
    graph = graph_of("AttentionCausal")
    kinds = types(graph)
    assert kinds.count("MatMul") == 2
    assert kinds.count("Softmax") == 1
    assert kinds.count("Gemm") == 2
    projection = graph.find_ops("Gemm")[0]
    assert [v.kind for v in projection.inputs] == ["activation", "parameter", "parameter"]
    assert graph.find_ops("Gemm")[1].module is graph.model.attn.out_proj
    masked = [v for v in graph.values() if not v.finite]
    assert masked
    assert all(v.is_float for v in masked)


def test_direct_call_of_forward_is_a_call_of_the_module():
    graph = trace(module(lambda self, x: self.conv.forward(x), conv=nn.Conv2d(3, 3, 1)), image(1))
    assert [(op.name, op.op_type) for op in graph.ops] == [("conv", "Conv")]


def test_hooks_of_the_model_run_once():
    model = module(lambda self, x: self.conv(x), conv=nn.Conv2d(3, 3, 1))
    model.register_forward_hook(lambda m, args, result: result * 2)
    model.conv.register_forward_pre_hook(lambda m, args: (args[0] + 1,))
    x = image(2)
    expected = model(x)
    assert torch.equal(trace(model, x).to_module()(x), expected)


def test_functional_dropout_follows_the_mode():
    def forward(self, x):
        return (
            F.dropout(x, 0.5, self.training),
            F.dropout(x, 0.5, True),
            torch.dropout(x, 0.5, self.training),
        )

    model = trace(module(forward), rows(8, 64)).to_module()
    x = rows(8, 64)
    dropped = [not torch.equal(y, x) for y in model.eval()(x)]
    assert dropped == [False, True, False]
    assert all(not torch.equal(y, x) for y in model.train()(x))


def test_new_tensors_follow_the_device_of_the_input():
    def forward(self, x):
        return x + torch.arange(x.shape[-1], device=x.device)

    model = trace(module(forward), rows(2, 4)).to_module()
    assert model(rows(2, 4).to("meta")).device.type == "meta"


def test_math_on_sizes_stays_symbolic():
    def forward(self, x):
        half = int(math.sqrt(x.shape[0] * 4)) // 2
        return x[: max(half, 1)] / math.sqrt(x.shape[0])

    model = trace(module(forward), rows(4, 3)).to_module()
    x = rows(9, 3)
    assert torch.equal(model(x), x[:3] / 3.0)


def test_graph_edits_and_recompile():
    graph = graph_of("FunctionalOps")
    model = graph.to_module()
    other = copy.deepcopy(model)
    x = image(2)
    expected = model(x)
    node = graph.ops[-1].fx_node
    node.replace_all_uses_with(graph.ops[-2].fx_node)
    graph.fx_graph.erase_node(node)
    graph.recompile()
    torch.testing.assert_close(model(x).softmax(-1), expected)
    assert torch.equal(other(x), expected)  # copies have their own forward


def test_grid_preserving_types_are_types_of_the_graph():
    kinds = {op.op_type for name in FIXTURES for op in graph_of(name).ops}
    assert {
        "Reshape",
        "Transpose",
        "MaxPool",
        "Split",
        "Slice",
        "ResizeNearest",
        "Dropout",
    } <= kinds & GRID_PRESERVING_OPS
    assert (
        not {"Conv", "Gemm", "Add", "AveragePool", "Softmax", "Resize", "Concat"}
        & GRID_PRESERVING_OPS
    )


@pytest.mark.parametrize("name", sorted(FIXTURES))
def test_a_rewritten_model_can_be_traced_again(name):
    graph = graph_of(name)
    model = graph.to_module()
    again = trace(model, FIXTURES[name].inputs(2))
    assert [(op.name, op.op_type) for op in again.ops] == [
        (op.name, op.op_type) for op in graph.ops
    ]
    with torch.no_grad():
        expected = leaves(FIXTURES[name].call(model, 2))
        for a, b in zip(leaves(FIXTURES[name].call(again.to_module(), 2)), expected, strict=True):
            torch.testing.assert_close(a, b if name != "Stateful" else b - 1)


def test_checkpointed_parts_are_traced_into():
    def forward(self, x):
        return checkpoint(self.conv, x, use_reentrant=True) + checkpoint(
            lambda y: y * 2, x, use_reentrant=False
        )

    graph = trace(module(forward, conv=nn.Conv2d(3, 3, 1)), image(1))
    assert types(graph) == ["Conv", "Mul", "Add"]


def test_autograd_functions_keep_their_backward():
    model = FIXTURES["Outsiders"].build()
    graph = trace(model, image(2))
    assert graph.ops[1].op_type == "_Double"
    assert (
        graph.to_module().get_submodule(graph.ops[1].name).function.__self__.__name__ == "_Double"
    )


def test_tracing_inside_inference_mode():
    with torch.inference_mode():
        graph = trace(FIXTURES["InPlace"].build(), image(2))
    assert graph.boundaries == []


def test_what_nobody_reads_is_left_out_unless_it_has_an_effect():
    def forward(self, x):
        y, _ = self.attn(x, x, x)  # computes averaged weights
        self.seen[0] = 1.0
        self.norm(x)
        x.mean()
        torch.rand(2)
        return y

    model = module(forward, attn=nn.MultiheadAttention(4, 2), norm=nn.BatchNorm1d(3))
    model.register_buffer("seen", torch.zeros(2))
    graph = trace(model, rows(2, 3, 4))
    assert "ReduceMean" not in types(graph)
    assert {"norm", "rand", "set_item"} <= {op.name for op in graph.ops}
    rewritten = graph.to_module()
    rewritten(rows(2, 3, 4))
    assert rewritten.seen.tolist() == [1.0, 0.0]


@pytest.mark.parametrize(
    ("model", "inputs", "expected"),
    [
        (nn.Linear(4, 4), rows(2, 4), ["Gemm"]),
        (nn.Conv2d(3, 3, 1), image(2), ["Conv"]),
        (nn.Sequential(), image(2), []),
        (nn.DataParallel(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())), image(2), ["Conv", "Relu"]),
        (
            nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 3, 1)), nn.ReLU()),
            image(2),
            ["Conv", "Relu"],
        ),
        (
            nn.Sequential(nn.LazyConv2d(4, 1), nn.Flatten(), nn.LazyLinear(3)),
            image(2),
            ["Conv", "Flatten", "Gemm"],
        ),
        (
            nn.Sequential(torch.jit.script(nn.Conv2d(3, 3, 1)), nn.ReLU()),
            image(2),
            ["Boundary", "Relu"],
        ),
        (nn.Sequential(nn.Dropout(), nn.Identity()), image(2), ["Dropout", "Identity"]),
        (module(lambda self, x: torch.ops.aten.add.Tensor(x, 1)), image(2), ["Add"]),
        (module(lambda self, x: F.max_pool2d(x, 2, return_indices=True)[0]), image(2), ["MaxPool"]),
        (
            module(lambda self, **named: named["a"] + named["b"]),
            {"a": rows(2, 3), "b": rows(2, 3)},
            ["Add"],
        ),
    ],
)
def test_unusual_models(model, inputs, expected):
    model.eval()
    with torch.no_grad():
        y = leaves(call_model(model, inputs))
        graph = trace(model, inputs)
        assert types(graph) == expected
        for a, b in zip(leaves(call_model(graph.to_module(), inputs)), y, strict=True):
            assert torch.equal(a, b)


def test_forward_set_on_the_instance():
    model = module(lambda self, x: x, conv=nn.Conv2d(3, 3, 1))
    model.forward = MethodType(lambda self, x: self.conv(x) + 1, model)
    x = image(2)
    expected = model(x)
    rewritten = trace(model, x).to_module()
    assert torch.equal(rewritten(x), expected)
    rewritten.add = nn.Identity()
    with pytest.raises(TypeError, match="forward"):
        rewritten(x)  # it does run the graph, where `add` has two arguments
