"""Every fixture model: traced, left untouched, rewritten, run, copied, pickled, compiled,
exported."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest
import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

from aimet_torch.graph import ModelGraph, trace
from aimet_torch.graph.structure import leaves
from tests.python.models import FIXTURES, Fixture, call_model

NAMES = sorted(FIXTURES)
# The unchanged model cannot do it either.
NOT_PICKLED = {"Outsiders"}  # holds a scripted module
NOT_COMPILED = {
    "DataDependentRoot",
    "DataDependentPart",
    "Recurrent",
    "PackedRecurrent",
    "Outsiders",
}
NOT_EXPORTED = {
    "DataDependentRoot", "DataDependentPart", "DataclassOutput", "PackedRecurrent", "Outsiders"
}  # fmt: skip
NOT_SCRIPT_TRACED = {
    "NestedInputs",
    "KeywordInputs",
    "DataclassOutput",
}  # types that TorchScript lacks


def build(name: str) -> tuple[Fixture, nn.Module]:
    torch.manual_seed(0)
    fixture = FIXTURES[name]
    model = fixture.build().eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return fixture, model


def assert_same(actual: object, expected: object, exact: bool) -> None:
    assert type(actual) is type(expected)
    if isinstance(expected, Tensor):
        if exact:
            assert torch.equal(actual, expected)
        else:
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    elif isinstance(expected, (tuple, list)):
        assert len(actual) == len(expected)
        for a, b in zip(actual, expected, strict=True):
            assert_same(a, b, exact)
    elif isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key in expected:
            assert_same(actual[key], expected[key], exact)
    elif dataclasses.is_dataclass(expected):
        assert_same(vars(actual), vars(expected), exact)
    else:
        assert actual == expected


def snapshot(model: nn.Module) -> dict[str, object]:
    state: dict[str, object] = {f"state {k}": v.clone() for k, v in model.state_dict().items()}
    for name, module in model.named_modules():
        state[f"training {name}"] = module.training
        state[f"attributes {name}"] = sorted(module.__dict__)
        state[f"class {name}"] = type(module)
    state["rng"] = torch.get_rng_state()
    return state


@pytest.mark.parametrize("name", NAMES)
def test_trace_leaves_model_untouched(name):
    fixture, model = build(name)
    model.train()
    next(iter(model.children())).eval()
    inputs = fixture.inputs(2)
    before, tensors = snapshot(model), [t.clone() for t in leaves(inputs)]
    call = nn.Module.__call__
    trace(model, inputs)
    after = snapshot(model)
    assert nn.Module.__call__ is call
    assert before.keys() == after.keys()
    for key, value in before.items():
        assert (
            torch.equal(after[key], value) if isinstance(value, Tensor) else after[key] == value
        ), key
    for tensor, original in zip(leaves(inputs), tensors, strict=True):
        assert torch.equal(tensor, original)


@pytest.mark.parametrize("name", NAMES)
def test_rewritten_model_computes_the_same(name):
    fixture, model = build(name)
    reference = fixture.build().eval()
    reference.load_state_dict(model.state_dict())
    expected = [fixture.call(reference, batch) for batch in (2, 3)]
    keys = list(model.state_dict())
    graph = trace(model, fixture.inputs(2))
    assert tuple(b.name for b in graph.boundaries) == fixture.boundaries
    rewritten = graph.to_module()
    assert rewritten is model
    assert isinstance(rewritten, type(reference))
    assert list(rewritten.state_dict()) == keys
    for batch, value in zip((2, 3), expected, strict=True):
        assert_same(fixture.call(rewritten, batch), value, fixture.exact)


class _Watch(TorchFunctionMode):
    """Lists functions with floating results that run outside of the modules of the graph's
    operations."""

    def __init__(self, graph: ModelGraph) -> None:
        super().__init__()
        self.depth = 0
        self.found: list[str] = []
        self.handles = []
        for module in {op.module for op in graph.ops if op.module is not None}:
            self.handles.append(module.register_forward_pre_hook(self._enter))
            self.handles.append(module.register_forward_hook(self._leave))

    def _enter(self, module, args):
        self.depth += 1

    def _leave(self, module, args, result):
        self.depth -= 1

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if self.depth == 0 and any(t.is_floating_point() for t in leaves(result)):
            self.found.append(str(func))
        return result


@pytest.mark.parametrize(
    "name", [n for n in NAMES if FIXTURES[n].boundaries != ("",) and n != "Outsiders"]
)
def test_no_floating_value_escapes_the_graph(name):
    fixture, model = build(name)
    graph = trace(model, fixture.inputs(2))
    graph.to_module()
    inputs = fixture.inputs(2)
    watch = _Watch(graph)
    with watch:
        call_model(model, inputs)
    assert watch.found == []
    seen = {v.fx_node for v in graph.values()}
    for op in graph.ops:
        assert op.fx_node in seen or not op.outputs
        assert (op.module is not None) or not op.touches_floats
        assert op.module is None or model.get_submodule(op.module_name) is op.module
        nodes = leaves((op.fx_node.args, op.fx_node.kwargs), fx.Node)
        assert len(op.inputs) == sum(bool(n.meta.get("outputs")) for n in nodes)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_unique_and_edges_agree(name):
    fixture, model = build(name)
    graph = trace(model, fixture.inputs(2))
    names = [op.name for op in graph.ops]
    assert len(set(names)) == len(names)
    values = list(graph.values())
    assert len({v.name for v in values}) == len(values)
    for op in graph.ops:
        for index, value in enumerate(op.inputs):
            assert (op, index) in value.consumers
        assert all(v.producer is op for v in op.outputs)
        assert all(type(n) is int for v in op.outputs for n in v.shape)
    order = {op: index for index, op in enumerate(graph.ops)}
    for op in graph.ops:
        assert all(order[p] < order[op] for p in op.producers())


@pytest.mark.parametrize("name", [n for n in NAMES if n not in NOT_PICKLED])
def test_copies_and_pickles_are_independent(name):
    fixture, model = build(name)
    graph = trace(model, fixture.inputs(2))
    graph.to_module()
    copied_graph = copy.deepcopy(graph)
    pickled = pickle.loads(pickle.dumps(model))
    copied = copy.deepcopy(model)
    with torch.no_grad():
        expected = copy.deepcopy(fixture.call(model, 3))
    assert [op.name for op in copied_graph.ops] == [op.name for op in graph.ops]
    assert copied_graph.model is not model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for other in (copied, pickled, copied_graph.model):
        assert_same(fixture.call(other, 3), expected, fixture.exact)
        assert list(other.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_training_reaches_every_parameter(name):
    fixture, model = build(name)
    reference = copy.deepcopy(model) if name not in NOT_PICKLED else model
    model = trace(model, fixture.inputs(2)).to_module()

    def trained(network: nn.Module) -> set[str]:
        network.train()
        torch.manual_seed(1)
        results = [t for t in leaves(fixture.call(network, 4)) if t.requires_grad]
        sum(t.float().square().sum() for t in results).backward()
        names = {
            n
            for n, p in network.named_parameters()
            if p.grad is not None and torch.isfinite(p.grad).all()
        }
        network.zero_grad(set_to_none=True)
        return names

    # Autograd refuses the unchanged InPlace (it overwrites what it needs); as a graph of values it
    # trains.
    everything = {n for n, _ in model.named_parameters()}
    assert trained(model) == (everything if name == "InPlace" else trained(reference)) != set()


def _arguments(inputs):
    if isinstance(inputs, dict):
        return (), inputs
    return (inputs if isinstance(inputs, tuple) else (inputs,)), {}


@pytest.mark.parametrize("name", [n for n in NAMES if n not in NOT_COMPILED])
def test_compile(name):
    fixture, model = build(name)
    model = trace(model, fixture.inputs(2)).to_module()
    expected = copy.deepcopy(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        assert_same(fixture.call(compiled, 2), fixture.call(expected, 2), exact=False)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in NOT_EXPORTED])
def test_export(name):
    fixture, model = build(name)
    model = trace(model, fixture.inputs(2)).to_module()
    expected = copy.deepcopy(model)
    args, kwargs = _arguments(fixture.inputs(2))
    exported = torch.export.export(model, args, kwargs).module()
    assert_same(exported(*args, **kwargs), fixture.call(expected, 2), exact=False)


@pytest.mark.parametrize("name", [n for n in NAMES if n not in NOT_SCRIPT_TRACED])
@pytest.mark.filterwarnings("ignore")
def test_jit_trace(name):
    fixture, model = build(name)
    model = trace(model, fixture.inputs(2)).to_module()
    expected = copy.deepcopy(model) if name not in NOT_PICKLED else model
    args, kwargs = _arguments(fixture.inputs(2))
    traced = torch.jit.trace(
        model, args or None, example_kwarg_inputs=kwargs or None, check_trace=False, strict=False
    )
    if name == "Stateful":  # torch.jit.trace itself ran the model
        expected.load_state_dict(traced.state_dict())
    # TorchScript turns a NamedTuple into a tuple.
    assert_same(leaves(traced(*args, **kwargs)), leaves(fixture.call(expected, 2)), exact=False)
